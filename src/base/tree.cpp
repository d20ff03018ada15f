#include "base/tree.h"

#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <optional>
#include <sstream>

#include "base/error.h"
#include "base/file.h"

namespace fathom {
namespace {

constexpr int kMaxDepth = 100;
constexpr int64_t kMaxNodes = 1'000'000;

std::string join(const std::string& path, const std::string& key) {
  return path.empty() ? key : path + "." + key;
}

// The walk over yaml-cpp's nodes: it keeps duplicate keys, ignores merge keys and shares alias targets, so
// the checks are ours.
class Builder {
 public:
  explicit Builder(std::string source) : source_(std::move(source)) {}

  Tree build(const YAML::Node& node, const std::string& path, int depth) {
    Tree tree;
    tree.path = path;
    tree.source = source_;
    tree.line = node.Mark().line >= 0 ? node.Mark().line + 1 : 0;
    if (depth > kMaxDepth) tree.fail(fmt::format("nests deeper than {} levels", kMaxDepth));
    if (++num_nodes_ > kMaxNodes) tree.fail(fmt::format("the text grows beyond {} values", kMaxNodes));
    switch (node.Type()) {
      case YAML::NodeType::Undefined:
      case YAML::NodeType::Null:
        break;
      case YAML::NodeType::Scalar:
        tree.kind = Tree::Kind::scalar;
        tree.text = node.Scalar();
        tree.is_quoted = node.Tag() == "!" || node.Tag() == "tag:yaml.org,2002:str";
        break;
      case YAML::NodeType::Sequence:
        tree.kind = Tree::Kind::sequence;
        for (const auto& item : node)
          tree.items.push_back(build(item, join(path, std::to_string(tree.items.size())), depth + 1));
        break;
      case YAML::NodeType::Map:
        tree.kind = Tree::Kind::mapping;
        for (const auto& entry : node) add_entry(tree, entry.first, entry.second, depth);
        break;
    }
    return tree;
  }

 private:
  void add_entry(Tree& tree, const YAML::Node& key_node, const YAML::Node& value, int depth) {
    if (!key_node.IsScalar()) tree.fail("has a key that is not plain text");
    const std::string& key = key_node.Scalar();
    Tree at;
    at.path = join(tree.path, key);
    at.source = source_;
    at.line = key_node.Mark().line + 1;
    if (key == "<<") at.fail("merge keys are not supported: write the keys out");
    if (const Tree* first = tree.find(key))
      at.fail(fmt::format("stands twice (first in line {}): remove one of them", first->line));
    Tree child = build(value, at.path, depth + 1);
    child.line = at.line;  // the key's line says more than that of a block that begins below it
    tree.entries.emplace_back(key, std::move(child));
  }

  std::string source_;
  int64_t num_nodes_ = 0;
};

class DocumentCounter : public YAML::EventHandler {
 public:
  int num_documents = 0;
  int64_t line = 1;  // of the last document

  void OnDocumentStart(const YAML::Mark& mark) override {
    ++num_documents;
    line = std::max(mark.line, 0) + 1;
  }
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark&, YAML::anchor_t) override {}
  void OnAlias(const YAML::Mark&, YAML::anchor_t) override {}
  void OnScalar(const YAML::Mark&, const std::string&, YAML::anchor_t, const std::string&) override {}
  void OnSequenceStart(const YAML::Mark&, const std::string&, YAML::anchor_t,
                       YAML::EmitterStyle::value) override {}
  void OnSequenceEnd() override {}
  void OnMapStart(const YAML::Mark&, const std::string&, YAML::anchor_t, YAML::EmitterStyle::value) override {
  }
  void OnMapEnd() override {}
};

// yaml-cpp ends the text silently at byte 4 and replaces what is no UTF-8.
void check_bytes(std::string_view text, const std::string& source) {
  int64_t line = 1;
  for (const char c : text) {
    const unsigned char byte = static_cast<unsigned char>(c);
    if (c == '\n') ++line;
    if (byte < 0x20 && c != '\n' && c != '\r' && c != '\t')
      throw ConfigError("{}:{}: holds the control character {:#04x}; a YAML text has none", source, line,
                        byte);
  }
  try {
    static_cast<void>(Json(std::string(text)).dump());  // throws on what is no UTF-8
  } catch (const Json::type_error&) {
    throw ConfigError("{}: is not UTF-8 text", source);
  }
}

bool is_null_word(const std::string& text) {
  return text.empty() || text == "~" || text == "null" || text == "Null" || text == "NULL";
}

std::optional<bool> boolean_of(const std::string& text) {
  if (text == "true" || text == "True" || text == "TRUE") return true;
  if (text == "false" || text == "False" || text == "FALSE") return false;
  return std::nullopt;
}

// YAML 1.1 reads 010 as octal and readers differ: such texts are no numbers here.
bool has_leading_zero(std::string_view text) {
  if (!text.empty() && (text[0] == '-' || text[0] == '+')) text.remove_prefix(1);
  return text.size() > 1 && text[0] == '0' && text[1] >= '0' && text[1] <= '9';
}

std::optional<double> number_of(std::string_view text) {
  if (has_leading_zero(text)) return std::nullopt;
  if (!text.empty() && text[0] == '+') {
    text.remove_prefix(1);
    if (!text.empty() && text[0] == '-') return std::nullopt;
  }
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || !std::isfinite(value)) return std::nullopt;
  return value;
}

