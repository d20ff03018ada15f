#include "train/report.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "base/file.h"
#include "base/json.h"
#include "support/scratch.h"
#include "train/curve.h"

namespace fathom::train {
namespace {

constexpr double kInf = std::numeric_limits<double>::infinity();

StepMetrics sample(int64_t step, double loss) {
  StepMetrics m;
  m.step = step;
  m.loss = loss;
  m.grad_norm = 1;
  m.lr = 1e-4;
  m.tokens = 100;
  m.tokens_per_second = 50;
  m.seconds = 2;
  return m;
}

Json data_of(const std::string& page) {
  const std::string open = "id=\"data\">", close = "</script>";
  const size_t begin = page.find(open) + open.size();
  return parse_json(page.substr(begin, page.find(close, begin) - begin), "report data");
}

const Json& curve_named(const Json& data, const std::string& name) {
  for (const Json& curve : data["curves"])
    if (curve["name"] == name) return curve;
  throw std::runtime_error("no curve " + name);
}

TEST(Curve, downsampling_keeps_peaks_and_ends) {
  Curve curve;
  for (int64_t s = 1; s <= 100000; ++s) curve.add(s, std::sin(static_cast<double>(s)));
  curve.values[54321] = 50;
  curve.values[54322] = -50;
  const Curve small = downsample(curve, 1500);
  EXPECT_LE(small.size(), 1500u);
  EXPECT_GE(small.size(), 1400u);
  EXPECT_TRUE(std::is_sorted(small.steps.begin(), small.steps.end()));
  EXPECT_EQ(std::adjacent_find(small.steps.begin(), small.steps.end()), small.steps.end());
  EXPECT_EQ(small.steps.front(), 1);
  EXPECT_EQ(small.steps.back(), 100000);
  EXPECT_EQ(*std::max_element(small.values.begin(), small.values.end()), 50);
  EXPECT_EQ(*std::min_element(small.values.begin(), small.values.end()), -50);
}

TEST(Curve, short_ones_stay) {
  Curve curve;
  EXPECT_EQ(downsample(curve, 1500).size(), 0u);
  curve.add(1, 5);
  curve.add(2, kInf);
  curve.add(3, std::nan(""));
  EXPECT_EQ(downsample(curve, 1500).steps, (std::vector<int64_t>{1}));
  for (int64_t s = 4; s < 20; ++s) curve.add(s, 1.0);
  for (int64_t most = 0; most < 30; ++most) {
    const Curve small = downsample(curve, most);
    EXPECT_EQ(small.steps.front(), 1);
    EXPECT_EQ(small.steps.back(), 19);
    EXPECT_LE(small.size(), static_cast<size_t>(std::max<int64_t>(most, 4)));
  }
}

TEST(Curve, smoothing_has_no_lag) {
  Curve curve;
  for (int64_t s = 1; s <= 1000; ++s) curve.add(s, static_cast<double>(s) + (s % 2 ? 10 : -10));
  const Curve mean = smooth(curve, 100, 50);
  EXPECT_EQ(mean.size(), 50u);
  EXPECT_EQ(mean.steps.front(), 1);
  EXPECT_EQ(mean.steps.back(), 1000);
  for (size_t i = 1; i + 1 < mean.size(); ++i)
    EXPECT_NEAR(mean.values[i], static_cast<double>(mean.steps[i]), 10.0 / 37)
        << i;  // 37: the narrowest window
}

TEST(Curve, smoothing_of_few_and_of_huge_values) {
  Curve curve;
  EXPECT_EQ(smooth(curve, 10, 10).size(), 0u);
  curve.add(1, 4);
  EXPECT_EQ(smooth(curve, 10, 10).values, (std::vector<double>{4}));
  curve.add(2, 1);
  curve.add(3, 1);
  EXPECT_NEAR(smooth(curve, 3, 10).values[1], 2, 1e-15);
  curve.values = {1e308, 1e308, 1e308};
  EXPECT_EQ(smooth(curve, 3, 10).size(), 3u);
  Curve spike;  // one huge value does not spoil what comes later
  for (int64_t s = 1; s <= 100; ++s) spike.add(s, s == 10 ? 1e30 : 1);
  EXPECT_DOUBLE_EQ(smooth(spike, 5, 100).values[50], 1);
}

TEST(Report, needs_nothing_from_elsewhere) {
  const std::string page = render_report({}, {sample(1, 2)}, {});
  for (const char* word : {"src=", "href=", "@import", "url(", "fetch(", "https:"})
    EXPECT_EQ(page.find(word), std::string::npos) << word;
  EXPECT_NE(page.find("prefers-color-scheme"), std::string::npos);
  EXPECT_NE(page.find("name=\"viewport\""), std::string::npos);
}

TEST(Report, facts_and_final_values) {
  RunFacts facts;
  facts.model_name = "tiny";
  facts.total_parameters = 1'234'000;
  facts.total_steps = 3;
  facts.precision = "bf16";
  facts.is_finished = true;
  facts.more = {{"Recipe", "a.yaml"}, {"Nothing", ""}};
  std::vector<StepMetrics> metrics = {sample(1, 8), sample(2, 4.25), sample(3, std::nan(""))};
  metrics[1].eval_loss = 4.5;
  metrics[2].skipped = 1;
  const Json data = data_of(render_report(facts, metrics, {}));
  const Json headline = data["headline"], rows = data["facts"];
  EXPECT_EQ(headline[0], (Json{"Final loss", "4.2500"}));
  EXPECT_EQ(headline[1], (Json{"Held-out loss", "4.5000"}));
  EXPECT_EQ(headline[2], (Json{"Steps", "3"}));
  EXPECT_EQ(headline[3], (Json{"Tokens", "300"}));
  EXPECT_EQ(headline[5], (Json{"Tokens/s", "50"}));
  EXPECT_EQ(
      rows,
      parse_json(
          R"([["Parameters", "1.2M"], ["Precision", "bf16"], ["Skipped steps", "1"], ["Recipe", "a.yaml"]])",
          ""));
  EXPECT_EQ(data["bad_steps"], (Json{3}));
  EXPECT_EQ(curve_named(data, "loss")["raw"], (Json{{1, 2}, {8, 4.25}}));
  EXPECT_EQ(curve_named(data, "eval_loss")["raw"], (Json{{2}, {4.5}}));
  EXPECT_TRUE(curve_named(data, "mtp_loss")["raw"][0].empty());
  EXPECT_TRUE(data["loads"].is_null());
}

TEST(Report, hostile_names_stay_text) {
  RunFacts facts;
  facts.model_name = "</script><script>alert(1)</script>\"\xff";
  facts.more = {{"<b>", "</script>"}};
  const std::string page = render_report(facts, {}, {});
  EXPECT_EQ(page.find("<script>alert"), std::string::npos);
  EXPECT_EQ(page.find("<b>"), std::string::npos);
  EXPECT_EQ(data_of(page)["facts"][0], (Json{"<b>", "</script>"}));
}

TEST(Report, any_history) {
  const double huge = std::numeric_limits<double>::max();
  EXPECT_TRUE(data_of(render_report({}, {}, {}))["curves"].is_array());
  EXPECT_TRUE(data_of(render_report({}, {sample(1, std::nan(""))}, {})).is_object());
  EXPECT_TRUE(
      data_of(render_report({}, {sample(1, -kInf), sample(2, huge), sample(3, -huge)}, {})).is_object());
  std::vector<StepMetrics> long_run;
  for (int64_t s = 1; s <= 5000; ++s) long_run.push_back(sample(s, s % 2 ? huge : -huge));
  const Json data = data_of(render_report({}, long_run, {}));
  EXPECT_LE(curve_named(data, "loss")["raw"][0].size(), 1500u);
  EXPECT_LE(curve_named(data, "loss")["smooth"][0].size(), 1500u);
}

TEST(Report, expert_loads_as_codes) {
  std::vector<ExpertLoad> loads = {{1, {{3, {1, 0}}}},  // another shape: left out
                                   {2, {{3, {1, 0, kInf}}, {4, {3, kNotMeasured, 1}}}},
                                   {3, {{3, {1, 1, 1}}, {4, {1, 1, 1}}}}};
  const Json data = data_of(render_report({}, {}, loads))["loads"];
  EXPECT_EQ(data["layers"], (Json{3, 4}));
  EXPECT_EQ(data["experts"], 3);
  EXPECT_EQ(data["steps"], (Json{2, 3}));
  // 127 0 254 191 255 127 (254 * 3/4 = 190.5), then six times 127
  EXPECT_EQ(data["codes"], "fwD+v/9/f39/f39/");
  EXPECT_TRUE(data_of(render_report({}, {}, {{1, {}}}))["loads"].is_null());
  EXPECT_TRUE(data_of(render_report({}, {}, {{1, {{0, {}}}}}))["loads"].is_null());
  EXPECT_TRUE(data_of(render_report({}, {}, {{1, {{0, {1}}, {1, {1, 2}}}}}))["loads"].is_null());
}

TEST(Report, long_load_histories_keep_the_last_step) {
  std::vector<ExpertLoad> loads;
  for (int64_t s = 1; s <= 1001; ++s) loads.push_back({s, {{0, {1, 2}}}});
  const Json steps = data_of(render_report({}, {}, loads))["loads"]["steps"];
  EXPECT_EQ(steps.size(), 160u);
  EXPECT_EQ(steps.back(), 1001);
}

TEST(Report, written_from_the_files_of_a_run) {
  const test::ScratchDirectory scratch;
  {
    MetricsFile metrics(scratch.path(), 0);
    ExpertLoadFile loads(scratch.path(), 0, 2);
    for (int64_t s = 1; s <= 2; ++s) {
      metrics.append(sample(s, 7));
      loads.append({s, {{1, {0.5, 1.5}}}});
    }
    write_report(scratch.path(), {});
  }
  const Json data = data_of(read_text_file(scratch / "report.html"));
  EXPECT_EQ(curve_named(data, "loss")["raw"], (Json{{1, 2}, {7, 7}}));
  EXPECT_EQ(data["loads"]["steps"], (Json{1, 2}));
  EXPECT_EQ(std::distance(fs::directory_iterator(scratch.path()), fs::directory_iterator()), 3);
}

}  // namespace
}  // namespace fathom::train
