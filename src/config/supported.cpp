#include "config/supported.h"

#include "base/error.h"

namespace fathom::config {
namespace {

void refuse_if(bool condition, const Recipe& recipe, const std::string& key, const std::string& value,
               const std::string& instead) {
  if (condition)
    throw ConfigError("{}: {}: {} is not built yet; use {}", recipe.file.string(), key, value, instead);
}

}  // namespace

void refuse_unsupported(const Recipe& recipe) {
  const ParallelSection& parallel = recipe.parallel;
  const std::pair<const char*, int64_t> sizes[] = {{"context", parallel.context},
                                                   {"expert_tensor", parallel.expert_tensor}};
  for (const auto& [name, size] : sizes)
    refuse_if(size != 1, recipe, std::string("parallel.") + name, std::to_string(size), "1");
  refuse_if(parallel.tensor > 1 && !parallel.sequence, recipe, "parallel.sequence", "false", "true");
  refuse_if(parallel.pipeline > 1 && parallel.zero == 2, recipe, "parallel.zero", "2 with a pipeline", "1");
  refuse_if(recipe.device == "cuda", recipe, "device", "cuda", "cpu");
  refuse_if(recipe.train.precision == Precision::fp8, recipe, "train.precision", "fp8", "bf16");
  refuse_if(recipe.data.kind == "sft", recipe, "data.kind", "sft", "pretrain");
}

}  // namespace fathom::config
