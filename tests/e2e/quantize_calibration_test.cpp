// fathom quantize with a calibration dataset, as a user types it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "base/json.h"
#include "formats/indexed_dataset.h"
#include "support/process.h"
#include "support/scratch.h"

namespace fathom {
namespace {

const std::string kSource = std::string(FATHOM_SOURCE_DIR) + "/tests/golden/trained";

class QuantizeCalibration : public testing::Test {
 protected:
  void SetUp() override {
    formats::IndexedDatasetWriter writer(scratch_ / "text", formats::TokenType::int32);
    int32_t token = 5;
    for (int document = 0; document < 8; ++document) {
      std::vector<int32_t> tokens;
      for (int i = 0; i < 100; ++i) {
        tokens.push_back(token);
        token = i % 11 == 3 ? 2 + (token * 7 + i) % 94 : 2 + (token * 5 + 3) % 94;
      }
      writer.add_sequence(tokens);
      writer.end_document();
    }
    writer.commit();
  }
  test::ProcessEnd run(std::vector<std::string> words) {
    words.insert(words.begin(), {FATHOM_BINARY, "quantize", kSource});
    return test::Process(scratch_.path(), words).wait();
  }
  test::ScratchDirectory scratch_;
};

TEST_F(QuantizeCalibration, reports_experts_errors_and_perplexity) {
  const test::ProcessEnd end =
      run({"out", "--scheme", "int4", "--group-size", "-1", "--calibration", "text", "--calibration-length",
           "40", "--eval-text", "text", "--eval-length", "40", "--min-expert-tokens", "100000", "--json"});
  ASSERT_EQ(end.exit_code, 0) << end.err;
  const Json json = parse_json(end.out, "stdout");
  ASSERT_EQ(json.at("calibration").size(), 3u);
  EXPECT_EQ(json["calibration"][1].at("starved_experts").size(), 8u);
  EXPECT_GT(json["calibration"][0].at("output_error").get<double>(), 0);
  const double before = json.at("perplexity").at("before").get<double>(),
               after = json["perplexity"]["after"].get<double>();
  EXPECT_GT(before, 1);
  EXPECT_NEAR(after, before, 0.1 * before);
  EXPECT_THAT(end.err, testing::HasSubstr("model.layers.1.mlp.experts: fewer than 100000 tokens"));
}

TEST_F(QuantizeCalibration, smoothquant_without_a_number) {
  const test::ProcessEnd end = run({"out", "--scheme", "w8a8", "--calibration", "text",
                                    "--calibration-length", "40", "--smoothquant", "--json"});
  EXPECT_EQ(end.exit_code, 0) << end.err;
}

TEST_F(QuantizeCalibration, wrong_input_says_what_to_do) {
  const auto expect = [&](std::vector<std::string> words, const char* text) {
    words.insert(words.begin(), "out");
    const test::ProcessEnd end = run(words);
    EXPECT_EQ(end.exit_code, 2) << end.err;
    EXPECT_THAT(end.err, testing::HasSubstr(text));
    EXPECT_FALSE(std::filesystem::exists(scratch_ / "out"));
  };
  expect({"--scheme", "w8a8", "--smoothquant", "0.5"}, "--calibration FILE");
  expect({"--scheme", "int4", "--method", "gptq"}, "--calibration FILE");
  expect({"--scheme", "fp8", "--calibration", "text"}, "fp8 blocks");
  expect({"--scheme", "int4", "--group-size", "-1", "--calibration", "missing.txt"}, "tokenizer.json");
  expect({"--scheme", "int4", "--group-size", "-1", "--calibration", "text", "--calibration-length", "4000"},
         "max_position_embeddings");
}

}  // namespace
}  // namespace fathom
