// MindFormers' layouts against files written by hand from its tables (make_mindformers_fixture.py), and round trips.
#include <atomic>
#include <map>
#include <span>

#include "mindformers_fixture.h"

namespace fathom::checkpoint {
namespace {

using formats::Dtype;
using ::testing::HasSubstr;

struct Case {
  const char *model, *file;
  LayoutOptions options;
};

std::vector<Case> written_cases() {
  return {{"v3", "train", layout(Layout::mindformers_train)},
          {"v3", "train_gmm", layout(Layout::mindformers_train_gmm)},
          {"v3", "infer", layout(Layout::mindformers_infer)},
          {"v3", "infer_fused", fused_infer()},
          {"v3", "mcore_dev", layout(Layout::mcore)},
          {"v3", "mcore_r1.8", mcore_r1_8()},
          {"lite", "infer", layout(Layout::mindformers_infer)},
          {"lite", "mcore_dev", layout(Layout::mcore)},
          {"lite", "mcore_r1.8", mcore_r1_8()}};
}

TEST_F(MindformersTest, hf_becomes_what_the_tables_say) {
  for (const char* model : {"v3", "lite"}) {
    const fs::path hf = hf_directory(model);
    for (const Case& c : written_cases()) {
      if (std::string(c.model) != model) continue;
      SCOPED_TRACE(std::string(model) + " " + c.file);
      const fs::path made = convert(hf, std::string("made_") + model + c.file, c.options);
      expect_same_tensors(AllTensors(made),
                          AllTensors(kMindformersFixture / model / (std::string(c.file) + ".safetensors")));
    }
  }
}

TEST_F(MindformersTest, what_the_tables_say_becomes_hf) {
  std::vector<Case> cases = written_cases();
  cases.push_back({"v3", "mcore_split", {}});  // read only: split up-projections, experts one by one
  for (const Case& c : cases) {
    SCOPED_TRACE(std::string(c.model) + " " + c.file);
    const fs::path there = strange_directory(c.model, c.file);
    const fs::path hf = to_hf(there, std::string("hf_of_") + c.model + c.file);
    expect_same_tensors(AllTensors(hf), AllTensors(kMindformersFixture / c.model / "hf.safetensors"));
    const Inspection inspection = inspect(hf);
    EXPECT_THAT(inspection.missing, ::testing::IsEmpty());
    EXPECT_THAT(inspection.unexpected, ::testing::IsEmpty());
  }
}

// MF-20: and from any of them into any other, without HF in between.
TEST_F(MindformersTest, MF_5_MF_20_any_layout_into_any_other) {
  for (const Case& from : written_cases()) {
    if (std::string(from.model) != "v3") continue;
    const fs::path source = strange_directory("v3", from.file);
    for (const Case& to : written_cases()) {
      if (std::string(to.model) != "v3" || from.file == to.file) continue;
      SCOPED_TRACE(std::string(from.file) + " to " + to.file);
      const fs::path made = convert(source, std::string(from.file) + "_to_" + to.file, to.options);
      expect_same_tensors(AllTensors(made),
                          AllTensors(kMindformersFixture / "v3" / (std::string(to.file) + ".safetensors")));
    }
  }
}

TEST_F(MindformersTest, WT_9_round_trips_have_the_same_bits) {
  const std::map<std::string, std::function<void(Json&)>> models = {
      {"v3", [](Json&) {}},
      {"two_mtp", [](Json& json) { json["num_nextn_predict_layers"] = 2; }},
      {"no_mtp", [](Json& json) { json["num_nextn_predict_layers"] = 0; }},
      {"all_dense", [](Json& json) { json["n_routed_experts"] = nullptr; }},
      {"no_shared", [](Json& json) { json["n_shared_experts"] = nullptr; }},
      {"half_rope", [](Json& json) { json["rope_interleave"] = false; }},
      {"moonlight", [](Json& json) { json["q_lora_rank"] = nullptr; }},
      {"v2", [](Json& json) {
         json["model_type"] = "deepseek_v2";
         json["architectures"] = {"DeepseekV2ForCausalLM"};
         json["topk_method"] = "group_limited_greedy";
         json["scoring_func"] = "softmax";
         json["norm_topk_prob"] = false;
         json["num_nextn_predict_layers"] = 0;
       }}};
  for (const auto& [name, edit] : models) {
    const fs::path hf = scratch_ / name;
    const auto smaller = [&](Json& json) {
      json["hidden_size"] = 48;
      json["intermediate_size"] = 100;
      json["moe_intermediate_size"] = 40;
      edit(json);
    };
    init_checkpoint(small_model(smaller), Dtype::BF16, 7, hf);
    for (const Case& c : written_cases()) {
      if (std::string(c.model) != "v3") continue;
      SCOPED_TRACE(name + " " + c.file);
      const bool is_train = std::string(c.file).starts_with("train");
      if (name == "moonlight" && is_train) {
        EXPECT_THAT(refusal(hf, c.options), HasSubstr("q_lora_rank null"));
        continue;
      }
      const fs::path there = convert(hf, name + "_" + c.file, c.options);
      const fs::path back = to_hf(there, name + "_" + c.file + "_back", "bf16");
      EXPECT_TRUE(compare(inspect(hf), inspect(back)).identical());
    }
  }
}

// Rows of RoPE that HF has in halves already (rope_interleave false) stay where they are.
TEST_F(MindformersTest, rope_rows_move_only_where_hf_has_pairs) {
  const fs::path hf = scratch_ / "half";
  init_checkpoint(small_model([](Json& json) { json["rope_interleave"] = false; }), Dtype::BF16, 7, hf);
  const AllTensors from(hf), to(convert(hf, "infer", layout(Layout::mindformers_infer)));
  const auto [a_file, a] = from.at("model.layers.1.self_attn.q_b_proj.weight");
  const auto [b_file, b] = to.at("model.layers.1.attention.l2q_proj.weight");
  EXPECT_EQ(std::memcmp(a_file->bytes(*a).data(), b_file->bytes(*b).data(), a->bytes), 0);
}

TEST_F(MindformersTest, files_lie_as_their_tools_write_them) {
  const fs::path hf = scratch_ / "hf";
  init_checkpoint(small_model(), Dtype::BF16, 7, hf);
  const auto names = [](const fs::path& directory) {
    std::set<std::string> result;
    for (const auto& entry : fs::directory_iterator(directory))
      result.insert(entry.path().filename().string());
    return result;
  };
  const fs::path train = convert(hf, "train", layout(Layout::mindformers_train_gmm));
  EXPECT_EQ(names(train), (std::set<std::string>{
                              "config.json", "generation_config.json", "param_name_map.json",
                              "ms-model-00001-of-00005.safetensors", "ms-model-00002-of-00005.safetensors",
                              "ms-model-00003-of-00005.safetensors", "ms-model-00004-of-00005.safetensors",
                              "ms-model-00005-of-00005.safetensors"}));
  const auto map = formats::read_parameter_map(train / "param_name_map.json").weight_map;
  EXPECT_EQ(map.size(), AllTensors(train).names().size());
  EXPECT_EQ(map.at("model.tok_embeddings.embedding_weight"), "ms-model-00001-of-00005.safetensors");
  EXPECT_EQ(map.at("model.norm_out.weight"), "ms-model-00005-of-00005.safetensors");
  EXPECT_EQ(map.at("model.mtp_norms.0.weight"), "ms-model-00005-of-00005.safetensors");
  for (const auto& [tensor, file] : map) EXPECT_TRUE(formats::SafetensorsFile(train / file).find(tensor));

  const auto infer = formats::read_parameter_map(convert(hf, "infer", layout(Layout::mindformers_infer)) /
                                                 "param_name_map.json")
                         .weight_map;
  EXPECT_EQ(infer.at("lm_head.weight"), "model.safetensors");
  EXPECT_EQ(infer.at("model.layers.0.feed_forward.w1.weight"), "model_layer_0.safetensors");
  EXPECT_EQ(infer.at("model.layers.2.feed_forward.routed_experts.ffn.w3.weight"),
            "model_layer_2_routed_experts_w3.safetensors");
  EXPECT_EQ(infer.at("model.layers.2.feed_forward.shared_experts.w3.weight"), "model_layer_2.safetensors");
}

TEST_F(MindformersTest, MF_18_norms_router_and_bias_are_float32_in_training) {
  const fs::path hf = scratch_ / "hf";
  init_checkpoint(small_model(), Dtype::BF16, 7, hf);
  const auto dtypes = [&](const LayoutOptions& options, const std::string& name) {
    std::map<std::string, Dtype> result;
    const AllTensors made(convert(hf, name, options));
    for (const std::string& tensor : made.names()) result[tensor] = made.at(tensor).second->dtype;
    return result;
  };
  for (const Layout which : {Layout::mindformers_train, Layout::mindformers_train_gmm}) {
    for (const auto& [tensor, dtype] : dtypes(layout(which), layout_name(which))) {
      const bool is_float32 = tensor.find("norm") != std::string::npos ||
                              tensor.find("router") != std::string::npos ||
                              tensor.find("topk_bias") != std::string::npos;
      EXPECT_EQ(dtype, is_float32 ? Dtype::F32 : Dtype::BF16) << tensor;
    }
  }
  for (const auto& [tensor, dtype] : dtypes(layout(Layout::mindformers_infer), "infer"))
    EXPECT_EQ(dtype, tensor.ends_with("e_score_correction_bias") ? Dtype::F32 : Dtype::BF16) << tensor;
  for (const auto& [tensor, dtype] : dtypes(layout(Layout::mcore), "mcore"))
    EXPECT_EQ(dtype, tensor.ends_with("expert_bias") || tensor.find("norm") != std::string::npos
                         ? Dtype::F32
                         : Dtype::BF16)
        << tensor;
  for (const auto& [tensor, dtype] : dtypes(mcore_r1_8(), "r1.8"))
    EXPECT_EQ(dtype, tensor.ends_with("expert_bias") ? Dtype::F32 : Dtype::BF16) << tensor;
}

// The bias of layer l, expert e is l + e / 1000, which bf16 cannot hold.
TEST_F(MindformersTest, WT_8_MF_4_the_bias_of_every_layer_goes_everywhere) {
  const fs::path hf = hf_directory("v3");
  const formats::SafetensorsFile old(hf / "model.safetensors");
  std::vector<formats::TensorDeclaration> declared;
  for (const auto& entry : old.tensors()) declared.push_back({entry.name, entry.dtype, entry.shape});
  formats::SafetensorsWriter writer(hf / "model.safetensors", declared);
  for (const auto& tensor : declared) {
    std::vector<std::byte> bytes(old.bytes(tensor.name).begin(), old.bytes(tensor.name).end());
    if (tensor.name.ends_with("e_score_correction_bias")) {
      std::vector<float> bias;
      for (int e = 0; e < 4; ++e)
        bias.push_back(static_cast<float>(tensor.name[13] - '0') + static_cast<float>(e) / 1000);
      std::memcpy(bytes.data(), bias.data(), bytes.size());
    }
    writer.write(tensor.name, bytes);
  }
  writer.commit();

  const std::map<std::string, std::pair<LayoutOptions, std::string>> names = {
      {"train", {layout(Layout::mindformers_train), "router.router.topk_bias"}},
      {"gmm", {layout(Layout::mindformers_train_gmm), "topk_bias"}},
      {"infer", {layout(Layout::mindformers_infer), "router.e_score_correction_bias"}}};
  for (const auto& [name, to] : names) {
    const fs::path there = convert(hf, name, to.first, "bf16");
    const fs::path infer =
        name == "infer" ? there : convert(there, name + "_infer", layout(Layout::mindformers_infer), "bf16");
    const fs::path back = to_hf(infer, name + "_back", "bf16");
    for (int layer = 1; layer < 3; ++layer) {
      const std::string prefix = "model.layers." + std::to_string(layer) + ".";
      std::vector<float> expected;
      for (int e = 0; e < 4; ++e)
        expected.push_back(static_cast<float>(layer) + static_cast<float>(e) / 1000);
      const std::string routed = prefix + "feed_forward.routed_experts.";
      EXPECT_EQ(AllTensors(there).floats(routed + to.second), expected);
      EXPECT_EQ(AllTensors(infer).floats(routed + "router.e_score_correction_bias"), expected);
      EXPECT_EQ(AllTensors(back).floats(prefix + "mlp.gate.e_score_correction_bias"), expected);
    }
  }
}

// Files of deepseek3_train2infer.py: shapes of inference, but the router's bias and the MTP layer named as in training.
TEST_F(MindformersTest, MF_4_files_of_train2infer_keep_their_bias) {
  const fs::path there = strange_directory("v3", "infer");
  const formats::SafetensorsFile train(kMindformersFixture / "v3/train.safetensors");
  const formats::SafetensorsFile infer(kMindformersFixture / "v3/infer.safetensors");
  std::vector<std::pair<formats::TensorDeclaration, std::span<const std::byte>>> tensors;
  for (const auto& entry : infer.tensors()) {
    std::string name = entry.name;
    if (name.starts_with("model.layers.2.") && !name.starts_with("model.layers.2.att") &&
        !name.starts_with("model.layers.2.f"))
      continue;  // what belongs to the MTP layer alone
    const std::string bias = "router.e_score_correction_bias";
    if (name.ends_with(bias)) name = name.substr(0, name.size() - bias.size()) + "router.router.topk_bias";
    tensors.push_back({{name, entry.dtype, entry.shape}, infer.bytes(entry)});
  }
  for (const auto& entry : train.tensors())
    if (entry.name.starts_with("model.mtp_"))
      tensors.push_back({{entry.name, entry.dtype, entry.shape}, train.bytes(entry)});
  std::vector<formats::TensorDeclaration> declared;
  for (const auto& [tensor, bytes] : tensors) declared.push_back(tensor);
  formats::SafetensorsWriter writer(there / "weights.safetensors", declared);
  for (const auto& [tensor, bytes] : tensors) writer.write(tensor.name, bytes);
  writer.commit();
  expect_same_tensors(AllTensors(to_hf(there, "hf")), AllTensors(kMindformersFixture / "v3/hf.safetensors"));
}

TEST_F(MindformersTest, MF_1_halves_of_eh_proj_are_exchanged_or_not_as_is_said) {
  const fs::path hf = hf_directory("v3");
  LayoutOptions as_is = layout(Layout::mindformers_train);
  as_is.swaps_mtp_halves = false;
  const fs::path plain = convert(hf, "as_is", as_is),
                 swapped = convert(hf, "swapped", layout(Layout::mindformers_train));
  const auto expected = AllTensors(hf).floats("model.layers.2.eh_proj.weight");
  const std::string name = "model.mtp_hidden_fusers.0.dense.weight";
  EXPECT_EQ(AllTensors(plain).floats(name), expected);
  EXPECT_NE(AllTensors(swapped).floats(name), expected);
  // Our own files say which it is.
  expect_same_tensors(AllTensors(to_hf(plain, "plain_back")), AllTensors(hf));
  expect_same_tensors(AllTensors(to_hf(swapped, "swapped_back")), AllTensors(hf));
  // A flag outweighs that.
  SourceOptions source;
  source.swaps_mtp_halves = false;
  EXPECT_EQ(AllTensors(to_hf(swapped, "forced", "", source)).floats("model.layers.2.eh_proj.weight"),
            AllTensors(swapped).floats(name));
}

TEST_F(MindformersTest, rows_of_fc1_are_read_as_written_or_told) {
  const fs::path hf = hf_directory("v3");
  LayoutOptions stacked = mcore_r1_8();
  stacked.has_interleaved_fc1 = false;
  const fs::path there = convert(hf, "stacked", stacked);
  expect_same_tensors(AllTensors(to_hf(there, "back")), AllTensors(hf));
  SourceOptions source;
  source.has_interleaved_fc1 = true;
  EXPECT_NE(AllTensors(to_hf(there, "wrong", "", source)).floats("model.layers.0.mlp.gate_proj.weight"),
            AllTensors(hf).floats("model.layers.0.mlp.gate_proj.weight"));
}

TEST_F(MindformersTest, MF_21_fp8_goes_there_without_a_bf16_copy) {
  const fs::path hf = scratch_ / "hf";
  init_checkpoint(small_model(), Dtype::BF16, 7, hf);
  const fs::path fp8 = to_hf(hf, "fp8", "fp8"), bf16 = to_hf(fp8, "bf16", "bf16");
  for (const Case& c : written_cases()) {
    if (std::string(c.model) != "v3") continue;
    SCOPED_TRACE(c.file);
    const fs::path direct = convert(fp8, std::string("direct_") + c.file, c.options);
    expect_same_tensors(AllTensors(direct),
                        AllTensors(convert(bf16, std::string("detour_") + c.file, c.options)));
    // And back into fp8, whose values have fp8 codes already.
    EXPECT_TRUE(compare(inspect(to_hf(bf16, std::string("again_") + c.file, "fp8")),
                        inspect(to_hf(direct, std::string("back_") + c.file, "fp8")))
                    .identical());
  }
}

TEST_F(MindformersTest, cuts_work_in_any_layout) {
  const fs::path hf = scratch_ / "hf";
  init_checkpoint(small_model(), Dtype::BF16, 7, hf);
  ConvertOptions options;
  options.cut = {"0,2-3", "4-7,12-15", true};
  convert_checkpoint(hf, scratch_ / "cut", options);
  options.layout = layout(Layout::mindformers_train_gmm);
  convert_checkpoint(hf, scratch_ / "cut_there", options);
  expect_same_tensors(AllTensors(scratch_ / "cut_there"),
                      AllTensors(convert(scratch_ / "cut", "there", layout(Layout::mindformers_train_gmm))));
  options.layout = {};
  options.dtype = "bf16";
  convert_checkpoint(convert(hf, "whole", layout(Layout::mindformers_train)), scratch_ / "cut_back", options);
  EXPECT_TRUE(compare(inspect(scratch_ / "cut"), inspect(scratch_ / "cut_back")).identical());
}

TEST_F(MindformersTest, goes_on_after_a_stop) {
  const fs::path hf = scratch_ / "hf";
  init_checkpoint(small_model(), Dtype::BF16, 7, hf);
  const fs::path whole = convert(hf, "whole", layout(Layout::mindformers_infer));
  ConvertOptions options;
  options.layout = layout(Layout::mindformers_infer);
  std::atomic<int64_t> asked = 0;
  options.is_stopped = [&] { return ++asked > 60; };
  EXPECT_THROW(convert_checkpoint(hf, scratch_ / "stopped", options), Error);
  EXPECT_FALSE(fs::exists(scratch_ / "stopped/param_name_map.json"));
  options.is_stopped = [] { return false; };
  const ConvertReport report = convert_checkpoint(hf, scratch_ / "stopped", options);
  EXPECT_GT(report.resumed_bytes, 0U);
  expect_same_tensors(AllTensors(scratch_ / "stopped"), AllTensors(whole));
  // Another layout in its place starts anew.
  asked = 0;
  options.is_stopped = [&] { return ++asked > 60; };
  EXPECT_THROW(convert_checkpoint(hf, scratch_ / "again", options), Error);
  options.is_stopped = [] { return false; };
  options.layout = layout(Layout::mcore);
  EXPECT_EQ(convert_checkpoint(hf, scratch_ / "again", options).resumed_bytes, 0U);
  expect_same_tensors(AllTensors(scratch_ / "again"),
                      AllTensors(convert(hf, "mcore", layout(Layout::mcore))));
}

}  // namespace
}  // namespace fathom::checkpoint
