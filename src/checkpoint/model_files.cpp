#include "checkpoint/model_files.h"

#include <algorithm>
#include <stdexcept>

#include "base/error.h"
#include "base/file.h"

namespace fathom::checkpoint {
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
    case formats::Dtype::F16:
      return "float16";
    case formats::Dtype::BF16:
    case formats::Dtype::F8_E4M3:
      return "bfloat16";
    default:
      throw std::logic_error("no checkpoint is written in " + std::string(formats::dtype_name(dtype)));
  }
}

formats::SafetensorsIndex index_of(const std::vector<SavedFile>& weight_files) {
  formats::SafetensorsIndex index;
  for (const SavedFile& file : weight_files) {
    index.total_size += file.bytes();
    for (const SavedTensor& tensor : file.tensors) index.weight_map[tensor.declaration.name] = file.name;
  }
  return index;
}

}  // namespace

void check_tokenizer(const fs::path& tokenizer) {
  if (!has_tokenizer(tokenizer))
    throw FileError("{}: there is no tokenizer: give a tokenizer.json or the directory that holds it",
                    tokenizer.string());
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
  if (dtype != formats::Dtype::F8_E4M3) written.quantization.reset();
  write_json("config.json", config::to_json(written));
  write_json("generation_config.json", generation_config(model));

  if (!tokenizer.empty()) {
    check_tokenizer(tokenizer);
    const bool is_file = fs::is_regular_file(tokenizer);
    const fs::path folder = is_file ? tokenizer.parent_path() : tokenizer;
    std::vector<std::string> files(std::begin(kTokenizerFiles), std::end(kTokenizerFiles));
    // How a tiktoken.model cuts text stands in Python beside it.
    for (const auto& entry : fs::directory_iterator(folder.empty() ? fs::path(".") : folder)) {
      const std::string name = entry.path().filename().string();
      if (name.starts_with("tokenization_") && name.ends_with(".py")) files.push_back(name);
    }
    std::sort(files.begin(), files.end());
    const bool is_ranks = is_file && tokenizer.extension() == ".model";
    const std::string given = is_ranks ? "tiktoken.model" : "tokenizer.json";
    for (const std::string& name : files) {
      const bool is_given = is_file && name == given;
      if (is_ranks && name == "tokenizer.json") continue;  // it would be read in place of the given one
      const fs::path from = is_given ? tokenizer : folder / name;
      if (!is_given && !fs::is_regular_file(from)) continue;
      if (fs::exists(directory / name) && fs::equivalent(from, directory / name)) continue;
      copy_into_place(from, directory / name);
      names.emplace_back(name);
    }
  }
  if (weight_files.size() > 1) {
    write_index(directory, weight_files);
    names.emplace_back(formats::kIndexFileName);
  }
  return names;
}

void write_index(const fs::path& directory, const std::vector<SavedFile>& weight_files) {
  formats::write_safetensors_index(directory / formats::kIndexFileName, index_of(weight_files));
}

void write_parameter_map(const fs::path& directory, const std::vector<SavedFile>& weight_files) {
  formats::write_parameter_map(directory / formats::kParameterMapName, index_of(weight_files));
}

void copy_companions(const fs::path& from, const fs::path& to) {
  std::vector<std::string> names(std::begin(kTokenizerFiles), std::end(kTokenizerFiles));
  for (const char* name :
       {"generation_config.json", "added_tokens.json", "chat_template.json", "vocab.json", "merges.txt"})
    names.emplace_back(name);
  for (const auto& entry : fs::directory_iterator(from))
    if (entry.path().extension() == ".py") names.push_back(entry.path().filename().string());
  for (const std::string& name : names)
    if (fs::is_regular_file(from / name)) copy_into_place(from / name, to / name);
}

}  // namespace fathom::checkpoint
