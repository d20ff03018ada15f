#include "weights/save_weights.h"

#include <ATen/ops/from_blob.h>

#include "base/error.h"
#include "base/file.h"
#include "weights/scalar_type.h"

namespace fathom::weights {
namespace {

// The files that make up a tokenizer, as HF names them.
constexpr const char* kTokenizerFiles[] = {"tokenizer.json",          "tokenizer_config.json",
                                           "special_tokens_map.json", "chat_template.jinja",
                                           "tokenizer.model",         "tiktoken.model"};

void copy_into_place(const fs::path& from, const fs::path& to) {
  const MappedFile source(from);
  AtomicFile target(to);
  target.write(source.data(), source.size());
  target.commit();
}

bool has_tokenizer(const fs::path& path) {
  if (fs::is_regular_file(path)) return true;
  for (const char* name : {"tokenizer.json", "tokenizer.model", "tiktoken.model"})
    if (fs::is_regular_file(path / name)) return true;
  return false;
}

Json generation_config(const config::ModelConfig& model) {
  Json json = Json::object();
  json["_from_model_config"] = true;
  if (model.bos_token_id >= 0) json["bos_token_id"] = model.bos_token_id;
  if (model.eos_token_ids.size() == 1)
    json["eos_token_id"] = model.eos_token_ids.front();
  else if (!model.eos_token_ids.empty())
    json["eos_token_id"] = model.eos_token_ids;
  if (model.pad_token_id >= 0) json["pad_token_id"] = model.pad_token_id;
  return json;
}

std::string torch_name(formats::Dtype dtype) {
  switch (dtype) {
    case formats::Dtype::F32:
      return "float32";
    case formats::Dtype::BF16:
      return "bfloat16";
    default:
      throw std::logic_error("no checkpoint is written in " + std::string(formats::dtype_name(dtype)));
  }
}

}  // namespace

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

void check_tokenizer(const fs::path& tokenizer) {
  if (!has_tokenizer(tokenizer))
    throw FileError("{}: there is no tokenizer: give a tokenizer.json or the directory that holds it",
                    tokenizer.string());
}

void read_elements(const at::Tensor& flat, int64_t begin, int64_t count, formats::Dtype dtype,
                   std::byte* out) {
  at::from_blob(out, {count}, at::TensorOptions().dtype(*scalar_type(dtype)))
      .copy_(flat.narrow(0, begin, count));
}

std::vector<SavedTensor> weight_tensors(ParameterRegistry& registry) {
  std::map<std::string, std::string> sources;
  for (const TiedCopy& copy : registry.tied_copies()) sources[copy.spec->name] = copy.source;
  std::vector<SavedTensor> tensors;
  for (const config::TensorSpec& spec : registry.table().tensors()) {
    const auto source = sources.find(spec.name);
    const auto [parameter, piece] = registry.find(source == sources.end() ? spec.name : source->second);
    if (!parameter || !piece->is_whole())
      throw std::logic_error("no whole parameter holds the tensor " + spec.name);
    const formats::Dtype dtype =
        parameter->is_router_bias ? formats::Dtype::F32 : saved_dtype(registry.precision());
    const at::Tensor flat = parameter->piece_of(parameter->value, *piece).view({-1});
    tensors.push_back(
        {{spec.name, dtype, spec.shape}, [flat, dtype](int64_t begin, int64_t count, std::byte* out) {
           read_elements(flat, begin, count, dtype, out);
         }});
  }
  return tensors;
}

std::vector<SavedFile> plan_weight_files(std::vector<SavedTensor> tensors, uint64_t max_shard_bytes) {
  return cut_into_files(std::move(tensors), max_shard_bytes);
}

std::vector<std::string> write_model_files(const fs::path& directory, const config::ModelConfig& model,
                                           formats::Dtype dtype, const std::vector<SavedFile>& weight_files,
                                           const fs::path& tokenizer) {
  std::vector<std::string> names;
  const auto write_json = [&](const char* name, const Json& json) {
    write_text_file(directory / name, json.dump(2) + "\n");
    names.emplace_back(name);
  };
  config::ModelConfig written = model;
  written.dtype = torch_name(dtype);
  written.quantization.reset();
  write_json("config.json", config::to_json(written));
  write_json("generation_config.json", generation_config(model));

  if (!tokenizer.empty()) {
    check_tokenizer(tokenizer);
    const bool is_file = fs::is_regular_file(tokenizer);
    const fs::path folder = is_file ? tokenizer.parent_path() : tokenizer;
    for (const char* name : kTokenizerFiles) {
      const bool is_given = is_file && std::string(name) == "tokenizer.json";
      const fs::path from = is_given ? tokenizer : folder / name;
      if (!is_given && !fs::is_regular_file(from)) continue;
      if (fs::exists(directory / name) && fs::equivalent(from, directory / name)) continue;
      copy_into_place(from, directory / name);
      names.emplace_back(name);
    }
  }
  if (weight_files.size() > 1) {
    formats::SafetensorsIndex index;
    for (const SavedFile& file : weight_files) {
      index.total_size += file.bytes();
      for (const SavedTensor& tensor : file.tensors) index.weight_map[tensor.declaration.name] = file.name;
    }
    formats::write_safetensors_index(directory / formats::kIndexFileName, index);
    names.emplace_back(formats::kIndexFileName);
  }
  return names;
}

void save_weights(ParameterRegistry& registry, const fs::path& directory, const fs::path& tokenizer,
                  uint64_t max_shard_bytes) {
  make_directories(directory);
  const std::vector<SavedFile> files = plan_weight_files(weight_tensors(registry), max_shard_bytes);
  for (const SavedFile& file : files) write_saved_file(directory, file);
  write_model_files(directory, registry.model(), saved_dtype(registry.precision()), files, tokenizer);
  sync_directory(directory);
}

}  // namespace fathom::weights
