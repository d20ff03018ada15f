#include "weights/load_weights.h"

#include <ATen/ops/from_blob.h>

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <optional>

#include "base/error.h"
#include "base/log.h"
#include "base/parallel.h"
#include "base/progress.h"
#include "weights/scalar_type.h"

namespace fathom::weights {
namespace {

using formats::Dtype;
using formats::ShardedReader;

constexpr int64_t kConvertGrain = 1 << 18;
constexpr const char* kScaleSuffix = "_scale_inv";

std::string shape_text(const std::vector<int64_t>& shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

// The values of e4m3 ("fn": no infinities, 0x7f and 0xff are NaN).
float e4m3_value(uint8_t code) {
  const int exponent = code >> 3 & 15, mantissa = code & 7;
  float magnitude;
  if (exponent == 15 && mantissa == 7) {
    magnitude = std::nanf("");
  } else if (exponent == 0) {
    magnitude = std::ldexp(static_cast<float>(mantissa), -9);
  } else {
    magnitude = std::ldexp(1.0f + static_cast<float>(mantissa) / 8.0f, exponent - 7);
  }
  return code & 0x80 ? -magnitude : magnitude;
}

float scale_at(const ShardedReader::Location& scale, int64_t index) {
  const std::byte* bytes = scale.bytes().data();
  if (scale.entry->dtype == Dtype::F8_E8M0) return std::ldexp(1.0f, static_cast<int>(bytes[index]) - 127);
  float value;
  std::memcpy(&value, bytes + 4 * index, 4);
  return value;
}

void dequantise_fp8(const ShardedReader& reader, const ShardedReader::Location& tensor, float* out) {
  const std::string& name = tensor.entry->name;
  const ShardedReader::Location* scale = reader.find(name + kScaleSuffix);
  if (!scale)
    throw CheckpointError("{}: tensor {} is float8_e4m3 but {}{} is missing", tensor.file->path().string(),
                          name, name, kScaleSuffix);
  const std::vector<int64_t>&shape = tensor.entry->shape, &scales = scale->entry->shape;
  constexpr int64_t kBlock = 128;
  const bool fits = shape.size() == 2 && scales.size() == 2 &&
                    scales[0] == (shape[0] + kBlock - 1) / kBlock &&
                    scales[1] == (shape[1] + kBlock - 1) / kBlock &&
                    (scale->entry->dtype == Dtype::F32 || scale->entry->dtype == Dtype::F8_E8M0);
  if (!fits)
    throw CheckpointError("{}: {}{} has shape {}, which does not fit 128x128 blocks of {} {}",
                          tensor.file->path().string(), name, kScaleSuffix, shape_text(scales), name,
                          shape_text(shape));
  static const std::vector<float> kValues = [] {
    std::vector<float> table(256);
    for (int code = 0; code < 256; ++code) table[code] = e4m3_value(static_cast<uint8_t>(code));
    return table;
  }();
  const std::byte* codes = tensor.bytes().data();
  parallel_for(0, shape[0], 16, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row)
      for (int64_t column = 0; column < shape[1]; ++column)
        out[row * shape[1] + column] = kValues[static_cast<size_t>(codes[row * shape[1] + column])] *
                                       scale_at(*scale, row / kBlock * scales[1] + column / kBlock);
  });
}

bool is_buffer_to_skip(const std::string& name) { return name.ends_with("rotary_emb.inv_freq"); }

// "model.layers.12.mlp..." -> 12; -1 outside the layers.
int64_t layer_of(const std::string& name) {
  constexpr std::string_view kPrefix = "model.layers.";
  if (!name.starts_with(kPrefix)) return -1;
  return std::strtoll(name.c_str() + kPrefix.size(), nullptr, 10);
}

// Names the first tensor that neither the config nor a known convention explains.
void refuse_unknown(const ParameterRegistry& registry, const ShardedReader& reader,
                    const std::string& directory) {
  int64_t ignored_mtp = 0;
  for (const ShardedReader::Location& location : reader.tensors()) {
    std::string name = location.entry->name;
    if (is_buffer_to_skip(name)) continue;
    if (name.ends_with(kScaleSuffix)) name.resize(name.size() - std::strlen(kScaleSuffix));
    if (registry.table().find(name)) continue;
    if (layer_of(name) >= registry.model().num_hidden_layers) {
      ++ignored_mtp;
      continue;
    }
    throw CheckpointError(
        "{}: tensor {} is not part of the model that config.json describes ({} layers, {} experts)",
        directory, location.entry->name, registry.model().num_hidden_layers,
        registry.model().n_routed_experts);
  }
  if (ignored_mtp > 0)
    log::info("{}: MTP block found ({} tensors), ignored: it is not used here", directory, ignored_mtp);
}

}  // namespace

void read_as_float(const ShardedReader& reader, const std::string& name, float* out) {
  const ShardedReader::Location& tensor = reader.at(name);
  if (tensor.entry->dtype == Dtype::F8_E4M3) return dequantise_fp8(reader, tensor, out);
  const std::optional<at::ScalarType> dtype = scalar_type(tensor.entry->dtype);
  if (!dtype)
    throw CheckpointError("{}: tensor {} has dtype {}, which is not a weight dtype that can be loaded here",
                          tensor.file->path().string(), name, formats::dtype_name(tensor.entry->dtype));
  const int64_t n = tensor.entry->numel(), element = static_cast<int64_t>(c10::elementSize(*dtype));
  const std::byte* bytes = tensor.bytes().data();
  parallel_for(0, n, kConvertGrain, [&](int64_t begin, int64_t end) {
    // A file need not align its tensors, so each part is copied before it is converted.
    std::vector<std::byte> aligned(static_cast<size_t>((end - begin) * element));
    std::memcpy(aligned.data(), bytes + begin * element, aligned.size());
    const at::Tensor source = at::from_blob(aligned.data(), {end - begin}, at::TensorOptions().dtype(*dtype));
    at::from_blob(out + begin, {end - begin}, at::TensorOptions().dtype(at::kFloat)).copy_(source);
  });
}

void load_weights(ParameterRegistry& registry, const std::filesystem::path& directory) {
  const ShardedReader reader(directory);
  refuse_unknown(registry, reader, directory.string());
  Progress progress("loading " + directory.filename().string(), reader.total_bytes(), "B");
  std::vector<float> buffer;
  for (Parameter& parameter : registry.parameters()) {
    for (const Piece& piece : parameter.pieces) {
      const std::string& name = piece.spec->name;
      const ShardedReader::Location* location = reader.find(name);
      if (!location) {
        const bool is_mtp = piece.spec->layer >= registry.model().num_hidden_layers;
        throw CheckpointError("{}: tensor {} is missing{}", directory.string(), name,
                              is_mtp ? " (train without it: --set model.num_nextn_predict_layers=0)" : "");
      }
      if (location->entry->shape != piece.spec->shape)
        throw CheckpointError("{}: tensor {} has shape {}, config.json implies {}",
                              location->file->path().string(), name, shape_text(location->entry->shape),
                              shape_text(piece.spec->shape));
      FATHOM_ASSERT(piece.is_whole());
      buffer.resize(static_cast<size_t>(piece.numel()));
      read_as_float(reader, name, buffer.data());
      registry.set_piece(parameter, piece, buffer.data());
      progress.advance(location->entry->bytes);
    }
  }
  if (reader.total_bytes() > (uint64_t{1} << 30)) progress.finish();
}

}  // namespace fathom::weights
