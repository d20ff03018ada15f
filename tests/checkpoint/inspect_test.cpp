#include "checkpoint/inspect.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <functional>

#include "base/bfloat16.h"
#include "base/error.h"
#include "base/file.h"
#include "checkpoint/compare.h"
#include "checkpoint/convert.h"
#include "checkpoint/init.h"
#include "support/scratch.h"
#include "support/small_checkpoint.h"

namespace fathom::checkpoint {
namespace {

using formats::Dtype;
using test::small_model;
using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::SizeIs;

constexpr const char* kHeadCopy = "model.layers.4.shared_head.head.weight";

std::vector<std::string> places(const std::vector<LayerRow>& rows) {
  std::vector<std::string> texts;
  for (const LayerRow& row : rows)
    texts.push_back(row.first < 0 ? row.kind : fmt::format("{} {}-{}", row.kind, row.first, row.last));
  return texts;
}

int64_t sum(const std::vector<LayerRow>& rows, const std::function<int64_t(const LayerRow&)>& of) {
  int64_t result = 0;
  for (const LayerRow& row : rows) result += row.count() * of(row);
  return result;
}

class Inspect : public ::testing::Test {
 protected:
  Inspect() { init_checkpoint(small_model(), Dtype::BF16, 7, source_); }

  fs::path converted(const std::string& name, const std::string& dtype,
                     uint64_t shard_bytes = kDefaultShardBytes) {
    ConvertOptions options;
    options.dtype = dtype;
    options.max_shard_bytes = shard_bytes;
    convert_checkpoint(source_, scratch_ / name, options);
    return scratch_ / name;
  }
  // Another checkpoint, with these bfloat16 values at the beginning of a tensor.
  fs::path changed(const std::string& tensor, const std::vector<float>& values) {
    const fs::path directory = scratch_ / "changed";
    fs::copy(source_, directory, fs::copy_options::overwrite_existing | fs::copy_options::recursive);
    const fs::path path = directory / formats::kSingleFileName;
    std::string bytes = read_text_file(path);
    const uint64_t offset = formats::SafetensorsFile(path).at(tensor).offset;
    for (size_t i = 0; i < values.size(); ++i) {
      const bf16 value = to_bf16(values[i]);
      std::memcpy(bytes.data() + offset + 2 * i, &value, 2);
    }
    write_text_file(path, bytes);
    return directory;
  }
  static std::string checksum(const fs::path& path) {
    Inspection inspection = inspect(path);
    add_checksums(inspection);
    return inspection.checksum;
  }

