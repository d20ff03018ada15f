// A YAML of MindSpore Transformers (pretrain, finetune or predict of its DeepSeek models) as a Fathom recipe, with what
// became of every key. docs/recipe-import.md has the table. The YAML's own names stand on the left everywhere.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "base/tree.h"
#include "config/parse_recipe.h"

namespace fathom::config {

enum class KeyFate {
  mapped,       // its value stands in the recipe, under another name
  by_default,   // what Fathom does anyway; or a key left out, whose default there the recipe spells out
  meaningless,  // has no counterpart because nothing here needs it
  unsupported,  // asks for something Fathom does not do
};
const char* name(KeyFate fate);  // "mapped", "default", "meaningless here", "unsupported"

enum class KeyEffect {
  none,     // the run trains (or serves) the same thing
  differs,  // it trains something slightly else; `note` says what
  blocks,   // it would train something else altogether: not to be used unseen
};

struct ImportedKey {
  std::string key;    // "model.model_config.num_layers"
  int64_t line = 0;   // 0: not in the YAML
  std::string value;  // as written there; empty: not in the YAML
  KeyFate fate = KeyFate::mapped;
  std::string becomes;  // "model.num_hidden_layers: 61"; empty: nothing
  std::string note;
  KeyEffect effect = KeyEffect::none;
};

struct MindFormersImport {
  RecipeUse use = RecipeUse::training;
  std::vector<ImportedKey> keys;      // in the order of the YAML, then those not in it
  std::string recipe_yaml;            // with the differences as comments on top
  std::vector<std::string> commands;  // how to run it with Fathom
};

// `recipe_directory`: where the recipe will stand. Relative paths of the YAML are relative to the working directory
// there, and are rewritten for the recipe, where they are relative to its file.
// The recipe is not checked yet: parse_recipe(recipe_yaml, file, {}, use) does. Throws ConfigError: not a MindFormers
// YAML, another model than DeepSeek's, another run mode, a value of a wrong type.
MindFormersImport import_mindformers(const Tree& yaml, const std::filesystem::path& recipe_directory);

// The report as text: one line a key, grouped by fate, then what differs and what blocks, then the counts.
std::string report_text(const MindFormersImport& result);
Json report_json(const MindFormersImport& result);

}  // namespace fathom::config