std::optional<int64_t> integer_of(std::string_view text) {
  if (has_leading_zero(text)) return std::nullopt;
  std::string_view digits = text;
  if (digits.size() > 1 && digits[0] == '+' && digits[1] != '-') digits.remove_prefix(1);
  int64_t value = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  if (error == std::errc() && end == digits.data() + digits.size()) return value;
  const std::optional<double> number = number_of(text);
  constexpr double kExact = 9007199254740992.0;  // 2^53
  if (!number || std::abs(*number) > kExact || std::floor(*number) != *number) return std::nullopt;
  return static_cast<int64_t>(*number);
}

std::string shown(const Tree& tree) {
  switch (tree.kind) {
    case Tree::Kind::null:
      return "nothing";
    case Tree::Kind::sequence:
      return "a list";
    case Tree::Kind::mapping:
      return "a section of keys";
    case Tree::Kind::scalar:
      break;
  }
  const std::string text = tree.text.size() > 60 ? tree.text.substr(0, 57) + "..." : tree.text;
  return tree.is_quoted ? "the quoted text \"" + text + "\"" : "\"" + text + "\"";
}

// The child under `step` of a mapping or list, made where that is allowed.
Tree& descend(Tree& parent, const std::string& step, const std::string& path, const std::string& source) {
  if (parent.kind == Tree::Kind::sequence) {
    const std::optional<int64_t> index = integer_of(step);
    const int64_t size = static_cast<int64_t>(parent.items.size());
    if (!index || *index < 0 || *index > size)
      throw ConfigError("{}: {} is a list of {}: \"{}\" is no index into it (0 .. {})", source, parent.path,
                        size, step, size);
    if (*index == size) parent.items.emplace_back();
    return parent.items[static_cast<size_t>(*index)];
  }
  if (parent.kind == Tree::Kind::scalar)
    throw ConfigError("{}: {} is {}, so it has no key \"{}\"", source, parent.path, shown(parent), step);
  parent.kind = Tree::Kind::mapping;
  for (auto& [key, value] : parent.entries)
    if (key == step) return value;
  parent.entries.emplace_back(step, Tree{});
  parent.entries.back().second.path = path;
  parent.entries.back().second.source = source;
  return parent.entries.back().second;
}

void rebase(Tree& tree, const std::string& path) {
  tree.path = path;
  tree.line = 0;
  for (size_t i = 0; i < tree.items.size(); ++i) rebase(tree.items[i], join(path, std::to_string(i)));
  for (auto& [key, value] : tree.entries) rebase(value, join(path, key));
}

}  // namespace

Tree::Tree() = default;

const Tree* Tree::find(std::string_view key) const {
  for (const auto& [name, value] : entries)
    if (name == key) return &value;
  return nullptr;
}

std::string Tree::where() const {
  std::string text = source;
  if (line > 0) text += ":" + std::to_string(line);
  if (!path.empty()) text += ": " + path;
  return text;
}

