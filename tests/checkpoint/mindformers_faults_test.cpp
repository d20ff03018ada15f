// What is wrong with a MindFormers directory is said by name, and what is merely odd about it is read.
#include "mindformers_fixture.h"

namespace fathom::checkpoint {
namespace {

using formats::Dtype;
using formats::TensorDeclaration;
using ::testing::AllOf;
using ::testing::HasSubstr;

class MindformersFaults : public MindformersTest {
 protected:
  fs::path weights(const fs::path& directory) const { return directory / "weights.safetensors"; }
};

TEST_F(MindformersFaults, a_missing_tensor_is_named_with_what_it_holds) {
  const fs::path train = strange_directory("v3", "train");
  test::rewrite_tensors(weights(train), [](TensorDeclaration& t) {
    return t.name != "model.layers.1.attention.l2q_pe_proj.weight";
  });
  EXPECT_THAT(refusal(train), AllOf(HasSubstr("model.layers.1.attention.l2q_pe_proj.weight"),
                                    HasSubstr("self_attn.q_b_proj.weight"), HasSubstr("is missing")));
  const fs::path mcore = strange_directory("v3", "mcore_dev");
  test::rewrite_tensors(weights(mcore),
                        [](TensorDeclaration& t) { return t.name != "mtp.layers.0.eh_proj.weight"; });
  EXPECT_THAT(refusal(mcore), AllOf(HasSubstr("mtp.layers.0.eh_proj.weight"), HasSubstr("--drop-mtp")));
}

TEST_F(MindformersFaults, a_wrong_shape_is_named_with_both_shapes) {
  const fs::path there = strange_directory("v3", "infer");
  test::rewrite_tensors(weights(there), [](TensorDeclaration& t) {
    if (t.name == "model.layers.0.attention.kv2l.weight") t.shape = {10, 6};
    return true;
  });
  EXPECT_THAT(refusal(there), AllOf(HasSubstr("weights.safetensors"), HasSubstr("attention.kv2l.weight"),
                                    HasSubstr("[10, 6]"), HasSubstr("[11, 6]")));
}

TEST_F(MindformersFaults, a_stack_with_another_number_of_experts_says_how_many) {
  const std::pair<const char*, std::pair<const char*, std::vector<int64_t>>> cases[] = {
      {"train", {"model.layers.1.feed_forward.routed_experts.ffn.w2.weight", {3, 6, 5}}},
      {"train_gmm", {"model.layers.1.feed_forward.routed_experts.ffn.w1", {3, 6, 10}}},
      {"infer", {"model.layers.2.feed_forward.routed_experts.ffn.w3.weight", {3, 6, 5}}},
      {"mcore_dev", {"decoder.layers.1.mlp.experts.weight1", {6, 30}}}};
  for (const auto& [file, change] : cases) {
    const fs::path there = strange_directory("v3", file);
    test::rewrite_tensors(weights(there), [&](TensorDeclaration& t) {
      if (t.name == change.first) t.shape = change.second;
      return true;
    });
    EXPECT_THAT(refusal(there), AllOf(HasSubstr(change.first), HasSubstr("it holds 3 experts, not 4")));
  }
}

TEST_F(MindformersFaults, an_unknown_tensor_is_named) {
  const fs::path there = strange_directory("v3", "train");
  test::rewrite_tensors(weights(there), [](auto&) { return true; },
                        {{"model.layers.0.attention.extra.weight", Dtype::F32, {2}}});
  EXPECT_THAT(refusal(there),
              AllOf(HasSubstr("model.layers.0.attention.extra.weight is not part of the model"),
                    HasSubstr("mindformers-train")));
  const fs::path quantised = strange_directory("v3", "infer");
  test::rewrite_tensors(weights(quantised), [](auto&) { return true; },
                        {{"model.layers.0.attention.wo._layer.matmul.dequant_scale", Dtype::F32, {6}}});
  EXPECT_THAT(refusal(quantised), HasSubstr("quantised"));
}

TEST_F(MindformersFaults, what_is_not_read_is_said) {
  const fs::path there = strange_directory("v3", "train");
  fs::rename(there / "config.json", scratch_ / "elsewhere.json");
  EXPECT_THAT(refusal<UsageError>(there), HasSubstr("--config"));
  SourceOptions source;
  source.config = scratch_ / "elsewhere.json";
  expect_same_tensors(AllTensors(to_hf(there, "with_config", "", source)),
                      AllTensors(kMindformersFixture / "v3/hf.safetensors"));

  fs::create_directories(scratch_ / "ranks/rank_0");
  EXPECT_THAT(refusal(scratch_ / "ranks"), HasSubstr("unified_safetensors.py"));
  fs::create_directories(scratch_ / "pickled");
  write_text_file(scratch_ / "pickled/checkpoints.ckpt", "x");
  EXPECT_THAT(refusal(scratch_ / "pickled"), HasSubstr(".ckpt"));
  EXPECT_THAT(refusal<UsageError>(hf_directory("v3"), layout(Layout::mcore), {}, "fp8"), HasSubstr("fp8"));
  EXPECT_THAT(refusal(hf_directory("lite"), layout(Layout::mindformers_train)),
              HasSubstr("q_lora_rank null"));
}

TEST_F(MindformersFaults, a_map_that_lies_is_refused) {
  const fs::path there = strange_directory("v3", "train");
  write_text_file(there / "param_name_map.json", R"({"lm_head.weight": "other.safetensors"})");
  EXPECT_THAT(refusal(there), HasSubstr("other.safetensors"));
  write_text_file(there / "param_name_map.json", R"({"no.such.weight": "weights.safetensors"})");
  EXPECT_THAT(refusal(there), HasSubstr("no.such.weight"));
  write_text_file(there / "param_name_map.json", R"({"lm_head.weight": "../weights.safetensors"})");
  EXPECT_THAT(refusal(there), HasSubstr("no file of this directory"));
  write_text_file(there / "param_name_map.json", R"({"lm_head.weight": 3})");
  EXPECT_THAT(refusal(there), HasSubstr("is no file name"));
  write_text_file(there / "param_name_map.json", "{");
  EXPECT_THAT(refusal(there), HasSubstr("param_name_map.json"));
}

// convert_weight.py --infer leaves w1 of the dense layers out of its map; older ones have weight_map inside.
TEST_F(MindformersFaults, MF_22_a_map_that_forgets_tensors_is_completed_from_the_files) {
  const fs::path there = strange_directory("v3", "infer");
  for (const char* map : {R"({"lm_head.weight": "weights.safetensors"})",
                          R"({"weight_map": {"lm_head.weight": "weights.safetensors"}})"}) {
    write_text_file(there / "param_name_map.json", map);
    fs::remove_all(scratch_ / "hf");
    expect_same_tensors(AllTensors(to_hf(there, "hf")),
                        AllTensors(kMindformersFixture / "v3/hf.safetensors"));
  }
  fs::rename(there / "param_name_map.json", there / "ms-model.safetensors.index.json");
  fs::remove_all(scratch_ / "hf");
  expect_same_tensors(AllTensors(to_hf(there, "hf")), AllTensors(kMindformersFixture / "v3/hf.safetensors"));
}

TEST_F(MindformersFaults, state_of_the_training_is_left_out) {
  const fs::path there = strange_directory("v3", "train_gmm");
  test::rewrite_tensors(weights(there), [](auto&) { return true; },
                        {{"adam_m.lm_head.weight", Dtype::F32, {11, 6}},
                         {"adam_v.model.layers.1.feed_forward.routed_experts.ffn.w1", Dtype::F32, {4, 6, 10}},
                         {"model.layers.1.feed_forward.routed_experts.expert_load", Dtype::F32, {4}},
                         {"global_step", Dtype::I64, {}},
                         {"loss_scale", Dtype::F32, {1}}});
  expect_same_tensors(AllTensors(to_hf(there, "hf")), AllTensors(kMindformersFixture / "v3/hf.safetensors"));
}

// Stacks of [in, out] under the names of batched products, as older versions of convert_weight.py wrote them.
TEST_F(MindformersFaults, transposed_stacks_are_told_by_their_shape) {
  const fs::path there = strange_directory("v3", "train");
  const formats::SafetensorsFile train(kMindformersFixture / "v3/train.safetensors");
  const formats::SafetensorsFile infer(kMindformersFixture / "v3/infer.safetensors");
  std::vector<TensorDeclaration> declared;
  std::vector<std::span<const std::byte>> bytes;
  for (const auto& entry : train.tensors()) {
    const formats::SafetensorsFile& file =
        entry.name.find("routed_experts.ffn.") != std::string::npos ? infer : train;
    declared.push_back({entry.name, entry.dtype, file.at(entry.name).shape});
    bytes.push_back(file.bytes(entry.name));
  }
  formats::SafetensorsWriter writer(weights(there), declared);
  for (size_t i = 0; i < declared.size(); ++i) writer.write(declared[i].name, bytes[i]);
  writer.commit();
  expect_same_tensors(AllTensors(to_hf(there, "hf")), AllTensors(kMindformersFixture / "v3/hf.safetensors"));
}

TEST_F(MindformersFaults, mtp_layers_that_the_config_does_not_have_are_left_out) {
  for (const char* file : {"train", "infer", "mcore_dev"}) {
    const fs::path there = strange_directory("v3", file);
    Json json = read_json_file(there / "config.json");
    json["num_nextn_predict_layers"] = 0;
    write_text_file(there / "config.json", json.dump());
    const fs::path hf = to_hf(there, std::string("hf_") + file);
    EXPECT_THAT(inspect(hf).missing, ::testing::IsEmpty());
    EXPECT_EQ(AllTensors(hf).names().count("model.layers.2.enorm.weight"), 0U);
  }
}

}  // namespace
}  // namespace fathom::checkpoint
