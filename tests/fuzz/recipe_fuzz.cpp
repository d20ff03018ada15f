// YAML trees, --set overrides, and recipes over them. The part of the input behind a NUL byte, if there is
// one, is an override.
#include "config/recipe.h"

#include <vector>

#include "base/tree.h"
#include "fuzz/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace fathom;
  std::string_view text = fuzz::as_text(data, size);
  std::vector<std::string> overrides;
  if (const size_t nul = text.find('\0'); nul != std::string_view::npos) {
    overrides.emplace_back(text.substr(nul + 1));
    text = text.substr(0, nul);
  }
  fuzz::accepts([&] {
    Tree tree = parse_yaml(text, "fuzz");
    tree.to_json();
    if (!overrides.empty()) apply_override(tree, overrides[0]);
    tree.to_json();
  });
  const std::filesystem::path file = fuzz::scratch_directory() / "recipe.yaml";
  fuzz::write_file(file, text);
  config::Recipe recipe;
  if (!fuzz::accepts([&] { recipe = config::read_recipe(file, overrides); })) return 0;
  fuzz::write_file(file, recipe.resolved_yaml);
  FATHOM_CHECK(config::read_recipe(file, {}).resolved_yaml == recipe.resolved_yaml);
  return 0;
}
