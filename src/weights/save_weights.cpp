#include "weights/save_weights.h"

#include <ATen/ops/from_blob.h>

#include "base/error.h"
#include "base/file.h"
#include "checkpoint/model_files.h"
#include "weights/scalar_type.h"

namespace fathom::weights {
formats::Dtype saved_dtype(config::Precision precision) {
  switch (precision) {
    case config::Precision::fp32:
    case config::Precision::fp64:
      return formats::Dtype::F32;
    case config::Precision::bf16:
    case config::Precision::bf16_pure:
      return formats::Dtype::BF16;
    case config::Precision::fp8:
      break;
  }
  throw ConfigError("train.precision: fp8 checkpoints are not written by this version; use bf16");
}

void read_elements(const at::Tensor& flat, int64_t begin, int64_t count, formats::Dtype dtype,
                   std::byte* out) {
  at::from_blob(out, {count}, at::TensorOptions().dtype(*scalar_type(dtype)))
      .copy_(flat.narrow(0, begin, count));
}

formats::Dtype saved_dtype(const config::TensorSpec& spec, const ParameterRegistry& registry) {
  return spec.role == config::TensorRole::router_bias ? formats::Dtype::F32
                                                      : saved_dtype(registry.precision());
}

std::map<std::string, std::string> tied_sources(const ParameterRegistry& registry) {
  std::map<std::string, std::string> sources;
  for (const TiedCopy& copy : registry.tied_copies()) sources[copy.spec->name] = copy.source;
  return sources;
}

checkpoint::SavedTensor whole_tensor(const config::TensorSpec& spec, const Parameter& parameter,
                                     const Piece& piece, const ParameterRegistry& registry) {
  FATHOM_ASSERT(piece.is_whole());
  const formats::Dtype dtype = saved_dtype(spec, registry);
  const at::Tensor flat = parameter.piece_of(parameter.value, piece).view({-1});
  return {{spec.name, dtype, spec.shape}, [flat, dtype](int64_t begin, int64_t count, std::byte* out) {
            read_elements(flat, begin, count, dtype, out);
          }};
}

std::vector<checkpoint::SavedTensor> weight_tensors(ParameterRegistry& registry) {
  const std::map<std::string, std::string> sources = tied_sources(registry);
  std::vector<checkpoint::SavedTensor> tensors;
  for (const config::TensorSpec& spec : registry.table().tensors()) {
    const auto source = sources.find(spec.name);
    const auto [parameter, piece] = registry.find(source == sources.end() ? spec.name : source->second);
    if (!parameter || !piece->is_whole())
      throw std::logic_error("no whole parameter holds the tensor " + spec.name);
    tensors.push_back(whole_tensor(spec, *parameter, *piece, registry));
  }
  return tensors;
}

void save_weights(ParameterRegistry& registry, const fs::path& directory, const fs::path& tokenizer,
                  uint64_t max_shard_bytes) {
  make_directories(directory);
  const std::vector<checkpoint::SavedFile> files =
      checkpoint::cut_into_files(weight_tensors(registry), max_shard_bytes);
  for (const checkpoint::SavedFile& file : files) checkpoint::write_saved_file(directory, file);
  checkpoint::write_model_files(directory, registry.model(), saved_dtype(registry.precision()), files,
                                tokenizer);
  sync_directory(directory);
}

}  // namespace fathom::weights
