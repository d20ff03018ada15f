#include "cli/inspect_gguf.h"

#include <fmt/format.h>

#include <cmath>
#include <map>
#include <string>
#include <variant>

#include "base/json.h"
#include "base/progress.h"
#include "formats/gguf.h"

namespace fathom::cli {
namespace {

using formats::GgufFile;
using formats::GgufType;
using formats::GgufValue;

constexpr size_t kShownElements = 64, kShownCharacters = 100;

Json to_json(const GgufValue& value) {
  if (const auto* array = std::get_if<GgufValue::Array>(&value.value)) {
    if (array->size() > kShownElements)
      return {{"type", formats::gguf_type_name(value.element_type)}, {"count", array->size()}};
    Json list = Json::array();
    for (const GgufValue& element : *array) list.push_back(to_json(element));
    return list;
  }
  // As few digits as tell a float from its neighbours.
  if (value.type == GgufType::float32) {
    const auto number = static_cast<float>(std::get<double>(value.value));
    return std::isfinite(number) ? Json(std::stod(fmt::format("{}", number))) : Json(nullptr);
  }
  return std::visit(
      [](const auto& held) -> Json {
        if constexpr (std::is_same_v<std::decay_t<decltype(held)>, GgufValue::Array>)
          return nullptr;
        else
          return held;
      },
      value.value);
}

// Strings of a GGUF may be any bytes.
std::string dump(const Json& json) { return json.dump(-1, ' ', false, Json::error_handler_t::replace); }

// Where a UTF-8 text may be cut.
size_t cut_point(const std::string& text) {
  size_t end = kShownCharacters;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) --end;
  return end;
}

int64_t count_of(const formats::GgufHeader& header, const std::string& key) {
  const GgufValue* value = header.find(key);
  const auto* number = value ? std::get_if<uint64_t>(&value->value) : nullptr;
  return number && *number < (uint64_t{1} << 32) ? static_cast<int64_t>(*number) : 0;
}

struct Totals {
  int64_t parameters = 0, active = 0;
  std::map<std::string, uint64_t> bytes_by_type;
};

// Of tensors that stack experts (llama.cpp names them *_exps) a token uses its share.
Totals totals(const formats::GgufHeader& header) {
  const GgufValue* architecture = header.find("general.architecture");
  const auto* name = architecture ? std::get_if<std::string>(&architecture->value) : nullptr;
  const int64_t experts = name ? count_of(header, *name + ".expert_count") : 0;
  const int64_t used = name ? count_of(header, *name + ".expert_used_count") : 0;
  Totals result;
  for (const formats::GgufTensor& tensor : header.tensors) {
    const bool is_stack = tensor.name.find("_exps.") != std::string::npos && experts > 0;
    result.parameters += tensor.numel();
    result.active += is_stack ? tensor.numel() / experts * used : tensor.numel();
    result.bytes_by_type[std::string(formats::ggml_type_info(tensor.type).name)] += tensor.bytes;
  }
  return result;
}

std::string json_report(const GgufFile& file, const Totals& sums) {
  Json json = {{"path", file.path().string()},     {"kind", "gguf"},
               {"version", file.header().version}, {"total_parameters", sums.parameters},
               {"active_parameters", sums.active}, {"stored_parameters", sums.parameters},
               {"file_bytes", file.size()},        {"bytes_by_dtype", sums.bytes_by_type}};
  Json& metadata = json["metadata"] = Json::object();
  for (const auto& [key, value] : file.header().metadata) metadata[key] = to_json(value);
  Json& tensors = json["tensors"] = Json::array();
  for (const formats::GgufTensor& tensor : file.tensors())
    tensors.push_back({{"name", tensor.name},
                       {"dtype", formats::ggml_type_info(tensor.type).name},
                       {"shape", tensor.shape},
                       {"file", file.path().filename().string()},
                       {"offset", tensor.offset}});
  return dump(json) + "\n";
}

std::string text_report(const GgufFile& file, const Totals& sums, bool with_tensors) {
  std::string text = fmt::format(
      "{} (GGUF version {})\ntotal parameters   {}\nactive parameters  {}\ntensors            {}\n",
      file.path().string(), file.header().version, sums.parameters, sums.active, file.tensors().size());
  for (const auto& [type, bytes] : sums.bytes_by_type)
    text += fmt::format("  {:<16} {}\n", type, format_bytes(static_cast<double>(bytes)));
  text += fmt::format("metadata           {} keys\n", file.header().metadata.size());
  for (const auto& [key, value] : file.header().metadata) {
    const auto* array = std::get_if<GgufValue::Array>(&value.value);
    std::string shown =
        array && array->size() > kShownElements
            ? fmt::format("{} x {}", array->size(), formats::gguf_type_name(value.element_type))
            : dump(to_json(value));
    if (shown.size() > kShownCharacters)
      shown = shown.substr(0, cut_point(shown)) + " ... (--json shows all)";
    text += fmt::format("  {:<42} {}\n", key, shown);
  }
  if (with_tensors)
    for (const formats::GgufTensor& tensor : file.tensors())
      text += fmt::format("{:<8} {:<20} {}  {}\n", formats::ggml_type_info(tensor.type).name,
                          Json(tensor.shape).dump(), tensor.name, tensor.offset);
  return text;
}

}  // namespace

std::string gguf_report(const std::filesystem::path& path, bool as_json, bool with_tensors) {
  const GgufFile file(path);
  const Totals sums = totals(file.header());
  return as_json ? json_report(file, sums) : text_report(file, sums, with_tensors);
}

}  // namespace fathom::cli
