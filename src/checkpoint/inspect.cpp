#include "checkpoint/inspect.h"

#include <algorithm>
#include <cstring>
#include <functional>
#include <numeric>
#include <set>
#include <string_view>

#include "base/error.h"
#include "base/file.h"
#include "checkpoint/inspect_layers.h"
#include "checkpoint/known_tensors.h"
#include "checkpoint/run_directory.h"
#include "checkpoint/stored_values.h"
#include "formats/checkpoint_manifest.h"
#include "formats/sharded_safetensors.h"

namespace fathom::checkpoint {
namespace {

std::string header_dtype(const std::string& torch_dtype) {
  if (torch_dtype == "bfloat16") return "BF16";
  if (torch_dtype == "float16") return "F16";
  if (torch_dtype == "float8_e4m3fn") return "F8_E4M3";
  return torch_dtype == "float64" ? "F64" : "F32";
}

void add_tensor(Inspection& result, InspectedTensor tensor) {
  if (tensor.is_scale()) {
    ++result.scale_tensors;
    result.scale_elements += tensor.numel();
    result.scale_bytes += tensor.bytes;
  } else {
    result.stored_parameters += tensor.numel();
  }
  result.bytes_by_dtype[tensor.dtype] += tensor.bytes;
  result.tensors.push_back(std::move(tensor));
}

// What the config implies, fp8 scales included.
std::vector<InspectedTensor> implied_tensors(const config::ModelConfig& model,
                                             const config::TensorTable& table) {
  std::vector<InspectedTensor> tensors;
  const auto add = [&](const std::string& name, const std::string& dtype, const std::vector<int64_t>& shape) {
    const uint64_t bytes = formats::tensor_bytes(*formats::parse_dtype(dtype), shape, name);
    tensors.push_back({name, dtype, shape, "", 0, bytes, ""});
  };
  for (const config::TensorSpec& spec : table.tensors()) {
    add(spec.name, header_dtype(config::stored_dtype(spec, model)), spec.shape);
    if (const auto shape = config::scale_shape(spec, model)) add(spec.name + kScaleSuffix, "F32", *shape);
  }
  return tensors;
}

void inspect_weights(const fs::path& path, Inspection& result) {
  const formats::ShardedReader reader(path);
  for (const auto& location : reader.tensors()) {
    const formats::TensorEntry& entry = *location.entry;
    add_tensor(result, {entry.name, std::string(formats::dtype_name(entry.dtype)), entry.shape,
                        location.file->path().filename().string(), entry.offset, entry.bytes, ""});
  }
  result.files = reader.files().size();
  result.unlisted_tensors = reader.unlisted();
  result.unlisted_files = reader.unlisted_files();
}

void compare_with_config(Inspection& result, const config::TensorTable& table) {
  std::set<std::string_view> stored;
  for (const InspectedTensor& tensor : result.tensors) {
    const Known known = classify_tensor(tensor.name, table, *result.model);
    if (known == Known::model)
      stored.insert(tensor.name);
    else
      (known == Known::no ? result.unexpected : result.unused).push_back(tensor.name);
  }
  for (const InspectedTensor& implied : implied_tensors(*result.model, table)) {
    if (stored.contains(implied.name)) continue;
    const config::TensorSpec* spec = table.find(implied.name);
    if (spec && copied_from(*spec)) continue;
    // fp8 is what config.json promises; a matrix may lie there in another dtype all the same.
    if (!spec && !stored.contains(implied.name.substr(0, implied.name.size() - std::strlen(kScaleSuffix))))
      continue;
    result.missing.push_back(implied.name);
  }
  for (const config::TensorSpec& spec : table.tensors())
    if (const char* source = copied_from(spec))
      result.mtp_copies.push_back({spec.name, source, stored.contains(spec.name), std::nullopt});
}

}  // namespace

int64_t InspectedTensor::numel() const {
  return std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>());
}

bool InspectedTensor::is_scale() const {
  // DeepSeek's and compressed-tensors' names.
  constexpr std::string_view kSuffixes[] = {"_scale_inv",  "_scale", "_scale_2",
                                            "_zero_point", "_g_idx", "weight_shape"};
  return std::any_of(std::begin(kSuffixes), std::end(kSuffixes),
                     [&](std::string_view suffix) { return name.ends_with(suffix); });
}

uint64_t Inspection::total_bytes() const {
  uint64_t sum = 0;
  for (const auto& [dtype, bytes] : bytes_by_dtype) sum += bytes;
  return sum;
}

Inspection inspect(const fs::path& given) {
  Inspection result;
  result.path = resolve_checkpoint(given);
  const fs::path& path = result.path;
  const bool is_directory = fs::is_directory(path);
  if (is_directory) {
    result.kind = "checkpoint";
    if (fs::exists(path / "config.json")) result.model = config::read_model_config(path / "config.json");
    // A directory with a config alone is one whose weights are missing, which is what is to be said.
    inspect_weights(path, result);
    if (fs::exists(path / formats::kManifestName)) {
      result.has_manifest = true;
      result.manifest_fault = formats::find_fault(path, formats::Verify::sizes).value_or("");
      if (result.manifest_fault.empty()) result.manifest_files = formats::read_manifest(path).files.size();
    }
  } else if (path.extension() == ".safetensors" || path.filename().string().ends_with(".index.json")) {
    result.kind = "safetensors";
    inspect_weights(path, result);
  } else if (path.extension() == ".json") {
    result.kind = "config";
    result.model = config::read_model_config(path);
  } else {
    throw UsageError("{}: give a checkpoint directory, a .safetensors file, an index or a config.json",
                     path.string());
  }
  if (!result.model) {
    result.layers = layers_of_names(result.tensors);
    return result;
  }
  const config::TensorTable table(*result.model);
  if (is_directory)
    compare_with_config(result, table);
  else
    for (InspectedTensor& tensor : implied_tensors(*result.model, table))
      add_tensor(result, std::move(tensor));
  result.counts = config::count_parameters(*result.model);
  result.layers = layers_of_config(*result.model, table, result.tensors);
  return result;
}

}  // namespace fathom::checkpoint
