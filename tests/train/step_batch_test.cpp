#include "train/step_batch.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "formats/indexed_dataset.h"
#include "ops/vocab_loss.h"
#include "support/one_rank.h"
#include "support/scratch.h"

namespace fathom::train {
namespace {

constexpr int32_t kEod = 1;
constexpr int64_t kLength = 8, kDepths = 2, kVocab = 100;

// Documents of 1, 2, 3, ... tokens and their end, so that ends fall on every place of a window.
class StepBatchTest : public testing::Test {
 protected:
  StepBatchTest() {
    formats::IndexedDatasetWriter writer(scratch_ / "d", formats::TokenType::uint16);
    int32_t next = 2;
    for (int32_t length = 1; length <= 14; ++length) {
      std::vector<int32_t> tokens;
      for (int32_t i = 0; i < length; ++i) tokens.push_back(next = next == kVocab - 1 ? 2 : next + 1);
      tokens.push_back(kEod);
      writer.add_sequence(tokens);
      writer.end_document();
    }
    writer.commit();
  }
  data::TrainingData open(bool isolated, bool masks_eod) const {
    config::DataSection section;
    section.train = {{scratch_ / "d", 1.0}};
    section.seq_length = kLength;
    section.reset_attention_mask = section.reset_position_ids = isolated;
    section.eod_mask_loss = masks_eod;
    return {section, data::Split::train, 40, 7, kEod, kVocab};
  }
  test::ScratchDirectory scratch_;
};

std::vector<int64_t> values(const at::Tensor& t) {
  const at::Tensor wide = t.to(at::kLong).contiguous();
  return {wide.const_data_ptr<int64_t>(), wide.const_data_ptr<int64_t>() + wide.numel()};
}

// What depth d (0: the main loss) may train at position i of a sample, said plainly.
int64_t expected_target(const data::Sample& sample, int64_t i, int64_t d, bool isolated) {
  if (i + d >= kLength || sample.loss_mask[static_cast<size_t>(i + d)] == 0) return ops::kIgnoreTarget;
  // No end of a document among the tokens i .. i+d that lead there (the main loss is left to eod_mask_loss).
  for (int64_t j = i; isolated && d > 0 && j <= i + d; ++j)
    if (sample.tokens[static_cast<size_t>(j)] == kEod) return ops::kIgnoreTarget;
  return sample.tokens[static_cast<size_t>(i + d + 1)];
}

TEST_F(StepBatchTest, counts_and_the_smaller_last_micro_batch) {
  const data::TrainingData data = open(false, false);
  const StepBatch batch = make_step_batch(data, 3, 7, 3, kDepths, test::one_rank());
  ASSERT_EQ(batch.micro_batches.size(), 3U);
  EXPECT_EQ(batch.micro_batches[0].num_sequences, 3);
  EXPECT_EQ(batch.micro_batches[2].num_sequences, 1);
  EXPECT_EQ(batch.num_sequences, 7);
  EXPECT_EQ(batch.num_tokens, 7 * kLength);
  EXPECT_EQ(batch.num_targets, 7 * kLength);
  EXPECT_EQ(batch.num_mtp_targets, (std::vector<int64_t>{7 * (kLength - 1), 7 * (kLength - 2)}));
  EXPECT_FALSE(batch.micro_batches[0].document_start.defined());
}

TEST_F(StepBatchTest, every_target_of_every_depth) {
  for (const bool isolated : {false, true}) {
    for (const bool masks_eod : {false, true}) {
      const data::TrainingData data = open(isolated, masks_eod);
      const StepBatch batch = make_step_batch(data, 0, 30, 4, kDepths, test::one_rank());
      std::vector<int64_t> counts(kDepths + 1, 0);
      int64_t number = 0;
      for (const model::MicroBatch& micro : batch.micro_batches) {
        for (int64_t b = 0; b < micro.num_sequences; ++b, ++number) {
          const data::Sample sample = data.sample(number);
          for (int64_t i = 0; i < kLength; ++i) {
            const auto at = static_cast<size_t>(b * kLength + i);
            SCOPED_TRACE(
                fmt::format("sample {} position {} isolated {} masks {}", number, i, isolated, masks_eod));
            EXPECT_EQ(values(micro.tokens)[at], sample.tokens[static_cast<size_t>(i)]);
            EXPECT_EQ(values(micro.position_ids)[at], sample.position_ids[static_cast<size_t>(i)]);
            for (int64_t d = 0; d <= kDepths; ++d) {
              const at::Tensor& targets =
                  d == 0 ? micro.targets : micro.mtp_targets[static_cast<size_t>(d - 1)];
              const int64_t expected = expected_target(sample, i, d, isolated);
              EXPECT_EQ(values(targets)[at], expected) << "depth " << d;
              counts[static_cast<size_t>(d)] += expected != ops::kIgnoreTarget;
              // What is predicted must have been given the token before it.
              if (d > 0 && expected != ops::kIgnoreTarget) {
                EXPECT_EQ(values(micro.mtp_tokens[static_cast<size_t>(d - 1)])[at],
                          sample.tokens[static_cast<size_t>(i + d)]);
              }
            }
          }
        }
      }
      EXPECT_EQ(number, 30);
      EXPECT_EQ(batch.num_targets, counts[0]);
      EXPECT_EQ(batch.num_mtp_targets, (std::vector<int64_t>{counts[1], counts[2]}));
      EXPECT_LT(counts[2], counts[1]);
    }
  }
}

// NUM-5, NUM-8: one number for all micro-batches; the weight and the depths enter once.
TEST_F(StepBatchTest, NUM_8_coefficients_divide_by_the_counts_of_the_step) {
  StepBatch batch;
  batch.num_sequences = 5;
  batch.num_targets = 50;
  batch.num_mtp_targets = {40, 30};
  const model::LossCoefficients c = loss_coefficients(batch, 0.3, 0.0001, 0.01);
  EXPECT_DOUBLE_EQ(c.main, 1.0 / 50);
  ASSERT_EQ(c.mtp.size(), 2U);
  EXPECT_DOUBLE_EQ(c.mtp[0], 0.3 / 2 / 40);
  EXPECT_DOUBLE_EQ(c.mtp[1], 0.3 / 2 / 30);
  EXPECT_DOUBLE_EQ(c.balance, 0.0001 / 5);
  EXPECT_EQ(c.z_loss, 0.01);
  // Micro-batch A: 5 tokens of loss 1, B: 1 token of loss 4 -> 1.5, not the mean of the means 2.5.
  batch.num_targets = 6;
  const double main = loss_coefficients(batch, 0, 0, 0).main;
  EXPECT_DOUBLE_EQ(main * 5 * 1 + main * 1 * 4, 1.5);
  EXPECT_TRUE(loss_coefficients(batch, 0, 0, 0).mtp.empty());
}

TEST_F(StepBatchTest, nothing_to_train_stays_finite) {
  StepBatch batch;
  batch.num_mtp_targets = {0};
  const model::LossCoefficients c = loss_coefficients(batch, 0.3, 0.0001, 0);
  EXPECT_TRUE(std::isfinite(c.main));
  EXPECT_TRUE(std::isfinite(c.mtp[0]));
  EXPECT_TRUE(std::isfinite(c.balance));
}

}  // namespace
}  // namespace fathom::train
