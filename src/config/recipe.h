// A recipe is the whole run (docs/recipes.md lists every key). Sections are plain structs; the defaults here
// are the documented ones. Unknown or contradictory keys are ConfigErrors naming key path, line and the
// nearest valid key.
#pragma once

#include <cstdint>
#include <filesystem>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "config/model_config.h"

namespace fathom::config {

enum class Precision { fp32, bf16, bf16_pure, fp8, fp64 };
const char* name(Precision precision);  // as the recipe spells it
enum class LrScheduleKind { constant, linear, cosine, wsd, step, deepseek_v3 };
enum class RecomputeKind { none, full, selective, per_stage };
enum class NanAction { skip, stop };
enum class StateDtype { fp32, bf16 };

// A value that may change with consumed tokens: constant, or [{until_tokens, value}, ...] (the last may be
// open).
struct ScheduledValue {
  struct Piece {
    int64_t until_tokens = std::numeric_limits<int64_t>::max();
    double value = 0;
  };
  std::vector<Piece> pieces;
  ScheduledValue() = default;
  ScheduledValue(double constant) { pieces.push_back({std::numeric_limits<int64_t>::max(), constant}); }
  double at(int64_t consumed_tokens) const;  // the last piece's value past its end
};

struct DataSource {
  std::filesystem::path path;  // .bin/.idx prefix
  double weight = 1.0;
};

struct DataSection {
  std::string kind = "pretrain";  // pretrain | sft
  std::vector<DataSource> train, valid;
  int64_t seq_length = 512;
  bool reset_position_ids = false, reset_attention_mask = false, eod_mask_loss = false;
  std::string split;                // Megatron's "969,30,1" over data.train when valid is empty
  std::filesystem::path tokenizer;  // copied into checkpoints; empty: the model directory's, if it has one
};

struct OptimizerSection {
  std::string type = "adamw";
  double beta1 = 0.9, beta2 = 0.95, eps = 1e-8, weight_decay = 0.1;
  StateDtype state_dtype = StateDtype::fp32;
};

struct LrSection {
  LrScheduleKind schedule = LrScheduleKind::cosine;
  double peak = 2.2e-4, min = 2.2e-5;
  int64_t warmup_steps = 0;
  double warmup_ratio = 0;           // of all steps; exclusive with warmup_steps
  int64_t decay_steps = 0;           // 0: to the end (linear, cosine) / the last tenth (wsd)
  std::string wsd_decay = "linear";  // linear | cosine | sqrt
  std::vector<int64_t> step_at;      // step: multiply by step_factor at each of these steps
  double step_factor = 0.1;
  // deepseek_v3: fractions of the run: hold until, cosine until, then constant_1 until, then constant_2
  // (report: 2000 steps warm-up, constant to 10T of 14.8T tokens, cosine to `min` over 4.3T, `min` for 333B,
  // final 167B)
  double hold_until = 10.0 / 14.8, cosine_until = 14.3 / 14.8, low_until = 14.633 / 14.8;
  double final = 7.3e-6;
};

struct BalanceSection {
  ScheduledValue bias_update_rate{0.001};
  double sequence_aux_loss = 0.0001;
  bool recenter_bias = false;  // subtract the mean after each update (NUM-4)
};

struct NanSection {
  NanAction action = NanAction::skip;
  int64_t stop_after = 10;  // consecutive skipped steps
};

struct RecomputeSection {
  RecomputeKind kind = RecomputeKind::none;
  std::vector<int64_t> layers;  // per stage: how many of its layers are fully recomputed
};

struct TrainSection {
  int64_t steps = 0;  // exactly one of steps, tokens, epochs is given
  int64_t tokens = 0;
  double epochs = 0;
  ScheduledValue global_batch_size{8};  // sequences an optimizer step
  int64_t micro_batch_size = 1;
  Precision precision = Precision::bf16;
  StateDtype grad_dtype = StateDtype::fp32;  // of main_grad under Precision::bf16
  OptimizerSection optimizer;
  LrSection lr;
  double clip_grad_norm = 1.0;  // 0: no clipping
  RecomputeSection recompute;
  ScheduledValue mtp_loss_weight{0.3};
  double z_loss = 0;
  BalanceSection balance;
  int64_t eval_every = 0;    // steps; 0: never
  int64_t eval_batches = 0;  // micro-batches an evaluation; 0: the whole held-out split
  NanSection nan;
  int threads = 0;
};

struct ParallelSection {
  int64_t data = 1, tensor = 1, pipeline = 1, context = 1, expert = 1, expert_tensor = 1;
  bool sequence = true;
  std::string schedule = "1f1b";
  int64_t virtual_stages = 0;  // chunks of layers a rank has; 0: as the schedule needs
  std::vector<int64_t> layer_offset;
  int64_t zero = 1;
  int64_t timeout_s = 600;
};

struct CheckpointSection {
  int64_t every = 100;         // steps; 0: only at the end
  int64_t keep = 3;            // newest kept; 0: all
  std::filesystem::path load;  // weights from elsewhere; empty: none
  bool load_optimizer = false;
  std::string optimizer = "all";  // all | last | none: which checkpoints hold train_state/
  int64_t snapshot_bytes = -1;    // extra memory of a background save; -1: a tenth of RAM; 0: foreground
};

struct LogSection {
  int64_t every = 1;  // steps
};

struct Recipe {
  std::filesystem::path file;  // where it was read from
  std::filesystem::path output_dir;
  uint64_t seed = 1234;
  std::string device = "cpu";
  ModelConfig model;
  std::filesystem::path model_path;  // the model key where it was a path (a .json or a checkpoint directory)
  bool model_has_weights = false;    // model_path is a checkpoint directory with safetensors
  DataSection data;
  TrainSection train;
  ParallelSection parallel;
  CheckpointSection checkpoint;
  LogSection log;
  std::string resolved_yaml;  // the recipe as resolved, every key with its value; written beside the run
};

// `overrides` are --set arguments "key.path=value" (YAML values). Relative paths in the file are relative to
// the file, `output_dir` to the working directory. Throws ConfigError, FileError.
Recipe read_recipe(const std::filesystem::path& path, const std::vector<std::string>& overrides);

// docs/recipes.md's tables come from this list, and a test holds them together.
struct KeyDoc {
  std::string path, type, default_value, unit, meaning;
};
const std::vector<KeyDoc>& recipe_keys();

}  // namespace fathom::config
