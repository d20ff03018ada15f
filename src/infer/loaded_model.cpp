#include "infer/loaded_model.h"

#include <c10/core/Device.h>

#include <chrono>

#include "base/json.h"
#include "base/log.h"
#include "base/progress.h"
#include "checkpoint/run_directory.h"
#include "formats/sharded_safetensors.h"
#include "ops/runtime.h"
#include "weights/load_weights.h"

namespace fathom::infer {
namespace {

void append_ids(const Json& value, const std::string& where, std::vector<int32_t>& ids) {
  const auto take = [&](const Json& id) {
    if (!id.is_number_integer() || id.get<int64_t>() < 0 || id.get<int64_t>() > INT32_MAX)
      throw ConfigError("{}: eos_token_id: expected a token id or a list of them, found {}", where,
                        value.dump());
    ids.push_back(id.get<int32_t>());
  };
  if (value.is_array())
    for (const Json& id : value) take(id);
  else if (!value.is_null())
    take(value);
}

std::vector<int32_t> find_eos_ids(const fs::path& directory, const LoadedModel& loaded) {
  std::vector<int32_t> ids;
  const fs::path file = directory / "generation_config.json";
  if (fs::exists(file)) {
    const Json generation = read_json_file(file);
    if (!generation.is_object()) throw ConfigError("{}: expected a JSON object", file.string());
    if (const auto value = generation.find("eos_token_id"); value != generation.end())
      append_ids(*value, file.string(), ids);
  }
  if (ids.empty())
    for (const int64_t id : loaded.config.eos_token_ids) ids.push_back(static_cast<int32_t>(id));
  if (ids.empty() && loaded.tokenizer && loaded.tokenizer->eos_id())
    ids.push_back(*loaded.tokenizer->eos_id());
  return ids;
}

}  // namespace

// The embedding is in the checkpoint's own dtype in every format of the family, the quantised ones included.
config::Precision precision_of_file(const fs::path& directory) {
  const formats::ShardedReader reader(directory);
  switch (reader.at("model.embed_tokens.weight").entry->dtype) {
    case formats::Dtype::F16:  // fp32 holds its values exactly, bf16 does not
    case formats::Dtype::F32:
    case formats::Dtype::F64:
      return config::Precision::fp32;
    default:
      return config::Precision::bf16;
  }
}

LoadedModel load_model(const fs::path& path, EngineDtype dtype, int threads) {
  const auto start = std::chrono::steady_clock::now();
  const fs::path directory = checkpoint::resolve_checkpoint(path);
  if (!fs::is_directory(directory))
    throw FileError("{} is not a directory: give a checkpoint directory (config.json and *.safetensors)",
                    directory.string());
  ops::initialize_runtime(threads);
  LoadedModel loaded;
  loaded.config = config::read_model_config(directory);
  loaded.config.num_nextn_predict_layers = 0;
  loaded.precision = dtype == EngineDtype::fp32   ? config::Precision::fp32
                     : dtype == EngineDtype::bf16 ? config::Precision::bf16
                                                  : precision_of_file(directory);
  if (tokenizer::Tokenizer::is_in(directory)) loaded.tokenizer = tokenizer::Tokenizer::load(directory);
  loaded.eos_token_ids = find_eos_ids(directory, loaded);

  loaded.registry = std::make_unique<weights::ParameterRegistry>(loaded.config, loaded.precision,
                                                                 c10::Device(c10::kCPU), /*trained=*/false);
  loaded.model = std::make_unique<model::DeepseekModel>(*loaded.registry);
  weights::load_weights(*loaded.registry, directory);
  for (const weights::Parameter& parameter : loaded.registry->parameters())
    loaded.num_parameters += parameter.numel();
  log::info("{}: {}, {} layers, {} parameters in {}, loaded in {}", directory.string(),
            loaded.config.model_type, loaded.config.num_hidden_layers,
            format_count(static_cast<double>(loaded.num_parameters)),
            loaded.precision == config::Precision::fp32 ? "fp32" : "bf16",
            format_duration(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count()));
  return loaded;
}

}  // namespace fathom::infer
