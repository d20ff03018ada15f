// The state of one import (mindformers_import.h) that the translators of its sections share.
#pragma once

#include <initializer_list>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "config/mindformers_import.h"

namespace fathom::config {

class Translation {
 public:
  Translation(const Tree& yaml, std::filesystem::path recipe_directory);

  // ---- Reading. Paths are dotted ("callbacks.0.type"). Absent, null and the text None are the same.
  const Tree* find(std::string_view path) const;
  // Also where it stands without a value.
  bool has(std::string_view path) const;
  // The first of these paths that has a value; the first one if none has (the same thing under its newer name).
  std::string either(std::initializer_list<const char*> paths);
  int64_t integer(const std::string& path, int64_t fallback);
  int64_t count(const std::string& path, int64_t fallback, int64_t low = 1);  // low .. 2^20, or a ConfigError
  double number(const std::string& path, double fallback);
  double share(const std::string& path, double fallback);  // 0 .. 1, or a ConfigError
  bool boolean(const std::string& path, bool fallback);
  std::string text(const std::string& path, const std::string& fallback);

  // ---- Writing.
  // Puts a value under a recipe key ("train.lr.peak", "model.hidden_size"); gives "train.lr.peak: 0.00022".
  std::string put(const std::string& recipe_key, Json value);
  // What a relative path of the YAML is, seen from the recipe.
  std::string path_from_recipe(const std::string& path) const;

  // ---- Reporting. A key that is not in the YAML can be reported too (a default that was spelt out).
  void mapped(const std::string& path, const std::string& becomes, const std::string& note = "",
              KeyEffect effect = KeyEffect::none);
  void by_default(const std::string& path, const std::string& note, KeyEffect effect = KeyEffect::none);
  void meaningless(const std::string& path, const std::string& note, KeyEffect effect = KeyEffect::none);
  void unsupported(const std::string& path, const std::string& note, KeyEffect effect);
  // mapped where the YAML has the key, by_default with its default there where not.
  void carried(const std::string& path, const std::string& becomes, const std::string& note = "",
               KeyEffect effect = KeyEffect::none);
  // `meaningless` for each value below `path` that nobody reported.
  void rest_is_meaningless(const std::string& path, const std::string& note);
  // One line for all values below `path`.
  void whole_is_meaningless(const std::string& path, const std::string& note);
  // Each value that nobody reported is an unknown key.
  void refuse_unknown();
  // A key that this import knows, for suggestions; everything read or reported is.
  void know(const std::string& path) { known_.insert(path); }

  const Tree& yaml;
  std::vector<ImportedKey> keys;
  std::map<std::string, Json> recipe;  // key path -> value
  Json model = Json::object();
  std::vector<std::string> commands;
  Json hf_config;  // of pretrained_model_dir; null: none

  // ---- What several translators need; set by the ones before them.
  RecipeUse use = RecipeUse::training;
  bool is_legacy = true;           // the names of before `use_legacy: False`
  bool is_grouped_matmul = false;  // dropless experts; the other backend has a fixed capacity
  int64_t data = 1, tensor = 1, pipeline = 1, context = 1, expert = 1;
  int64_t steps = 0;  // of the run; 0: not known before the data are read

 private:
  void add(const std::string& path, KeyFate fate, const std::string& becomes, const std::string& note,
           KeyEffect effect);
  std::set<std::string> known_, reported_;
  std::filesystem::path recipe_directory_;
};

// In this order: each may rely on what those before it set.
void translate_parallel(Translation& t);    // sizes, stages, recompute
void translate_model(Translation& t);       // shapes, RoPE, token ids, precision
void translate_router(Translation& t);      // experts, groups, balance
void translate_data(Translation& t);        // datasets, batch, length of the run
void translate_optimizer(Translation& t);   // AdamW, learning rate, clipping
void translate_checkpoint(Translation& t);  // saving, loading, resuming
void translate_rest(Translation& t);        // what has no meaning here or must stand at one value

}  // namespace fathom::config
