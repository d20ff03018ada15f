#include "checkpoint/init.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "base/file.h"
#include "checkpoint/compare.h"
#include "checkpoint/convert.h"
#include "checkpoint/inspect.h"
#include "support/scratch.h"
#include "support/small_checkpoint.h"

namespace fathom::checkpoint {
namespace {

using formats::Dtype;
using test::small_model;

class Init : public ::testing::TestWithParam<std::tuple<Dtype, const char*, Dtype, ScaleFormat>> {};

// What a dtype holds is what conversion makes of the wider one.
TEST_P(Init, is_the_conversion_of_a_wider_one) {
  const auto [dtype, name, wide, format] = GetParam();
  const test::ScratchDirectory scratch;
  init_checkpoint(small_model(), wide, 3, scratch / "wide");
  ConvertOptions options;
  options.dtype = name;
  if (dtype == Dtype::F8_E4M3 && format == ScaleFormat::ue8m0) options.scale_format = "ue8m0";
  convert_checkpoint(scratch / "wide", scratch / "converted", options);
  init_checkpoint(small_model(), dtype, 3, scratch / "made", {}, format);
  const Inspection made = inspect(scratch / "made"), converted = inspect(scratch / "converted");
  const CheckpointDifference difference = compare(made, converted);
  EXPECT_TRUE(difference.identical());
  EXPECT_EQ(difference.compared, converted.tensors.size());
  EXPECT_THAT(difference.config, ::testing::IsEmpty()) << difference.config.front().key;
  EXPECT_THAT(made.missing, ::testing::IsEmpty());
  EXPECT_THAT(made.unexpected, ::testing::IsEmpty());
}

INSTANTIATE_TEST_SUITE_P(
    Dtypes, Init,
    ::testing::Values(std::tuple(Dtype::F16, "fp16", Dtype::F32, ScaleFormat::float32),
                      std::tuple(Dtype::F8_E4M3, "fp8", Dtype::BF16, ScaleFormat::float32),
                      std::tuple(Dtype::F8_E4M3, "fp8", Dtype::BF16, ScaleFormat::ue8m0)),
    [](const auto& info) {
      return std::string(std::get<1>(info.param)) +
             (std::get<3>(info.param) == ScaleFormat::ue8m0 ? "_ue8m0" : "");
    });

TEST(InitCheckpoint, a_published_fp8_config_is_followed_or_left) {
  config::ModelConfig model = small_model();
  model.quantization = config::fp8_config("");
  const test::ScratchDirectory scratch;
  init_checkpoint(model, Dtype::BF16, 3, scratch / "plain");
  EXPECT_FALSE(inspect(scratch / "plain").model->quantization);
  EXPECT_EQ(inspect(scratch / "plain").scale_tensors, 0);
  init_checkpoint(model, Dtype::F8_E4M3, 3, scratch / "fp8", {}, ScaleFormat::ue8m0);
  EXPECT_EQ(inspect(scratch / "fp8").model->quantization->scale_fmt, "ue8m0");
  EXPECT_THROW(init_checkpoint(model, Dtype::F8_E4M3, 3, scratch / "fp8"), CheckpointError);
  EXPECT_THROW(init_checkpoint(model, Dtype::I32, 3, scratch / "integers"), UsageError);
  EXPECT_FALSE(fs::exists(scratch / "integers"));
}

}  // namespace
}  // namespace fathom::checkpoint