void Tree::fail(const std::string& problem) const { throw ConfigError("{}: {}", where(), problem); }

int64_t Tree::as_integer() const {
  const std::optional<int64_t> value =
      kind == Kind::scalar && !is_quoted ? integer_of(text) : std::optional<int64_t>();
  if (!value) fail(fmt::format("must be a whole number, not {}", shown(*this)));
  return *value;
}

double Tree::as_number() const {
  const std::optional<double> value =
      kind == Kind::scalar && !is_quoted ? number_of(text) : std::optional<double>();
  if (!value) fail(fmt::format("must be a number, not {}", shown(*this)));
  return *value;
}

bool Tree::as_boolean() const {
  const std::optional<bool> value =
      kind == Kind::scalar && !is_quoted ? boolean_of(text) : std::optional<bool>();
  if (!value) fail(fmt::format("must be true or false, not {}", shown(*this)));
  return *value;
}

const std::string& Tree::as_text() const {
  if (kind != Kind::scalar) fail(fmt::format("must be text, not {}", shown(*this)));
  return text;
}

Json Tree::to_json() const {
  switch (kind) {
    case Kind::null:
      return nullptr;
    case Kind::sequence: {
      Json list = Json::array();
      for (const Tree& item : items) list.push_back(item.to_json());
      return list;
    }
    case Kind::mapping: {
      Json object = Json::object();
      for (const auto& [key, value] : entries) object[key] = value.to_json();
      return object;
    }
    case Kind::scalar:
      break;
  }
  if (is_quoted) return text;
  if (is_null_word(text)) return nullptr;
  if (const auto value = boolean_of(text)) return *value;
  // 1.0 stays a float, 1e3 too: JSON readers tell them apart by spelling.
  const bool is_integer_spelling = text.find_first_of(".eE") == std::string::npos;
  if (const auto value = integer_of(text); value && is_integer_spelling) return *value;
  if (const auto value = number_of(text)) return *value;
  return text;
}

Tree parse_yaml(std::string_view text, const std::string& source) {
  check_bytes(text, source);
  // With a line end at the end yaml-cpp takes an unterminated quote for a whole one; without, it reports it.
  std::string body(text);
  body.erase(body.find_last_not_of(" \t\r\n") + 1);
  try {
    DocumentCounter counter;
    std::istringstream stream(body);
    YAML::Parser parser(stream);
    // At most two: on a document that begins with a stray "," the parser returns for ever without moving on.
    while (counter.num_documents < 2 && parser.HandleNextDocument(counter)) {
    }
    if (counter.num_documents > 1)
      throw ConfigError(
          "{}:{}: one YAML document is wanted; another, or text that belongs to none, begins here", source,
          counter.line);
    if (counter.num_documents == 0) {
      Tree nothing;
      nothing.source = source;
      return nothing;
    }
    return Builder(source).build(YAML::Load(body), "", 0);
  } catch (const YAML::Exception& e) {
    if (e.mark.line >= 0)
      throw ConfigError("{}:{}: not valid YAML (column {}): {}", source, e.mark.line + 1, e.mark.column + 1,
                        e.msg);
    throw ConfigError("{}: not valid YAML: {}", source, e.msg);
  }
}

Tree read_yaml_file(const std::filesystem::path& path) {
  return parse_yaml(read_text_file(path), path.string());
}

std::string apply_override(Tree& root, const std::string& assignment) {
  const std::string source = "--set " + assignment;
  const size_t equals = assignment.find('=');
  if (equals == std::string::npos || equals == 0)
    throw ConfigError("{}: write key.path=value, for example --set train.steps=20", source);
  std::string path = assignment.substr(0, equals);
  Tree* node = &root;
  std::string walked;
  for (size_t begin = 0; begin <= path.size();) {
    const size_t end = std::min(path.find('.', begin), path.size());
    const std::string step = path.substr(begin, end - begin);
    if (step.empty()) throw ConfigError("{}: the key path \"{}\" has an empty part", source, path);
    walked = join(walked, step);
    node = &descend(*node, step, walked, source);
    begin = end + 1;
  }
  Tree value = parse_yaml(assignment.substr(equals + 1), source);
  rebase(value, path);
  *node = std::move(value);
  return path;
}

}  // namespace fathom
