// Runs over tensor, expert and pipeline ranks through the binary: the law, checkpoints from any layout to any other.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "ranks_run.h"

namespace fathom::test {
namespace {

using ::testing::HasSubstr;

using ModelParallelRuns = RanksRun;

struct Layout {
  int64_t data = 1, tensor = 1, pipeline = 1, expert = 1, zero = 1;
  std::string more = {};  // one more --set
  int64_t ranks() const { return data * tensor * pipeline; }
  std::string name() const {
    return fmt::format("dp{}tp{}pp{}ep{}zero{}{}", data, tensor, pipeline, expert, zero, more);
  }
};

const Sets kProof = {"train.precision=fp64", "checkpoint.every=10", "train.balance.sequence_aux_loss=0.01",
                     "model.num_hidden_layers=5"};

Sets sets_of(const Layout& layout) {
  Sets sets = kProof;
  for (const auto& [key, value] : std::vector<std::pair<const char*, int64_t>>{{"data", layout.data},
                                                                               {"tensor", layout.tensor},
                                                                               {"pipeline", layout.pipeline},
                                                                               {"expert", layout.expert},
                                                                               {"zero", layout.zero}})
    sets.push_back(fmt::format("parallel.{}={}", key, value));
  if (!layout.more.empty()) sets.push_back(layout.more);
  return sets;
}

// In fp64, every step's losses and gradient norm to 1e-9 and the experts' loads exactly; and each layout goes on from the
// checkpoint of another one, ten steps to the end (CK-1, CK-3).
TEST_F(ModelParallelRuns, any_layout_trains_as_one_rank_and_goes_on_from_any_other) {
  const Layout one;
  ASSERT_TRUE(ends_well(launch(1, one.name(), kProof)));
  const std::vector<Json> expected = metrics(one.name());
  ASSERT_EQ(expected.size(), 20u);
  const std::vector<Layout> layouts = {
      {.tensor = 2},
      {.data = 2, .expert = 2},
      {.pipeline = 2},
      {.pipeline = 2, .more = "parallel.schedule=zero_bubble"},
      {.pipeline = 2, .more = "parallel.schedule=interleaved_1f1b"},
      {.pipeline = 3, .more = "parallel.schedule=dualpipe_v"},
      {.data = 2, .tensor = 2, .expert = 4},
      {.data = 2, .tensor = 2, .pipeline = 2, .expert = 4, .zero = 0, .more = "train.recompute=full"},
  };
  for (const Layout& layout : layouts) {
    ASSERT_TRUE(ends_well(launch(layout.ranks(), layout.name(), sets_of(layout)))) << layout.name();
    ASSERT_EQ(metrics(layout.name()).size(), 20u);
    expect_same_numbers(expected, metrics(layout.name()), layout.name());
    EXPECT_EQ(text_of(run_.output(one.name()) / "expert_load.jsonl"),
              text_of(run_.output(layout.name()) / "expert_load.jsonl"));
  }
  const std::vector<std::pair<Layout, Layout>> moves = {
      {layouts[6], one}, {layouts[7], layouts[0]}, {one, layouts[7]}, {layouts[5], layouts[6]}};
  for (const auto& [from, to] : moves) {
    const std::string name = from.name() + "_to_" + to.name();
    const auto folder = run_.output(name) / "checkpoints";
    std::filesystem::create_directories(folder);
    std::filesystem::copy(run_.checkpoint(10, from.name()), folder / "step_00000010",
                          std::filesystem::copy_options::recursive);
    ASSERT_TRUE(ends_well(launch(to.ranks(), name, sets_of(to)))) << name;
    ASSERT_EQ(metrics(name).size(), 10u);
    expect_same_numbers(expected, metrics(name), name);
  }
}

// CK-7: what a spread run saves is the Hugging Face checkpoint that one rank saves.
TEST_F(ModelParallelRuns, CK_7_the_saved_directory_is_a_checkpoint_like_any_other) {
  const Sets few = {"train.steps=2", "train.lr.warmup_steps=1", "checkpoint.every=2", "train.precision=fp32"};
  Sets spread = few;
  for (const char* set : {"parallel.tensor=2", "parallel.pipeline=2", "parallel.expert=2"})
    spread.push_back(set);
  ASSERT_TRUE(ends_well(launch(1, "one", few)));
  ASSERT_TRUE(ends_well(run_.fathom(launch_arguments(4, sets(1, "spread", spread)))));
  const ProcessEnd diff = run_.fathom({"inspect", run_.checkpoint(2, "one").string(), "--diff",
                                       run_.checkpoint(2, "spread").string(), "--json"});
  ASSERT_TRUE(ends_well(diff));
  const Json found = Json::parse(diff.out).at("diff");
  EXPECT_EQ(found.at("only_first").size() + found.at("only_second").size(), 0u) << found.dump();
  const ProcessEnd inspected = run_.fathom({"inspect", run_.checkpoint(2, "spread").string(), "--checksum"});
  EXPECT_TRUE(ends_well(inspected));
  EXPECT_FALSE(found.at("differing").empty()) << "nothing was compared";
  for (const Json& tensor : found.at("differing"))
    EXPECT_LT(tensor.at("max_absolute").get<double>(), 1e-4) << tensor.dump();
}

TEST_F(ModelParallelRuns, PAR_8_what_does_not_go_together_is_refused_by_name) {
  for (const auto& [set, words] : std::vector<std::pair<Sets, const char*>>{
           {{"parallel.tensor=4"}, "parallel.tensor"},
           {{"parallel.expert=3", "parallel.data=3", "train.global_batch_size=9"}, "parallel.expert"},
           {{"parallel.pipeline=2", "parallel.zero=2"}, "parallel.zero"},
           {{"parallel.tensor=2", "parallel.sequence=false"}, "parallel.sequence"},
           {{"parallel.context=2"}, "parallel.context"}}) {
    const ProcessEnd end = run_.pretrain(sets(1, "out", set));
    EXPECT_NE(end.exit_code, 0);
    EXPECT_THAT(end.err, HasSubstr(words));
  }
}

}  // namespace
}  // namespace fathom::test
