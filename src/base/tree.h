// A parsed YAML (or JSON, which is YAML) text as a tree that remembers where everything stood. Scalars stay
// text until someone asks for a type, so that numbers are read by our rules:
//   integer  12, -3, 1e3, 4096.0 (exact); not 010, 0x10, 1_000, "12"
//   number   1, 1.5, 1.e-6, .5, 1e-4; not nan, inf
//   boolean  true, false, True, False, TRUE, FALSE; not yes, on
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/json.h"

namespace fathom {

struct Tree {
  enum class Kind { null, scalar, sequence, mapping };
  Kind kind = Kind::null;
  std::string text;                                   // scalar
  bool is_quoted = false;                             // scalar: always text, never a number or boolean
  std::vector<Tree> items;                            // sequence
  std::vector<std::pair<std::string, Tree>> entries;  // mapping, in file order, keys unique
  std::string path;                                   // "train.lr.peak", "data.train.0"; empty: the root
  std::string source;                                 // file, or the override's own text
  int64_t line = 0;                                   // from 1; 0: not from a file

  Tree();  // out of line: clang 14 cannot make it where std::pair<std::string, Tree> is still incomplete
  const Tree* find(std::string_view key) const;  // nullptr: no such entry
  std::string where() const;                     // "recipe.yaml:12: train.lr.peak"

  // Each throws ConfigError naming source, line, key path and what stands there instead.
  int64_t as_integer() const;
  double as_number() const;
  bool as_boolean() const;
  const std::string& as_text() const;  // any scalar
  Json to_json() const;                // plain scalars become numbers, booleans, null where they read so
  [[noreturn]] void fail(const std::string& problem) const;
};

// Throws ConfigError with line: syntax error, control characters or bytes that are no UTF-8, duplicate key,
// merge key `<<`, a key that is no scalar, more than one document, aliases that nest into themselves or
// multiply the text beyond a million nodes, nesting beyond 100 levels.
Tree parse_yaml(std::string_view text, const std::string& source);
Tree read_yaml_file(const std::filesystem::path& path);  // throws FileError, ConfigError

// Puts `assignment` = "key.path=value" (the value is YAML) into the tree: makes missing mappings on the way,
// replaces list items by index ("data.train.0.path"), the index one past the end appends. Returns the key
// path. Throws ConfigError: no '=', empty path, an index outside its list, a path through a scalar.
std::string apply_override(Tree& root, const std::string& assignment);

}  // namespace fathom
