#include "parallel/pipeline_schedule.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <set>
#include <tuple>

#include "base/error.h"
#include "parallel/pipeline_timeline.h"

namespace fathom::parallel {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

const std::vector<std::string> kKinds = {"1f1b", "interleaved_1f1b", "zero_bubble", "dualpipe_v"};

// Every schedule that is allowed over sizes with m < p, m = 1, p = 1, odd and ragged ones.
std::vector<PipelineSchedule> all_schedules() {
  std::vector<PipelineSchedule> schedules;
  for (const std::string& kind : kKinds)
    for (const int64_t stages : {1, 2, 3, 4, 5, 7, 8})
      for (const int64_t chunks : {1, 2, 3})
        for (const int64_t micro_batches : {1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 13, 15, 16, 21, 28, 35})
          if (pipeline_refusal(kind, stages, chunks, micro_batches).empty())
            schedules.emplace_back(kind, stages, chunks, micro_batches);
  return schedules;
}

std::string describe(const PipelineSchedule& s) {
  return fmt::format("{}, {} stages, {} chunks, {} micro-batches", s.kind(), s.stages(), s.num_chunks(),
                     s.micro_batches());
}

// "F0.1 B1.0": chunk and micro-batch; b and W are the halves of B.
std::string text(const std::vector<PipelineAction>& actions) {
  std::string all;
  for (const auto& [step, chunk, micro_batch] : actions)
    all +=
        fmt::format("{}{}{}.{}", all.empty() ? "" : " ", "FBbW"[static_cast<int>(step)], chunk, micro_batch);
  return all;
}

double makespan(const std::string& kind, int64_t stages, int64_t chunks, int64_t micro_batches,
                const ChunkCost& cost) {
  return simulate(PipelineSchedule(kind, stages, chunks, micro_batches), {cost}).makespan;
}

TEST(PipelineSchedule, every_chunk_has_one_owner) {
  for (const PipelineSchedule& s : all_schedules()) {
    std::set<int64_t> seen;
    for (int64_t place = 0; place < s.stages(); ++place)
      for (const int64_t chunk : s.chunks_of(place)) {
        EXPECT_EQ(s.owner(chunk), place) << describe(s);
        EXPECT_TRUE(seen.insert(chunk).second) << describe(s);
      }
    EXPECT_EQ(static_cast<int64_t>(seen.size()), s.num_chunks()) << describe(s);
  }
  EXPECT_THAT(PipelineSchedule("1f1b", 4, 1, 4).chunks_of(2), ElementsAre(2));
  EXPECT_THAT(PipelineSchedule("interleaved_1f1b", 4, 3, 4).chunks_of(1), ElementsAre(1, 5, 9));
  EXPECT_THAT(PipelineSchedule("dualpipe_v", 4, 2, 8).chunks_of(1), ElementsAre(1, 6));
  EXPECT_THAT(PipelineSchedule("dualpipe_v", 4, 2, 8).chunks_of(3), ElementsAre(3, 4));
}

TEST(PipelineSchedule, every_pass_is_there_once_and_on_its_owner) {
  for (const PipelineSchedule& s : all_schedules()) {
    std::map<std::tuple<Step, int64_t, int64_t>, int> count;
    for (int64_t place = 0; place < s.stages(); ++place)
      for (const auto& [step, chunk, micro_batch] : s.actions(place)) {
        ++count[{step, chunk, micro_batch}];
        EXPECT_EQ(s.owner(chunk), place) << describe(s);
      }
    size_t expected = 0;
    for (int64_t chunk = 0; chunk < s.num_chunks(); ++chunk)
      for (int64_t micro_batch = 0; micro_batch < s.micro_batches(); ++micro_batch) {
        const auto of = [&](Step step) {
          const auto found = count.find({step, chunk, micro_batch});
          return found == count.end() ? 0 : found->second;
        };
        EXPECT_EQ(of(Step::forward), 1) << describe(s);
        EXPECT_EQ(of(Step::backward) + of(Step::backward_input), 1) << describe(s);
        EXPECT_EQ(of(Step::backward) + of(Step::backward_weight), 1) << describe(s);
        expected += of(Step::backward) == 1 ? 2 : 3;
      }
    EXPECT_EQ(count.size(), expected) << describe(s);
  }
}

// simulate() throws on a deadlock; what it returns is checked here against the rules, with costs that differ between
// chunks and with a slow wire.
TEST(PipelineTimeline, nothing_begins_before_what_it_needs) {
  for (const PipelineSchedule& s : all_schedules())
    for (const double transfer : {0.0, 0.75}) {
      std::vector<ChunkCost> costs;
      for (int64_t c = 0; c < s.num_chunks(); ++c)
        costs.push_back({1.0 + static_cast<double>(c % 3), 2.0, 0.5 + static_cast<double>(c % 2)});
      const PipelineTimeline timeline = simulate(s, costs, transfer);
      std::map<std::pair<int64_t, int64_t>, TimedAction> forward, backward;
      for (const auto& place : timeline.places)
        for (const TimedAction& timed : place) {
          if (timed.action.step == Step::backward_weight) continue;
          (timed.action.step == Step::forward ? forward
                                              : backward)[{timed.action.chunk, timed.action.micro_batch}] =
              timed;
        }
      double last = 0, busy = 0;
      for (const auto& place : timeline.places)
        for (size_t i = 0; i < place.size(); ++i) {
          const auto& [action, begin, end] = place[i];
          const auto& [step, chunk, micro_batch] = action;
          const auto wait = [&, c = chunk](int64_t other) {
            return s.owner(c) == s.owner(other) ? 0 : transfer;
          };
          EXPECT_GE(begin, i == 0 ? 0 : place[i - 1].end) << describe(s);
          EXPECT_GT(end, begin) << describe(s);
          if (step == Step::forward && chunk > 0) {
            EXPECT_GE(begin, forward.at({chunk - 1, micro_batch}).end + wait(chunk - 1)) << describe(s);
          }
          if (step == Step::backward || step == Step::backward_input) {
            EXPECT_GE(begin, forward.at({chunk, micro_batch}).end) << describe(s);
            if (chunk + 1 < s.num_chunks()) {
              EXPECT_GE(begin, backward.at({chunk + 1, micro_batch}).end + wait(chunk + 1)) << describe(s);
            }
          }
          if (step == Step::backward_weight) {
            EXPECT_GE(begin, backward.at({chunk, micro_batch}).end) << describe(s);
          }
          last = std::max(last, end);
          busy += end - begin;
        }
      EXPECT_EQ(timeline.makespan, last) << describe(s);
      EXPECT_NEAR(timeline.idle_share, 1 - busy / (last * static_cast<double>(s.stages())), 1e-12)
          << describe(s);
    }
}

// So one tag for each (chunk, direction) is enough, and one queue for the gradients of the weights.
TEST(PipelineSchedule, messages_and_queued_weights_come_in_order) {
  for (const PipelineSchedule& s : all_schedules())
    for (int64_t place = 0; place < s.stages(); ++place) {
      std::map<std::pair<bool, int64_t>, int64_t> next;
      std::vector<std::pair<int64_t, int64_t>> queued, made;
      for (const auto& [step, chunk, micro_batch] : s.actions(place)) {
        if (step == Step::backward_weight) {
          made.emplace_back(chunk, micro_batch);
          continue;
        }
        EXPECT_EQ(micro_batch, (next[{step == Step::forward, chunk}]++)) << describe(s);
        if (step == Step::backward_input) queued.emplace_back(chunk, micro_batch);
      }
      EXPECT_EQ(queued, made) << describe(s);
    }
}

TEST(PipelineSchedule, activations_in_flight_are_the_papers) {
  for (const PipelineSchedule& s : all_schedules())
    for (int64_t place = 0; place < s.stages(); ++place) {
      const int64_t m = s.micro_batches(), p = s.stages(), chunks = s.num_chunks() / p;
      const PipelinePeak peak = s.peak(place);
      if (s.kind() == "1f1b" || s.kind() == "zero_bubble") {
        EXPECT_EQ(peak.activations, std::min(m, p - place)) << describe(s);
        // Zero bubble: what waits for W is bounded by the first stage's 1F1B on every place.
        EXPECT_EQ(peak.weight_inputs, std::min(m, s.kind() == "1f1b" ? p - place : p)) << describe(s);
      } else if (s.kind() == "interleaved_1f1b") {
        EXPECT_EQ(peak.activations, std::min(m * chunks, 2 * (p - place - 1) + (chunks - 1) * p + 1))
            << describe(s);
      } else {
        EXPECT_LE(peak.activations, 2 * p + 1) << describe(s);
        EXPECT_LE(peak.weight_inputs, 2 * p + 1) << describe(s);
        if (m >= 2 * p) {
          EXPECT_EQ(peak.activations, 2 * p + 1) << describe(s);
        }
      }
    }
}

TEST(PipelineTimeline, makespans_are_the_known_formulas) {
  const ChunkCost cost{1.25, 1.5, 0.5};
  const double pass = cost.forward + cost.backward_input + cost.backward_weight;
  for (const PipelineSchedule& s : all_schedules()) {
    const double m = static_cast<double>(s.micro_batches()), p = static_cast<double>(s.stages()),
                 v = static_cast<double>(s.num_chunks()) / p, got = simulate(s, {cost}).makespan;
    if (s.kind() == "1f1b") {
      EXPECT_DOUBLE_EQ(got, (m + p - 1) * pass) << describe(s);
    }
    if (s.kind() == "interleaved_1f1b") {
      EXPECT_DOUBLE_EQ(got, (m * v + p - 1) * pass) << describe(s);
    }
    if (s.kind() == "zero_bubble" && m >= p) {
      EXPECT_DOUBLE_EQ(got, m * pass + (p - 1) * (pass - 2 * cost.backward_weight)) << describe(s);
    }
    if (s.kind() == "dualpipe_v") {
      EXPECT_LE(got, 2 * m * pass + (p - 1) * (2 * pass - 2 * cost.backward_weight)) << describe(s);
      EXPECT_DOUBLE_EQ(simulate(s, {{1, 1, 1}}).makespan, 6 * m + p - 1) << describe(s);
    }
  }
}

// A stage costs the same under every schedule: its chunks share the cost.
TEST(PipelineTimeline, fewer_bubbles_than_1f1b) {
  for (const int64_t p : {2, 3, 4, 8})
    for (const int64_t m : {2 * p - 1, 2 * p, 2 * p + 3, 6 * p}) {
      const auto idle = [&](const std::string& kind) {
        const int64_t chunks = fewest_chunks_per_stage(kind);
        const double unit = 1.0 / static_cast<double>(chunks);
        return simulate(PipelineSchedule(kind, p, chunks, m), {{unit, unit, unit}}).idle_share;
      };
      EXPECT_LT(idle("zero_bubble"), idle("1f1b")) << p << " " << m;
      EXPECT_LT(idle("dualpipe_v"), idle("zero_bubble")) << p << " " << m;
      if (m % p == 0) {
        EXPECT_LT(idle("interleaved_1f1b"), idle("1f1b")) << p << " " << m;
      }
    }
  for (const int64_t m : {1, 2, 3})  // m < p too
    EXPECT_LT(makespan("zero_bubble", 4, 1, m, {1, 1, 1}), makespan("1f1b", 4, 1, m, {1, 1, 1}));
}

TEST(PipelineSchedule, one_stage_never_waits) {
  for (const std::string& kind : kKinds)
    for (const int64_t m : {1, 2, 5}) {
      const int64_t chunks = fewest_chunks_per_stage(kind);
      const PipelineTimeline timeline = simulate(PipelineSchedule(kind, 1, chunks, m), {{1, 1, 1}});
      EXPECT_EQ(timeline.idle_share, 0) << kind;
      EXPECT_EQ(timeline.makespan, static_cast<double>(3 * chunks * m)) << kind;
    }
}

TEST(PipelineSchedule, small_ones_by_hand) {
  EXPECT_EQ(text(PipelineSchedule("1f1b", 2, 1, 3).actions(0)), "F0.0 F0.1 B0.0 F0.2 B0.1 B0.2");
  EXPECT_EQ(text(PipelineSchedule("1f1b", 4, 1, 2).actions(0)), "F0.0 F0.1 B0.0 B0.1");
  EXPECT_EQ(text(PipelineSchedule("interleaved_1f1b", 2, 2, 2).actions(1)),
            "F1.0 F1.1 F3.0 B3.0 F3.1 B3.1 B1.0 B1.1");
  EXPECT_EQ(text(PipelineSchedule("zero_bubble", 2, 1, 3).actions(1)),
            "F1.0 b1.0 F1.1 b1.1 W1.0 F1.2 b1.2 W1.1 W1.2");
  EXPECT_EQ(text(PipelineSchedule("dualpipe_v", 2, 2, 3).actions(0)),
            "F0.0 F0.1 F0.2 F3.0 b3.0 W3.0 F3.1 B3.1 F3.2 B0.0 B3.2 b0.1 W0.1 b0.2 W0.2");
}

TEST(PipelineSchedule, what_is_not_allowed_says_why) {
  EXPECT_EQ(pipeline_refusal("1f1b", 4, 1, 1), "");
  EXPECT_EQ(pipeline_refusal("dualpipe_v", 4, 2, 7), "");
  EXPECT_EQ(pipeline_refusal("interleaved_1f1b", 3, 4, 9), "");
  EXPECT_THAT(pipeline_refusal("1f1b", 4, 2, 8), HasSubstr("1f1b needs 1 chunk a stage, not 2"));
  EXPECT_THAT(pipeline_refusal("zero_bubble", 4, 3, 8), HasSubstr("needs 1 chunk a stage, not 3"));
  EXPECT_THAT(pipeline_refusal("interleaved_1f1b", 4, 1, 8), HasSubstr("at least 2 chunks a stage, not 1"));
  EXPECT_THAT(pipeline_refusal("interleaved_1f1b", 4, 2, 6),
              HasSubstr("parallel.pipeline = 4, but a step has 6"));
  EXPECT_THAT(pipeline_refusal("dualpipe_v", 4, 1, 8), HasSubstr("2 chunks a stage, not 1"));
  EXPECT_THAT(pipeline_refusal("dualpipe_v", 4, 2, 6), HasSubstr("needs 7 micro-batches"));
  EXPECT_THAT(pipeline_refusal("gpipe", 4, 1, 8), HasSubstr("\"gpipe\" is no pipeline schedule"));
  EXPECT_THAT(pipeline_refusal("1f1b", 0, 1, 8), HasSubstr("1 or more"));
  EXPECT_THAT(pipeline_refusal("1f1b", 2, 1, 0), HasSubstr("1 or more"));
  EXPECT_THROW(PipelineSchedule("dualpipe_v", 4, 2, 6), ConfigError);
}

TEST(PipelineTimeline, the_picture_has_every_action) {
  const PipelineSchedule s("zero_bubble", 3, 1, 4);
  const std::string svg = timeline_svg(simulate(s, {{1, 1, 1}}));
  size_t boxes = 0;
  for (size_t at = svg.find("<title>"); at != std::string::npos; at = svg.find("<title>", at + 1)) ++boxes;
  EXPECT_EQ(boxes, 3u * 4u * 3u);
  EXPECT_THAT(svg, HasSubstr("<title>backward, weights, chunk 2, micro-batch 3: "));
  EXPECT_TRUE(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
}

}  // namespace
}  // namespace fathom::parallel
