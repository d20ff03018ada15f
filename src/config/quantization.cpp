#include "config/quantization.h"

#include <fmt/format.h>

#include <cctype>
#include <optional>
#include <regex>
#include <string_view>
#include <utility>

#include "base/error.h"
#include "config/json_reader.h"

namespace fathom::config {
namespace {

constexpr int64_t kMaxBlock = 1 << 20;
constexpr size_t kMaxPattern = 1000;

// What an expression of word characters and escaped points says: all of `text`, or nullopt for any other expression.
std::optional<std::string> literal_of(std::string_view text) {
  std::string literal;
  for (size_t i = 0; i < text.size(); ++i) {
    const bool is_word = std::isalnum(static_cast<unsigned char>(text[i])) || text[i] == '_';
    if (text[i] == '\\' && i + 1 < text.size() && text[i + 1] == '.') {
      literal += text[++i];
    } else if (is_word) {
      literal += text[i];
    } else {
      return std::nullopt;
    }
  }
  return literal;
}

std::vector<ModulePattern> read_patterns(const JsonReader& reader, const std::string& key) {
  std::vector<ModulePattern> patterns;
  const Json* list = reader.find(key);
  if (!list) return patterns;
  if (!list->is_array()) reader.fail(key, "must be a list of module names");
  for (const Json& item : *list) {
    if (!item.is_string()) reader.fail(key, "must be a list of module names");
    patterns.emplace_back(item.get<std::string>());
  }
  return patterns;
}

bool is_present(const JsonReader& reader, const std::string& key) {
  const Json* value = reader.find(key);
  return value && !value->empty();
}

// "" where these are int8 inputs with a scale a token, made as they come.
std::string fault_of_inputs(const JsonReader& inputs) {
  if (inputs.text_or("type", "int") != "int" || inputs.integer_or("num_bits", 8, 1, 64) != 8)
    return "input_activations other than int8";
  if (!inputs.boolean_or("symmetric", true)) return "asymmetric input_activations";
  const Json* dynamic = inputs.find("dynamic");
  if (!dynamic || *dynamic != Json(true)) return "static input_activations";
  const std::string strategy = inputs.text_or("strategy", "");
  if (strategy != "token") return fmt::format("input_activations by {}", strategy);
  return "";
}

std::string fault_of_weights(const JsonReader& weights, const std::string& format, IntWeights& result) {
  const std::string type = weights.text_or("type", "int");
  result.bits = static_cast<int>(weights.integer_or("num_bits", 8, 1, 64));
  if (type != "int") return fmt::format("{}-bit {} weights", result.bits, type);
  if (!weights.boolean_or("symmetric", true)) return "asymmetric weights (with zero points)";
  if (const Json* order = weights.find("actorder"); order && order->is_string())
    if (*order == Json("group") || *order == Json("dynamic")) return "actorder group (permuted columns)";
  result.group_size = weights.integer_or("group_size", -1, -1, kMaxBlock);
  const std::string strategy = weights.text_or("strategy", result.group_size > 0 ? "group" : "channel");
  if (strategy != "group" && strategy != "channel") return fmt::format("weights by {}", strategy);
  if ((strategy == "group") != (result.group_size > 0))
    weights.fail("group_size", fmt::format("is {} with strategy {}", result.group_size, strategy));
  result.is_packed = format == "pack-quantized";
  const int bits = result.is_packed ? 4 : 8;
  if (result.bits != bits) return fmt::format("{}-bit weights in the format {}", result.bits, format);
  return "";
}

std::string fault_of_group(const JsonReader& group, const std::string& where,
                           const std::string& default_format, QuantizationGroup& result) {
  result.targets = read_patterns(group, "targets");
  const std::string format = group.text_or("format", default_format);
  if (format != "pack-quantized" && format != "int-quantized" && format != "naive-quantized")
    return fmt::format("the format {}", format);
  for (const ModulePattern& target : result.targets)
    if (!target.text().starts_with("re:") && !target.is_class() &&
        target.text().find('.') == std::string::npos && target.text() != "lm_head")
      return fmt::format("the target {}", target.text());
  const Json* weights = group.find("weights");
  if (!weights) return "a group without weights";
  if (is_present(group, "output_activations")) return "output_activations";
  std::string fault = fault_of_weights(JsonReader(*weights, where + ".weights"), format, result.weights);
  const Json* inputs = group.find("input_activations");
  if (!fault.empty() || !inputs) return fault;
  result.weights.has_int8_inputs = true;
  return fault_of_inputs(JsonReader(*inputs, where + ".input_activations"));
}

void read_compressed_tensors(const JsonReader& reader, const std::string& where, QuantizationConfig& config) {
  const std::string format = reader.text_or("format", "");
  config.ignore = read_patterns(reader, "ignore");
  const Json* groups = reader.find("config_groups");
  if (!groups || !groups->is_object()) reader.fail("config_groups", "must be an object of groups");
  const auto note = [&](const std::string& fault) {
    if (config.unsupported.empty()) config.unsupported = fault;
  };
  const std::string status = reader.text_or("quantization_status", "compressed");
  if (status != "compressed") note(fmt::format("quantization_status {}", status));
  for (const char* key : {"kv_cache_scheme", "transform_config", "moe_sparsity_config"})
    if (is_present(reader, key)) note(fmt::format("a {}", key));
  if (const Json* sparsity = reader.find("sparsity_config"); sparsity && !sparsity->empty())
    if (JsonReader(*sparsity, where + ".sparsity_config").text_or("format", "dense") != "dense")
      note("a sparsity_config");
  for (const auto& [name, object] : groups->items()) {
    const std::string path = where + ".config_groups." + name;
    QuantizationGroup group;
    const std::string fault = object.is_array()
                                  ? fmt::format("the preset scheme {}", name)
                                  : fault_of_group(JsonReader(object, path), path, format, group);
    if (fault.empty())
      config.groups.push_back(std::move(group));
    else
      note(fault);
  }
}

void read_fp8(const JsonReader& reader, QuantizationConfig& config) {
  config.scale_fmt = reader.text_or("scale_fmt", "");
  if (!config.scale_fmt.empty() && config.scale_fmt != "ue8m0")
    reader.fail("scale_fmt", fmt::format("is \"{}\"; supported: ue8m0, or absent", config.scale_fmt));
  const Json* block = reader.find("weight_block_size");
  if (!block && config.quant_method == "fp8")
    reader.fail("weight_block_size", "is missing; DeepSeek's fp8 has [128, 128]");
  if (!block) return;
  if (!block->is_array() || block->size() != 2)
    reader.fail("weight_block_size", "must be [rows, columns], as [128, 128]");
  for (const Json& side : *block) {
    if (!side.is_number_integer() || side.get<int64_t>() < 1 || side.get<int64_t>() > kMaxBlock)
      reader.fail("weight_block_size", "must hold two positive whole numbers");
    config.weight_block_size.push_back(side.get<int64_t>());
  }
}

Json weights_json(const IntWeights& weights) {
  Json json = {{"num_bits", weights.bits}, {"type", "int"},
               {"symmetric", true},        {"strategy", weights.group_size > 0 ? "group" : "channel"},
               {"group_size", nullptr},    {"dynamic", false},
               {"observer", "minmax"}};
  if (weights.group_size > 0) json["group_size"] = weights.group_size;
  return json;
}

Json inputs_json(const IntWeights& weights) {
  if (!weights.has_int8_inputs) return nullptr;
  return {{"num_bits", 8},   {"type", "int"},       {"symmetric", true},
          {"dynamic", true}, {"strategy", "token"}, {"group_size", nullptr}};
}

const char* format_of(const IntWeights& weights) {
  return weights.is_packed ? "pack-quantized" : "int-quantized";
}

Json texts(const std::vector<ModulePattern>& patterns) {
  Json list = Json::array();
  for (const ModulePattern& pattern : patterns) list.push_back(pattern.text());
  return list;
}

}  // namespace

struct ModulePattern::Expression {
  std::regex regex;
};

ModulePattern::ModulePattern(std::string text) : text_(std::move(text)) {
  if (!text_.starts_with("re:")) return;
  std::string_view rest = std::string_view(text_).substr(3);
  if (rest.size() > kMaxPattern)
    throw ConfigError("the expression {}... in quantization_config is too long", text_.substr(0, 40));
  kind_ = Kind::expression;
  if (rest.starts_with(".*")) {
    rest.remove_prefix(2);
    const bool is_end = rest.ends_with('$');
    if (is_end) rest.remove_suffix(1);
    if (!is_end && rest.ends_with(".*")) rest.remove_suffix(2);
    if (const auto literal = literal_of(rest)) {
      literal_ = *literal;
      kind_ = is_end ? Kind::ends_with : Kind::contains;
      return;
    }
  }
  try {
    auto flags = std::regex::ECMAScript;
#ifdef __GLIBCXX__
    flags |= std::regex_constants::__polynomial;  // no expression takes exponential time
#endif
    expression_ = std::make_shared<const Expression>(Expression{std::regex(text_.substr(3), flags)});
  } catch (const std::regex_error& error) {
    throw ConfigError("the expression {} in quantization_config cannot be read: {}", text_, error.what());
  }
}

bool ModulePattern::matches(const std::string& module) const {
  switch (kind_) {
    case Kind::name:
      return !is_class() && text_ == module;
    case Kind::contains:
      return module.find(literal_) != std::string::npos;
    case Kind::ends_with:
      return module.ends_with(literal_);
    case Kind::expression:
      return std::regex_search(module, expression_->regex, std::regex_constants::match_continuous);
  }
  return false;
}

QuantizationConfig parse_quantization(const Json& object, const std::string& where) {
  const JsonReader reader(object, where);
  QuantizationConfig result;
  result.quant_method = reader.text_or("quant_method", "");
  if (result.quant_method.empty()) reader.fail("quant_method", "is missing");
  if (result.quant_method == "compressed-tensors") {
    read_compressed_tensors(reader, where, result);
  } else {
    read_fp8(reader, result);
    if (result.quant_method != "fp8") result.unsupported = "the quant_method " + result.quant_method;
  }
  result.raw = object;
  return result;
}

const IntWeights* int_weights(const QuantizationConfig& config, const std::string& module, bool is_linear) {
  for (const ModulePattern& pattern : config.ignore)
    if (pattern.matches(module) || (is_linear && pattern.is_class())) return nullptr;
  const IntWeights* of_class = nullptr;
  for (const QuantizationGroup& group : config.groups)
    for (const ModulePattern& target : group.targets) {
      if (target.matches(module)) return &group.weights;
      if (target.is_class() && is_linear && !of_class) of_class = &group.weights;
    }
  return of_class;
}

QuantizationConfig fp8_config(const std::string& scale_fmt) {
  QuantizationConfig config;
  config.quant_method = "fp8";
  config.weight_block_size = {128, 128};
  config.scale_fmt = scale_fmt;
  config.raw = {{"activation_scheme", "dynamic"}, {"fmt", "e4m3"}, {"quant_method", "fp8"}};
  if (!scale_fmt.empty()) config.raw["scale_fmt"] = scale_fmt;
  config.raw["weight_block_size"] = config.weight_block_size;
  return config;
}

QuantizationConfig compressed_tensors_config(std::vector<QuantizationGroup> groups,
                                             std::vector<ModulePattern> ignore) {
  QuantizationConfig config;
  config.quant_method = "compressed-tensors";
  std::string format;
  Json groups_json = Json::object();
  for (const QuantizationGroup& group : groups) {
    const std::string own = format_of(group.weights);
    format = format.empty() || format == own ? own : "mixed-precision";
    groups_json["group_" + std::to_string(groups_json.size())] = {
        {"targets", texts(group.targets)},
        {"weights", weights_json(group.weights)},
        {"input_activations", inputs_json(group.weights)},
        {"output_activations", nullptr},
        {"format", own}};
  }
  config.raw = {{"quant_method", "compressed-tensors"},
                {"format", format},
                {"quantization_status", "compressed"},
                {"config_groups", groups_json},
                {"ignore", texts(ignore)},
                {"kv_cache_scheme", nullptr}};
  config.groups = std::move(groups);
  config.ignore = std::move(ignore);
  return config;
}

}  // namespace fathom::config
