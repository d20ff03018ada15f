// One dense and one expert layer of DeepSeek-R1 at full size: real names, shapes and dtypes, 12.1 GB of fp8 with made-up codes.
// They run a forward pass from the mapped bytes, and they are converted to bf16, both in little memory of their own.
// FATHOM_REAL_EXPERTS=32 takes fewer experts, in eighths (of 256).
#include <ATen/ops/arange.h>
#include <ATen/ops/isfinite.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <cstdlib>

#include "base/crc32c.h"
#include "base/memory.h"
#include "checkpoint/convert.h"
#include "infer/stored_layer.h"
#include "kernels/fp8.h"
#include "model/rope_table.h"
#include "support/scratch.h"
#include "support/synthetic_checkpoint.h"
#include "support/tensors.h"

namespace fathom::infer {
namespace {

constexpr int64_t kDense = 0, kMoe = 3;
constexpr uint64_t kMemory = uint64_t{2} << 30;

// Lets the process have at most 2 GiB of memory of its own (convert_run.h says what counts): more is std::bad_alloc.
class Within2GiB {
 public:
  Within2GiB() {
    ::getrlimit(RLIMIT_DATA, &before_);
    const rlimit limit{kMemory, before_.rlim_max};
    EXPECT_EQ(::setrlimit(RLIMIT_DATA, &limit), 0);
  }
  Within2GiB(const Within2GiB&) = delete;
  Within2GiB& operator=(const Within2GiB&) = delete;
  ~Within2GiB() { ::setrlimit(RLIMIT_DATA, &before_); }

 private:
  rlimit before_{};
};

// The released config, with a vocabulary of 256: embedding and head are not what this is about.
config::ModelConfig r1() {
  Json json = read_json_file(fs::path(FATHOM_SOURCE_DIR) / "tests/config/data/deepseek-r1.json");
  json["vocab_size"] = 256;
  if (const char* experts = std::getenv("FATHOM_REAL_EXPERTS")) json["n_routed_experts"] = std::atol(experts);
  return config::parse_model_config(json, "deepseek-r1.json");
}

class RealLayers : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    scratch_ = std::make_unique<test::ScratchDirectory>();
    const double bytes = 12.3e9 * double(r1().n_routed_experts) / 256 + 1.2e9, needed = bytes * 1.55;
    if (static_cast<double>(free_disk_bytes(scratch_->path())) < needed) return;
    written_ = test::write_synthetic_checkpoint(
        r1(), scratch_->path() / "r1", 5'000'000'000,
        [](const auto& spec) { return spec.layer == kDense || spec.layer == kMoe || spec.layer == -1; });
  }
  static void TearDownTestSuite() { scratch_.reset(); }
  void SetUp() override {
    if (written_ == 0) GTEST_SKIP() << "SKIP_DISK: too little is free for 12.1 GB and half as much again";
    if (r1().n_routed_experts == 256) {
      EXPECT_NEAR(double(written_), 12.1e9, 0.1e9);
    }
  }

  inline static std::unique_ptr<test::ScratchDirectory> scratch_;
  inline static uint64_t written_ = 0;
};

TEST_F(RealLayers, a_forward_pass_from_the_fp8_bytes) {
  const Within2GiB limit;
  const config::ModelConfig config = r1();
  const StoredWeights weights(config, std::make_shared<formats::ShardedReader>(scratch_->path() / "r1"),
                              at::kBFloat16);
  StoredLayer dense(weights, kDense), moe(weights, kMoe);
  const int64_t tokens = 48;
  ops::SequenceLayout layout;
  layout.num_sequences = 1;
  layout.seq_length = tokens;
  std::tie(layout.cos, layout.sin) = model::RopeTable(config, at::kFloat).at(at::arange(tokens, at::kLong));
  const at::Tensor x = test::normal({tokens, config.hidden_size}, "hidden", 1, at::kBFloat16);
  const at::Tensor first = dense.prefill(x, layout), second = moe.prefill(first, layout);
  for (const at::Tensor& y : {first, second}) {
    EXPECT_EQ(y.sizes(), x.sizes());
    EXPECT_TRUE(at::isfinite(y).all().item<bool>());
  }
  EXPECT_GT(test::relative_error(first, x), 0.01);
  EXPECT_GT(test::relative_error(second, first), 0.01);
  // Causal: the first tokens by themselves are the same but for attention's sums.
  ops::SequenceLayout shorter = layout;
  shorter.seq_length = 5;
  shorter.cos = layout.cos.narrow(0, 0, 5);
  shorter.sin = layout.sin.narrow(0, 0, 5);
  EXPECT_LT(test::relative_error(dense.prefill(x.narrow(0, 0, 5), shorter), first.narrow(0, 0, 5)), 0x1p-8);
  RecordProperty("anonymous_megabytes", static_cast<int>(anonymous_resident_bytes() >> 20));
  EXPECT_LT(anonymous_resident_bytes(), kMemory);
}

