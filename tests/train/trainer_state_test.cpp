#include "train/trainer_state.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "support/scratch.h"

namespace fathom::train {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

config::Recipe recipe(uint64_t seed = 7) {
  config::Recipe recipe;
  recipe.seed = seed;
  return recipe;
}

// What the log says while `state` resumes from `saved`.
std::string warnings_of(TrainerState& state, const Json& saved) {
  const test::ScratchDirectory scratch;
  log::set_file((scratch / "log").string());
  state.resume(saved, "out/step");
  log::set_file("");
  return read_text_file(scratch / "log");
}

TEST(TrainerState, counts_steps_and_skips) {
  TrainerState state = TrainerState::fresh(recipe(), "data");
  state.advance(4, 40, true);
  state.advance(4, 40, false);
  state.advance(4, 40, false);
  EXPECT_EQ(state.step, 3);
  EXPECT_EQ(state.consumed_samples, 12);
  EXPECT_EQ(state.consumed_tokens, 120);
  EXPECT_EQ(state.skipped_steps, 2);
  EXPECT_EQ(state.consecutive_skipped, 2);
  state.advance(4, 40, true);
  EXPECT_EQ(state.skipped_steps, 2);
  EXPECT_EQ(state.consecutive_skipped, 0);
}

TEST(TrainerState, comes_back_whole_and_silently) {
  TrainerState state = TrainerState::fresh(recipe(18446744073709551615ULL), "data");
  state.optimizer_steps = 5;
  for (int i = 0; i < 7; ++i) state.advance(3, int64_t{1} << 40, i % 2 == 0);
  const Json saved = Json::parse(state.to_json().dump());
  TrainerState again = TrainerState::fresh(recipe(18446744073709551615ULL), "data");
  EXPECT_EQ(warnings_of(again, saved), "");
  EXPECT_EQ(again.to_json(), state.to_json());
  EXPECT_EQ(again.consumed_tokens, int64_t{7} << 40);
}

TEST(TrainerState, what_the_bits_depend_on_is_warned_of) {
  const Json saved = TrainerState::fresh(recipe(7), "data").to_json();
  TrainerState other_seed = TrainerState::fresh(recipe(8), "data");
  EXPECT_THAT(warnings_of(other_seed, saved),
              AllOf(HasSubstr("the seed was 7"), HasSubstr("is 8 now"), Not(HasSubstr("fingerprint"))));
  TrainerState other_data = TrainerState::fresh(recipe(7), "others");
  EXPECT_THAT(warnings_of(other_data, saved),
              AllOf(HasSubstr("training data"), HasSubstr("data"), HasSubstr("others")));
  for (const char* key : {"isa", "precision"}) {
    Json changed = saved;
    changed[key] = "something";
    TrainerState state = TrainerState::fresh(recipe(7), "data");
    EXPECT_THAT(warnings_of(state, changed), HasSubstr("something")) << key;
  }
  Json threads = saved;
  threads["threads"] = 4711;
  TrainerState state = TrainerState::fresh(recipe(7), "data");
  EXPECT_THAT(warnings_of(state, threads), HasSubstr("4711"));
  Json layout = saved;
  layout["layout"] = "data 8";
  EXPECT_THAT(warnings_of(state, layout), HasSubstr("the layout of ranks was data 8"));
  layout.erase("layout");
  EXPECT_EQ(warnings_of(state, layout), "");
}

TEST(TrainerState, every_key_is_needed_and_has_its_type) {
  const Json saved = TrainerState::fresh(recipe(), "data").to_json();
  for (const auto& [key, value] : saved.items()) {
    Json missing = saved, wrong = saved;
    missing.erase(key);
    wrong[key] = Json::array({1});
    for (const Json& bad : {missing, wrong}) {
      if (key == "layout" && bad == missing) continue;  // old checkpoints are of one rank
      TrainerState state = TrainerState::fresh(recipe(), "data");
      EXPECT_THAT(
          [&] { state.resume(bad, "out/step"); },
          testing::ThrowsMessage<CheckpointError>(AllOf(HasSubstr("out/step"), HasSubstr("state.json"))))
          << key;
    }
  }
}

}  // namespace
}  // namespace fathom::train