  const test::ScratchDirectory scratch_;
  const fs::path source_ = scratch_ / "source";
};

TEST_F(Inspect, layers_add_up_whatever_is_looked_at) {
  const config::ParameterCounts counts = config::count_parameters(small_model());
  const std::vector<std::string> expected = {"embedding", "dense 0-0", "MoE 1-3", "norm", "head", "MTP 4-4"};
  for (const char* name : {"", "config.json", "model.safetensors"}) {
    const Inspection inspection = inspect(source_ / name);
    const bool has_config = std::string(name) != "model.safetensors";
    EXPECT_THAT(places(inspection.layers), ::testing::ElementsAreArray(expected)) << name;
    EXPECT_EQ(sum(inspection.layers, [](const auto& row) { return row.parameters; }),
              counts.trunk + counts.mtp);
    EXPECT_EQ(sum(inspection.layers, [](const auto& row) { return row.parameters + row.copies; }),
              counts.stored);
    EXPECT_EQ(sum(inspection.layers, [](const auto& row) { return static_cast<int64_t>(row.bytes()); }),
              static_cast<int64_t>(inspection.total_bytes()));
    EXPECT_EQ(inspection.stored_parameters, counts.stored);
    EXPECT_EQ(inspection.total_parameters(), has_config ? counts.trunk : counts.stored);
    EXPECT_EQ(inspection.layers.front().active.has_value(), has_config);
    if (!has_config) continue;
    EXPECT_EQ(
        sum(inspection.layers, [](const auto& row) { return row.kind == "MTP" ? 0 : row.active.value(); }),
        counts.activated);
    // 2 of 16 experts of 3 matrices, [64, 160] and back, are at work.
    EXPECT_LT(*inspection.layers[2].active, inspection.layers[2].parameters);
    EXPECT_EQ(*inspection.layers[1].active, inspection.layers[1].parameters);
  }
}

TEST_F(Inspect, the_published_model_by_its_config_alone) {
  const Inspection v3 = inspect(fs::path(FATHOM_SOURCE_DIR) / "configs/models/deepseek-v3-671b.json");
  EXPECT_EQ(v3.total_parameters(), 671'026'419'200);
  EXPECT_THAT(places(v3.layers),
              ElementsAre("embedding", "dense 0-2", "MoE 3-60", "norm", "head", "MTP 61-61"));
  EXPECT_EQ(v3.layers[2].count(), 58);
}

TEST_F(Inspect, scales_are_no_parameters) {
  const Inspection plain = inspect(source_), fp8 = inspect(converted("fp8", "fp8"));
  EXPECT_EQ(plain.scale_tensors, 0);
  EXPECT_EQ(fp8.scale_tensors, 5 * 5 + 3 + 4 * 3 * 17);
  EXPECT_EQ(fp8.scale_bytes, 4U * static_cast<uint64_t>(fp8.scale_elements));
  EXPECT_EQ(fp8.stored_parameters, plain.stored_parameters);
  EXPECT_EQ(sum(fp8.layers, [](const auto& row) { return row.scales; }), fp8.scale_elements);
  EXPECT_THAT(fp8.missing, IsEmpty());
  EXPECT_THAT(fp8.unexpected, IsEmpty());
  // What config.json alone implies is what is stored.
  const Inspection implied = inspect(scratch_ / "fp8/config.json");
  EXPECT_EQ(implied.bytes_by_dtype, fp8.bytes_by_dtype);
  EXPECT_EQ(implied.scale_elements, fp8.scale_elements);
}

TEST_F(Inspect, WT_9_a_checksum_of_contents_knows_neither_cuts_nor_order) {
  const std::string whole = checksum(source_);
  EXPECT_THAT(whole, SizeIs(16));
  const fs::path cut = converted("cut", "", 300'000);
  EXPECT_GT(inspect(cut).files, 3U);
  EXPECT_EQ(checksum(cut), whole);
  EXPECT_EQ(checksum(source_ / "model.safetensors"), whole);
  EXPECT_NE(checksum(changed("model.norm.weight", {3})), whole);
  Inspection a = inspect(source_), b = inspect(cut);
  add_checksums(a), add_checksums(b);
  std::map<std::string, std::string> sums;
  for (const InspectedTensor& tensor : a.tensors) sums[tensor.name] = tensor.xxh3;
  for (const InspectedTensor& tensor : b.tensors) EXPECT_EQ(tensor.xxh3, sums.at(tensor.name)) << tensor.name;
  Inspection config = inspect(source_ / "config.json");
  EXPECT_THROW(add_checksums(config), UsageError);
}

TEST_F(Inspect, mtp_copies_are_told_from_parameters) {
  Inspection whole = inspect(source_);
  ASSERT_THAT(whole.mtp_copies, SizeIs(2));
  EXPECT_FALSE(whole.mtp_copies[1].is_equal);
  add_checksums(whole);
  EXPECT_EQ(whole.mtp_copies[0].is_equal, true);
  EXPECT_EQ(whole.mtp_copies[1].name, kHeadCopy);
  EXPECT_EQ(whole.mtp_copies[1].source, "lm_head.weight");
  Inspection other = inspect(changed(kHeadCopy, {100}));
  add_checksums(other);
  EXPECT_EQ(other.mtp_copies[0].is_equal, true);
  EXPECT_EQ(other.mtp_copies[1].is_equal, false);
  test::rewrite_tensors(source_ / "model.safetensors", [](auto& tensor) { return tensor.name != kHeadCopy; });
  const Inspection tied = inspect(source_);
  EXPECT_FALSE(tied.mtp_copies[1].is_stored);
  EXPECT_THAT(tied.missing, IsEmpty()) << "WT-7: tied";
}

TEST_F(Inspect, missing_unknown_and_unused_tensors_are_listed) {
  test::rewrite_tensors(source_ / "model.safetensors",
                        [](auto& tensor) { return tensor.name != "model.layers.2.mlp.gate.weight"; },
                        {{"model.layers.3.mlp.foo", Dtype::BF16, {2}},
                         {"model.layers.9.eh_proj.weight", Dtype::BF16, {2}},
                         {"model.layers.0.self_attn.rotary_emb.inv_freq", Dtype::F32, {2}}});
  const Inspection inspection = inspect(source_);
  EXPECT_THAT(inspection.missing, ElementsAre("model.layers.2.mlp.gate.weight"));
  EXPECT_THAT(inspection.unexpected, ElementsAre("model.layers.3.mlp.foo"));
  EXPECT_THAT(inspection.unused, SizeIs(2));
}

TEST_F(Inspect, a_difference_says_how_much) {
  EXPECT_TRUE(compare(inspect(source_), inspect(converted("copy", "", 300'000))).identical());
  const auto old = formats::SafetensorsFile(source_ / "model.safetensors");
  const std::string name = "model.layers.1.mlp.gate.weight";
  const auto* values = reinterpret_cast<const bf16*>(old.bytes(name).data());
  double norm = 0;
  for (int64_t i = 0; i < old.at(name).numel(); ++i) norm += std::pow(to_float(values[i]), 2);
  const float first = to_float(values[0]), second = to_float(values[1]);
  const auto difference = compare(inspect(source_), inspect(changed(name, {first + 1, second - 3})));
  ASSERT_THAT(difference.differing, SizeIs(1));
  const TensorDifference& tensor = difference.differing[0];
  EXPECT_EQ(tensor.name, name);
  EXPECT_EQ(tensor.what, "values");
  EXPECT_EQ(tensor.elements, 2U);
  EXPECT_EQ(tensor.numel, 16 * 160);
  EXPECT_NEAR(tensor.max_absolute, 3, 0.02);  // the sums are rounded to bfloat16
  EXPECT_NEAR(tensor.relative, std::sqrt(10 / norm), 0.01 * std::sqrt(10 / norm));
  EXPECT_FALSE(difference.identical());

  const auto nan = compare(inspect(source_), inspect(changed(name, {NAN})));
  EXPECT_EQ(nan.differing.at(0).max_absolute, HUGE_VAL);
  // A zero of the other sign is another zero, at no distance.
  changed("model.norm.weight", {0});
  fs::rename(scratch_ / "changed", scratch_ / "zero");
  const auto zero = compare(inspect(scratch_ / "zero"), inspect(changed("model.norm.weight", {-0.0f})));
  EXPECT_EQ(zero.differing.at(0).elements, 1U);
  EXPECT_EQ(zero.differing.at(0).max_absolute, 0);
}

TEST_F(Inspect, other_dtypes_are_compared_by_their_values) {
  const Inspection plain = inspect(source_), fp8 = inspect(converted("fp8", "fp8"));
  for (const auto& tensor : compare(plain, inspect(converted("wide", "fp32"))).differing) {
    EXPECT_EQ(tensor.what, "dtype BF16, F32");
    EXPECT_TRUE(tensor.has_values);
    EXPECT_EQ(tensor.elements, 0U) << tensor.name;
  }
  for (const bool swapped : {false, true}) {
    const CheckpointDifference difference = swapped ? compare(fp8, plain) : compare(plain, fp8);
    EXPECT_THAT(difference.only_first, IsEmpty());
    EXPECT_THAT(difference.only_second, IsEmpty());
    EXPECT_THAT(difference.differing, SizeIs(5 * 5 + 3 + 4 * 3 * 17));
    for (const TensorDifference& tensor : difference.differing) {
      EXPECT_GT(tensor.elements, 0U) << tensor.name;
      EXPECT_GT(tensor.relative, 0.01);
      EXPECT_LT(tensor.relative, 0x1p-4) << "half a unit in the last place of e4m3";
    }
  }
  ASSERT_THAT(compare(plain, fp8).config, SizeIs(1));
  EXPECT_EQ(compare(plain, fp8).config[0].key, "quantization_config");
  // Headers alone against a config.
  EXPECT_TRUE(compare(fp8, inspect(scratch_ / "fp8/config.json")).identical());
  EXPECT_EQ(compare(fp8, inspect(scratch_ / "fp8/config.json")).compared, 0U);
}

TEST_F(Inspect, fp8_scales_are_part_of_the_values) {
  const fs::path a = converted("a", "fp8"), b = converted("b", "fp8");
  const std::string name = "model.layers.0.mlp.up_proj.weight";
  const fs::path file = b / "model.safetensors";
  std::string bytes = read_text_file(file);
  const float doubled = 2;
  std::memcpy(bytes.data() + formats::SafetensorsFile(file).at(name + "_scale_inv").offset, &doubled, 4);
  write_text_file(file, bytes);
  const CheckpointDifference difference = compare(inspect(a), inspect(b));
  ASSERT_THAT(difference.differing, SizeIs(2));
  for (const TensorDifference& tensor : difference.differing)
    EXPECT_EQ(tensor.elements > 1, tensor.name == name) << tensor.name;
}

}  // namespace
}  // namespace fathom::checkpoint
