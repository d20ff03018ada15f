// Instruction data to rows with a loss mask, and back.
#include "data/sft_builder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "base/error.h"
#include "base/file.h"
#include "base/parallel.h"
#include "data/merge.h"
#include "data/sft_dataset.h"
#include "formats/mindrecord.h"
#include "support/scratch.h"
#include "tokenizer/tokenizer.h"

namespace fathom::data {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::HasSubstr;

constexpr int64_t kVocabulary = 129280;
constexpr int32_t kEnd = 1, kPad = 2;

template <typename Action>
std::string refusal(const Action& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return "accepted";
}

class SftBuild : public testing::Test {
 protected:
  SftBuild() {
    options_.tokenizer = fs::path(FATHOM_SOURCE_DIR) / "assets/tokenizer";
    options_.output = path("data");
    options_.seq_length = 32;
  }
  fs::path path(const std::string& name) const { return directory_.path() / name; }
  // Alpaca rows whose answers have 1, 2, ... words.
  std::string alpaca(int rows) const {
    Json list = Json::array();
    for (int i = 0; i < rows; ++i) {
      std::string answer = "one";
      for (int w = 0; w < i % 9; ++w) answer += " more";
      list.push_back(
          {{"instruction", "say " + std::to_string(i)}, {"input", i % 2 ? "now" : ""}, {"output", answer}});
    }
    return list.dump(1);
  }
  void input(const std::string& name, const std::string& text, double weight = 0) {
    write_text_file(path(name), text);
    options_.inputs.push_back({path(name), weight});
  }
  std::string text_of(const SftDataset::Row& row, bool trained) const {
    static const auto tokenizer =
        tokenizer::Tokenizer::load(fs::path(FATHOM_SOURCE_DIR) / "assets/tokenizer");
    std::vector<int32_t> ids;
    for (size_t i = 0; i < row.ids.size(); ++i)
      if ((row.trained[i] != 0) == trained) ids.push_back(row.ids[i]);
    return tokenizer.decode(ids, false);
  }
  test::ScratchDirectory directory_;
  SftOptions options_;
};

TEST_F(SftBuild, DATA_1_padding_is_masked_by_place_and_the_end_is_trained) {
  input("a.json", alpaca(20));
  const SftReport report = build_sft(options_);
  EXPECT_EQ(report.conversations, 20);
  EXPECT_EQ(report.rows, 20);
  const SftDataset data(path("data"));
  ASSERT_EQ(data.size(), 20);
  EXPECT_EQ(data.pad_id(), kPad);
  EXPECT_EQ(text_of(data.row(1), false), "<｜begin▁of▁sentence｜><｜User｜>say 1\nnow<｜Assistant｜>");
  EXPECT_EQ(text_of(data.row(1), true), "one more<｜end▁of▁sentence｜>");
  int64_t trained = 0;
  for (int64_t r = 0; r < data.size(); ++r) {
    const SftDataset::Row row = data.row(r);
    const Sample sample = data.sample(r, 32, kVocabulary);
    ASSERT_EQ(sample.tokens.size(), 33u);
    ASSERT_EQ(sample.loss_mask.size(), 32u);
    for (size_t i = 0; i < 32; ++i) {
      const bool is_target = i + 1 < row.ids.size() && row.trained[i + 1];
      EXPECT_EQ(sample.loss_mask[i], is_target ? 1.0f : 0.0f);
      if (sample.tokens[i + 1] == kEnd) {  // its one end id is a target
        EXPECT_EQ(sample.loss_mask[i], 1.0f);
      }
      if (i + 1 >= row.ids.size()) {
        EXPECT_EQ(sample.tokens[i + 1], kPad);
      }
      trained += is_target;
    }
  }
  EXPECT_EQ(trained, report.trained_tokens);
}

// Even where the padding has the end's id, the end is trained and the padding is not.
TEST_F(SftBuild, DATA_1_a_pad_id_that_is_the_end_id_changes_no_mask) {
  input("a.json", alpaca(3));
  build_sft(options_);
  const auto masks = [&] {
    const SftDataset data(path("data"));
    std::vector<std::vector<float>> all;
    for (int64_t r = 0; r < data.size(); ++r) all.push_back(data.sample(r, 32, kVocabulary).loss_mask);
    return all;
  };
  const auto before = masks();
  std::string metadata = read_text_file(path("data.meta.json"));
  const size_t at = metadata.find("\"pad_id\": 2");
  ASSERT_NE(at, std::string::npos);
  metadata[at + 10] = '1';
  write_text_file(path("data.meta.json"), metadata);
  EXPECT_EQ(SftDataset(path("data")).sample(0, 32, kVocabulary).tokens.back(), kEnd);
  EXPECT_EQ(masks(), before);
}

TEST_F(SftBuild, DATA_4_packed_samples_are_isolated_and_their_positions_restart) {
  input("a.json", alpaca(60));
  build_sft(options_);
  const SftDataset padded(path("data"));
  std::vector<std::vector<int32_t>> alone;
  for (int64_t r = 0; r < padded.size(); ++r) alone.push_back(padded.row(r).ids);
  options_.pack = true;
  options_.output = path("packed");
  const SftReport report = build_sft(options_);
  EXPECT_LT(report.rows, 60);
  const SftDataset packed(path("packed"));
  std::vector<std::vector<int32_t>> inside;
  for (int64_t r = 0; r < packed.size(); ++r) {
    const SftDataset::Row row = packed.row(r);
    const Sample sample = packed.sample(r, 32, kVocabulary);
    auto starts = row.begins;
    if (row.ids.size() <= 32) starts.push_back(static_cast<int32_t>(row.ids.size()));  // the padding
    EXPECT_EQ(sample.document_starts, starts);
    for (size_t i = 0; i < 32; ++i) {
      const auto next = std::upper_bound(starts.begin(), starts.end(), static_cast<int32_t>(i));
      EXPECT_EQ(sample.position_ids[i], static_cast<int32_t>(i) - *(next - 1));
    }
    for (const int32_t begin : row.begins)
      if (begin > 0) {  // no target over a border
        EXPECT_EQ(sample.loss_mask[static_cast<size_t>(begin) - 1], 0.0f);
      }
    for (size_t s = 0; s < row.begins.size(); ++s) {
      const auto end = s + 1 < row.begins.size() ? row.ids.begin() + row.begins[s + 1] : row.ids.end();
      inside.emplace_back(row.ids.begin() + row.begins[s], end);
    }
  }
  std::sort(alone.begin(), alone.end());
  std::sort(inside.begin(), inside.end());
  EXPECT_EQ(inside, alone);
}

TEST_F(SftBuild, long_samples_are_dropped_cut_or_refused_and_counted) {
  input("a.json", alpaca(18));
  options_.seq_length = 9;
  const SftReport dropped = build_sft(options_);
  EXPECT_GT(dropped.too_long_dropped, 0);
  EXPECT_EQ(dropped.rows + dropped.too_long_dropped, 18);
  EXPECT_EQ(dropped.longest_row, 10);
  options_.on_long = OnLong::truncate;
  const SftReport cut = build_sft(options_);
  EXPECT_EQ(cut.truncated, dropped.too_long_dropped);
  EXPECT_EQ(cut.rows, 18);
  const SftDataset data(path("data"));
  for (int64_t r = 0; r < data.size(); ++r) EXPECT_LE(data.row(r).ids.size(), 10u);
  options_.on_long = OnLong::error;
  EXPECT_THAT(refusal([&] { build_sft(options_); }), HasSubstr("tokens are more than --seq-length 9 + 1"));
}

TEST_F(SftBuild, DATA_6_samples_without_a_target_are_reported_not_used) {
  input("a.jsonl", R"({"messages":[{"role":"user","content":"q"}]}
{"messages":[{"role":"user","content":"q q q q q q q q q q q q"},{"role":"assistant","content":"a"}]}
{"messages":[{"role":"user","content":"q"},{"role":"assistant","content":"a"}]}
)");
  options_.seq_length = 8;
  options_.on_long = OnLong::truncate;
  const SftReport report = build_sft(options_);
  EXPECT_EQ(report.rows, 1);
  EXPECT_EQ(report.without_target, 1);
  EXPECT_EQ(report.truncated_without_target, 1);
  ASSERT_EQ(report.examples.size(), 2u);
  EXPECT_THAT(report.examples[0], HasSubstr("a.jsonl: line 1 (record 0): nothing in it would be trained"));
  EXPECT_THAT(report.examples[1], HasSubstr("line 2"));
}

TEST_F(SftBuild, malformed_records_stop_or_are_skipped_and_leave_no_file) {
  input("a.jsonl",
        "{\"instruction\":\"i\",\"output\":\"o\"}\n{\"instruction\":\"i\"}\n{]\n{\"instruction\":\"j\","
        "\"output\":\"p\"}\n");
  EXPECT_THAT(refusal([&] { build_sft(options_); }),
              HasSubstr("a.jsonl: line 2 (record 1): output: missing"));
  EXPECT_EQ(std::distance(fs::directory_iterator(directory_.path()), fs::directory_iterator()), 1);
  options_.skip_bad = true;
  const SftReport report = build_sft(options_);
  EXPECT_EQ(report.rows, 2);
  EXPECT_EQ(report.bad_records, 2);
  ASSERT_EQ(report.examples.size(), 2u);
  EXPECT_THAT(report.examples[1], HasSubstr("line 3"));
}

TEST_F(SftBuild, the_result_does_not_depend_on_the_number_of_threads) {
  input("a.json", alpaca(700), 0.5);
  input("b.json", alpaca(300), 0.5);
  options_.pack = true;
  std::vector<std::string> bytes;
  for (const int threads : {1, 3}) {
    set_num_threads(threads);
    build_sft(options_);
    std::string all;
    for (const char* end : {".bin", ".idx", "_loss_mask.bin", "_loss_mask.idx", ".meta.json"})
      all += read_text_file(path(std::string("data") + end));
    bytes.push_back(all);
  }
  set_num_threads(0);
  EXPECT_TRUE(bytes[0] == bytes[1]);
}

TEST_F(SftBuild, files_are_mixed_by_weight) {
  input("a.json", alpaca(100), 3);
  input("b.json", alpaca(100), 1);
  const SftReport report = build_sft(options_);
  ASSERT_EQ(report.files.size(), 2u);
  EXPECT_EQ(report.files[0].written, 100);
  EXPECT_NEAR(static_cast<double>(report.files[1].written), 33, 1);
  options_.num_samples = 800;
  EXPECT_EQ(build_sft(options_).files[0].written, 600);
  options_.inputs[1].weight = 0;
  EXPECT_THAT(refusal([&] { build_sft(options_); }), HasSubstr("1 of 2 files have a weight"));
}

TEST_F(SftBuild, mindrecord_rows_are_those_of_our_own_files) {
  input("a.json", alpaca(30));
  for (const bool pack : {false, true}) {
    options_.pack = pack;
    options_.container = SftContainer::bin;
    options_.shards = 1;
    build_sft(options_);
    options_.container = SftContainer::mindrecord;
    options_.shards = 2;
    options_.output = path("records");
    const SftReport report = build_sft(options_);
    EXPECT_EQ(report.output, path("records.mindrecord").string());
    options_.output = path("data");
    const SftDataset data(path("data"));
    const formats::MindRecordFile records(path("records.mindrecord"));
    ASSERT_EQ(records.size(), data.size());
    EXPECT_EQ(records.columns().size(), pack ? 3u : 2u);
    for (int64_t r = 0; r < data.size(); ++r) {
      const Sample sample = data.sample(r, 32, kVocabulary);
      const formats::MindRow row = records.row(r);
      const auto& ids = std::get<std::vector<int64_t>>(row[0]);
      const auto& labels = std::get<std::vector<int64_t>>(row[1]);
      EXPECT_TRUE(std::equal(ids.begin(), ids.end(), sample.tokens.begin(), sample.tokens.end()));
      EXPECT_EQ(labels[0], -100);
      for (size_t i = 1; i < ids.size(); ++i)
        EXPECT_EQ(labels[i], sample.loss_mask[i - 1] != 0 ? ids[i] : -100);
      if (!pack) continue;
      const auto& positions = std::get<std::vector<int64_t>>(row[2]);
      for (size_t i = 0; i < 32; ++i) EXPECT_EQ(positions[i], sample.position_ids[i]);
    }
  }
}

TEST_F(SftBuild, a_mask_that_does_not_belong_to_the_tokens_is_refused) {
  input("a.json", alpaca(10));
  build_sft(options_);
  const std::string mask = read_text_file(path("data_loss_mask.bin"));
  std::string bad = mask;
  bad[0] = 1;
  write_text_file(path("data_loss_mask.bin"), bad);
  EXPECT_THAT(refusal([&] { SftDataset(path("data")).row(0); }), HasSubstr("trains a first token"));
  bad[0] = 0;
  bad[3] = 7;
  write_text_file(path("data_loss_mask.bin"), bad);
  EXPECT_THAT(refusal([&] { SftDataset(path("data")).row(0); }),
              HasSubstr("byte 3: sequence 0, token 3: mask 7"));
  write_text_file(path("data_loss_mask.bin"), mask);
  const std::string idx = read_text_file(path("data_loss_mask.idx")), bin = mask;
  options_.inputs.clear();
  input("b.json", alpaca(11));
  build_sft(options_);
  write_text_file(path("data_loss_mask.idx"), idx);
  write_text_file(path("data_loss_mask.bin"), bin);
  EXPECT_THAT(refusal([&] { SftDataset{path("data")}; }), HasSubstr("it is no loss mask of"));
  EXPECT_THAT(refusal([&] { SftDataset(path("data")).sample(0, 32, 5); }),
              testing::Not(HasSubstr("accepted")));
}

TEST_F(SftBuild, merging_would_lose_the_mask_and_is_refused) {
  input("a.json", alpaca(5));
  build_sft(options_);
  MergeOptions merge;
  merge.inputs = {path("data"), path("data")};
  merge.output_prefix = path("merged");
  EXPECT_THAT(refusal([&] { merge_datasets(merge); }), HasSubstr("fine-tuning data, whose loss mask"));
}

TEST_F(SftBuild, wrong_use) {
  EXPECT_THAT(refusal([&] { build_sft(options_); }), HasSubstr("no input"));
  input("a.json", "[]");
  EXPECT_THAT(refusal([&] { build_sft(options_); }), HasSubstr("no sample is left of 0 conversations"));
  input("b.json", "[{\"text\":\"x\"}]");
  EXPECT_THAT(refusal([&] { build_sft(options_); }), HasSubstr("b.json: line 1 (record 0): neither Alpaca"));
  fs::copy(options_.tokenizer / "tokenizer.json", path("tokenizer.json"));
  options_.tokenizer = directory_.path();
  EXPECT_THAT(refusal([&] { build_sft(options_); }), HasSubstr("no chat template stands beside it"));
}

}  // namespace
}  // namespace fathom::data
