#include "train/trainer_state.h"

#include <utility>

#include "base/error.h"
#include "base/log.h"
#include "base/parallel.h"
#include "kernels/isa.h"

namespace fathom::train {
namespace {

template <typename T>
void warn_if_changed(const char* what, const T& then, const T& now) {
  if (then != now)
    log::warning(
        "{} was {} when the checkpoint was written and is {} now: the losses will not be bit-identical to a "
        "run without the stop",
        what, then, now);
}

}  // namespace

TrainerState TrainerState::fresh(const config::Recipe& recipe, const std::string& data_fingerprint) {
  TrainerState state;
  state.seed = recipe.seed;
  state.data_fingerprint = data_fingerprint;
  state.precision = config::name(recipe.train.precision);
  if (recipe.train.grad_dtype == config::StateDtype::bf16) state.precision += " with bf16 gradients";
  state.isa = kernels::name(kernels::isa());
  state.threads = num_threads();
  const config::ParallelSection& parallel = recipe.parallel;
  for (const auto& [dimension, size] : {std::pair{"data", parallel.data},
                                        {"tensor", parallel.tensor},
                                        {"pipeline", parallel.pipeline},
                                        {"expert", parallel.expert}})
    if (size > 1) state.layout += fmt::format("{}{} {}", state.layout.empty() ? "" : ", ", dimension, size);
  // zero 0 and 1 have the same bits; 2 adds up in another order.
  if (parallel.data > 1 && parallel.zero == 2) state.layout += ", zero 2";
  return state;
}

void TrainerState::advance(int64_t samples, int64_t tokens, bool finite) {
  ++step;
  consumed_samples += samples;
  consumed_tokens += tokens;
  consecutive_skipped = finite ? 0 : consecutive_skipped + 1;
  skipped_steps += finite ? 0 : 1;
}

Json TrainerState::to_json() const {
  return {{"step", step},
          {"optimizer_steps", optimizer_steps},
          {"consumed_samples", consumed_samples},
          {"consumed_tokens", consumed_tokens},
          {"skipped_steps", skipped_steps},
          {"consecutive_skipped", consecutive_skipped},
          {"seed", seed},
          {"data_fingerprint", data_fingerprint},
          {"precision", precision},
          {"isa", isa},
          {"threads", threads},
          {"layout", layout}};
}

void TrainerState::resume(const Json& saved, const std::filesystem::path& where) {
  try {
    step = saved.at("step");
    optimizer_steps = saved.at("optimizer_steps");
    consumed_samples = saved.at("consumed_samples");
    consumed_tokens = saved.at("consumed_tokens");
    skipped_steps = saved.at("skipped_steps");
    consecutive_skipped = saved.at("consecutive_skipped");
    warn_if_changed("the seed", saved.at("seed").get<uint64_t>(), seed);
    warn_if_changed("the training data (fingerprint)", saved.at("data_fingerprint").get<std::string>(),
                    data_fingerprint);
    warn_if_changed("the precision", saved.at("precision").get<std::string>(), precision);
    warn_if_changed("the instruction set", saved.at("isa").get<std::string>(), isa);
    warn_if_changed("the number of threads", saved.at("threads").get<int>(), threads);
    const auto in_words = [](const std::string& text) {
      return text.empty() ? std::string("one rank") : text;
    };
    warn_if_changed("the layout of ranks", in_words(saved.value("layout", "")), in_words(layout));
  } catch (const nlohmann::json::exception& e) {
    throw CheckpointError("{}: the trainer's state in train_state/state.json is not complete: {}",
                          where.string(), e.what());
  }
}

}  // namespace fathom::train
