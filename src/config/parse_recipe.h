// A recipe from its text, and recipes that train nothing. read_recipe (recipe.h) is for files of training runs.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "config/recipe.h"

namespace fathom::config {

// What a recipe is for. One for inference needs no `data` and no length of a run.
enum class RecipeUse { training, inference };

// A text that stands, or will stand, in the file `path`. Throws ConfigError.
Recipe parse_recipe(std::string_view yaml, const std::filesystem::path& path,
                    const std::vector<std::string>& overrides, RecipeUse use = RecipeUse::training);

}  // namespace fathom::config
