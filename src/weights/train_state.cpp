#include "weights/train_state.h"

#include <ATen/ops/from_blob.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <memory>

#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "formats/checkpoint_manifest.h"
#include "weights/save_weights.h"
#include "weights/scalar_type.h"
#include "weights/tensor_slice.h"

namespace fathom::weights {
namespace {

constexpr int64_t kChunkElements = 1 << 20;
constexpr std::string_view kMaster = "master.", kExpAvg = "exp_avg.", kExpAvgSq = "exp_avg_sq.",
                           kSlice = "slice.";

// The exact value is more than the HF file holds.
bool needs_master(const Parameter& parameter) {
  return parameter.low_bits.defined() || parameter.value.scalar_type() == at::kDouble;
}

// The part of a piece that a range of the parameter's elements has.
TensorSlice slice_of(const Piece& piece, ElementRange range) {
  const ElementRange part = intersection(piece.range(), range);
  return {piece.global_offset, piece.shape, {part.begin - piece.flat_offset, part.end - piece.flat_offset}};
}

bool is_all_of(const Piece& piece, const TensorSlice& slice) { return slice.run.count() == piece.numel(); }

std::vector<int64_t> stored_shape(const Piece& piece, const TensorSlice& slice) {
  return is_all_of(piece, slice) ? piece.shape : std::vector<int64_t>{slice.run.count()};
}

// Elements of `whole`, whose first is element `origin` of the parameter.
checkpoint::SavedTensor plain_tensor(std::string name, const at::Tensor& whole, int64_t origin,
                                     const Piece& piece, const TensorSlice& slice) {
  const formats::Dtype dtype = file_dtype(whole.scalar_type()).value();
  const at::Tensor flat =
      whole.view({-1}).narrow(0, piece.flat_offset + slice.run.begin - origin, slice.run.count());
  return {{std::move(name), dtype, stored_shape(piece, slice)},
          [flat, dtype](int64_t begin, int64_t count, std::byte* out) {
            read_elements(flat, begin, count, dtype, out);
          }};
}

checkpoint::SavedTensor split_master(std::string name, const ParameterRegistry& registry,
                                     const Parameter& parameter, const Piece& piece,
                                     const TensorSlice& slice) {
  const int64_t first = piece.flat_offset + slice.run.begin;
  return {{std::move(name), formats::Dtype::F32, stored_shape(piece, slice)},
          [&registry, &parameter, first](int64_t begin, int64_t count, std::byte* out) {
            registry.get_master(parameter, ElementRange{first + begin, first + begin + count},
                                reinterpret_cast<float*>(out));
          }};
}

std::string slice_metadata(const Piece& piece, const TensorSlice& slice) {
  Json json = {{"shape", piece.spec->shape}, {"offset", piece.global_offset}};
  if (!is_all_of(piece, slice)) {
    json["part"] = piece.shape;
    json["begin"] = slice.run.begin;
  }
  return json.dump();
}

// Calls sink(at, chunk) with stored elements [begin, begin + count) as one-dimensional CPU tensors of the stored dtype;
// `at` counts from `begin`.
template <typename Sink>
void read_chunks(const formats::TensorEntry& entry, std::span<const std::byte> bytes,
                 const std::string& where, int64_t begin, int64_t count, const Sink& sink) {
  const auto type = scalar_type(entry.dtype);
  if (!type)
    throw CheckpointError("{}: dtype {} cannot be resumed from", where, formats::dtype_name(entry.dtype));
  const int64_t size = formats::dtype_bits(entry.dtype) / 8;
  std::vector<double> aligned(static_cast<size_t>((std::min(count, kChunkElements) * size + 7) / 8));
  for (int64_t at = 0; at < count; at += kChunkElements) {
    const int64_t part = std::min(kChunkElements, count - at);
    std::memcpy(aligned.data(), bytes.data() + (begin + at) * size, static_cast<size_t>(part * size));
    sink(at, at::from_blob(aligned.data(), {part}, at::TensorOptions().dtype(*type)));
  }
}

// A tensor of a checkpoint and the elements of a parameter that it holds.
struct StoredTensor {
  const formats::TensorEntry* entry = nullptr;
  std::span<const std::byte> bytes;
  std::string where;
  TensorSlice slice;
};

// Stored elements to their places among `range` of the parameter: put(first element, chunk).
template <typename Put>
void place(const StoredTensor& stored, const Piece& piece, ElementRange range, const Put& put) {
  const TensorSlice wanted = slice_of(piece, range);
  for_each_overlap(stored.slice, wanted, [&](int64_t from, int64_t to, int64_t count) {
    const int64_t first = piece.flat_offset + wanted.run.begin + to;
    read_chunks(*stored.entry, stored.bytes, stored.where, from, count,
                [&](int64_t at, const at::Tensor& chunk) { put(first + at, chunk); });
  });
}

void fill_moment(at::Tensor& moment, const Parameter& parameter, const Piece& piece,
                 const StoredTensor& stored) {
  at::Tensor flat = moment.view({-1});
  place(stored, piece, parameter.state, [&](int64_t first, const at::Tensor& chunk) {
    flat.narrow(0, first - parameter.state.begin, chunk.numel()).copy_(chunk);
  });
}

void fill_value(ParameterRegistry& registry, Parameter& parameter, const Piece& piece,
                const StoredTensor& stored) {
  place(stored, piece, piece.range(), [&](int64_t first, const at::Tensor& chunk) {
    const ElementRange range{first, first + chunk.numel()};
    if (!parameter.low_bits.defined()) {
      parameter.value_of(range).copy_(chunk);
      return;
    }
    const at::Tensor values = chunk.to(at::kFloat);
    registry.set_elements(parameter, range, values.const_data_ptr<float>());
  });
}

std::string shape_text(const std::vector<int64_t>& shape) { return Json(shape).dump(); }

bool fits(const TensorSlice& slice, const std::vector<int64_t>& whole) {
  if (slice.shape.size() != whole.size() || slice.offset.size() != whole.size()) return false;
  int64_t numel = 1;
  for (size_t d = 0; d < whole.size(); ++d) {
    if (slice.offset[d] < 0 || slice.shape[d] < 0 || slice.shape[d] > whole[d] ||
        slice.offset[d] > whole[d] - slice.shape[d])
      return false;
    numel *= slice.shape[d];
  }
  return slice.run.begin >= 0 && slice.run.end >= slice.run.begin && slice.run.end <= numel;
}

TensorSlice read_slice(const formats::SafetensorsFile& file, const formats::TensorEntry& entry,
                       const config::TensorSpec& spec, const std::string& where) {
  const auto text = file.metadata().find(std::string(kSlice) + spec.name);
  if (text == file.metadata().end())
    throw CheckpointError("{}: the metadata does not say which slice it is", where);
  std::vector<int64_t> shape;
  TensorSlice slice;
  try {
    const Json json = parse_json(text->second, where);
    shape = json.at("shape").get<std::vector<int64_t>>();
    slice.offset = json.at("offset").get<std::vector<int64_t>>();
    slice.shape = json.contains("part") ? json["part"].get<std::vector<int64_t>>() : entry.shape;
    slice.run.begin = json.value("begin", int64_t{0});
  } catch (const std::exception& e) {
    throw CheckpointError("{}: its slice metadata cannot be read: {}", where, e.what());
  }
  if (shape != spec.shape)
    throw CheckpointError("{}: shape {} where this model has {}: the checkpoint is of another model", where,
                          shape_text(shape), shape_text(spec.shape));
  slice.run.end = entry.numel() <= spec.numel() ? slice.run.begin + entry.numel() : -1;
  if (!fits(slice, shape))
    throw CheckpointError("{}: {} elements from {} on of the slice {} at {} are no part of the tensor {}",
                          where, entry.numel(), slice.run.begin, shape_text(slice.shape),
                          shape_text(slice.offset), shape_text(shape));
  return slice;
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

// What a checkpoint's train_state holds of this rank's parameters, by kind and HF name.
class StoredState {
 public:
  StoredState(ParameterRegistry& registry, const fs::path& directory) {
    for (const fs::path& path : state_files(directory)) {
      files_.push_back(std::make_unique<formats::SafetensorsFile>(path));
      for (const formats::TensorEntry& entry : files_.back()->tensors()) add(registry, *files_.back(), entry);
    }
  }
  const std::vector<StoredTensor>& of(std::string_view kind, const std::string& name) const {
    static const std::vector<StoredTensor> kNone;
    const auto found = tensors_.find(std::string(kind) + name);
    return found == tensors_.end() ? kNone : found->second;
  }
  // Every element of `range` that lies in the piece is there.
  bool covers(std::string_view kind, const Piece& piece, ElementRange range) const {
    const TensorSlice wanted = slice_of(piece, range);
    int64_t there = 0;
    for (const StoredTensor& stored : of(kind, piece.spec->name))
      there += count_overlap(stored.slice, wanted);
    return there == wanted.run.count();
  }

 private:
  void add(ParameterRegistry& registry, const formats::SafetensorsFile& file,
           const formats::TensorEntry& entry) {
    std::string where = fmt::format("{}: tensor \"{}\"", file.path().string(), entry.name);
    std::string_view kind;
    for (const std::string_view known : {kMaster, kExpAvg, kExpAvgSq})
      if (entry.name.starts_with(known)) kind = known;
    if (kind.empty())
      throw CheckpointError("{}: this version knows only master.*, exp_avg.* and exp_avg_sq.* here", where);
    const config::TensorSpec* spec = registry.table().find(entry.name.substr(kind.size()));
    if (!spec) throw CheckpointError("{}: this model has no such parameter", where);
    if (!registry.find(spec->name).first) return;  // another rank's
    TensorSlice slice = read_slice(file, entry, *spec, where);
    tensors_[entry.name].push_back({&entry, file.bytes(entry), std::move(where), std::move(slice)});
  }
  std::vector<std::unique_ptr<formats::SafetensorsFile>> files_;
  std::map<std::string, std::vector<StoredTensor>> tensors_;
};

// A piece from the HF files. Returns whether they hold its master's every bit.
bool fill_from_weights(ParameterRegistry& registry, Parameter& parameter, const Piece& piece,
                       const formats::ShardedReader& reader) {
  const std::string& name = piece.spec->name;
  const auto& location = reader.at(name);
  const std::string where = fmt::format("{}: tensor \"{}\"", location.file->path().string(), name);
  if (location.entry->shape != piece.spec->shape)
    throw CheckpointError("{}: shape {} where this model has {}: the checkpoint is of another model", where,
                          shape_text(location.entry->shape), shape_text(piece.spec->shape));
  const std::vector<int64_t>& shape = piece.spec->shape;
  const TensorSlice whole{std::vector<int64_t>(shape.size(), 0), shape, {0, piece.spec->numel()}};
  fill_value(registry, parameter, piece, {location.entry, location.bytes(), where, whole});
  const int64_t needed = parameter.low_bits.defined() ? 32 : 64;
  return !needs_master(parameter) || formats::dtype_bits(location.entry->dtype) >= needed;
}

}  // namespace

std::vector<checkpoint::SavedFile> plan_train_state(ParameterRegistry& registry, int rank,
                                                    uint64_t max_file_bytes) {
  std::vector<checkpoint::SavedTensor> tensors;
  std::map<std::string, std::pair<const Parameter*, const Piece*>> origin_of;
  const auto add = [&](checkpoint::SavedTensor tensor, const Parameter& parameter, const Piece& piece) {
    origin_of[tensor.declaration.name] = {&parameter, &piece};
    tensors.push_back(std::move(tensor));
  };
  for (const Parameter& parameter : registry.parameters()) {
    if (parameter.is_follower) continue;
    for (const Piece& piece : parameter.pieces) {
      const std::string& name = piece.spec->name;
      const TensorSlice slice = slice_of(piece, parameter.share);
      if (slice.run.empty()) continue;
      if (needs_master(parameter)) {
        const std::string master = std::string(kMaster) + name;
        add(parameter.low_bits.defined() ? split_master(master, registry, parameter, piece, slice)
                                         : plain_tensor(master, parameter.value, 0, piece, slice),
            parameter, piece);
      }
      const int64_t origin = parameter.state.begin;
      if (parameter.exp_avg.defined())
        add(plain_tensor(std::string(kExpAvg) + name, parameter.exp_avg, origin, piece, slice), parameter,
            piece);
      if (parameter.exp_avg_sq.defined())
        add(plain_tensor(std::string(kExpAvgSq) + name, parameter.exp_avg_sq, origin, piece, slice),
            parameter, piece);
    }
  }
  if (tensors.empty()) return {};
  std::vector<checkpoint::SavedFile> files = checkpoint::cut_into_files(std::move(tensors), max_file_bytes);
  for (size_t i = 0; i < files.size(); ++i) {
    files[i].name = fmt::format("{}/rank_{:05}_{:05}.safetensors", kTrainStateFolder, rank, i + 1);
    for (const checkpoint::SavedTensor& tensor : files[i].tensors) {
      const auto& [parameter, piece] = origin_of.at(tensor.declaration.name);
      files[i].metadata[std::string(kSlice) + piece->spec->name] =
          slice_metadata(*piece, slice_of(*piece, parameter->share));
    }
  }
  return files;
}

LoadedState load_state(ParameterRegistry& registry, const fs::path& directory) {
  const StoredState stored(registry, directory);
  const formats::ShardedReader reader(directory);
  LoadedState result{true, true};
  for (Parameter& parameter : registry.parameters()) {
    for (const Piece& piece : parameter.pieces) {
      const std::string& name = piece.spec->name;
      for (const auto& [kind, moment] :
           {std::pair{kExpAvg, &parameter.exp_avg}, {kExpAvgSq, &parameter.exp_avg_sq}}) {
        if (!moment->defined()) continue;
        for (const StoredTensor& tensor : stored.of(kind, name))
          fill_moment(*moment, parameter, piece, tensor);
        result.has_moments = result.has_moments && stored.covers(kind, piece, parameter.state);
      }
      if (!stored.of(kMaster, name).empty() && stored.covers(kMaster, piece, piece.range())) {
        for (const StoredTensor& tensor : stored.of(kMaster, name))
          fill_value(registry, parameter, piece, tensor);
      } else {
        result.has_masters = fill_from_weights(registry, parameter, piece, reader) && result.has_masters;
      }
    }
  }
  return result;
}

}  // namespace fathom::weights
