#include "config/recipe.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <set>

#include "base/error.h"
#include "base/file.h"
#include "base/suggest.h"
#include "base/tree.h"
#include "config/recipe_visitor.h"

namespace fathom::config {
namespace {

constexpr const char* kOverride = "--set ";

bool starts_with(const std::string& text, const std::string& prefix) { return text.rfind(prefix, 0) == 0; }

std::string last_part(const std::string& path) { return path.substr(path.rfind('.') + 1); }

// ---- Unknown keys, before anything is read: a misspelt key should not be reported as a missing one.

// The paths of recipe_keys() in the section `prefix` ("train.", "" for the root), without the prefix.
std::vector<std::string> keys_of_section(const std::string& prefix) {
  std::vector<std::string> names;
  for (const KeyDoc& doc : recipe_keys()) {
    if (!starts_with(doc.path, prefix)) continue;
    const std::string rest = doc.path.substr(prefix.size());
    if (rest.find('.') == std::string::npos && rest.find('[') == std::string::npos) names.push_back(rest);
  }
  return names;
}

[[noreturn]] void refuse_key(const Tree& entry, const std::string& name, const std::string& prefix,
                             const std::vector<std::string>& valid) {
  std::string near = nearest(name, valid);
  if (!near.empty()) entry.fail(fmt::format("no such key; did you mean {}{}?", prefix, near));
  for (const KeyDoc& doc : recipe_keys())
    if (last_part(doc.path) == name) entry.fail(fmt::format("no such key here; did you mean {}?", doc.path));
  std::vector<std::string> all;
  for (const KeyDoc& doc : recipe_keys()) all.push_back(last_part(doc.path));
  near = nearest(name, all);
  for (const KeyDoc& doc : recipe_keys())
    if (!near.empty() && last_part(doc.path) == near)
      entry.fail(fmt::format("no such key; did you mean {}?", doc.path));
  entry.fail(fmt::format("no such key; valid here: {}", fmt::join(valid, ", ")));
}

void refuse_unknown_model_keys(const Tree& model) {
  const std::vector<std::string>& known = known_model_keys();
  for (const auto& [name, value] : model.entries)
    if (!std::binary_search(known.begin(), known.end(), name)) refuse_key(value, name, "model.", known);
}

void refuse_unknown_keys(const Tree& section, const std::string& prefix) {
  if (section.kind == Tree::Kind::null) return;
  if (section.kind != Tree::Kind::mapping) section.fail("must be a section of keys");
  const std::vector<std::string> valid = keys_of_section(prefix);
  for (const auto& [name, value] : section.entries) {
    if (std::find(valid.begin(), valid.end(), name) == valid.end()) refuse_key(value, name, prefix, valid);
    const std::string path = prefix + name;
    if (path == "model") {
      if (value.kind == Tree::Kind::mapping) refuse_unknown_model_keys(value);
    } else if (!keys_of_section(path + ".").empty()) {
      refuse_unknown_keys(value, path + ".");
    }
  }
}

// ---- The model section.

Json& json_at(Json& root, const std::string& path, const std::string& source) {
  std::string pointer;
  for (const char c : path)
    pointer += c == '.' ? std::string("/") : c == '~' ? "~0" : c == '/' ? "~1" : std::string(1, c);
  try {
    return root[Json::json_pointer("/" + pointer)];
  } catch (const Json::exception&) {
    throw ConfigError("{}: the model has no place for the key path model.{}", source, path);
  }
}

// `overrides` are those of "model.<path>=value".
void read_model(const Tree& node, const fs::path& path, const std::vector<std::string>& overrides,
                Recipe& recipe) {
  Json json;
  std::string where;
  if (node.kind == Tree::Kind::mapping) {
    json = node.to_json();
    where = node.where();
  } else {
    std::error_code ignored;
    if (!fs::exists(path, ignored))
      node.fail(
          fmt::format("{} does not exist; give an HF config.json, a checkpoint directory, or the keys inline",
                      path.string()));
    recipe.model_path = path;
    const bool is_directory = fs::is_directory(path, ignored);
    const fs::path file = is_directory ? path / "config.json" : path;
    json = read_json_file(file);
    where = file.string();
    if (is_directory)
      for (const fs::directory_entry& entry : fs::directory_iterator(path, ignored))
        if (entry.path().extension() == ".safetensors") recipe.model_has_weights = true;
  }
  if (!json.is_object()) throw ConfigError("{}: must hold an object of keys", where);
  for (const std::string& text : overrides) {
    Tree values;
    const std::string key_path = apply_override(values, text).substr(std::string("model.").size());
    const std::string top = key_path.substr(0, key_path.find('.'));
    const std::vector<std::string>& known = known_model_keys();
    const Tree& section = *values.find("model");
    if (!std::binary_search(known.begin(), known.end(), top) && !json.contains(top))
      refuse_key(*section.find(top), top, "model.", known);
    const Tree parsed = parse_yaml(text.substr(text.find('=') + 1), kOverride + text);
    json_at(json, key_path, kOverride + text) = parsed.to_json();
    where += fmt::format(" with {}{}", kOverride, text);
  }
  recipe.model = parse_model_config(json, where);
}

// ---- Values.

class Reader : public RecipeVisitor {
 public:
  Reader(const Tree& root, fs::path base, const std::vector<std::string>& model_overrides)
      : base_(std::move(base)), model_overrides_(model_overrides), sections_{&root} {}

