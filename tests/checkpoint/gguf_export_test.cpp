// GGUF of small random models, element by element against their HF tensors. That llama.cpp runs them is checked by
// tests/check_llama_cpp.sh.
#include "checkpoint/gguf_export.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <cstring>
#include <functional>
#include <vector>

#include "base/error.h"
#include "base/file.h"
#include "base/float16.h"
#include "checkpoint/convert.h"
#include "checkpoint/gguf_metadata.h"
#include "checkpoint/init.h"
#include "checkpoint/stored_values.h"
#include "formats/gguf.h"
#include "kernels/ggml_blocks.h"
#include "support/byte_tokenizer.h"
#include "support/scratch.h"

namespace fathom::checkpoint {
namespace {

using formats::Dtype;
using formats::GgmlType;
using formats::GgufFile;
using formats::GgufMetadata;
using formats::GgufValue;
using ::testing::HasSubstr;

constexpr int64_t kHeads = 3, kNope = 24, kRope = 8, kV = 20, kRank = 40, kHidden = 64, kExperts = 8;

// Sizes that differ from each other, some of which 32 does not divide; 3 layers, the first dense, and an MTP layer.
Json small_json() {
  Json json = read_json_file(fs::path(FATHOM_SOURCE_DIR) / "configs/models/tiny.json");
  for (const auto& [key, value] :
       std::initializer_list<std::pair<const char*, int64_t>>{{"vocab_size", 44},
                                                              {"hidden_size", kHidden},
                                                              {"num_hidden_layers", 3},
                                                              {"num_nextn_predict_layers", 1},
                                                              {"first_k_dense_replace", 1},
                                                              {"intermediate_size", 96},
                                                              {"moe_intermediate_size", 32},
                                                              {"num_attention_heads", kHeads},
                                                              {"num_key_value_heads", kHeads},
                                                              {"q_lora_rank", 32},
                                                              {"kv_lora_rank", kRank},
                                                              {"qk_nope_head_dim", kNope},
                                                              {"qk_rope_head_dim", kRope},
                                                              {"v_head_dim", kV},
                                                              {"n_routed_experts", kExperts},
                                                              {"n_shared_experts", 2},
                                                              {"num_experts_per_tok", 2},
                                                              {"n_group", 4},
                                                              {"topk_group", 2}})
    json[key] = value;
  return json;
}

std::string message_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

class GgufExport : public ::testing::Test {
 protected:
  GgufExport() : source_(scratch_ / "source") { make(small_json()); }

  void make(const Json& json) {
    fs::remove_all(source_);
    init_checkpoint(config::parse_model_config(json, "small"), Dtype::BF16, 7, source_);
  }
  GgufFile write(const std::string& name, const std::string& dtype, const CutOptions& cut = {}) {
    GgufOptions options;
    options.dtype = dtype;
    options.cut = cut;
    export_gguf(source_, scratch_ / name, options);
    return GgufFile(scratch_ / name);
  }
  std::vector<float> hf(const std::string& name) {
    const formats::ShardedReader reader(source_);
    std::vector<float> values(static_cast<size_t>(reader.at(name).entry->numel()));
    read_as_float(reader, name, 0, static_cast<int64_t>(values.size()), values.data());
    return values;
  }
  static std::vector<float> floats(const GgufFile& file, const std::string& name) {
    const formats::GgufTensor& tensor = file.at(name);
    EXPECT_EQ(tensor.type, GgmlType::F32) << name;
    std::vector<float> values(static_cast<size_t>(tensor.numel()));
    std::memcpy(values.data(), file.bytes(tensor).data(), tensor.bytes);
    return values;
  }