// What bf16 a tensor of the source must become, by the definition, as a checksum of its bytes.
uint32_t expected_checksum(const config::TensorSpec& spec, const config::ModelConfig& config) {
  std::vector<checkpoint::SavedTensor> stored = test::synthetic_tensors(spec, config);
  std::array<float, 256> values{};
  for (size_t code = 0; code < 256; ++code) values[code] = kernels::e4m3_value(static_cast<uint8_t>(code));
  const bool is_fp8 = stored.size() == 2;
  std::vector<float> scales;
  if (is_fp8) {
    scales.resize(static_cast<size_t>(stored[1].numel()));
    stored[1].read(0, stored[1].numel(), reinterpret_cast<std::byte*>(scales.data()));
  }
  const int64_t columns = spec.shape.back(), blocks = (columns + 127) / 128;
  std::vector<std::byte> bytes;
  std::vector<bf16> row(static_cast<size_t>(columns));
  uint32_t sum = 0;
  checkpoint::for_each_chunk(stored[0], bytes, [&](uint64_t offset, std::span<const std::byte> chunk) {
    if (!is_fp8) {
      sum = crc32c(chunk.data(), chunk.size(), sum);
      return;
    }
    row.resize(chunk.size());
    for (size_t i = 0; i < chunk.size(); ++i) {
      const auto at = static_cast<int64_t>(offset + i);
      const float scale = scales[static_cast<size_t>(at / columns / 128 * blocks + at % columns / 128)];
      row[i] = to_bf16(values[static_cast<size_t>(chunk[i])] * scale);
    }
    sum = crc32c(row.data(), row.size() * sizeof(bf16), sum);
  });
  return sum;
}

// A quarter of the experts at a time, so that source and result need 19 GB of disk instead of 37.
TEST_F(RealLayers, become_bf16_with_the_checksum_of_every_tensor) {
  const Within2GiB limit;
  const config::ModelConfig config = r1();
  const config::TensorTable table(config);
  const int64_t part = config.n_routed_experts / 4;
  for (int64_t first = 0; first < config.n_routed_experts; first += part) {
    checkpoint::ConvertOptions options;
    options.dtype = "bf16";
    options.cut.layers = std::to_string(kDense) + "," + std::to_string(kMoe);
    options.cut.experts = std::to_string(first) + "-" + std::to_string(first + part - 1);
    options.cut.drop_mtp = true;
    const fs::path directory = scratch_->path() / "bf16";
    checkpoint::convert_checkpoint(scratch_->path() / "r1", directory, options);
    EXPECT_LT(anonymous_resident_bytes(), kMemory);
    const config::ModelConfig cut = config::read_model_config(directory);
    const formats::ShardedReader reader(directory);
    int64_t compared = 0;
    const config::TensorTable cut_table(cut);
    for (const config::TensorSpec& spec : cut_table.tensors()) {
      const bool is_router =
          spec.role == config::TensorRole::router || spec.role == config::TensorRole::router_bias;
      if (is_router) continue;  // cut rows: convert_test.cpp
      std::string name = spec.name;
      if (spec.layer == 1) name.replace(0, config::layer_prefix(1).size(), config::layer_prefix(kMoe));
      if (spec.expert >= 0) {
        const std::string now = ".experts." + std::to_string(spec.expert) + ".";
        name.replace(name.find(now), now.size(), ".experts." + std::to_string(spec.expert + first) + ".");
      }
      const std::span<const std::byte> bytes = reader.at(spec.name).bytes();
      EXPECT_EQ(crc32c(bytes.data(), bytes.size()), expected_checksum(table.at(name), config)) << name;
      ++compared;
    }
    EXPECT_EQ(compared, 3 + 2 * 9 + 3 + 3 * (part + 1));
    fs::remove_all(directory);
  }
}

}  // namespace
}  // namespace fathom::infer
