// What a conversion must refuse or survive without leaving half a checkpoint behind.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <csignal>
#include <fstream>
#include <limits>

#include "base/bfloat16.h"
#include "base/error.h"
#include "base/file.h"
#include "checkpoint/convert.h"
#include "checkpoint/fp8_blocks.h"
#include "checkpoint/init.h"
#include "support/scratch.h"

namespace fathom::checkpoint {
namespace {

using formats::Dtype;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

Json small_json() {
  Json json = read_json_file(fs::path(FATHOM_SOURCE_DIR) / "configs/models/tiny.json");
  json["vocab_size"] = 40;
  json["hidden_size"] = 160;
  return json;
}

class ConvertFaults : public ::testing::Test {
 protected:
  ConvertFaults() : source_(scratch_ / "source"), target_(scratch_ / "target") {}
  void make_source() {
    init_checkpoint(config::parse_model_config(small_json(), "tiny.json"), Dtype::BF16, 7, source_);
  }
  std::string refusal(const std::string& dtype) {
    ConvertOptions options;
    options.dtype = dtype;
    try {
      convert_checkpoint(source_, target_, options);
    } catch (const Error& e) {
      return e.what();
    }
    return "not refused";
  }
  std::vector<std::string> left_behind() const {
    std::vector<std::string> names;
    if (fs::exists(target_))
      for (const auto& entry : fs::directory_iterator(target_)) names.push_back(entry.path().filename());
    return names;
  }
  void overwrite(const std::string& tensor, int64_t element, float value) {
    const fs::path path = source_ / formats::kSingleFileName;
    const uint64_t offset = formats::SafetensorsFile(path).at(tensor).offset;
    const bf16 stored = to_bf16(value);
    std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(static_cast<std::streamoff>(offset) + 2 * element);
    file.write(reinterpret_cast<const char*>(&stored), sizeof stored);
    ASSERT_TRUE(file.good());
  }

  test::ScratchDirectory scratch_;
  fs::path source_, target_;
};

// A file appears whole or not at all: what stays is the journal, by which the same command goes on.
TEST_F(ConvertFaults, NaN_and_infinity_in_a_matrix_for_fp8_are_named_and_nothing_is_half_written) {
  const std::string name = "model.layers.0.mlp.up_proj.weight";
  const int64_t last = 704 * 160 - 1;
  for (const float value : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                            -std::numeric_limits<float>::infinity()}) {
    fs::remove_all(source_);
    make_source();
    overwrite(name, last, value);
    EXPECT_THAT(refusal("fp8"), HasSubstr("tensor " + name + " holds NaN or infinity in row 703"));
    EXPECT_THAT(left_behind(), ElementsAre("convert.journal.json"));
    overwrite(name, last, 0.5f);
    EXPECT_EQ(refusal("fp8"), "not refused") << "mended, the same command goes on";
    fs::remove_all(target_);
  }
  overwrite(name, last, std::numeric_limits<float>::quiet_NaN());
  EXPECT_EQ(refusal("fp32"), "not refused") << "other dtypes can hold it";
}

// A source that claims to be larger than the disk: its file is a hole, which takes none.
TEST_F(ConvertFaults, too_little_disk_is_said_before_anything_is_written) {
  const Json json = read_json_file(fs::path(FATHOM_SOURCE_DIR) / "configs/models/deepseek-v3-671b.json");
  const config::ModelConfig config = config::parse_model_config(json, "deepseek-v3-671b.json");
  SortedJson header;  // an ordered object would look 92,000 names up one by one
  uint64_t end = 0;
  const config::TensorTable table(config);
  for (const config::TensorSpec& spec : table.tensors()) {
    const bool is_bias = spec.role == config::TensorRole::router_bias;
    const uint64_t begin = end;
    end += static_cast<uint64_t>(spec.numel()) * (is_bias ? 4 : 2);
    header[spec.name] = {
        {"dtype", is_bias ? "F32" : "BF16"}, {"shape", spec.shape}, {"data_offsets", {begin, end}}};
  }
  if (free_disk_bytes(scratch_.path()) > 2 * end)
    GTEST_SKIP() << "SKIP_DISK: more is free than the test can claim";
  make_directories(source_);
  write_text_file(source_ / "config.json", json.dump());
  const std::string text = header.dump();
  const uint64_t length = text.size();
  write_text_file(source_ / formats::kSingleFileName,
                  std::string(reinterpret_cast<const char*>(&length), 8) + text);
  std::error_code fault;
  fs::resize_file(source_ / formats::kSingleFileName, 8 + length + end, fault);
  if (fault) GTEST_SKIP() << "SKIP_SPARSE: the file system makes no files with holes: " << fault.message();
  const std::string message = refusal("fp32");
  EXPECT_THAT(message, HasSubstr("too little disk"));
  EXPECT_THAT(message, HasSubstr("are to be written"));
  EXPECT_THAT(message, HasSubstr("is free"));
  for (const std::string& name : left_behind()) EXPECT_EQ(name, "convert.journal.json");
}

// The disk says no in the middle of a file, here by a limit on the size of files.
TEST_F(ConvertFaults, a_write_that_fails_leaves_no_file) {
  make_source();
  struct LimitedFiles {
    rlimit before{};
    decltype(std::signal(SIGXFSZ, SIG_IGN)) handler = std::signal(SIGXFSZ, SIG_IGN);
    LimitedFiles() {
      ::getrlimit(RLIMIT_FSIZE, &before);
      const rlimit limit{1'000'000, before.rlim_max};
      EXPECT_EQ(::setrlimit(RLIMIT_FSIZE, &limit), 0);
    }
    ~LimitedFiles() {
      ::setrlimit(RLIMIT_FSIZE, &before);
      std::signal(SIGXFSZ, handler);
    }
  };
  {
    const LimitedFiles limited;
    EXPECT_THAT(refusal("bf16"), HasSubstr("cannot write " + (target_ / formats::kSingleFileName).string()));
  }
  EXPECT_THAT(left_behind(), ElementsAre("convert.journal.json"));
  EXPECT_EQ(refusal("bf16"), "not refused");
}

TEST(Fp8Scales, as_float_whatever_they_are_stored_in) {
  const test::ScratchDirectory scratch;
  formats::SafetensorsWriter writer(scratch / "a.safetensors",
                                    {{"powers", Dtype::F8_E8M0, {1, 3}}, {"floats", Dtype::F32, {2, 1}}});
  const uint8_t powers[3] = {127, 120, 130};
  const float floats[2] = {0.3f, 1e-5f};
  writer.write("powers", std::as_bytes(std::span(powers)));
  writer.write("floats", std::as_bytes(std::span(floats)));
  writer.commit();
  const formats::ShardedReader reader(scratch / "a.safetensors");
  EXPECT_THAT(scale_values(reader.at("powers")), ElementsAre(1.0f, 0x1p-7f, 8.0f));
  EXPECT_THAT(scale_values(reader.at("floats")), ElementsAre(0.3f, 1e-5f));
}

}  // namespace
}  // namespace fathom::checkpoint
