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
#include "checkpoint/quantized_ints.h"
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
  if (torch_dtype == "int8") return "I8";
  if (torch_dtype == "int32") return "I32";
  if (torch_dtype == "int64") return "I64";
  return torch_dtype == "float64" ? "F64" : "F32";
}

void add_tensor(Inspection& result, InspectedTensor tensor) {
  if (tensor.is_scale()) {
    ++result.scale_tensors;
    result.scale_elements += tensor.numel();
    result.scale_bytes += tensor.bytes;
  }
  result.stored_parameters += tensor.parameters;
  result.bytes_by_dtype[tensor.dtype] += tensor.bytes;
  result.tensors.push_back(std::move(tensor));
}

// Parameters whose values a stored tensor holds: none in scales and shapes, several in a word of packed codes.
int64_t parameters_in(const formats::ShardedReader& reader, const InspectedTensor& tensor) {
  if (tensor.name.ends_with(".weight_packed")) return packed_parameters(reader, tensor.name);
  return tensor.is_scale() ? 0 : tensor.numel();
}

// What the config implies, the parts of quantised matrices included.
std::vector<InspectedTensor> implied_tensors(const config::ModelConfig& model,
                                             const config::TensorTable& table) {
  std::vector<InspectedTensor> tensors;
  for (const config::TensorSpec& spec : table.tensors()) {
    int64_t parameters = spec.numel();  // in the first part, which is the codes
    for (const config::StoredPart& part : config::stored_parts(spec, model)) {
      const std::string dtype = header_dtype(part.dtype);
      const uint64_t bytes = formats::tensor_bytes(*formats::parse_dtype(dtype), part.shape, part.name);
      tensors.push_back({part.name, dtype, part.shape, "", 0, bytes, "", parameters});
      parameters = 0;
    }
  }
  return tensors;
}

void inspect_weights(const fs::path& path, Inspection& result) {
  const formats::ShardedReader reader(path);
  for (const auto& location : reader.tensors()) {
    const formats::TensorEntry& entry = *location.entry;
    InspectedTensor tensor{entry.name,   std::string(formats::dtype_name(entry.dtype)),
                           entry.shape,  location.file->path().filename().string(),
                           entry.offset, entry.bytes,
                           "",           0};
    tensor.parameters = parameters_in(reader, tensor);
    add_tensor(result, std::move(tensor));
  }
  result.files = reader.files().size();
  result.unlisted_tensors = reader.unlisted();
  result.unlisted_files = reader.unlisted_files();
}

void compare_with_config(Inspection& result, const config::TensorTable& table) {
  std::map<std::string_view, std::string_view> stored;  // to its dtype
  for (const InspectedTensor& tensor : result.tensors) {
    const Known known = classify_tensor(tensor.name, table, *result.model);
    if (known == Known::model)
      stored.emplace(tensor.name, tensor.dtype);
    else
      (known == Known::no ? result.unexpected : result.unused).push_back(tensor.name);
  }
  for (const config::TensorSpec& spec : table.tensors()) {
    if (copied_from(spec)) continue;
    const auto weight = stored.find(spec.name);
    const bool is_packed = stored.contains(int_part_names(spec.name, true).front());
    if (weight == stored.end() && !is_packed) result.missing.push_back(spec.name);
    // Codes are what config.json promises; a matrix may lie there as plain values all the same.
    if (!is_packed && (weight == stored.end() || (weight->second != "F8_E4M3" && weight->second != "I8")))
      continue;
    for (const config::StoredPart& part : config::stored_parts(spec, *result.model))
      if (part.name != spec.name && !stored.contains(part.name)) result.missing.push_back(part.name);
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
