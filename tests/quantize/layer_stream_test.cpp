// The layers one after the other give the bits of the whole model, MTP modules included.
#include "quantize/layer_stream.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/equal.h>
#include <gtest/gtest.h>

#include "ops/vocab_loss.h"
#include "support/trained_model.h"

namespace fathom::quantize {
namespace {

TEST(LayerStream, has_the_bits_of_the_whole_model) {
  const at::NoGradGuard no_grad;
  const std::filesystem::path directory = test::golden_directory("trained");
  test::WholeModel whole(directory);
  ASSERT_EQ(whole.config.num_nextn_predict_layers, 1);
  std::vector<model::Window> windows = test::trained_language(2, 5);
  windows.push_back(test::trained_language(1, 6, 7)[0]);  // a shorter last one
  LayerStream stream(directory, whole.config, config::Precision::fp32, windows);
  Block head = stream.load_head();
  for (int64_t layer = 0; layer < stream.num_blocks(); ++layer) {
    if (layer == whole.config.num_hidden_layers) {
      stream.finish_trunk();
      for (int64_t s = 0; s < stream.num_samples(); ++s)
        EXPECT_TRUE(at::equal(stream.state(s), whole.model.hidden(stream.batch(s)))) << "sample " << s;
    }
    Block block = stream.load(layer);
    for (int64_t s = 0; s < stream.num_samples(); ++s) stream.state(s) = stream.forward(block, s);
  }
  for (int64_t s = 0; s < stream.num_samples(); ++s) {
    const model::LossReport expected = whole.model.loss(stream.batch(s), {1, {1}, 0, 0}, {}, false);
    const ops::VocabLoss found = ops::vocab_loss(stream.state(s), head.registry->parameters().front(),
                                                 stream.batch(s).mtp_targets[0], 1);
    EXPECT_EQ(found.nll_sum, expected.mtp_nll_sum[0]) << "sample " << s;
  }
}

}  // namespace
}  // namespace fathom::quantize
