// NUM-5, NUM-8: how a step's sequences are cut into micro-batches changes no loss and no gradient.
#include <gtest/gtest.h>

#include "formats/indexed_dataset.h"
#include "support/one_rank.h"
#include "support/scratch.h"
#include "support/tensors.h"
#include "support/tiny_training.h"
#include "train/balance.h"
#include "train/step_batch.h"

namespace fathom::train {
namespace {

struct Sums {
  double loss = 0, mtp_loss = 0, balance_loss = 0, total = 0;
  std::vector<at::Tensor> grads;
  std::vector<std::vector<int64_t>> loads;
};

// As the trainer does a step.
Sums accumulate(const data::TrainingData& data, int64_t micro_batch_size, int64_t sequences) {
  test::TinyTraining tiny(test::lively_model());
  const StepBatch batch = make_step_batch(data, 0, sequences, micro_batch_size, 2, test::one_rank());
  const model::LossCoefficients coefficients = loss_coefficients(batch, 0.3, 0.01, 0.001);
  Sums sums;
  for (const model::MicroBatch& micro : batch.micro_batches) {
    const model::LossReport report = tiny.model.loss(micro, coefficients, {}, true);
    report.total.backward();
    sums.total += report.total.item<double>();
    sums.loss += report.nll_sum / static_cast<double>(batch.num_targets);
    sums.balance_loss += report.balance_loss;
    for (size_t d = 0; d < 2; ++d)
      sums.mtp_loss += report.mtp_nll_sum[d] / static_cast<double>(batch.num_mtp_targets[d]) / 2;
  }
  for (const weights::Parameter& p : tiny.registry.parameters())
    if (p.is_trained()) sums.grads.push_back(p.main_grad);
  for (model::Moe* moe : tiny.model.moe_layers()) sums.loads.push_back(moe->load());
  return sums;
}

TEST(Accumulation, NUM_5_NUM_8_micro_batches_do_not_matter) {
  const test::ScratchDirectory scratch;
  formats::IndexedDatasetWriter writer(scratch / "d", formats::TokenType::uint16);
  uint64_t draw = 0;
  for (int d = 0; d < 30; ++d) {  // documents of very different lengths: masks differ between the sequences
    std::vector<int32_t> tokens;
    for (int i = 0; i < 1 + d * d % 17; ++i)
      tokens.push_back(static_cast<int32_t>(2 + uniform(9, draw++) * 35));
    tokens.push_back(1);
    writer.add_sequence(tokens);
    writer.end_document();
  }
  writer.commit();
  for (const bool isolated : {false, true}) {
    config::DataSection section;
    section.train = {{scratch / "d", 1.0}};
    section.seq_length = 11;
    section.eod_mask_loss = section.reset_attention_mask = section.reset_position_ids = isolated;
    const data::TrainingData data(section, data::Split::train, 4, 7, 1, 37);
    const Sums whole = accumulate(data, 4, 4);
    EXPECT_GT(whole.balance_loss, 0);
    EXPECT_NEAR(whole.total, whole.loss + 0.3 * whole.mtp_loss + whole.balance_loss,
                0.1 * whole.total);  // z loss
    for (const int64_t size : {1, 2, 3}) {
      const Sums cut = accumulate(data, size, 4);
      EXPECT_EQ(cut.loads, whole.loads);
      EXPECT_NEAR(cut.loss, whole.loss, 1e-6 * whole.loss) << size;
      EXPECT_NEAR(cut.mtp_loss, whole.mtp_loss, 1e-6 * whole.mtp_loss);
      EXPECT_NEAR(cut.balance_loss, whole.balance_loss, 1e-6 * whole.balance_loss);
      EXPECT_NEAR(cut.total, whole.total, 1e-6 * whole.total);
      double difference = 0, norm = 0;
      for (size_t i = 0; i < cut.grads.size(); ++i) {
        difference += (cut.grads[i] - whole.grads[i]).square().sum().item<double>();
        norm += whole.grads[i].square().sum().item<double>();
      }
      EXPECT_LT(std::sqrt(difference / norm), 1e-6) << size << " isolated " << isolated;
    }
  }
}

// NUM-4: the loads of all MoE layers, MTP's included, are there to move the biases.
TEST(Accumulation, NUM_4_loads_of_mtp_layers_are_counted) {
  const test::ScratchDirectory scratch;
  formats::IndexedDatasetWriter writer(scratch / "d", formats::TokenType::uint16);
  std::vector<int32_t> tokens;
  for (int i = 0; i < 100; ++i) tokens.push_back(2 + i * 7 % 35);
  writer.add_sequence(tokens);
  writer.end_document();
  writer.commit();
  config::DataSection section;
  section.train = {{scratch / "d", 1.0}};
  section.seq_length = 11;
  const data::TrainingData data(section, data::Split::train, 4, 7, 1, 37);
  const Sums sums = accumulate(data, 2, 4);
  ASSERT_EQ(sums.loads.size(), 4U);  // layers 1 and 2, MTP 3 and 4
  for (const auto& load : sums.loads) EXPECT_EQ(load[0] + load[1] + load[2] + load[3], 4 * 11 * 2);
}

}  // namespace
}  // namespace fathom::train
