// Layers over weights that stay in the file, against the model's own layers over the same checkpoint loaded.
#include "infer/stored_layer.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "base/file.h"
#include "checkpoint/convert.h"
#include "checkpoint/init.h"
#include "model/decoder_layer.h"
#include "model/rope_table.h"
#include "support/scratch.h"
#include "support/tensors.h"
#include "weights/load_weights.h"

namespace fathom::infer {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kDense = 0, kMoe = 1;

// tiny.json with sizes that 128 does not divide and weights large enough that a layer's output is as large as its input.
config::ModelConfig small_model(bool compresses_queries = true) {
  Json json = read_json_file(fs::path(FATHOM_SOURCE_DIR) / "configs/models/tiny.json");
  json["vocab_size"] = 24;
  json["hidden_size"] = 160;
  json["num_hidden_layers"] = 2;
  json["num_nextn_predict_layers"] = 0;
  json["moe_intermediate_size"] = 136;
  json["initializer_range"] = 0.08;
  if (!compresses_queries) json["q_lora_rank"] = nullptr;
  return config::parse_model_config(json, "tiny.json");
}

class StoredLayerTest : public ::testing::Test {
 protected:
  fs::path make(const std::string& dtype, bool compresses_queries = true) {
    const fs::path first = scratch_ / "first", directory = scratch_ / dtype;
    const bool is_fp8 = dtype == "fp8";
    checkpoint::init_checkpoint(small_model(compresses_queries),
                                dtype == "fp32" ? formats::Dtype::F32 : formats::Dtype::BF16, 7,
                                is_fp8 ? first : directory);
    checkpoint::ConvertOptions options;
    options.dtype = dtype;
    if (is_fp8) checkpoint::convert_checkpoint(first, directory, options);
    return directory;
  }

  static ops::SequenceLayout layout(const config::ModelConfig& config, int64_t sequences, int64_t length) {
    ops::SequenceLayout result;
    result.num_sequences = sequences;
    result.seq_length = length;
    const at::Tensor positions = at::arange(sequences * length, at::kLong).remainder(length);
    std::tie(result.cos, result.sin) = model::RopeTable(config, at::kFloat).at(positions);
    return result;
  }

  // |stored - model| / |model| of what the layer adds to its input.
  static double difference(const fs::path& directory, int64_t layer, config::Precision precision,
                           int64_t sequences, int64_t length) {
    const at::NoGradGuard no_grad;
    const config::ModelConfig config = config::read_model_config(directory);
    const at::ScalarType dtype = precision == config::Precision::fp32 ? at::kFloat : at::kBFloat16;
    weights::ParameterRegistry registry(config, precision, c10::Device(c10::kCPU), /*trained=*/false);
    model::DecoderLayer loaded(registry, {}, layer);
    weights::load_weights(registry, directory);
    const StoredWeights stored(config, std::make_shared<formats::ShardedReader>(directory), dtype);
    StoredLayer in_place(stored, layer);
    const at::Tensor x = test::normal({sequences * length, config.hidden_size}, "x", 1, dtype);
    model::ForwardContext context;
    context.layout = layout(config, sequences, length);
    const at::Tensor expected = loaded.forward(x, context, false).y,
                     actual = in_place.prefill(x, context.layout);
    EXPECT_EQ(actual.sizes(), expected.sizes());
    EXPECT_EQ(actual.scalar_type(), dtype);
    const at::Tensor wide = x.to(at::kDouble);
    return test::relative_error(actual.to(at::kDouble) - wide, expected.to(at::kDouble) - wide);
  }

  test::ScratchDirectory scratch_;
};

// In bf16 both round the same products to bf16, but sums in another order fall to the other neighbour, 2^-8 away, where they
// come near the middle: a small share of the values of each of some ten roundings.
constexpr double kBf16Bound = 0x1p-8;

TEST_F(StoredLayerTest, agrees_with_the_loaded_model_in_every_stored_format) {
  for (const kernels::Isa isa : test::bodies()) {
    const test::ForcedIsa forced(isa);
    for (const char* dtype : {"fp8", "bf16", "fp32"}) {
      const fs::path directory = make(dtype);
      const bool is_fp32 = std::string(dtype) == "fp32";
      const auto precision = is_fp32 ? config::Precision::fp32 : config::Precision::bf16;
      for (const int64_t layer : {kDense, kMoe})
        EXPECT_LT(difference(directory, layer, precision, 2, 13), is_fp32 ? 1e-5 : kBf16Bound)
            << dtype << ", layer " << layer << ", " << kernels::name(isa);
      fs::remove_all(directory);
      fs::remove_all(scratch_ / "first");
    }
  }
}

TEST_F(StoredLayerTest, experts_without_tokens_and_single_tokens) {
  const fs::path directory = make("fp8");
  for (const int64_t length : {1, 2, 3})  // 4 of 16 experts a token
    EXPECT_LT(difference(directory, kMoe, config::Precision::bf16, 1, length), kBf16Bound) << length;
}

TEST_F(StoredLayerTest, without_query_compression) {
  EXPECT_LT(difference(make("bf16", false), kDense, config::Precision::bf16, 1, 7), kBf16Bound);
}

TEST_F(StoredLayerTest, no_copy_is_made_of_what_can_be_used_in_place) {
  const fs::path directory = make("fp8");
  const config::ModelConfig config = config::read_model_config(directory);
  const auto reader = std::make_shared<formats::ShardedReader>(directory);
  const StoredWeights weights(config, reader, at::kBFloat16), wide(config, reader, at::kFloat);
  const std::string matrix = "model.layers.0.mlp.up_proj.weight", router = "model.layers.1.mlp.gate.weight";
  EXPECT_EQ(StoredLinear(weights, matrix).copied_bytes(), 0u);
  EXPECT_EQ(StoredLinear(weights, router).copied_bytes(), 0u);
  EXPECT_EQ(StoredLinear(wide, matrix).copied_bytes(), uint64_t(704 * 160 * 4));
}

TEST_F(StoredLayerTest, a_row_has_the_same_bits_alone_and_in_company) {
  const fs::path directory = make("fp8");
  const StoredWeights weights(config::read_model_config(directory),
                              std::make_shared<formats::ShardedReader>(directory), at::kBFloat16);
  const StoredLinear linear(weights, "model.layers.0.mlp.up_proj.weight");
  const at::Tensor x = test::normal({9, 160}, "x", 1, at::kBFloat16), all = linear(x);
  for (int64_t row = 0; row < 9; ++row)
    EXPECT_TRUE(linear(x.narrow(0, row, 1)).equal(all.narrow(0, row, 1))) << row;
}

TEST_F(StoredLayerTest, a_config_of_another_shape_is_refused_by_tensor) {
  const fs::path directory = make("bf16");
  config::ModelConfig config = config::read_model_config(directory);
  config.moe_intermediate_size = 200;
  const StoredWeights weights(config, std::make_shared<formats::ShardedReader>(directory), at::kBFloat16);
  try {
    const StoredLayer layer(weights, kMoe);
    FAIL() << "not refused";
  } catch (const CheckpointError& e) {
    EXPECT_THAT(e.what(), HasSubstr("model.layers.1.mlp.experts.0.gate_proj.weight has shape ["));
    EXPECT_THAT(e.what(), HasSubstr("config.json implies [200, 160]"));
  }
}

}  // namespace
}  // namespace fathom::infer
