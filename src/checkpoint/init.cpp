#include "checkpoint/init.h"

#include <bit>
#include <memory>

#include "base/crc32c.h"
#include "base/error.h"
#include "base/file.h"
#include "base/stop_signal.h"
#include "checkpoint/converted_files.h"
#include "checkpoint/initial_values.h"
#include "checkpoint/model_files.h"
#include "checkpoint/tensor_view.h"
#include "config/tensor_table.h"

namespace fathom::checkpoint {
namespace {

using config::TensorRole;
using config::TensorSpec;
using formats::Dtype;

void round_to_bf16(const float* values, int64_t count, std::byte* out) {
  auto* bits = reinterpret_cast<uint16_t*>(out);
  for (int64_t i = 0; i < count; ++i)
    bits[i] = static_cast<uint16_t>((std::bit_cast<uint32_t>(values[i]) + 0x8000u) >> 16);
}

// As F32, F16 or BF16.
TensorView initial_view(const TensorSpec& spec, double initializer_range, uint64_t seed) {
  TensorView view;
  view.name = spec.name;
  view.shape = spec.shape;
  view.read = [&spec, initializer_range, seed](int64_t begin, int64_t count, Dtype as, std::byte* out) {
    if (as == Dtype::F32)
      return initial_values(spec, initializer_range, seed, begin, count, reinterpret_cast<float*>(out));
    std::vector<float> values(static_cast<size_t>(count));
    initial_values(spec, initializer_range, seed, begin, count, values.data());
    as == Dtype::BF16 ? round_to_bf16(values.data(), count, out)
                      : store_floats(values.data(), count, as, out);
  };
  return view;
}

// The same as F32, rounded to BF16 before.
TensorView through_bf16(TensorView view) {
  view.read = [read = std::move(view.read)](int64_t begin, int64_t count, Dtype as, std::byte* out) {
    FATHOM_ASSERT(as == Dtype::F32);
    std::vector<uint16_t> bits(static_cast<size_t>(count));
    read(begin, count, Dtype::BF16, reinterpret_cast<std::byte*>(bits.data()));
    auto* values = reinterpret_cast<float*>(out);
    for (int64_t i = 0; i < count; ++i)
      values[i] = std::bit_cast<float>(static_cast<uint32_t>(bits[static_cast<size_t>(i)]) << 16);
  };
  return view;
}

Json description(const config::ModelConfig& model, Dtype dtype, uint64_t seed, ScaleFormat scale_format) {
  const std::string text = config::to_json(model).dump();
  Json plan;
  plan["source"] = {{"random", crc32c(text.data(), text.size())}, {"seed", seed}};
  plan["options"] = {{"dtype", formats::dtype_name(dtype)}, {"ue8m0", scale_format == ScaleFormat::ue8m0}};
  return plan;
}

}  // namespace

uint64_t init_checkpoint(const config::ModelConfig& given, Dtype dtype, uint64_t seed,
                         const fs::path& directory, const fs::path& tokenizer, ScaleFormat scale_format) {
  const bool is_fp8 = dtype == Dtype::F8_E4M3;
  if (dtype != Dtype::F32 && dtype != Dtype::F16 && dtype != Dtype::BF16 && !is_fp8)
    throw UsageError("a random checkpoint is not written in {}: use bf16, fp32, fp16 or fp8",
                     formats::dtype_name(dtype));
  if (!tokenizer.empty()) check_tokenizer(tokenizer);
  config::ModelConfig model = given;
  model.quantization.reset();
  if (is_fp8) model.quantization = config::fp8_config(scale_format == ScaleFormat::ue8m0 ? "ue8m0" : "");
  const config::TensorTable table(model);
  std::vector<SavedTensor> tensors;
  for (const TensorSpec& spec : table.tensors()) {
    TensorView view = initial_view(spec, model.initializer_range, seed);
    if (is_fp8 && config::scale_shape(spec, model)) {
      for (SavedTensor& part : quantized(through_bf16(std::move(view)), scale_format))
        tensors.push_back(std::move(part));
    } else {
      const bool is_float = spec.role == TensorRole::router_bias;
      tensors.push_back(saved(std::move(view), is_float ? Dtype::F32 : is_fp8 ? Dtype::BF16 : dtype));
    }
  }
  std::vector<SavedFile> files = cut_into_files(std::move(tensors), kDefaultShardBytes);
  return write_converted(directory, description(model, dtype, seed, scale_format), files, stop_requested,
                         [&] { write_model_files(directory, model, dtype, files, tokenizer); })
      .bytes;
}

}  // namespace fathom::checkpoint
