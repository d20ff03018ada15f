#include "parallel/rank_layout.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

namespace fathom::parallel {
namespace {

using ::testing::ElementsAre;

RankLayout layout(int64_t data, int64_t tensor, int64_t pipeline, int64_t expert = 1,
                  int64_t expert_tensor = 1, int64_t context = 1) {
  config::ParallelSection section;
  section.data = data;
  section.tensor = tensor;
  section.pipeline = pipeline;
  section.expert = expert;
  section.expert_tensor = expert_tensor;
  section.context = context;
  return RankLayout(section);
}

TEST(RankLayout, tensor_is_fastest_then_data_then_pipeline) {
  const RankLayout l = layout(2, 2, 2);
  EXPECT_EQ(l.world_size(), 8);
  EXPECT_THAT(l.group(Dimension::tensor, 3), ElementsAre(2, 3));
  EXPECT_THAT(l.group(Dimension::data, 3), ElementsAre(1, 3));
  EXPECT_THAT(l.group(Dimension::pipeline, 3), ElementsAre(3, 7));
  EXPECT_EQ(l.describe(6), "data 1, tensor 0, pipeline 1");
}

TEST(RankLayout, experts_are_consecutive_ranks_of_data_and_tensor) {
  const RankLayout l = layout(4, 2, 1, 4);
  EXPECT_THAT(l.group(Dimension::expert, 5), ElementsAre(4, 5, 6, 7));
  EXPECT_THAT(l.group(Dimension::expert_data, 5), ElementsAre(1, 5));
  const RankLayout shared = layout(4, 2, 1, 2, 2);
  EXPECT_THAT(shared.group(Dimension::expert_tensor, 3), ElementsAre(2, 3));
  EXPECT_THAT(shared.group(Dimension::expert, 3), ElementsAre(1, 3));
  EXPECT_THAT(shared.group(Dimension::expert_data, 3), ElementsAre(3, 7));
}

TEST(RankLayout, context_ranks_hold_the_same_experts_gradients) {
  const RankLayout l = layout(2, 1, 1, 2, 1, 2);  // rank = d * 2 + c
  EXPECT_THAT(l.group(Dimension::context, 2), ElementsAre(2, 3));
  EXPECT_THAT(l.group(Dimension::expert, 1), ElementsAre(1, 3));
  EXPECT_THAT(l.group(Dimension::expert_data, 1), ElementsAre(0, 1));
  EXPECT_THAT(l.group(Dimension::replica, 1), ElementsAre(0, 1, 2, 3));
}

// Every dimension cuts the ranks into groups of its size, and the expert family covers each stage exactly.
TEST(RankLayout, groups_partition_the_ranks) {
  for (const RankLayout& l : {layout(1, 1, 1), layout(4, 1, 1, 4), layout(2, 2, 2, 4), layout(4, 2, 2, 2, 2),
                              layout(3, 2, 1, 6), layout(2, 2, 3, 2, 1, 2)})
    for (const Dimension d :
         {Dimension::world, Dimension::tensor, Dimension::context, Dimension::data, Dimension::pipeline,
          Dimension::expert, Dimension::expert_tensor, Dimension::expert_data, Dimension::replica}) {
      std::multiset<int64_t> seen;
      for (const auto& group : l.groups(d)) {
        EXPECT_EQ(static_cast<int64_t>(group.size()), l.size(d)) << name(d);
        for (size_t place = 0; place < group.size(); ++place) {
          EXPECT_EQ(l.place(d, group[place]), static_cast<int64_t>(place)) << name(d);
          EXPECT_EQ(l.group(d, group[place]), group) << name(d);
          seen.insert(group[place]);
        }
      }
      EXPECT_EQ(static_cast<int64_t>(seen.size()), l.world_size()) << name(d);
      EXPECT_EQ(std::set<int64_t>(seen.begin(), seen.end()).size(), seen.size()) << name(d);
    }
}

}  // namespace
}  // namespace fathom::parallel
