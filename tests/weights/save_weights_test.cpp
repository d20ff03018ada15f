#include "weights/save_weights.h"

#include <gtest/gtest.h>

#include <bit>
#include <cstring>

#include "base/error.h"
#include "base/file.h"
#include "checkpoint/compare.h"
#include "checkpoint/init.h"
#include "checkpoint/inspect.h"
#include "formats/sharded_safetensors.h"
#include "support/scratch.h"
#include "support/tiny_registry.h"
#include "weights/train_state.h"

namespace fathom::weights {
namespace {

using config::Precision;
using test::ScratchDirectory;

std::string bytes_of(const formats::ShardedReader& reader, const std::string& name) {
  const auto bytes = reader.at(name).bytes();
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

TEST(SaveWeights, every_tensor_of_the_table_under_its_name_shape_and_dtype) {
  for (const Precision precision :
       {Precision::fp32, Precision::bf16, Precision::bf16_pure, Precision::fp64}) {
    const auto registry = test::tiny_registry(test::tiny_model(), precision);
    test::fill_registry(*registry, 3);
    const ScratchDirectory scratch;
    save_weights(*registry, scratch.path());
    const formats::ShardedReader reader(scratch.path());
    ASSERT_EQ(reader.tensors().size(), registry->table().tensors().size());
    const config::ModelConfig written = config::read_model_config(scratch.path());
    EXPECT_EQ(written.dtype, saved_dtype(precision) == formats::Dtype::F32 ? "float32" : "bfloat16");
    for (const config::TensorSpec& spec : registry->table().tensors()) {
      const auto* location = reader.find(spec.name);
      ASSERT_NE(location, nullptr) << spec.name;
      EXPECT_EQ(location->entry->shape, spec.shape);
      const bool is_float =
          spec.role == config::TensorRole::router_bias || saved_dtype(precision) == formats::Dtype::F32;
      EXPECT_EQ(location->entry->dtype, is_float ? formats::Dtype::F32 : formats::Dtype::BF16) << spec.name;
    }
  }
}

TEST(SaveWeights, files_hold_the_bits_that_a_forward_pass_uses) {
  const auto registry = test::tiny_registry(test::tiny_model(), Precision::bf16);
  test::fill_registry(*registry, 5);
  const ScratchDirectory scratch;
  save_weights(*registry, scratch.path());
  const formats::ShardedReader reader(scratch.path());
  int experts = 0;
  for (const Parameter& parameter : registry->parameters()) {
    for (const Piece& piece : parameter.pieces) {
      experts += piece.spec->expert > 0;
      const at::Tensor value = parameter.piece_of(parameter.value, piece);
      const std::string bytes = bytes_of(reader, piece.spec->name);
      ASSERT_EQ(bytes.size(), value.nbytes());
      EXPECT_EQ(std::memcmp(bytes.data(), value.const_data_ptr(), bytes.size()), 0) << piece.spec->name;
    }
  }
  EXPECT_EQ(experts, 3 * 3 * 4);  // experts 1-3, three projections, two MoE layers and two MTP layers
}

TEST(SaveWeights, tied_copies_have_their_sources_values) {
  const auto registry = test::tiny_registry(test::tiny_model(), Precision::bf16);
  test::fill_registry(*registry, 7);
  const ScratchDirectory scratch;
  save_weights(*registry, scratch.path());
  const formats::ShardedReader reader(scratch.path());
  for (const char* layer : {"model.layers.3.", "model.layers.4."}) {
    EXPECT_EQ(bytes_of(reader, std::string(layer) + "embed_tokens.weight"),
              bytes_of(reader, "model.embed_tokens.weight"));
    EXPECT_EQ(bytes_of(reader, std::string(layer) + "shared_head.head.weight"),
              bytes_of(reader, "lm_head.weight"));
  }
  EXPECT_NE(bytes_of(reader, "model.embed_tokens.weight"), bytes_of(reader, "lm_head.weight"));
}

TEST(SaveWeights, WT_8_correction_bias_of_every_layer_keeps_its_float32_bits) {
  const auto registry = test::tiny_registry(test::tiny_model(), Precision::bf16);
  test::fill_registry(*registry, 1);
  int layers = 0;
  for (Parameter& parameter : registry->parameters()) {
    if (!parameter.is_router_bias) continue;
    for (int64_t e = 0; e < parameter.numel(); ++e)
      parameter.value.mutable_data_ptr<float>()[e] =
          static_cast<float>(parameter.pieces[0].spec->layer) + e / 1000.0f;
    ++layers;
  }
  EXPECT_EQ(layers, 4);  // two trunk layers, two MTP layers
  const std::string bits = test::bits_of(*registry);
  const ScratchDirectory scratch, again;
  save_weights(*registry, scratch.path());
  test::poison_registry(*registry);
  load_state(*registry, scratch.path());
  save_weights(*registry, again.path());
  const formats::ShardedReader first(scratch.path()), second(again.path());
  for (const char* layer : {"1", "2", "3", "4"}) {
    const std::string name = std::string("model.layers.") + layer + ".mlp.gate.e_score_correction_bias";
    const std::string bytes = bytes_of(first, name);
    ASSERT_EQ(bytes.size(), 16U);
    float value;
    std::memcpy(&value, bytes.data() + 12, 4);
    EXPECT_EQ(value, static_cast<float>(std::stoi(layer)) + 3 / 1000.0f);
    EXPECT_EQ(bytes, bytes_of(second, name));
  }
}

TEST(SaveWeights, shards_and_index) {
  const auto registry = test::tiny_registry(test::tiny_model(), Precision::fp32);
  test::fill_registry(*registry, 9);
  const ScratchDirectory one, many;
  save_weights(*registry, one.path());
  save_weights(*registry, many.path(), {}, 10'000);
  EXPECT_FALSE(fs::exists(one / "model.safetensors.index.json"));
  EXPECT_TRUE(fs::exists(many / "model.safetensors.index.json"));
  EXPECT_FALSE(fs::exists(many / "model.safetensors"));
  const formats::ShardedReader whole(one.path()), sharded(many.path());
  EXPECT_GT(sharded.files().size(), 5U);
  EXPECT_EQ(formats::read_safetensors_index(many / "model.safetensors.index.json").total_size,
            whole.total_bytes());
  for (const auto& location : whole.tensors())
    EXPECT_EQ(bytes_of(whole, location.entry->name), bytes_of(sharded, location.entry->name));
}

TEST(SaveWeights, small_files) {
  const auto registry = test::tiny_registry(test::tiny_model(), Precision::bf16);
  test::fill_registry(*registry, 9);
  const ScratchDirectory scratch, tokenizer;
  write_text_file(tokenizer / "tokenizer.json", "{\"a\": 1}");
  write_text_file(tokenizer / "tokenizer_config.json", "{\"b\": 2}");
  write_text_file(tokenizer / "README.md", "not a tokenizer's");
  save_weights(*registry, scratch.path(), tokenizer / "tokenizer.json");
  EXPECT_EQ(read_text_file(scratch / "tokenizer.json"), "{\"a\": 1}");
  EXPECT_EQ(read_text_file(scratch / "tokenizer_config.json"), "{\"b\": 2}");
  EXPECT_FALSE(fs::exists(scratch / "README.md"));
  const ScratchDirectory ranks, other;
  write_text_file(ranks / "tiktoken.model", "AA== 0\n");
  write_text_file(ranks / "tokenization_kimi.py", "pat_str\n");
  write_text_file(ranks / "modeling.py", "");
  write_text_file(ranks / "tokenizer.json", "{}");
  save_weights(*registry, other.path(), ranks / "tiktoken.model");
  EXPECT_EQ(read_text_file(other / "tiktoken.model"), "AA== 0\n");
  EXPECT_EQ(read_text_file(other / "tokenization_kimi.py"), "pat_str\n");
  EXPECT_FALSE(fs::exists(other / "modeling.py"));
  EXPECT_FALSE(fs::exists(other / "tokenizer.json"));
  const Json generation = read_json_file(scratch / "generation_config.json");
  EXPECT_EQ(generation.at("bos_token_id"), 0);
  EXPECT_EQ(generation.at("eos_token_id"), 1);
  EXPECT_THROW(save_weights(*registry, scratch.path(), tokenizer / "missing.json/tokenizer.json" / "x"),
               FileError);
}

TEST(InitCheckpoint, has_the_values_that_training_starts_from) {
  const config::ModelConfig model = test::tiny_model();
  for (const Precision precision : {Precision::fp32, Precision::bf16}) {
    const auto registry = test::tiny_registry(model, precision);
    registry->initialize(42);
    const ScratchDirectory scratch;
    save_weights(*registry, scratch / "saved");
    checkpoint::init_checkpoint(model, saved_dtype(precision), 42, scratch / "made");
    const checkpoint::CheckpointDifference difference =
        checkpoint::compare(checkpoint::inspect(scratch / "saved"), checkpoint::inspect(scratch / "made"));
    EXPECT_TRUE(difference.identical());
    EXPECT_EQ(difference.compared, registry->table().tensors().size());
    checkpoint::init_checkpoint(model, saved_dtype(precision), 43, scratch / "other");
    EXPECT_FALSE(
        checkpoint::compare(checkpoint::inspect(scratch / "saved"), checkpoint::inspect(scratch / "other"))
            .identical());
    EXPECT_THROW(checkpoint::init_checkpoint(model, saved_dtype(precision), 42, scratch / "made"),
                 CheckpointError);
  }
}

TEST(InspectCheckpoint, counts_lists_and_differences) {
  const auto registry = test::tiny_registry(test::tiny_model(), Precision::bf16);
  test::fill_registry(*registry, 2);
  const ScratchDirectory scratch;
  save_weights(*registry, scratch / "a");
  const checkpoint::Inspection first = checkpoint::inspect(scratch / "a");
  const config::ParameterCounts counts = config::count_parameters(registry->model());
  EXPECT_EQ(first.total_parameters(), counts.trunk);
  EXPECT_EQ(first.stored_parameters, counts.stored);
  EXPECT_TRUE(first.missing.empty());
  EXPECT_TRUE(first.unexpected.empty());
  EXPECT_FALSE(first.has_manifest);
  const checkpoint::Inspection file = checkpoint::inspect(scratch / "a/model.safetensors");
  EXPECT_EQ(file.total_parameters(), counts.stored);
  EXPECT_EQ(checkpoint::inspect(scratch / "a/config.json").tensors.size(), first.tensors.size());

  const auto [parameter, piece] = registry->find("model.norm.weight");
  parameter->value.mutable_data_ptr<at::BFloat16>()[2] = 5.0f;
  save_weights(*registry, scratch / "b");
  const checkpoint::CheckpointDifference difference =
      checkpoint::compare(first, checkpoint::inspect(scratch / "b"));
  ASSERT_EQ(difference.differing.size(), 1U);
  EXPECT_EQ(difference.differing[0].name, "model.norm.weight");
  EXPECT_EQ(difference.differing[0].elements, 1U);
  EXPECT_THROW(checkpoint::inspect(scratch / "nothing"), FileError);
  fs::create_directory(scratch / "empty");
  EXPECT_THROW(checkpoint::inspect(scratch / "empty"), CheckpointError);
}

}  // namespace
}  // namespace fathom::weights
