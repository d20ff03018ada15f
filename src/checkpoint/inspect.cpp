#include "checkpoint/inspect.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <set>

#include "base/bfloat16.h"
#include "base/error.h"
#include "base/file.h"
#include "base/float16.h"
#include "checkpoint/quantized_ints.h"
#include "checkpoint/stored_values.h"
#include "formats/checkpoint_manifest.h"
#include "formats/sharded_safetensors.h"

namespace fathom::checkpoint {
namespace {

bool holds_weights(const fs::path& directory) {
  return fs::exists(directory / formats::kIndexFileName) || fs::exists(directory / formats::kSingleFileName);
}

// A run's directory stands for its newest checkpoint.
fs::path resolve(const fs::path& path) {
  if (!fs::exists(path)) throw FileError("{}: there is no such file or directory", path.string());
  if (!fs::is_directory(path) || holds_weights(path) || fs::exists(path / "config.json")) return path;
  for (const fs::path& folder : {path, path / "checkpoints"}) {
    if (!fs::is_regular_file(folder / "latest")) continue;
    std::string name = read_text_file(folder / "latest");
    name.erase(name.find_last_not_of(" \n\r\t") + 1);
    if (fs::path(name).filename() == name && fs::is_directory(folder / name)) return folder / name;
  }
  throw CheckpointError("{}: no config.json and no model weights are in this directory: is it a checkpoint?",
                        path.string());
}

std::string header_dtype(const std::string& torch_dtype) {
  if (torch_dtype == "bfloat16") return "BF16";
  if (torch_dtype == "float16") return "F16";
  if (torch_dtype == "float8_e4m3fn") return "F8_E4M3";
  if (torch_dtype == "int8") return "I8";
  if (torch_dtype == "int32") return "I32";
  if (torch_dtype == "int64") return "I64";
  return torch_dtype == "float64" ? "F64" : "F32";
}

void add_tensor(Inspection& result, InspectedTensor tensor) {
  result.bytes_by_dtype[tensor.dtype] += tensor.bytes;
  result.tensors.push_back(std::move(tensor));
}

// Parameters whose values the tensor holds: none in scales and shapes, several in a word of packed codes.
int64_t parameters_in(const formats::ShardedReader& reader, const formats::TensorEntry& entry) {
  if (entry.name.ends_with(".weight_packed")) return packed_parameters(reader, entry.name);
  return entry.name.ends_with(kScaleSuffix) || weight_of_part(entry.name) ? 0 : entry.numel();
}

// What the config implies, the parts of quantised matrices included.
std::vector<InspectedTensor> implied_tensors(const config::ModelConfig& model) {
  const config::TensorTable table(model);
  std::vector<InspectedTensor> tensors;
  const auto add = [&](const std::string& name, const std::string& dtype, const std::vector<int64_t>& shape) {
    tensors.push_back(
        {name, dtype, shape, "", 0, formats::tensor_bytes(*formats::parse_dtype(dtype), shape, name)});
  };
  for (const config::TensorSpec& spec : table.tensors())
    for (const config::StoredPart& part : config::stored_parts(spec, model))
      add(part.name, header_dtype(part.dtype), part.shape);
  return tensors;
}

void inspect_weights(const fs::path& path, Inspection& result) {
  const formats::ShardedReader reader(path);
  for (const auto& location : reader.tensors()) {
    const formats::TensorEntry& entry = *location.entry;
    result.stored_parameters += parameters_in(reader, entry);
    add_tensor(result, {entry.name, std::string(formats::dtype_name(entry.dtype)), entry.shape,
                        location.file->path().filename().string(), entry.offset, entry.bytes});
  }
}

void compare_with_config(Inspection& result) {
  std::set<std::string> stored;
  for (const InspectedTensor& tensor : result.tensors) stored.insert(tensor.name);
  for (const InspectedTensor& tensor : implied_tensors(*result.model))
    if (stored.erase(tensor.name) == 0) result.missing.push_back(tensor.name);
  result.unexpected.assign(stored.begin(), stored.end());
}

std::optional<double> element(std::string_view dtype, const std::byte* at) {
  const auto load = [&](auto value) {
    std::memcpy(&value, at, sizeof value);
    return value;
  };
  if (dtype == "F64") return load(double{});
  if (dtype == "F32") return load(float{});
  if (dtype == "BF16") return to_float(load(bf16{}));
  if (dtype == "F16") return to_float(load(f16{}));
  return std::nullopt;
}

std::optional<TensorDifference> compare_bytes(const InspectedTensor& tensor, std::span<const std::byte> a,
                                              std::span<const std::byte> b) {
  if (a.empty() || std::memcmp(a.data(), b.data(), a.size()) == 0) return std::nullopt;
  const int64_t bits = formats::dtype_bits(*formats::parse_dtype(tensor.dtype));
  const auto size = static_cast<size_t>(std::max<int64_t>(1, bits / 8));  // packed kinds: bytes
  TensorDifference difference{tensor.name, "values", 0, 0};
  for (size_t at = 0; at + size <= a.size(); at += size) {
    if (std::memcmp(a.data() + at, b.data() + at, size) == 0) continue;
    ++difference.elements;
    const auto x = element(tensor.dtype, a.data() + at), y = element(tensor.dtype, b.data() + at);
    if (!x || (std::isnan(*x) && std::isnan(*y)) || *x == *y) continue;
    const double distance = std::abs(*x - *y);
    difference.max_absolute = std::max(difference.max_absolute, std::isnan(distance) ? HUGE_VAL : distance);
  }
  return difference;
}

std::string shape_text(const std::vector<int64_t>& shape) { return Json(shape).dump(); }

}  // namespace

Inspection inspect(const fs::path& given) {
  Inspection result;
  result.path = resolve(given);
  const fs::path& path = result.path;
  if (fs::is_directory(path)) {
    result.kind = "checkpoint";
    if (fs::exists(path / "config.json")) result.model = config::read_model_config(path / "config.json");
    // A directory with a config alone is one whose weights are missing, which is what is to be said.
    inspect_weights(path, result);
    if (result.model) compare_with_config(result);
    if (fs::exists(path / formats::kManifestName)) {
      result.has_manifest = true;
      result.manifest_fault = formats::find_fault(path, formats::Verify::checksums).value_or("");
      if (result.manifest_fault.empty()) result.manifest_files = formats::read_manifest(path).files.size();
    }
  } else if (path.extension() == ".safetensors" || path.filename().string().ends_with(".index.json")) {
    result.kind = "safetensors";
    inspect_weights(path, result);
  } else if (path.extension() == ".json") {
    result.kind = "config";
    result.model = config::read_model_config(path);
    for (InspectedTensor& tensor : implied_tensors(*result.model)) add_tensor(result, std::move(tensor));
    result.stored_parameters = config::count_parameters(*result.model).stored;
  } else {
    throw UsageError("{}: give a checkpoint directory, a .safetensors file, an index or a config.json",
                     path.string());
  }
  if (result.model) result.counts = config::count_parameters(*result.model);
  return result;
}

CheckpointDifference compare(const Inspection& first, const Inspection& second) {
  std::unique_ptr<formats::ShardedReader> a, b;
  if (first.kind != "config" && second.kind != "config") {
    a = std::make_unique<formats::ShardedReader>(first.path);
    b = std::make_unique<formats::ShardedReader>(second.path);
  }
  std::map<std::string_view, const InspectedTensor*> others;
  for (const InspectedTensor& tensor : second.tensors) others[tensor.name] = &tensor;
  CheckpointDifference result;
  for (const InspectedTensor& tensor : first.tensors) {
    const auto found = others.find(tensor.name);
    if (found == others.end()) {
      result.only_first.push_back(tensor.name);
      continue;
    }
    const InspectedTensor& other = *found->second;
    others.erase(found);
    if (tensor.shape != other.shape) {
      result.differing.push_back(
          {tensor.name, fmt::format("shape {}, {}", shape_text(tensor.shape), shape_text(other.shape)), 0,
           0});
    } else if (tensor.dtype != other.dtype) {
      result.differing.push_back({tensor.name, fmt::format("dtype {}, {}", tensor.dtype, other.dtype), 0, 0});
    } else if (a) {
      ++result.compared;
      if (auto difference = compare_bytes(tensor, a->at(tensor.name).bytes(), b->at(tensor.name).bytes()))
        result.differing.push_back(std::move(*difference));
    }
  }
  for (const auto& [name, unused] : others) result.only_second.emplace_back(name);
  return result;
}

}  // namespace fathom::checkpoint
