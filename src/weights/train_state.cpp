#include "weights/train_state.h"

#include <ATen/ops/from_blob.h>

#include <algorithm>
#include <cstring>
#include <set>

#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "formats/checkpoint_manifest.h"
#include "weights/save_weights.h"
#include "weights/scalar_type.h"

namespace fathom::weights {
namespace {

constexpr int64_t kChunkElements = 1 << 20;
constexpr std::string_view kMaster = "master.", kExpAvg = "exp_avg.", kExpAvgSq = "exp_avg_sq.",
                           kSlice = "slice.";

// The exact value is more than the HF file holds.
bool needs_master(const Parameter& parameter) {
  return parameter.low_bits.defined() || parameter.value.scalar_type() == at::kDouble;
}

// `count` elements of a piece from element `begin` on, as a piece of its own.
Piece part_of(const Piece& piece, int64_t begin, int64_t count) {
  return {piece.spec, piece.flat_offset + begin, {count}, {}};
}

checkpoint::SavedTensor plain_tensor(std::string name, const at::Tensor& whole, const Parameter& parameter,
                                     const Piece& piece) {
  const formats::Dtype dtype = file_dtype(whole.scalar_type()).value();
  const at::Tensor flat = parameter.piece_of(whole, piece).view({-1});
  return {{std::move(name), dtype, piece.shape}, [flat, dtype](int64_t begin, int64_t count, std::byte* out) {
            read_elements(flat, begin, count, dtype, out);
          }};
}

checkpoint::SavedTensor split_master(std::string name, const ParameterRegistry& registry,
                                     const Parameter& parameter, const Piece& piece) {
  return {{std::move(name), formats::Dtype::F32, piece.shape},
          [&registry, &parameter, &piece](int64_t begin, int64_t count, std::byte* out) {
            registry.get_master(parameter, part_of(piece, begin, count), reinterpret_cast<float*>(out));
          }};
}

std::string slice_metadata(const Piece& piece) {
  return Json({{"shape", piece.spec->shape}, {"offset", piece.global_offset}}).dump();
}

// Calls sink(begin, chunk) with the stored elements as one-dimensional CPU tensors of the stored dtype.
template <typename Sink>
void read_chunks(const formats::TensorEntry& entry, std::span<const std::byte> bytes,
                 const std::string& where, const Sink& sink) {
  const auto type = scalar_type(entry.dtype);
  if (!type)
    throw CheckpointError("{}: dtype {} cannot be resumed from", where, formats::dtype_name(entry.dtype));
  const int64_t size = formats::dtype_bits(entry.dtype) / 8, numel = entry.numel();
  std::vector<double> aligned(static_cast<size_t>((std::min(numel, kChunkElements) * size + 7) / 8));
  for (int64_t begin = 0; begin < numel; begin += kChunkElements) {
    const int64_t count = std::min(kChunkElements, numel - begin);
    std::memcpy(aligned.data(), bytes.data() + begin * size, static_cast<size_t>(count * size));
    sink(begin, at::from_blob(aligned.data(), {count}, at::TensorOptions().dtype(*type)));
  }
}

void fill(at::Tensor& whole, const Parameter& parameter, const Piece& piece,
          const formats::TensorEntry& entry, std::span<const std::byte> bytes, const std::string& where) {
  at::Tensor flat = parameter.piece_of(whole, piece).view({-1});
  read_chunks(entry, bytes, where, [&](int64_t begin, const at::Tensor& chunk) {
    flat.narrow(0, begin, chunk.numel()).copy_(chunk);
  });
}

void fill_value(ParameterRegistry& registry, Parameter& parameter, const Piece& piece,
                const formats::TensorEntry& entry, std::span<const std::byte> bytes,
                const std::string& where) {
  if (!parameter.low_bits.defined()) {
    fill(parameter.value, parameter, piece, entry, bytes, where);
    return;
  }
  read_chunks(entry, bytes, where, [&](int64_t begin, const at::Tensor& chunk) {
    const at::Tensor values = chunk.to(at::kFloat);
    registry.set_piece(parameter, part_of(piece, begin, chunk.numel()), values.const_data_ptr<float>());
  });
}

std::string shape_text(const std::vector<int64_t>& shape) { return Json(shape).dump(); }

void check_slice(const formats::SafetensorsFile& file, const formats::TensorEntry& entry, const Piece& piece,
                 const std::string& where) {
  const auto text = file.metadata().find(std::string(kSlice) + piece.spec->name);
  if (text == file.metadata().end())
    throw CheckpointError("{}: the metadata does not say which slice it is", where);
  std::vector<int64_t> shape, offset;
  try {
    const Json slice = parse_json(text->second, where);
    shape = slice.at("shape").get<std::vector<int64_t>>();
    offset = slice.at("offset").get<std::vector<int64_t>>();
  } catch (const std::exception& e) {
    throw CheckpointError("{}: its slice metadata cannot be read: {}", where, e.what());
  }
  if (shape != piece.spec->shape)
    throw CheckpointError("{}: shape {} where this model has {}: the checkpoint is of another model", where,
                          shape_text(shape), shape_text(piece.spec->shape));
  if (entry.shape != piece.shape || offset != piece.global_offset)
    throw CheckpointError(
        "{}: it is the slice {} at {}, this rank needs {} at {}: resuming under another layout "
        "is not in this version",
        where, shape_text(entry.shape), shape_text(offset), shape_text(piece.shape),
        shape_text(piece.global_offset));
}

// The safetensors files of train_state/: those that the manifest names, or all where there is none.
std::vector<fs::path> state_files(const fs::path& directory) {
  std::vector<fs::path> files;
  if (fs::exists(directory / formats::kManifestName)) {
    for (const auto& [name, unused] : formats::read_manifest(directory).files)
      if (name.starts_with(std::string(kTrainStateFolder) + "/") && name.ends_with(".safetensors"))
        files.push_back(directory / name);
  } else if (fs::is_directory(directory / kTrainStateFolder)) {
    for (const auto& item : fs::directory_iterator(directory / kTrainStateFolder))
      if (item.path().extension() == ".safetensors") files.push_back(item.path());
  }
  std::sort(files.begin(), files.end());
  return files;
}

using Loaded = std::set<std::string, std::less<>>;

void load_state_file(ParameterRegistry& registry, const fs::path& path, Loaded& loaded) {
  const formats::SafetensorsFile file(path);
  for (const formats::TensorEntry& entry : file.tensors()) {
    const std::string where = fmt::format("{}: tensor \"{}\"", path.string(), entry.name);
    std::string_view kind;
    for (const std::string_view known : {kMaster, kExpAvg, kExpAvgSq})
      if (entry.name.starts_with(known)) kind = known;
    if (kind.empty())
      throw CheckpointError("{}: this version knows only master.*, exp_avg.* and exp_avg_sq.* here", where);
    const auto [parameter, piece] = registry.find(entry.name.substr(kind.size()));
    if (!parameter) throw CheckpointError("{}: this model has no such parameter", where);
    check_slice(file, entry, *piece, where);
    if (kind == kMaster) {
      fill_value(registry, *parameter, *piece, entry, file.bytes(entry), where);
    } else {
      at::Tensor& moment = kind == kExpAvg ? parameter->exp_avg : parameter->exp_avg_sq;
      if (moment.defined()) fill(moment, *parameter, *piece, entry, file.bytes(entry), where);
    }
    loaded.insert(entry.name);
  }
}

}  // namespace

std::vector<checkpoint::SavedFile> plan_train_state(ParameterRegistry& registry, int rank,
                                                    uint64_t max_file_bytes) {
  std::vector<checkpoint::SavedTensor> tensors;
  std::map<std::string, const Piece*> piece_of_tensor;
  const auto add = [&](checkpoint::SavedTensor tensor, const Piece& piece) {
    piece_of_tensor[tensor.declaration.name] = &piece;
    tensors.push_back(std::move(tensor));
  };
  for (const Parameter& parameter : registry.parameters()) {
    for (const Piece& piece : parameter.pieces) {
      const std::string& name = piece.spec->name;
      if (needs_master(parameter)) {
        const std::string master = std::string(kMaster) + name;
        add(parameter.low_bits.defined() ? split_master(master, registry, parameter, piece)
                                         : plain_tensor(master, parameter.value, parameter, piece),
            piece);
      }
      if (parameter.exp_avg.defined())
        add(plain_tensor(std::string(kExpAvg) + name, parameter.exp_avg, parameter, piece), piece);
      if (parameter.exp_avg_sq.defined())
        add(plain_tensor(std::string(kExpAvgSq) + name, parameter.exp_avg_sq, parameter, piece), piece);
    }
  }
  if (tensors.empty()) return {};
  std::vector<checkpoint::SavedFile> files = checkpoint::cut_into_files(std::move(tensors), max_file_bytes);
  for (size_t i = 0; i < files.size(); ++i) {
    files[i].name = fmt::format("{}/rank_{:05}_{:05}.safetensors", kTrainStateFolder, rank, i + 1);
    for (const checkpoint::SavedTensor& tensor : files[i].tensors) {
      const Piece& piece = *piece_of_tensor.at(tensor.declaration.name);
      files[i].metadata[std::string(kSlice) + piece.spec->name] = slice_metadata(piece);
    }
  }
  return files;
}

LoadedState load_state(ParameterRegistry& registry, const fs::path& directory) {
  Loaded loaded;
  for (const fs::path& path : state_files(directory)) load_state_file(registry, path, loaded);

  LoadedState result{true, true};
  const formats::ShardedReader reader(directory);
  for (Parameter& parameter : registry.parameters()) {
    for (const Piece& piece : parameter.pieces) {
      const std::string& name = piece.spec->name;
      for (const auto& [kind, moment] :
           {std::pair{kExpAvg, &parameter.exp_avg}, {kExpAvgSq, &parameter.exp_avg_sq}})
        if (moment->defined() && !loaded.contains(std::string(kind) + name)) result.has_moments = false;
      if (loaded.contains(std::string(kMaster) + name)) continue;
      const auto& location = reader.at(name);
      const std::string where = fmt::format("{}: tensor \"{}\"", location.file->path().string(), name);
      if (location.entry->shape != piece.spec->shape)
        throw CheckpointError("{}: shape {} where this model has {}: the checkpoint is of another model",
                              where, shape_text(location.entry->shape), shape_text(piece.spec->shape));
      FATHOM_ASSERT(piece.is_whole());  // a slice walks its rows when tensor parallel arrives
      fill_value(registry, parameter, piece, *location.entry, location.bytes(), where);
      const int64_t needed = parameter.low_bits.defined() ? 32 : 64;
      if (needs_master(parameter) && formats::dtype_bits(location.entry->dtype) < needed)
        result.has_masters = false;
    }
  }
  return result;
}

}  // namespace fathom::weights
