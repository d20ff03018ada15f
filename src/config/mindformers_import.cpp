#include "config/mindformers_import.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cstring>

#include "base/error.h"
#include "config/mindformers_translation.h"

namespace fathom::config {
namespace {

namespace fs = std::filesystem;

// That this is a YAML of MindFormers for a model of DeepSeek's, and what it is for.
void read_kind(Translation& t) {
  const Tree& yaml = t.yaml;
  const std::string type = "model.model_config.type", mode = "run_mode";
  if (yaml.kind != Tree::Kind::mapping) yaml.fail("holds no keys: a YAML of MindFormers is wanted");
  if (!t.find("model.model_config")) {
    if (yaml.find("data") && yaml.find("train")) yaml.fail("is a recipe of Fathom already");
    yaml.fail("has no model.model_config: a YAML of MindFormers (pretrain, finetune or predict) is wanted");
  }
  t.is_legacy = t.boolean("use_legacy", true) && !t.find("model.model_config.num_hidden_layers");
  const std::string model = t.text(type, "DeepseekV3Config");
  if (model != "DeepseekV3Config" && model != "DeepseekV2Config" && model != "deepseek_v3")
    t.find(type)->fail(fmt::format("is {}; DeepseekV3Config and DeepseekV2Config are known here", model));
  const std::string run = t.text(mode, t.find("train_dataset") ? "train" : "predict");
  if (run != "train" && run != "finetune" && run != "predict")
    t.find(mode)->fail(
        fmt::format("is {}; train, finetune and predict have recipes (fathom eval takes no recipe)", run));
  t.use = run == "predict" ? RecipeUse::inference : RecipeUse::training;
  t.carried(mode, "",
            t.use == RecipeUse::inference ? "a recipe for inference: fathom generate takes the checkpoint"
                                          : "fathom pretrain");
  const std::string grouped =
      t.either({"moe_config.use_gmm", "model.model_config.moe_grouped_gemm", "model.model_config.use_gmm"});
  t.is_grouped_matmul = t.boolean(grouped, !t.is_legacy);
}

// Newer YAMLs take the model from an HF directory, and their own keys on top of it.
void read_hf_config(Translation& t) {
  const std::string key = "pretrained_model_dir", directory = t.text(key, "");
  if (directory.empty()) {
    t.rest_is_meaningless(key, "the model is given by its keys");
    return;
  }
  const fs::path file = fs::path(directory) / "config.json";
  std::error_code ignored;
  if (!fs::is_regular_file(file, ignored)) {
    t.unsupported(
        key, fmt::format("{} cannot be read, so keys left out have the values of DeepSeek-V3", file.string()),
        KeyEffect::blocks);
    return;
  }
  t.hf_config = read_json_file(file);
  if (!t.hf_config.is_object()) throw ConfigError("{}: must hold an object of keys", file.string());
  t.mapped(key, "model", "the keys of its config.json; those of the YAML come first");
}

// Keys of the model that the YAML leaves out come from the HF directory.
void merge_hf_config(Translation& t) {
  if (t.hf_config.is_null()) return;
  const auto target_of = [](const ImportedKey& key) {
    const std::string prefix = "model.";
    return key.becomes.rfind(prefix, 0) == 0
               ? key.becomes.substr(prefix.size(), key.becomes.find(':') - prefix.size())
               : std::string();
  };
  std::set<std::string> given;
  for (const ImportedKey& key : t.keys)
    if (key.fate == KeyFate::mapped) given.insert(target_of(key));
  const std::vector<std::string>& known = known_model_keys();
  for (const auto& [name, value] : t.hf_config.items())
    if (!given.count(name) && std::binary_search(known.begin(), known.end(), name)) t.model[name] = value;
  for (ImportedKey& key : t.keys) {
    const std::string target = target_of(key);
    if (key.fate != KeyFate::by_default || target.empty() || !t.hf_config.contains(target)) continue;
    key.becomes = fmt::format("model.{}: {}", target, t.model[target].dump());
    key.note = "from pretrained_model_dir";
  }
}

// A word that YAML reads as nothing else than text.
bool is_plain_word(const std::string& text) {
  static const char* const kLetters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_";
  if (text.find_first_of(kLetters) != 0) return false;
  if (text.find_first_not_of(std::string(kLetters) + "0123456789./-") != std::string::npos) return false;
  for (const char* word : {"true", "false", "null", "yes", "no", "on", "off", "y", "n", "inf", "nan"})
    if (text.size() == std::strlen(word) && std::equal(text.begin(), text.end(), word, [](char a, char b) {
          return std::tolower(static_cast<unsigned char>(a)) == b;
        }))
      return false;
  return true;
}

std::string flow_yaml(const Json& value) {
  std::string list;
  if (value.is_array()) {
    for (const Json& item : value) list += (list.empty() ? "" : ", ") + flow_yaml(item);
    return "[" + list + "]";
  }
  if (value.is_object()) {
    for (const auto& [key, item] : value.items())
      list += fmt::format("{}{}: {}", list.empty() ? "" : ", ", key, flow_yaml(item));
    return "{" + list + "}";
  }
  if (value.is_string() && is_plain_word(value.get<std::string>())) return value.get<std::string>();
  return value.dump(-1, ' ', false, Json::error_handler_t::replace);
}

void write_entries(std::string& text, const Json& object, const std::string& indent) {
  for (const auto& [key, value] : object.items())
    text += fmt::format("{}{}: {}\n", indent, key, flow_yaml(value));
}

// In the order of the documentation of the keys.
std::string recipe_text(const Translation& t) {
  std::string text;
  std::string open;
  for (const KeyDoc& doc : recipe_keys()) {
    if (doc.path == "model") {
      text += "model:\n";
      write_entries(text, t.model, "  ");
      continue;
    }
    const auto entry = t.recipe.find(doc.path);
    if (entry == t.recipe.end()) continue;
    // Sections that are not open yet: "train:", "  lr:".
    std::string prefix;
    size_t depth = 0;
    for (size_t dot = doc.path.find('.'); dot != std::string::npos;
         dot = doc.path.find('.', dot + 1), ++depth) {
      prefix = doc.path.substr(0, dot);
      if (open.rfind(prefix + ".", 0) == 0) continue;
      const std::string name = prefix.substr(prefix.rfind('.') + 1);
      text += fmt::format("{}{}:\n", std::string(2 * depth, ' '), name);
      open = prefix + ".";
    }
    if (prefix.empty())
      open.clear();
    else
      open = prefix + ".";
    text += fmt::format("{}{}: {}\n", std::string(2 * depth, ' '), doc.path.substr(doc.path.rfind('.') + 1),
                        flow_yaml(entry->second));
  }
  return text;
}

std::string header_text(const Translation& t) {
  std::string text =
      fmt::format("# Made by fathom recipe import of {}.\n", fs::path(t.yaml.source).filename().string());
  bool has_difference = false;
  for (const ImportedKey& key : t.keys) {
    if (key.effect == KeyEffect::none) continue;
    if (!has_difference) text += "# What is not the same here as there:\n";
    has_difference = true;
    text += fmt::format("# - {}{}: {}\n", key.key, key.value.empty() ? "" : " (" + key.value + ")", key.note);
  }
  for (const std::string& command : t.commands) text += "# " + command + "\n";
  return text;
}

std::string line_of(const ImportedKey& key) {
  std::string text = "  " + key.key;
  if (!key.value.empty())
    text += ": " + key.value;
  else
    text += " (left out)";
  if (!key.becomes.empty()) text += "  ->  " + key.becomes;
  if (!key.note.empty()) text += fmt::format("  ({})", key.note);
  return text + "\n";
}

constexpr std::array kFates = {KeyFate::mapped, KeyFate::by_default, KeyFate::meaningless,
                               KeyFate::unsupported};

}  // namespace

const char* name(KeyFate fate) {
  static const char* const kNames[] = {"mapped", "default", "meaningless here", "unsupported"};
  return kNames[static_cast<int>(fate)];
}

MindFormersImport import_mindformers(const Tree& yaml, const fs::path& recipe_directory) {
  Translation t(yaml, recipe_directory);
  read_kind(t);
  translate_parallel(t);
  translate_model(t);
  translate_router(t);
  if (t.use == RecipeUse::training) {
    translate_data(t);
    translate_optimizer(t);
  }
  translate_checkpoint(t);
  translate_rest(t);
  read_hf_config(t);
  merge_hf_config(t);
  t.refuse_unknown();
  std::stable_sort(t.keys.begin(), t.keys.end(), [](const ImportedKey& a, const ImportedKey& b) {
    return (a.line > 0) != (b.line > 0) ? a.line > 0 : a.line < b.line;
  });
  MindFormersImport result;
  result.use = t.use;
  result.recipe_yaml = header_text(t) + recipe_text(t);
  result.keys = std::move(t.keys);
  result.commands = std::move(t.commands);
  return result;
}

std::string report_text(const MindFormersImport& result) {
  std::string text, counts;
  for (const KeyFate fate : kFates) {
    std::string lines;
    int64_t count = 0;
    for (const ImportedKey& key : result.keys) {
      if (key.fate != fate) continue;
      lines += line_of(key);
      ++count;
    }
    if (count > 0) text += fmt::format("{} ({})\n{}", name(fate), count, lines);
    counts += fmt::format("{}{} {}", counts.empty() ? "" : ", ", count, name(fate));
  }
  for (const KeyEffect effect : {KeyEffect::differs, KeyEffect::blocks}) {
    std::string lines;
    for (const ImportedKey& key : result.keys)
      if (key.effect == effect) lines += fmt::format("  {}: {}\n", key.key, key.note);
    if (!lines.empty())
      text += (effect == KeyEffect::differs ? "not the same here as there\n"
                                            : "would make it something else, and has no counterpart\n") +
              lines;
  }
  return text + counts + "\n";
}

Json report_json(const MindFormersImport& result) {
  static const char* const kEffects[] = {"none", "differs", "blocks"};
  Json keys = Json::array();
  for (const ImportedKey& key : result.keys)
    keys.push_back({{"key", key.key},
                    {"line", key.line > 0 ? Json(key.line) : Json(nullptr)},
                    {"value", key.line > 0 ? Json(key.value) : Json(nullptr)},
                    {"fate", name(key.fate)},
                    {"becomes", key.becomes},
                    {"note", key.note},
                    {"effect", kEffects[static_cast<int>(key.effect)]}});
  return {{"use", result.use == RecipeUse::training ? "training" : "inference"},
          {"keys", keys},
          {"recipe", result.recipe_yaml},
          {"commands", result.commands}};
}

}  // namespace fathom::config
