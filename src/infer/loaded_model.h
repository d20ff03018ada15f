// A checkpoint directory as a model ready for inference: config, weights, tokenizer, end tokens.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "config/model_config.h"
#include "infer/engine_api.h"
#include "model/deepseek.h"
#include "tokenizer/tokenizer.h"
#include "weights/parameter_registry.h"

namespace fathom::infer {

struct LoadedModel {
  config::ModelConfig config;  // as in the file, but without MTP layers
  config::Precision precision = config::Precision::bf16;
  std::unique_ptr<weights::ParameterRegistry> registry;
  std::unique_ptr<model::DeepseekModel> model;
  std::optional<tokenizer::Tokenizer> tokenizer;  // where the directory holds a tokenizer.json
  std::vector<int32_t> eos_token_ids;  // of generation_config.json, else config.json, else the tokenizer
  int64_t num_parameters = 0;
};

// bf16 or fp32: what holds the values of a checkpoint's files.
config::Precision precision_of_file(const std::filesystem::path& checkpoint_dir);

// `checkpoint_dir`: as checkpoint::resolve_checkpoint takes it. Sets the process's threads too. Throws FileError,
// ConfigError, CheckpointError.
LoadedModel load_model(const fs::path& checkpoint_dir, EngineDtype dtype, int threads);

}  // namespace fathom::infer
