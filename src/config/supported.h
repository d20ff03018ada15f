// What a recipe may ask for that this build cannot do yet.
#pragma once

#include "config/recipe.h"

namespace fathom::config {

// Throws ConfigError naming the first key whose value is not built yet.
void refuse_unsupported(const Recipe& recipe);

}  // namespace fathom::config