  // Key paths that stand in the recipe with a value other than null.
  const std::set<std::string>& given() const { return given_; }

  void begin_section(const Key& key) override {
    const Tree* parent = sections_.back();
    sections_.push_back(parent ? parent->find(key.name) : nullptr);
  }
  void end_section() override { sections_.pop_back(); }

  void integer(const Key& key, int64_t& value, const Range& range) override {
    if (const Tree* node = take(key)) value = integer_in(*node, range);
  }
  void number(const Key& key, double& value, const Range& range) override {
    if (const Tree* node = take(key)) value = number_in(*node, range);
  }
  void boolean(const Key& key, bool& value) override {
    if (const Tree* node = take(key)) value = node->as_boolean();
  }
  void text(const Key& key, std::string& value, const std::vector<std::string>& choices) override {
    const Tree* node = take(key);
    if (!node) return;
    value = node->as_text();
    if (choices.empty() || std::find(choices.begin(), choices.end(), value) != choices.end()) return;
    const std::string near = nearest(value, choices);
    node->fail(fmt::format("is \"{}\"; one of {} is wanted{}", value, fmt::join(choices, ", "),
                           near.empty() ? "" : fmt::format(" (did you mean {}?)", near)));
  }
  void path(const Key& key, fs::path& value, PathBase base) override {
    if (const Tree* node = take(key))
      value = base == PathBase::recipe_file ? resolved(*node) : text_path(*node);
  }
  void scheduled(const Key& key, ScheduledValue& value, const Range& range, bool is_whole) override {
    const Tree* node = take(key);
    if (!node) return;
    const auto read = [&](const Tree& at) {
      return is_whole ? static_cast<double>(integer_in(at, range)) : number_in(at, range);
    };
    if (node->kind != Tree::Kind::sequence) {
      value = ScheduledValue(read(*node));
      return;
    }
    if (node->items.empty()) node->fail("is an empty list; write [{until_tokens: N, value: V}, ...]");
    value.pieces.clear();
    for (const Tree& item : node->items) {
      check_item(item, {"until_tokens", "value"}, "value");
      ScheduledValue::Piece piece;
      piece.value = read(*item.find("value"));
      const bool is_last = &item == &node->items.back();
      if (const Tree* until = item.find("until_tokens"); until && until->kind != Tree::Kind::null)
        piece.until_tokens = integer_in(*until, between(1, 1e18));
      else if (!is_last)
        item.fail("has no until_tokens; only the last piece may stay open");
      if (!value.pieces.empty() && piece.until_tokens <= value.pieces.back().until_tokens)
        item.fail("until_tokens must ascend");
      value.pieces.push_back(piece);
    }
  }
  void integers(const Key& key, std::vector<int64_t>& value, const Range& range) override {
    if (const Tree* node = take(key)) value = integers_in(*node, range);
  }
  void sources(const Key& key, std::vector<DataSource>& value) override {
    const Tree* node = take(key);
    if (!node) return;
    if (node->kind != Tree::Kind::sequence) node->fail("must be a list: [{path: P, weight: 1.0}, ...]");
    value.clear();
    for (const Tree& item : node->items) {
      DataSource source;
      if (item.kind == Tree::Kind::scalar) {
        source.path = resolved(item);
      } else {
        check_item(item, {"path", "weight"}, "path");
        source.path = resolved(*item.find("path"));
        if (const Tree* weight = item.find("weight")) source.weight = number_in(*weight, at_least(0));
      }
      value.push_back(std::move(source));
    }
  }
  void betas(const Key& key, double& beta1, double& beta2) override {
    const Tree* node = take(key);
    if (!node) return;
    if (node->kind != Tree::Kind::sequence || node->items.size() != 2)
      node->fail("must be two numbers: [0.9, 0.95]");
    beta1 = number_in(node->items[0], between(0, 0.999999999));
    beta2 = number_in(node->items[1], between(0, 0.999999999));
  }
  void recompute(const Key& key, RecomputeSection& value) override {
    const Tree* node = take(key);
    if (!node) return;
    value.layers.clear();
    if (node->kind == Tree::Kind::sequence) {
      value.kind = RecomputeKind::per_stage;
      value.layers = integers_in(*node, between(0, 10000));
      return;
    }
    const std::string& name = node->as_text();
    if (name == "none")
      value.kind = RecomputeKind::none;
    else if (name == "full")
      value.kind = RecomputeKind::full;
    else if (name == "selective")
      value.kind = RecomputeKind::selective;
    else
      node->fail(
          fmt::format("is \"{}\"; none, full, selective or a list of layers per stage is wanted", name));
  }
  void model(const Key& key, Recipe& recipe) override {
    const Tree* node = take(key);
    if (!node) return;
    if (node->kind == Tree::Kind::sequence) node->fail("must be a path or a section of keys, not a list");
    read_model(*node, node->kind == Tree::Kind::scalar ? resolved(*node) : fs::path(), model_overrides_,
               recipe);
  }

