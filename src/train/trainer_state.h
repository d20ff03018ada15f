// What a run must remember besides tensors: how far it is, and what its bits depend on.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "base/json.h"
#include "config/recipe.h"

namespace fathom::train {

struct TrainerState {
  int64_t step = 0;             // steps done, skipped ones included
  int64_t optimizer_steps = 0;  // AdamW's t
  int64_t consumed_samples = 0, consumed_tokens = 0;
  int64_t skipped_steps = 0, consecutive_skipped = 0;
  // What the bits of the run depend on; resuming under others warns.
  uint64_t seed = 0;
  std::string data_fingerprint, precision, isa;
  int threads = 0;
  std::string layout;  // "data 2", "data 4, zero 2"; one rank: empty

  static TrainerState fresh(const config::Recipe& recipe, const std::string& data_fingerprint);
  void advance(int64_t samples, int64_t tokens, bool finite);
  Json to_json() const;
  // Takes the progress from a checkpoint's state; warns of each dependence that differs. Throws CheckpointError where
  // the object lacks a key.
  void resume(const Json& saved, const std::filesystem::path& where);
};

}  // namespace fathom::train
