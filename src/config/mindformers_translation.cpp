#include "config/mindformers_translation.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"
#include "base/suggest.h"

namespace fathom::config {
namespace {

namespace fs = std::filesystem;

bool is_nothing(const Tree& tree) {
  return tree.kind == Tree::Kind::null ||
         (tree.kind == Tree::Kind::scalar && (tree.text == "None" || tree.text == "none"));
}

const Tree* child(const Tree& tree, const std::string& step) {
  if (tree.kind != Tree::Kind::sequence) return tree.find(step);
  for (size_t i = 0; i < tree.items.size(); ++i)
    if (std::to_string(i) == step) return &tree.items[i];
  return nullptr;
}

// The node at a path, null ones too.
const Tree* node_at(const Tree& root, std::string_view path) {
  const Tree* node = &root;
  for (size_t begin = 0; node && begin <= path.size();) {
    const size_t end = std::min(path.find('.', begin), path.size());
    node = child(*node, std::string(path.substr(begin, end - begin)));
    begin = end + 1;
  }
  return node;
}

// A list whose items hold keys of their own (callbacks); other lists are values.
bool is_list_of_sections(const Tree& tree) {
  return tree.kind == Tree::Kind::sequence && !tree.items.empty() &&
         tree.items.front().kind == Tree::Kind::mapping;
}

template <typename Visit>
void visit_values(const Tree& tree, const std::string& path, const Visit& visit) {
  const std::string prefix = path.empty() ? "" : path + ".";
  if (tree.kind == Tree::Kind::mapping && !tree.entries.empty()) {
    for (const auto& [key, value] : tree.entries) visit_values(value, prefix + key, visit);
  } else if (is_list_of_sections(tree)) {
    for (size_t i = 0; i < tree.items.size(); ++i)
      visit_values(tree.items[i], prefix + std::to_string(i), visit);
  } else {
    visit(tree, path);
  }
}

std::string shown(const Tree& tree) {
  std::string text = tree.kind == Tree::Kind::scalar ? tree.text
                     : tree.kind == Tree::Kind::null
                         ? "null"
                         : tree.to_json().dump(-1, ' ', false, Json::error_handler_t::replace);
  if (tree.kind == Tree::Kind::scalar && (tree.is_quoted || text.empty())) text = "\"" + text + "\"";
  std::replace(text.begin(), text.end(), '\n', ' ');
  if (text.size() <= 60) return text;
  size_t end = 57;
  while ((static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) --end;  // not inside a character
  return text.substr(0, end) + "...";
}

std::string section_of(const std::string& path) { return path.substr(0, path.rfind('.') + 1); }
std::string last_part(const std::string& path) { return path.substr(path.rfind('.') + 1); }

}  // namespace

Translation::Translation(const Tree& yaml, fs::path recipe_directory)
    : yaml(yaml), recipe_directory_(std::move(recipe_directory)) {}

const Tree* Translation::find(std::string_view path) const {
  const Tree* node = node_at(yaml, path);
  return node && !is_nothing(*node) ? node : nullptr;
}

bool Translation::has(std::string_view path) const { return node_at(yaml, path) != nullptr; }

std::string Translation::either(std::initializer_list<const char*> paths) {
  std::string found;
  for (const char* path : paths) {
    know(path);
    const Tree* node = find(path);
    if (!node) continue;
    if (found.empty()) {
      found = path;
    } else if (node->to_json() != find(found)->to_json()) {
      unsupported(path, fmt::format("says something else than {}, which means the same", found),
                  KeyEffect::blocks);
    } else {
      meaningless(path, fmt::format("the same as {}", found));
    }
  }
  return found.empty() ? *paths.begin() : found;
}

int64_t Translation::integer(const std::string& path, int64_t fallback) {
  know(path);
  const Tree* node = find(path);
  return node ? node->as_integer() : fallback;
}

int64_t Translation::count(const std::string& path, int64_t fallback, int64_t low) {
  const int64_t value = integer(path, fallback);
  constexpr int64_t kMost = 1 << 20;
  if (value < low || value > kMost)
    find(path)->fail(fmt::format("is {}; it must lie in {} .. {}", value, low, kMost));
  return value;
}

double Translation::share(const std::string& path, double fallback) {
  const double value = number(path, fallback);
  if (value < 0 || value > 1) find(path)->fail(fmt::format("is {}; it must lie in 0 .. 1", value));
  return value;
}

double Translation::number(const std::string& path, double fallback) {
  know(path);
  const Tree* node = find(path);
  return node ? node->as_number() : fallback;
}

bool Translation::boolean(const std::string& path, bool fallback) {
  know(path);
  const Tree* node = find(path);
  return node ? node->as_boolean() : fallback;
}

std::string Translation::text(const std::string& path, const std::string& fallback) {
  know(path);
  const Tree* node = find(path);
  return node ? node->as_text() : fallback;
}

std::string Translation::put(const std::string& recipe_key, Json value) {
  const std::string shown_value = value.dump(-1, ' ', false, Json::error_handler_t::replace);
  const std::string model_prefix = "model.";
  if (recipe_key.rfind(model_prefix, 0) == 0)
    model[recipe_key.substr(model_prefix.size())] = std::move(value);
  else
    recipe[recipe_key] = std::move(value);
  return recipe_key + ": " + shown_value;
}

std::string Translation::path_from_recipe(const std::string& path) const {
  const fs::path given(path);
  if (path.empty() || given.is_absolute()) return path;
  return fs::absolute(given)
      .lexically_normal()
      .lexically_relative(fs::absolute(recipe_directory_).lexically_normal())
      .generic_string();
}

void Translation::add(const std::string& path, KeyFate fate, const std::string& becomes,
                      const std::string& note, KeyEffect effect) {
  know(path);
  if (!reported_.insert(path).second) return;
  ImportedKey key;
  key.key = path;
  if (const Tree* node = node_at(yaml, path)) {
    key.line = node->line;
    key.value = shown(*node);
  }
  key.fate = fate;
  key.becomes = becomes;
  key.note = note;
  key.effect = effect;
  keys.push_back(std::move(key));
}

void Translation::mapped(const std::string& path, const std::string& becomes, const std::string& note,
                         KeyEffect effect) {
  add(path, KeyFate::mapped, becomes, note, effect);
}
void Translation::by_default(const std::string& path, const std::string& note, KeyEffect effect) {
  add(path, KeyFate::by_default, "", note, effect);
}
void Translation::meaningless(const std::string& path, const std::string& note, KeyEffect effect) {
  add(path, KeyFate::meaningless, "", note, effect);
}
void Translation::unsupported(const std::string& path, const std::string& note, KeyEffect effect) {
  add(path, KeyFate::unsupported, "", note, effect);
}
void Translation::carried(const std::string& path, const std::string& becomes, const std::string& note,
                          KeyEffect effect) {
  add(path, find(path) ? KeyFate::mapped : KeyFate::by_default, becomes, note, effect);
}

void Translation::rest_is_meaningless(const std::string& path, const std::string& note) {
  know(path);
  const Tree* node = node_at(yaml, path);
  if (!node) return;
  visit_values(*node, path, [&](const Tree&, const std::string& at) { meaningless(at, note); });
}

void Translation::whole_is_meaningless(const std::string& path, const std::string& note) {
  meaningless(path, note);
  if (const Tree* node = node_at(yaml, path))
    visit_values(*node, path, [&](const Tree&, const std::string& at) { reported_.insert(at); });
}

void Translation::refuse_unknown() {
  const std::set<std::string> known = known_;
  // MindFormers checks the keys of these sections, and of no others.
  static const std::set<std::string> kChecked = {"parallel_config.", "moe_config.",  "recompute_config.",
                                                 "runner_config.",   "swap_config.", "monitor_config."};
  visit_values(yaml, "", [&](const Tree& value, const std::string& path) {
    if (reported_.count(path)) return;
    if (known.count(path) && is_nothing(value)) {
      by_default(path, "not set");
      return;
    }
    const std::string section = section_of(path);
    std::vector<std::string> neighbours, all;
    for (const std::string& key : known) {
      if (section_of(key) == section) neighbours.push_back(last_part(key));
      all.push_back(last_part(key));
    }
    std::string near = nearest(last_part(path), neighbours);
    std::string hint = near.empty() ? "" : fmt::format("; did you mean {}{}?", section, near);
    if (hint.empty())
      for (const std::string& key : known)
        if (last_part(key) == last_part(path)) hint = fmt::format("; did you mean {}?", key);
    unsupported(path,
                fmt::format("no key of MindFormers that this import knows ({}){}",
                            kChecked.count(section) ? "MindFormers refuses unknown keys here"
                                                    : "MindFormers ignores unknown keys here without a word",
                            hint),
                KeyEffect::blocks);
  });
}

}  // namespace fathom::config
