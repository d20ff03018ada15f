// The documentation of the keys, and a recipe written out with every key.
#include <fmt/ranges.h>

#include "base/error.h"
#include "config/recipe_visitor.h"

namespace fathom::config {
namespace {

std::string in_quotes(const std::string& text) {
  return Json(text).dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::string list_of(const std::vector<int64_t>& values) {
  return fmt::format("[{}]", fmt::join(values, ", "));
}

std::string to_yaml(const RecomputeSection& recompute) {
  switch (recompute.kind) {
    case RecomputeKind::none:
      return "none";
    case RecomputeKind::full:
      return "full";
    case RecomputeKind::selective:
      return "selective";
    case RecomputeKind::per_stage:
      break;
  }
  return list_of(recompute.layers);
}

// Shared by the two visitors below: each key becomes one line of (path, type, value).
class TextVisitor : public RecipeVisitor {
 public:
  void begin_section(const Key& key) override {
    section_begins(key);
    sections_.emplace_back(key.name);
  }
  void end_section() override { sections_.pop_back(); }
  void integer(const Key& key, int64_t& value, const Range&) override {
    entry(key, "integer", std::to_string(value));
  }
  void number(const Key& key, double& value, const Range&) override {
    entry(key, "number", fmt::format("{}", value));
  }
  void boolean(const Key& key, bool& value) override {
    entry(key, "true or false", value ? "true" : "false");
  }
  void text(const Key& key, std::string& value, const std::vector<std::string>& choices) override {
    entry(key, choices.empty() ? "text" : fmt::format("{}", fmt::join(choices, ", ")),
          value.empty()     ? "null"
          : choices.empty() ? in_quotes(value)
                            : value);
  }
  void path(const Key& key, std::filesystem::path& value, PathBase) override {
    entry(key, "path", value.empty() ? "null" : in_quotes(value.string()));
  }
  void scheduled(const Key& key, ScheduledValue& value, const Range&, bool is_whole) override {
    entry(key, is_whole ? "integer or schedule" : "number or schedule", config::to_yaml(value));
  }
  void integers(const Key& key, std::vector<int64_t>& value, const Range&) override {
    entry(key, "list of integers", list_of(value));
  }
  void betas(const Key& key, double& beta1, double& beta2) override {
    entry(key, "two numbers", fmt::format("[{}, {}]", beta1, beta2));
  }
  void recompute(const Key& key, RecomputeSection& value) override {
    entry(key, "none, full, selective, or list of integers", to_yaml(value));
  }

 protected:
  virtual void entry(const Key& key, const std::string& type, const std::string& value) = 0;
  virtual void section_begins(const Key&) {}
  std::string prefix() const {
    std::string result;
    for (const std::string& section : sections_) result += section + ".";
    return result;
  }
  std::vector<std::string> sections_;
};

class DocVisitor : public TextVisitor {
 public:
  std::vector<KeyDoc> docs;

  void sources(const Key& key, std::vector<DataSource>&) override {
    entry(key, "list of sources", "[]");
    const std::string name = std::string(key.name) + "[]";
    docs.push_back({prefix() + name + ".path", "path", "required", "", "Prefix of a `.bin`/`.idx` pair."});
    docs.push_back(
        {prefix() + name + ".weight", "number", "1", "", "Share of the samples, relative to the others'."});
  }
  void model(const Key& key, Recipe&) override { entry(key, "path or section", ""); }

 protected:
  void section_begins(const Key& key) override {
    docs.push_back({prefix() + key.name, "section", "", "", key.meaning});
  }
  void entry(const Key& key, const std::string& type, const std::string& value) override {
    docs.push_back(
        {prefix() + key.name, type, *key.default_note ? key.default_note : value, key.unit, key.meaning});
  }
};

class YamlVisitor : public TextVisitor {
 public:
  std::string yaml;

  void integer(const Key& key, int64_t& value, const Range& range) override {
    // Below its range: not given (steps, tokens), or derived when the run starts (snapshot_bytes).
    const bool is_unset = static_cast<double>(value) < range.low || value < 0;
    entry(key, "", is_unset ? "null" : std::to_string(value));
  }
  void number(const Key& key, double& value, const Range& range) override {
    entry(key, "", range.is_low_excluded && value <= range.low ? "null" : fmt::format("{}", value));
  }
  void sources(const Key& key, std::vector<DataSource>& value) override {
    std::string list;
    for (const DataSource& source : value)
      list += fmt::format("{}{{path: {}, weight: {}}}", list.empty() ? "" : ", ",
                          in_quotes(source.path.string()), source.weight);
    entry(key, "", "[" + list + "]");
  }
  void model(const Key& key, Recipe& recipe) override {
    if (!recipe.model_path.empty())
      yaml += fmt::format("# model: {}\n", in_quotes(recipe.model_path.string()));
    const std::string json = to_json(recipe.model).dump(2, ' ', false, Json::error_handler_t::replace);
    std::string indented;
    for (const char c : json) indented += c == '\n' ? std::string("\n  ") : std::string(1, c);
    entry(key, "", indented);
  }

 protected:
  void section_begins(const Key& key) override { line(std::string(key.name) + ":"); }
  void entry(const Key& key, const std::string&, const std::string& value) override {
    line(std::string(key.name) + ": " + value);
  }

 private:
  void line(const std::string& text) { yaml += std::string(2 * sections_.size(), ' ') + text + "\n"; }
};

}  // namespace

std::string to_yaml(const ScheduledValue& value) {
  if (value.pieces.size() == 1 && value.pieces[0].until_tokens == std::numeric_limits<int64_t>::max())
    return fmt::format("{}", value.pieces[0].value);
  std::string list;
  for (const ScheduledValue::Piece& piece : value.pieces) {
    list += list.empty() ? "{" : ", {";
    if (piece.until_tokens != std::numeric_limits<int64_t>::max())
      list += fmt::format("until_tokens: {}, ", piece.until_tokens);
    list += fmt::format("value: {}}}", piece.value);
  }
  return "[" + list + "]";
}

const std::vector<KeyDoc>& recipe_keys() {
  static const std::vector<KeyDoc> docs = [] {
    DocVisitor visitor;
    Recipe defaults;
    visit_recipe(visitor, defaults);
    return visitor.docs;
  }();
  return docs;
}

std::string resolved_yaml(Recipe recipe) {
  YamlVisitor visitor;
  visit_recipe(visitor, recipe);
  return visitor.yaml;
}

}  // namespace fathom::config
