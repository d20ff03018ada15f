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
  const std::pair<const char*, int64_t> sizes[] = {{"tensor", parallel.tensor},
                                                   {"pipeline", parallel.pipeline},
                                                   {"context", parallel.context},
                                                   {"expert", parallel.expert},
                                                   {"expert_tensor", parallel.expert_tensor}};
  for (const auto& [name, size] : sizes)
    refuse_if(size != 1, recipe, std::string("parallel.") + name, std::to_string(size), "1");
  refuse_if(parallel.data > 1 && parallel.zero != 0, recipe, "parallel.zero", std::to_string(parallel.zero),
            "0");
  refuse_if(parallel.schedule != "1f1b", recipe, "parallel.schedule", parallel.schedule, "1f1b");
  refuse_if(recipe.device == "cuda", recipe, "device", "cuda", "cpu");
  refuse_if(recipe.train.precision == Precision::fp8, recipe, "train.precision", "fp8", "bf16");
  refuse_if(recipe.data.kind == "sft", recipe, "data.kind", "sft", "pretrain");
}

}  // namespace fathom::config
