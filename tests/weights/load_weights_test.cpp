// An HF checkpoint into a registry: dtypes, fp8 blocks, and what is refused.
#include "weights/load_weights.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fmt/ranges.h>
#include <cmath>
#include <cstring>

#include <fstream>
#include <functional>

#include "base/error.h"
#include "support/scratch.h"
#include "support/tiny_registry.h"

namespace fathom {
namespace {

using formats::Dtype;
using testing::HasSubstr;

struct Tensor {
  Dtype dtype;
  std::vector<int64_t> shape;
  std::vector<std::byte> bytes;
};
using Tensors = std::map<std::string, Tensor>;

template <typename T>
std::vector<std::byte> bytes_of(const std::vector<T>& values) {
  std::vector<std::byte> bytes(values.size() * sizeof(T));
  std::memcpy(bytes.data(), values.data(), bytes.size());
  return bytes;
}

// Every tensor that the model implies, fp32, value = position / 64.
Tensors whole_model(const config::ModelConfig& model) {
  Tensors tensors;
  const config::TensorTable table(model);
  for (const config::TensorSpec& spec : table.tensors()) {
    std::vector<float> values(static_cast<size_t>(spec.numel()));
    for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i) / 64.0f;
    tensors[spec.name] = {Dtype::F32, spec.shape, bytes_of(values)};
  }
  return tensors;
}

void write(const std::filesystem::path& directory, const Tensors& tensors) {
  std::vector<formats::TensorDeclaration> declarations;
  for (const auto& [name, t] : tensors) declarations.push_back({name, t.dtype, t.shape});
  formats::SafetensorsWriter writer(directory / formats::kSingleFileName, declarations);
  for (const auto& [name, t] : tensors) writer.write(name, t.bytes);
  writer.commit();
}

std::string error_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const CheckpointError& e) {
    return e.what();
  }
  return "";
}

std::vector<float> values_of(weights::ParameterRegistry& registry, const std::string& name) {
  auto [parameter, piece] = registry.find(name);
  std::vector<float> values(static_cast<size_t>(piece->numel()));
  registry.get_master(*parameter, *piece, values.data());
  return values;
}

class LoadWeights : public testing::Test {
 protected:
  std::string load(const Tensors& tensors, config::Precision precision = config::Precision::fp32) {
    write(scratch_.path(), tensors);
    registry_ = test::tiny_registry(model_, precision);
    return error_of([&] { weights::load_weights(*registry_, scratch_.path()); });
  }
  config::ModelConfig model_ = test::tiny_model();
  test::ScratchDirectory scratch_;
  std::unique_ptr<weights::ParameterRegistry> registry_;
};

TEST_F(LoadWeights, every_value_arrives_and_masters_keep_the_files_bits) {
  const Tensors tensors = whole_model(model_);
  ASSERT_EQ(load(tensors, config::Precision::bf16), "");
  for (const weights::Parameter& parameter : registry_->parameters()) {
    for (const weights::Piece& piece : parameter.pieces) {
      const std::vector<float> values = values_of(*registry_, piece.spec->name);
      EXPECT_EQ(std::memcmp(values.data(), tensors.at(piece.spec->name).bytes.data(), values.size() * 4), 0)
          << piece.spec->name;
    }
  }
}

TEST_F(LoadWeights, half_and_bfloat16_are_read) {
  Tensors tensors = whole_model(model_);
  tensors["model.norm.weight"] = {
      Dtype::F16,
      {model_.hidden_size},
      bytes_of(std::vector<uint16_t>(static_cast<size_t>(model_.hidden_size), 0x3e00))};
  tensors["lm_head.weight"] = {
      Dtype::BF16,
      {model_.vocab_size, model_.hidden_size},
      bytes_of(std::vector<uint16_t>(static_cast<size_t>(model_.vocab_size * model_.hidden_size), 0xc040))};
  ASSERT_EQ(load(tensors), "");
  EXPECT_EQ(values_of(*registry_, "model.norm.weight")[3], 1.5f);
  EXPECT_EQ(values_of(*registry_, "lm_head.weight").back(), -3.0f);
}

// All 256 codes, by the definition of the format (OCP 8-bit floating point, E4M3).
TEST_F(LoadWeights, WT_1_every_e4m3_code) {
  model_ = test::tiny_model(256, 37);
  Tensors tensors = whole_model(model_);
  const std::string name = "model.layers.0.mlp.gate_proj.weight";  // [20, 256]
  std::vector<uint8_t> codes;
  for (int row = 0; row < 20; ++row)
    for (int code = 0; code < 256; ++code) codes.push_back(static_cast<uint8_t>(code));
  for (const float scale : {1.0f, 0.3f}) {
    tensors[name] = {Dtype::F8_E4M3, {20, 256}, bytes_of(codes)};
    tensors[name + "_scale_inv"] = {Dtype::F32, {1, 2}, bytes_of(std::vector<float>{scale, 2 * scale})};
    ASSERT_EQ(load(tensors), "");
    const std::vector<float> values = values_of(*registry_, name);
    for (int code = 0; code < 256; ++code) {
      const float used = code < 128 ? scale : 2 * scale;  // the second block of columns
      if ((code & 0x7f) == 0x7f) {
        EXPECT_TRUE(std::isnan(values[code])) << code;
        continue;
      }
      const int exponent = code >> 3 & 15;
      double magnitude =
          exponent == 0 ? (code & 7) * std::pow(2.0, -9) : (8 + (code & 7)) * std::pow(2.0, exponent - 10);
      if (code & 0x80) magnitude = -magnitude;
      EXPECT_EQ(values[code], static_cast<float>(magnitude) * used) << code;
      EXPECT_EQ(std::signbit(values[code]), (code & 0x80) != 0) << code << ": -0 stays -0";
    }
    EXPECT_EQ(values[0x7e], 448.0f * scale);
    EXPECT_EQ(values[0x01], std::ldexp(1.0f, -9) * scale);
  }
}