  test::ScratchDirectory scratch_;
  fs::path source_;
};

TEST_F(GgufExport, every_tensor_of_the_trunk_is_there_under_its_name_and_bits) {
  const GgufFile file = write("x.gguf", "fp32");
  for (const auto& [gguf, name] : std::initializer_list<std::pair<const char*, const char*>>{
           {"token_embd.weight", "model.embed_tokens.weight"},
           {"output_norm.weight", "model.norm.weight"},
           {"output.weight", "lm_head.weight"},
           {"blk.0.attn_norm.weight", "model.layers.0.input_layernorm.weight"},
           {"blk.0.attn_q_a.weight", "model.layers.0.self_attn.q_a_proj.weight"},
           {"blk.0.attn_q_a_norm.weight", "model.layers.0.self_attn.q_a_layernorm.weight"},
           {"blk.0.attn_q_b.weight", "model.layers.0.self_attn.q_b_proj.weight"},
           {"blk.1.attn_kv_a_mqa.weight", "model.layers.1.self_attn.kv_a_proj_with_mqa.weight"},
           {"blk.1.attn_kv_a_norm.weight", "model.layers.1.self_attn.kv_a_layernorm.weight"},
           {"blk.2.attn_output.weight", "model.layers.2.self_attn.o_proj.weight"},
           {"blk.2.ffn_norm.weight", "model.layers.2.post_attention_layernorm.weight"},
           {"blk.0.ffn_gate.weight", "model.layers.0.mlp.gate_proj.weight"},
           {"blk.0.ffn_up.weight", "model.layers.0.mlp.up_proj.weight"},
           {"blk.0.ffn_down.weight", "model.layers.0.mlp.down_proj.weight"},
           {"blk.1.ffn_gate_inp.weight", "model.layers.1.mlp.gate.weight"},
           {"blk.1.exp_probs_b.bias", "model.layers.1.mlp.gate.e_score_correction_bias"},
           {"blk.2.ffn_down_shexp.weight", "model.layers.2.mlp.shared_experts.down_proj.weight"}})
    EXPECT_EQ(floats(file, gguf), hf(name)) << gguf;
  const auto kv_b = hf("model.layers.1.self_attn.kv_b_proj.weight");
  const auto k_b = floats(file, "blk.1.attn_k_b.weight"), v_b = floats(file, "blk.1.attn_v_b.weight");
  EXPECT_THAT(file.at("blk.1.attn_k_b.weight").shape, ::testing::ElementsAre(kHeads, kRank, kNope));
  EXPECT_THAT(file.at("blk.1.attn_v_b.weight").shape, ::testing::ElementsAre(kHeads, kV, kRank));
  for (int64_t head = 0; head < kHeads; ++head)
    for (int64_t c = 0; c < kRank; ++c) {
      const auto at = [&](int64_t row) {
        return kv_b[static_cast<size_t>((head * (kNope + kV) + row) * kRank + c)];
      };
      for (int64_t i = 0; i < kNope; ++i)
        ASSERT_EQ(k_b[static_cast<size_t>((head * kRank + c) * kNope + i)], at(i));
      for (int64_t i = 0; i < kV; ++i)
        ASSERT_EQ(v_b[static_cast<size_t>((head * kV + i) * kRank + c)], at(kNope + i));
    }
  for (const char* kind : {"gate", "up", "down"}) {
    const auto stack = floats(file, fmt::format("blk.2.ffn_{}_exps.weight", kind));
    const size_t size = stack.size() / kExperts;
    for (size_t expert = 0; expert < kExperts; ++expert) {
      const auto one = hf(fmt::format("model.layers.2.mlp.experts.{}.{}_proj.weight", expert, kind));
      ASSERT_EQ(one.size(), size);
      EXPECT_EQ(std::memcmp(one.data(), stack.data() + expert * size, size * sizeof(float)), 0)
          << kind << expert;
    }
  }
  EXPECT_EQ(file.find("blk.3.attn_norm.weight"), nullptr);  // MTP
  EXPECT_EQ(file.tensors().size(), 3U + 3 * 10 + 3 + 2 * (2 + 3 + 3));
}

TEST_F(GgufExport, keys_say_what_llama_cpp_reads) {
  const GgufFile file = write("x.gguf", "bf16");
  const auto number = [&](const std::string& key) {
    return std::get<uint64_t>(file.header().find(key)->value);
  };
  const std::string arch = "deepseek2.";
  EXPECT_EQ(std::get<std::string>(file.header().find("general.architecture")->value), "deepseek2");
  EXPECT_EQ(number("general.file_type"), 32U);
  EXPECT_EQ(number(arch + "block_count"), 3U);
  EXPECT_EQ(number(arch + "attention.head_count"), static_cast<uint64_t>(kHeads));
  EXPECT_EQ(number(arch + "attention.head_count_kv"), 1U);
  EXPECT_EQ(number(arch + "attention.key_length"), static_cast<uint64_t>(kRank + kRope));
  EXPECT_EQ(number(arch + "attention.value_length"), static_cast<uint64_t>(kRank));
  EXPECT_EQ(number(arch + "attention.key_length_mla"), static_cast<uint64_t>(kNope + kRope));
  EXPECT_EQ(number(arch + "attention.value_length_mla"), static_cast<uint64_t>(kV));
  EXPECT_EQ(number(arch + "attention.q_lora_rank"), 32U);
  EXPECT_EQ(number(arch + "leading_dense_block_count"), 1U);
  EXPECT_EQ(number(arch + "expert_group_count"), 4U);
  EXPECT_EQ(number(arch + "expert_group_used_count"), 2U);
  EXPECT_EQ(number(arch + "expert_gating_func"), 2U);
  EXPECT_TRUE(std::get<bool>(file.header().find(arch + "expert_weights_norm")->value));
  EXPECT_EQ(std::get<std::string>(file.header().find("tokenizer.ggml.model")->value), "no_vocab");
}

TEST_F(GgufExport, precision_follows_llama_cpp) {
  const GgufFile q8 = write("q8.gguf", "q8_0"), q4 = write("q4.gguf", "q4_0"), bf = write("bf.gguf", "");
  for (const GgufFile* file : {&q8, &q4, &bf})
    for (const char* exact : {"blk.1.attn_norm.weight", "blk.1.ffn_gate_inp.weight", "blk.1.exp_probs_b.bias",
                              "output_norm.weight", "blk.1.attn_kv_a_norm.weight"})
      EXPECT_EQ(file->at(exact).type, GgmlType::F32) << exact;
  EXPECT_EQ(bf.at("blk.1.attn_k_b.weight").type, GgmlType::BF16);
  EXPECT_EQ(q8.at("blk.1.attn_k_b.weight").type, GgmlType::F16);  // rows of 24
  EXPECT_EQ(q8.at("blk.1.attn_v_b.weight").type, GgmlType::F16);  // rows of 40
  EXPECT_EQ(q8.at("blk.1.ffn_up_exps.weight").type, GgmlType::Q8_0);
  EXPECT_EQ(q4.at("blk.1.ffn_up_exps.weight").type, GgmlType::Q4_0);
  EXPECT_EQ(q4.at("token_embd.weight").type, GgmlType::Q4_0);
  EXPECT_EQ(q4.at("output.weight").type, GgmlType::Q8_0);

  const auto values = hf("model.layers.0.mlp.up_proj.weight");
  std::vector<uint8_t> blocks(values.size() / 32 * kernels::kQ4_0Bytes);
  ASSERT_TRUE(kernels::quantize_q4_0(values.data(), static_cast<int64_t>(values.size()), blocks.data()));
  const auto written = q4.bytes(q4.at("blk.0.ffn_up.weight"));
  ASSERT_EQ(written.size(), blocks.size());
  EXPECT_EQ(std::memcmp(written.data(), blocks.data(), blocks.size()), 0);

  const auto k_b = floats(write("f.gguf", "fp32"), "blk.1.attn_k_b.weight");
  for (size_t i = 0; i < k_b.size(); ++i) {
    f16 half;
    std::memcpy(&half, q8.bytes(q8.at("blk.1.attn_k_b.weight")).data() + 2 * i, 2);
    ASSERT_EQ(half.bits, to_f16(k_b[i]).bits);
  }
}

TEST_F(GgufExport, fp8_sources_are_read_directly) {
  ConvertOptions options;
  options.dtype = "fp8";
  convert_checkpoint(source_, scratch_ / "fp8", options);
  source_ = scratch_ / "fp8";
  const GgufFile file = write("x.gguf", "fp32");
  EXPECT_EQ(floats(file, "blk.0.attn_q_b.weight"), hf("model.layers.0.self_attn.q_b_proj.weight"));
}

TEST_F(GgufExport, cuts_take_layers_experts_and_their_router_rows) {
  CutOptions cut;
  cut.layers = "0,2";
  cut.experts = "0-1,4-5";
  const GgufFile file = write("x.gguf", "fp32", cut);
  const auto router = hf("model.layers.2.mlp.gate.weight"), rows = floats(file, "blk.1.ffn_gate_inp.weight");
  ASSERT_EQ(rows.size(), static_cast<size_t>(4 * kHidden));
  EXPECT_EQ(std::memcmp(rows.data() + 2 * kHidden, router.data() + 4 * kHidden, 2 * kHidden * sizeof(float)),
            0);
  const auto stack = floats(file, "blk.1.ffn_down_exps.weight"),
             one = hf("model.layers.2.mlp.experts.5.down_proj.weight");
  EXPECT_EQ(std::memcmp(stack.data() + 3 * one.size(), one.data(), one.size() * sizeof(float)), 0);
}

TEST_F(GgufExport, half_split_rotary_rows_become_adjacent_pairs) {
  Json json = small_json();
  json["rope_interleave"] = false;
  make(json);
  const GgufFile file = write("x.gguf", "fp32");
  const auto expect_rows = [&](const char* gguf, const std::string& name, int64_t heads, int64_t size) {
    const auto a = floats(file, gguf), b = hf(name);
    const auto width = static_cast<int64_t>(a.size()) / (heads * size);
    for (int64_t row = 0; row < heads * size; ++row) {
      const int64_t in_head = row % size, rope = in_head - (size - kRope);
      const int64_t from = rope < 0 ? row : row - rope + (rope % 2 == 0 ? rope / 2 : kRope / 2 + rope / 2);
      EXPECT_EQ(std::memcmp(a.data() + row * width, b.data() + from * width, static_cast<size_t>(width) * 4),
                0)
          << gguf << " row " << row;
    }
  };
  expect_rows("blk.1.attn_q_b.weight", "model.layers.1.self_attn.q_b_proj.weight", kHeads, kNope + kRope);
  expect_rows("blk.1.attn_kv_a_mqa.weight", "model.layers.1.self_attn.kv_a_proj_with_mqa.weight", 1,
              kRank + kRope);
}

// As llama.cpp computes them (src/llama-context.cpp, src/models/deepseek2.cpp of llama-cpp-python 0.3.36).
TEST_F(GgufExport, yarn_gives_llama_cpp_our_amplitude_and_softmax_scale) {
  struct Case {
    double mscale, all_dim;
    bool is_published;
  };
  for (const Case& it : {Case{1, 1, true}, Case{0.707, 0.707, true}, Case{1, 0.5, false}, Case{0, 0, false},
                         Case{0, 0.7, false}}) {
    Json json = small_json();
    json["rope_scaling"] = {{"type", "yarn"},
                            {"factor", 40},
                            {"original_max_position_embeddings", 64},
                            {"beta_fast", 32},
                            {"beta_slow", 1}};
    if (it.mscale != 0) json["rope_scaling"]["mscale"] = it.mscale;
    if (it.all_dim != 0) json["rope_scaling"]["mscale_all_dim"] = it.all_dim;
    const config::ModelConfig model = config::parse_model_config(json, "yarn");
    GgufMetadata metadata;
    add_gguf_model(model, "yarn", metadata);
    const auto number = [&](const std::string& key, double otherwise) {
      for (const auto& [name, value] : metadata)
        if (name == "deepseek2.rope.scaling." + key) return std::get<double>(value.value);
      return otherwise;
    };
    const double log_multiplier = number("yarn_log_multiplier", 0) / 0.1, log_factor = 0.1 * std::log(40.0);
    double attn_factor = log_multiplier != 0 ? 1 : 1 + log_factor;
    attn_factor /= 1 + log_factor;
    attn_factor *= number("attn_factor", 1);
    const double amplitude = attn_factor * (1 + log_factor);
    const double mscale = amplitude * (1 + log_multiplier * log_factor);
    EXPECT_NEAR(amplitude, model.rope_amplitude(), 1e-6) << it.mscale << " " << it.all_dim;
    EXPECT_NEAR(mscale * mscale / std::sqrt(static_cast<double>(model.qk_head_dim())), model.softmax_scale(),
                1e-6 * model.softmax_scale())
        << it.mscale << " " << it.all_dim;
    if (it.is_published) {
      EXPECT_EQ(number("yarn_log_multiplier", 0), static_cast<double>(static_cast<float>(0.1 * it.all_dim)));
      EXPECT_EQ(number("attn_factor", -1), -1);
    }
  }
}

TEST_F(GgufExport, the_tokenizer_is_spelled_out) {
  GgufMetadata metadata;
  Json json = small_json();
  json["vocab_size"] = 129280;
  const config::ModelConfig model = config::parse_model_config(json, "small");
  add_gguf_tokenizer(model, fs::path(FATHOM_SOURCE_DIR) / "assets/tokenizer", metadata);
  const auto value = [&](const std::string& key) {
    for (const auto& [name, held] : metadata)
      if (name == "tokenizer." + key) return held;
    ADD_FAILURE() << key;
    return GgufValue();
  };
  const auto array = [&](const std::string& key) { return std::get<GgufValue::Array>(value(key).value); };
  EXPECT_EQ(std::get<std::string>(value("ggml.pre").value), "deepseek-v3");
  EXPECT_EQ(array("ggml.tokens").size(), 129280U);
  EXPECT_EQ(array("ggml.token_type").size(), 129280U);
  EXPECT_EQ(array("ggml.merges").size(), 127741U);
  EXPECT_EQ(std::get<std::string>(array("ggml.merges")[0].value), "\xC4\xA0 t");  // U+0120
  EXPECT_EQ(std::get<uint64_t>(value("ggml.bos_token_id").value), 0U);
  EXPECT_EQ(std::get<int64_t>(array("ggml.token_type")[0].value), 3);
  EXPECT_EQ(std::get<std::string>(array("ggml.tokens")[129279].value), "[PAD129279]");
  EXPECT_EQ(std::get<int64_t>(array("ggml.token_type")[129279].value), 5);

  const config::ModelConfig small = config::parse_model_config(small_json(), "small");
  EXPECT_THAT(message_of([&] {
                add_gguf_tokenizer(small, fs::path(FATHOM_SOURCE_DIR) / "assets/tokenizer", metadata);
              }),
              HasSubstr("vocab_size is 44"));
  make_directories(scratch_ / "bytes");
  test::write_byte_tokenizer(scratch_ / "bytes");
  EXPECT_THAT(message_of([&] { add_gguf_tokenizer(model, scratch_ / "bytes", metadata); }),
              HasSubstr("llama.cpp knows no name"));
}

TEST_F(GgufExport, what_llama_cpp_cannot_run_is_refused) {
  const auto refusal = [](const std::function<void(Json&)>& change) {
    Json json = small_json();
    change(json);
    const config::ModelConfig model = config::parse_model_config(json, "small");
    GgufMetadata metadata;
    return message_of([&] { add_gguf_model(model, "small", metadata); });
  };
  EXPECT_EQ(refusal([](Json&) {}), "");
  EXPECT_THAT(refusal([](Json& json) { json["num_hidden_layers"] = 27; }), HasSubstr("DeepSeek-V2-Lite"));
  EXPECT_THAT(refusal([](Json& json) { json["n_shared_experts"] = 0; }), HasSubstr("n_shared_experts"));
  EXPECT_EQ(refusal([](Json& json) { json["num_hidden_layers"] = 27, json["q_lora_rank"] = nullptr; }), "");
}

TEST_F(GgufExport, a_fault_or_stop_leaves_no_file) {
  const fs::path file = scratch_ / "out" / "x.gguf";
  GgufOptions options;
  options.dtype = "fp32";
  std::atomic<int> asked = 0;
  options.is_stopped = [&] { return ++asked > 5; };
  EXPECT_THAT(message_of([&] { export_gguf(source_, file, options); }), HasSubstr("starts anew"));
  EXPECT_TRUE(fs::is_empty(file.parent_path()));
  options.is_stopped = [] { return false; };
  options.dtype = "fp8";
  EXPECT_THAT(message_of([&] { export_gguf(source_, file, options); }), HasSubstr("q8_0"));
  options.dtype = "q8_0";
  export_gguf(source_, file, options);
  EXPECT_THAT(message_of([&] { export_gguf(source_, file, options); }), HasSubstr("exists already"));
  EXPECT_THAT(message_of([&] { export_gguf(source_, file.parent_path(), options); }),
              HasSubstr("is a directory"));
}

}  // namespace
}  // namespace fathom::checkpoint
