// Every key of a recipe stands once, in visit_recipe(): reading, documentation and the resolved text are
// visitors over that list, so none of them can know a key that another does not.
#pragma once

#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "config/parse_recipe.h"

namespace fathom::config {

struct Key {
  const char* name;
  const char* unit;  // "" for none
  const char* meaning;
  const char* default_note =
      "";  // shown instead of the struct's default where that is derived, "required" included
};

struct Range {
  double low = -std::numeric_limits<double>::infinity(), high = std::numeric_limits<double>::infinity();
  bool is_low_excluded = false;
};
inline Range at_least(double low) { return {low, std::numeric_limits<double>::infinity(), false}; }
inline Range between(double low, double high) { return {low, high, false}; }
inline Range positive() { return {0, std::numeric_limits<double>::infinity(), true}; }

// What a relative path in a recipe is relative to.
enum class PathBase { recipe_file, working_directory };

class RecipeVisitor {
 public:
  virtual ~RecipeVisitor() = default;
  virtual void begin_section(const Key& key) = 0;
  virtual void end_section() = 0;
  virtual void integer(const Key& key, int64_t& value, const Range& range) = 0;
  virtual void number(const Key& key, double& value, const Range& range) = 0;
  virtual void boolean(const Key& key, bool& value) = 0;
  virtual void text(const Key& key, std::string& value,
                    const std::vector<std::string>& choices) = 0;  // none: any
  virtual void path(const Key& key, std::filesystem::path& value, PathBase base) = 0;
  virtual void scheduled(const Key& key, ScheduledValue& value, const Range& range, bool is_whole) = 0;
  virtual void integers(const Key& key, std::vector<int64_t>& value, const Range& range) = 0;
  virtual void sources(const Key& key, std::vector<DataSource>& value) = 0;
  virtual void betas(const Key& key, double& beta1, double& beta2) = 0;
  virtual void recompute(const Key& key, RecomputeSection& value) = 0;
  virtual void model(const Key& key, Recipe& recipe) = 0;

  // An enum whose values count from 0 in the order of `names`.
  template <typename Enum>
  void choice(const Key& key, Enum& value, const std::vector<std::string>& names) {
    std::string name = names[static_cast<size_t>(value)];
    text(key, name, names);
    for (size_t i = 0; i < names.size(); ++i)
      if (names[i] == name) value = static_cast<Enum>(i);
  }
};

void visit_recipe(RecipeVisitor& visitor, Recipe& recipe);

// A scheduled value as YAML: "8", or "[{until_tokens: 1000, value: 8}, {value: 16}]".
std::string to_yaml(const ScheduledValue& value);

// The recipe as YAML, every key with its value and the model inline; reads back as the same recipe.
std::string resolved_yaml(Recipe recipe);

// Throws ConfigError for keys that contradict each other or the model.
void check_recipe(const Recipe& recipe, RecipeUse use = RecipeUse::training);

}  // namespace fathom::config
