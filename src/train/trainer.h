// The training run: from a recipe to checkpoints, metrics and a report; goes on where it was. Every rank calls it.
#pragma once

#include "config/recipe.h"

namespace fathom::train {

enum class RunEnd { finished, stopped };  // stopped: a signal asked for it; the state is saved

// Runs `recipe` from its newest good checkpoint (none: from its start) to its end. Throws the faults' exceptions: bad
// data, no disk, NaN policy exhausted (NumericError).
RunEnd pretrain(const config::Recipe& recipe);

}  // namespace fathom::train