 private:
  // The node of a key that has a value; nullptr: absent or null, so the default holds.
  const Tree* take(const Key& key) {
    const Tree* node = sections_.back() ? sections_.back()->find(key.name) : nullptr;
    if (!node || node->kind == Tree::Kind::null) return nullptr;
    given_.insert(node->path);
    return node;
  }

  static void check_range(const Tree& node, double value, const Range& range) {
    if (range.is_low_excluded ? value > range.low && value <= range.high
                              : value >= range.low && value <= range.high)
      return;
    if (range.high == std::numeric_limits<double>::infinity())
      node.fail(fmt::format("is {}; it must be {} {}", value, range.is_low_excluded ? "above" : "at least",
                            range.low));
    node.fail(fmt::format("is {}; it must lie in {} .. {}", value, range.low, range.high));
  }
  static int64_t integer_in(const Tree& node, const Range& range) {
    const int64_t value = node.as_integer();
    check_range(node, static_cast<double>(value), range);
    return value;
  }
  static double number_in(const Tree& node, const Range& range) {
    const double value = node.as_number();
    check_range(node, value, range);
    return value;
  }
  static std::vector<int64_t> integers_in(const Tree& node, const Range& range) {
    if (node.kind != Tree::Kind::sequence) node.fail("must be a list of whole numbers");
    std::vector<int64_t> values;
    for (const Tree& item : node.items) values.push_back(integer_in(item, range));
    return values;
  }
  // An item of a list: a mapping of `valid` keys with `required` among them.
  static void check_item(const Tree& item, const std::vector<std::string>& valid,
                         const std::string& required) {
    if (item.kind != Tree::Kind::mapping)
      item.fail(fmt::format("must hold the keys {}", fmt::join(valid, ", ")));
    for (const auto& [name, value] : item.entries)
      if (std::find(valid.begin(), valid.end(), name) == valid.end()) {
        const std::string near = nearest(name, valid);
        value.fail(near.empty() ? fmt::format("no such key; valid here: {}", fmt::join(valid, ", "))
                                : fmt::format("no such key; did you mean {}?", near));
      }
    const Tree* node = item.find(required);
    if (!node || node->kind == Tree::Kind::null) item.fail(required + " is missing");
  }