TEST_F(LoadWeights, fp8_ragged_blocks_and_power_of_two_scales) {
  model_ = test::tiny_model(200, 131);
  Tensors tensors = whole_model(model_);
  const std::string name = "lm_head.weight";  // [131, 200]: blocks of 128 + 3 rows, 128 + 72 columns
  tensors[name] = {Dtype::F8_E4M3, {131, 200}, bytes_of(std::vector<uint8_t>(131 * 200, 0x38))};  // 1.0
  tensors[name + "_scale_inv"] = {Dtype::F8_E8M0, {2, 2}, bytes_of(std::vector<uint8_t>{127, 128, 129, 126})};
  ASSERT_EQ(load(tensors), "");
  const std::vector<float> values = values_of(*registry_, name);
  EXPECT_EQ(values[0], 1.0f);
  EXPECT_EQ(values[128], 2.0f);
  EXPECT_EQ(values[128 * 200], 4.0f);
  EXPECT_EQ(values[130 * 200 + 199], 0.5f);
}

TEST_F(LoadWeights, fp8_without_its_scale_or_with_another_shape_is_refused) {
  Tensors tensors = whole_model(model_);
  const std::string name = "lm_head.weight";
  tensors[name].dtype = Dtype::F8_E4M3;
  tensors[name].bytes.resize(static_cast<size_t>(model_.vocab_size * model_.hidden_size));
  EXPECT_THAT(load(tensors), HasSubstr("lm_head.weight_scale_inv is missing"));
  tensors[name + "_scale_inv"] = {Dtype::F32, {2, 1}, bytes_of(std::vector<float>{1, 1})};
  EXPECT_THAT(load(tensors), HasSubstr("does not fit 128x128 blocks"));
}

// Files without "__metadata__" {"format": "pt"} are what some converters write.
TEST_F(LoadWeights, WT_4_a_header_without_metadata) {
  const Tensors tensors = whole_model(model_);
  std::string header = "{";
  std::string data;
  for (const auto& [name, t] : tensors) {
    header += fmt::format("{}\"{}\":{{\"dtype\":\"F32\",\"shape\":[{}],\"data_offsets\":[{},{}]}}",
                          header.size() > 1 ? "," : "", name, fmt::join(t.shape, ","), data.size(),
                          data.size() + t.bytes.size());
    data.append(reinterpret_cast<const char*>(t.bytes.data()), t.bytes.size());
  }
  header += "}";
  const auto length = static_cast<uint64_t>(header.size());
  std::ofstream file(scratch_.path() / formats::kSingleFileName, std::ios::binary);
  file.write(reinterpret_cast<const char*>(&length), 8);
  file << header << data;
  file.close();
  registry_ = test::tiny_registry(model_, config::Precision::fp32);
  EXPECT_EQ(error_of([&] { weights::load_weights(*registry_, scratch_.path()); }), "");
}

TEST_F(LoadWeights, WT_6_mtp_is_left_out_with_a_word_and_an_unknown_tensor_is_an_error) {
  Tensors tensors = whole_model(model_);
  model_.num_nextn_predict_layers = 0;
  testing::internal::CaptureStderr();
  EXPECT_EQ(load(tensors), "");
  EXPECT_THAT(testing::internal::GetCapturedStderr(), HasSubstr("MTP block found"));
  tensors["model.layers.2.mlp.foo"] = {Dtype::F32, {1}, bytes_of(std::vector<float>{1})};
  EXPECT_THAT(load(tensors), HasSubstr("model.layers.2.mlp.foo is not part of the model"));
}

TEST_F(LoadWeights, WT_7_a_tensor_that_no_file_holds_is_an_error_unless_it_is_tied) {
  Tensors tensors = whole_model(model_);
  testing::internal::CaptureStderr();
  EXPECT_EQ(load(tensors), "");
  EXPECT_EQ(testing::internal::GetCapturedStderr().find("trunk"), std::string::npos);
  tensors["model.layers.3.shared_head.head.weight"].bytes[3] ^= std::byte{1};
  testing::internal::CaptureStderr();
  EXPECT_EQ(load(tensors), "");
  EXPECT_THAT(testing::internal::GetCapturedStderr(),
              HasSubstr("model.layers.3.shared_head.head.weight differs from lm_head.weight"));
  tensors.erase("model.layers.3.shared_head.head.weight");
  testing::internal::CaptureStderr();
  EXPECT_EQ(load(tensors), "");
  EXPECT_THAT(testing::internal::GetCapturedStderr(),
              HasSubstr("model.layers.3.shared_head.head.weight not there: tied to the trunk's"));
  tensors.erase("model.layers.3.eh_proj.weight");
  EXPECT_THAT(load(tensors), HasSubstr("model.layers.3.eh_proj.weight is missing"));
}

TEST_F(LoadWeights, another_shape_names_both) {
  Tensors tensors = whole_model(model_);
  tensors["model.norm.weight"] = {Dtype::F32, {3}, bytes_of(std::vector<float>{1, 2, 3})};
  EXPECT_THAT(load(tensors), testing::AllOf(HasSubstr("[3]"), HasSubstr("[24]")));
}

TEST_F(LoadWeights, integers_are_no_weights) {
  Tensors tensors = whole_model(model_);
  tensors["model.norm.weight"].dtype = Dtype::I32;
  EXPECT_THAT(load(tensors), HasSubstr("I32"));
}

}  // namespace
}  // namespace fathom
