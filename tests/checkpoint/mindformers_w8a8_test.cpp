// MindFormers' w8a8 against files made by hand from its tables (make_mindformers_fixture.py), both ways.
#include "checkpoint/mindformers_w8a8.h"

#include "checkpoint/quantize.h"
#include "mindformers_fixture.h"

namespace fathom::checkpoint {
namespace {

using formats::Dtype;
using formats::TensorDeclaration;
using ::testing::AllOf;
using ::testing::HasSubstr;

// As the fixture has them: channel j lies in [j + 1 - half, j + 1 + half].
StaticActivation inputs_of(const config::TensorTable& table, const std::string& name) {
  const float half = name.ends_with("q_b_proj.weight") ? 6.0f
                     : name.ends_with("o_proj.weight") ? 10.0f
                                                       : 4.0f;
  std::vector<float> minimum, maximum;
  for (int64_t j = 1; j <= table.at(name).shape[1]; ++j) {
    minimum.push_back(static_cast<float>(j) - half);
    maximum.push_back(static_cast<float>(j) + half);
  }
  return static_activation(minimum, maximum);
}

class MindformersW8A8 : public MindformersTest {
 protected:
  fs::path hf(const std::string& model) {
    const fs::path directory = scratch_ / (model + "_floats");
    fs::create_directories(directory);
    fs::copy_file(kMindformersFixture / model / "w8a8_hf.safetensors", directory / "model.safetensors");
    fs::copy_file(kMindformersFixture / model / "config.json", directory / "config.json");
    return directory;
  }
  QuantizeOptions options(const fs::path& source) {
    QuantizeOptions result;
    result.scheme = kW8A8Scheme;
    result.is_stopped = [] { return false; };
    const auto table = std::make_shared<config::TensorTable>(config::read_model_config(source));
    result.static_inputs = [table](const std::string& name) { return inputs_of(*table, name); };
    return result;
  }
};

TEST_F(MindformersW8A8, hf_becomes_what_the_tables_say) {
  for (const char* model : {"v3", "lite"}) {
    const fs::path source = hf(model);
    for (const bool is_fused : {false, true}) {
      SCOPED_TRACE(std::string(model) + (is_fused ? " fused" : ""));
      QuantizeOptions to = options(source);
      to.has_fused_qkv = to.has_fused_ffn = is_fused;
      const fs::path made = scratch_ / (std::string(model) + (is_fused ? "_fused" : "_plain"));
      const QuantizeReport report = quantize_checkpoint(source, made, to);
      const std::string file = is_fused ? "w8a8_fused.safetensors" : "w8a8.safetensors";
      expect_same_tensors(AllTensors(made), AllTensors(kMindformersFixture / model / file));
      for (const QuantizedTensor& tensor : report.tensors) {
        EXPECT_GT(tensor.error.elements, 0) << tensor.name;
        EXPECT_EQ(tensor.error.largest_error, 0) << tensor.name;
      }
      EXPECT_TRUE(fs::exists(made / "param_name_map.json"));
      EXPECT_TRUE(fs::exists(made / "model_layer_1_routed_experts_w2.safetensors"));
      const Json types = read_json_file(made / kW8A8DescriptionName);
      if (!is_fused) {
        const Json expected = read_json_file(kMindformersFixture / model / "w8a8.json");
        for (const auto& [name, type] : expected.items()) EXPECT_EQ(types.at(name), type) << name;
      }
      EXPECT_EQ(types.size(), AllTensors(made).names().size());
    }
  }
}

TEST_F(MindformersW8A8, what_the_tables_say_becomes_hf) {
  for (const char* model : {"v3", "lite"})
    for (const char* file : {"w8a8", "w8a8_fused"}) {
      SCOPED_TRACE(std::string(model) + " " + file);
      const fs::path back = to_hf(strange_directory(model, file), std::string(model) + file);
      expect_same_tensors(AllTensors(back), AllTensors(kMindformersFixture / model / "w8a8_hf.safetensors"));
      EXPECT_FALSE(config::read_model_config(back).quantization.has_value());
    }
}

// As MindFormers' loader renames what it reads, and with an input scale for every channel, as Golden Stick has it.
TEST_F(MindformersW8A8, other_names_of_the_same_are_read) {
  const fs::path there = strange_directory("v3", "w8a8");
  const std::pair<const char*, const char*> names[] = {{"._layer.matmul.dequant_scale", ".deq_scale"},
                                                       {"._layer.matmul.weight_scale", ".w_scale"},
                                                       {"._layer.matmul.", "."},
                                                       {"._layer.", "."},
                                                       {".quant_op.input_zp", ".input_offset"},
                                                       {".quant_op.", "."}};
  test::rewrite_tensors(there / "weights.safetensors", [&](TensorDeclaration& t) {
    for (const auto& [from, to] : names)
      if (const size_t at = t.name.find(from); at != std::string::npos) {
        t.name.replace(at, std::string(from).size(), to);
        break;
      }
    return true;
  });
  expect_same_tensors(AllTensors(to_hf(there, "renamed")),
                      AllTensors(kMindformersFixture / "v3/w8a8_hf.safetensors"));
}

// Where channels have scales of their own, a weight is worth code * dequant_scale / input_scale of its column.
TEST_F(MindformersW8A8, smoothed_inputs_are_taken_out) {
  const fs::path there = strange_directory("v3", "w8a8");
  const std::string name = "model.layers.0.attention.wo.";
  const float scales[] = {0.5f, 1, 2, 4, 0.25f, 8};
  const auto file = std::make_shared<formats::SafetensorsFile>(there / "weights.safetensors");
  std::vector<TensorDeclaration> declared;
  for (const formats::TensorEntry& entry : file->tensors())
    declared.push_back({entry.name, entry.dtype, entry.shape});
  for (TensorDeclaration& tensor : declared)
    if (tensor.name == name + "quant_op.input_scale") tensor = {tensor.name, Dtype::F32, {6}};
  formats::SafetensorsWriter writer(there / "new.safetensors", declared);
  for (const TensorDeclaration& tensor : declared)
    writer.write(tensor.name, tensor.name == name + "quant_op.input_scale" ? std::as_bytes(std::span(scales))
                                                                           : file->bytes(tensor.name));
  writer.commit();
  fs::rename(there / "new.safetensors", there / "weights.safetensors");
  const AllTensors source(there), back(to_hf(there, "smooth"));
  const auto [code_file, codes] = source.at(name + "_layer.weight");
  const auto* code = reinterpret_cast<const int8_t*>(code_file->bytes(*codes).data());
  const std::vector<float> dequant = source.floats(name + "_layer.matmul.dequant_scale"),
                           values = back.floats("model.layers.0.self_attn.o_proj.weight");
  ASSERT_EQ(values.size(), 36u);
  for (size_t i = 0; i < 36; ++i)
    EXPECT_EQ(values[i], static_cast<float>(code[i]) * (dequant[i / 6] / scales[i % 6])) << i;
}

TEST_F(MindformersW8A8, what_does_not_fit_is_named) {
  const auto without = [&](const std::string& tensor, std::vector<int64_t> shape = {}) {
    const fs::path there = strange_directory("v3", "w8a8");
    test::rewrite_tensors(there / "weights.safetensors", [&](TensorDeclaration& t) {
      if (t.name != tensor) return true;
      t.shape = shape;
      return !shape.empty();
    });
    const std::string said = refusal(there);
    fs::remove_all(there);
    return said;
  };
  const std::string wo = "model.layers.0.attention.wo.", w1 = "model.layers.0.feed_forward.w1.";
  EXPECT_THAT(
      without(wo + "_layer.matmul.dequant_scale"),
      AllOf(HasSubstr("weights.safetensors"), HasSubstr(wo + "_layer.weight is int8"), HasSubstr("without")));
  EXPECT_THAT(without(wo + "quant_op.input_scale"),
              AllOf(HasSubstr("dequant_scale has no"), HasSubstr("input_scale")));
  EXPECT_THAT(without(wo + "quant_op.input_scale", {2}), HasSubstr("holds 2 scales"));
  EXPECT_THAT(without(w1 + "_layer.matmul.weight_scale", {4}), HasSubstr("holds 4 scales"));
  EXPECT_THAT(without(w1 + "_layer.weight", {9, 3}), AllOf(HasSubstr("[9, 3]"), HasSubstr("[9, 6]")));
  EXPECT_THAT(without(w1 + "_layer.weight"),
              AllOf(HasSubstr(w1 + "_layer.matmul.weight_scale"), HasSubstr("no int8 matrix is here")));
}

TEST_F(MindformersW8A8, needs_what_calibration_finds) {
  const fs::path source = hf("v3");
  QuantizeOptions without = options(source);
  without.static_inputs = nullptr;
  EXPECT_THROW(quantize_checkpoint(source, scratch_ / "out", without), UsageError);
  QuantizeOptions head = options(source);
  head.lm_head = "int8";
  EXPECT_THROW(quantize_checkpoint(source, scratch_ / "out", head), UsageError);
  QuantizeOptions fused = options(source);
  fused.scheme = "w8a8";
  fused.has_fused_qkv = true;
  EXPECT_THROW(quantize_checkpoint(source, scratch_ / "out", fused), UsageError);
  EXPECT_FALSE(fs::exists(scratch_ / "out"));
}

}  // namespace
}  // namespace fathom::checkpoint