  static fs::path text_path(const Tree& node) {
    const std::string& text = node.as_text();
    if (text.empty()) node.fail("is an empty path");
    if (text.find('\0') != std::string::npos) node.fail("holds a zero byte");
    return text;
  }
  // Relative to the recipe file. On a command line people mean their own directory: an override's path that
  // does not exist beside the recipe but does from here is taken from here.
  fs::path resolved(const Tree& node) const {
    fs::path path = text_path(node);
    if (path.is_absolute()) return path;
    fs::path beside_recipe = (base_ / path).lexically_normal();
    if (starts_with(node.source, kOverride) && !exists_as_source(beside_recipe) && exists_as_source(path))
      return fs::absolute(path).lexically_normal();
    return beside_recipe;
  }
  static bool exists_as_source(const fs::path& path) {
    std::error_code ignored;
    return fs::exists(path, ignored) || fs::exists(path.string() + ".idx", ignored);
  }

  fs::path base_;
  const std::vector<std::string>& model_overrides_;
  std::vector<const Tree*> sections_;
  std::set<std::string> given_;
};

// Of keys that exclude each other, one set on the command line replaces another of the file.
void drop_replaced(Tree& root, const std::vector<std::string>& overridden) {
  static const std::vector<std::vector<std::string>> kExclusive = {
      {"train.steps", "train.tokens", "train.epochs"},
      {"train.lr.warmup_steps", "train.lr.warmup_ratio"},
      {"data.valid", "data.split"}};
  const auto is_set = [&](const std::string& path) {
    return std::find(overridden.begin(), overridden.end(), path) != overridden.end();
  };
  for (const std::vector<std::string>& group : kExclusive) {
    if (std::none_of(group.begin(), group.end(), is_set)) continue;
    for (const std::string& path : group)
      if (!is_set(path)) apply_override(root, path + "=null");
  }
}

}  // namespace

double ScheduledValue::at(int64_t consumed_tokens) const {
  if (pieces.empty()) return 0;
  for (const Piece& piece : pieces)
    if (consumed_tokens < piece.until_tokens) return piece.value;
  return pieces.back().value;
}

Recipe read_recipe(const std::filesystem::path& path, const std::vector<std::string>& overrides) {
  return parse_recipe(read_text_file(path), path, overrides);
}

Recipe parse_recipe(std::string_view yaml, const std::filesystem::path& path,
                    const std::vector<std::string>& overrides, RecipeUse use) {
  Tree root = parse_yaml(yaml, path.string());
  if (root.kind != Tree::Kind::mapping && root.kind != Tree::Kind::null) root.fail("must hold keys: values");
  std::vector<std::string> model_overrides, overridden;
  for (const std::string& text : overrides) {
    if (starts_with(text, "model.")) {
      model_overrides.push_back(text);
    } else {
      overridden.push_back(apply_override(root, text));
    }
  }
  drop_replaced(root, overridden);
  refuse_unknown_keys(root, "");

  Recipe recipe;
  recipe.file = path;
  Reader reader(root, fs::absolute(path).parent_path(), model_overrides);
  visit_recipe(reader, recipe);
  std::vector<const char*> required = {"output_dir", "model"};
  if (use == RecipeUse::training) required.push_back("data.train");
  for (const char* key : required)
    if (!reader.given().count(key)) throw ConfigError("{}: {} is missing", path.string(), key);

  BalanceSection& balance = recipe.train.balance;
  // NUM-7: the released files have no aux_loss_alpha, and the default then is the report's weight, not 0.
  if (!reader.given().count("train.balance.sequence_aux_loss") && recipe.model.aux_loss_alpha &&
      recipe.model.seq_aux)
    balance.sequence_aux_loss = *recipe.model.aux_loss_alpha;
  if (!reader.given().count("train.balance.bias_update_rate") && !recipe.model.has_correction_bias())
    balance.bias_update_rate = ScheduledValue(0);
  check_recipe(recipe, use);
  recipe.resolved_yaml = resolved_yaml(recipe);
  return recipe;
}

}  // namespace fathom::config
