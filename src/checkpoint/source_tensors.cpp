#include "checkpoint/source_tensors.h"

#include <cstring>
#include <memory>

#include "base/crc32c.h"
#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "checkpoint/fp8_blocks.h"
#include "checkpoint/known_tensors.h"
#include "checkpoint/mindformers_source.h"
#include "checkpoint/quantized_ints.h"
#include "checkpoint/stored_values.h"

namespace fathom::checkpoint {
namespace {

using formats::Dtype;
using formats::ShardedReader;

void check_scales(const ShardedReader& reader, const std::string& where) {
  for (const ShardedReader::Location& location : reader.tensors()) {
    const std::string& name = location.entry->name;
    if (!name.ends_with(kScaleSuffix)) continue;
    const ShardedReader::Location* matrix =
        reader.find(name.substr(0, name.size() - std::strlen(kScaleSuffix)));
    if (matrix && matrix->entry->dtype != Dtype::F8_E4M3)
      throw CheckpointError("{}: tensor {} would scale {}, which is no fp8 but {}", where, name,
                            matrix->entry->name, formats::dtype_name(matrix->entry->dtype));
  }
}

}  // namespace

Json source_identity(const fs::path& config, const ShardedReader& reader) {
  Json files = Json::array();
  for (const formats::SafetensorsFile& file : reader.files())
    files.push_back({file.path().filename().string(), fs::file_size(file.path()),
                     static_cast<int64_t>(fs::last_write_time(file.path()).time_since_epoch().count())});
  const std::string text = read_text_file(fs::is_directory(config) ? config / "config.json" : config);
  return {{"config", crc32c(text.data(), text.size())}, {"files", files}};
}

void check_weight_dtype(const ShardedReader& reader, const std::string& name, const StoredTensor& tensor) {
  switch (tensor.stored) {
    case Dtype::F8_E4M3:
      fp8_scales(reader, reader.at(name));
      return;
    case Dtype::BF16:
    case Dtype::F16:
    case Dtype::F32:
    case Dtype::F64:
    case Dtype::I8:  // with its scales: find_stored has looked
      return;
    case Dtype::I32:
      if (!reader.find(name)) return;  // packed codes
      [[fallthrough]];
    default:
      throw CheckpointError("{}: tensor {} has dtype {}, which is not a weight dtype that can be read here",
                            tensor.file, name, formats::dtype_name(tensor.stored));
  }
}

SourceTensors open_source(const fs::path& path, const SourceOptions& options) {
  if (!fs::exists(path)) throw FileError("{}: there is no such directory", path.string());
  if (std::optional<SourceTensors> other = open_mindformers(path, options)) return std::move(*other);
  const fs::path config = options.config.empty() ? path / "config.json" : options.config;
  if (options.config.empty() && !fs::is_regular_file(config))
    throw CheckpointError("{}: no config.json is here: give the directory of a checkpoint", path.string());
  SourceTensors source;
  source.path = path;
  source.model = config::read_model_config(config);
  const auto reader = std::make_shared<const ShardedReader>(path);
  check_scales(*reader, source.where());
  const config::TensorTable table(source.model);
  if (const int64_t ignored = refuse_unknown_tensors(*reader, table, source.model, source.where());
      ignored > 0)
    log::info("{}: {} tensors of layers beyond num_hidden_layers + num_nextn_predict_layers are left out",
              source.where(), ignored);
  mention_unlisted(*reader, source.where());
  source.identity = source_identity(config, *reader);
  source.find = [reader](const std::string& name) -> std::optional<TensorView> {
    const std::optional<StoredTensor> tensor = find_stored(*reader, name);
    if (!tensor) return std::nullopt;
    if (!name.ends_with(kScaleSuffix) && !weight_of_part(name)) check_weight_dtype(*reader, name, *tensor);
    return stored_view(reader, name);
  };
  return source;
}

TensorView source_tensor(const SourceTensors& source, const config::TensorTable& table,
                         const std::string& name, bool& is_tied) {
  const config::TensorSpec& spec = table.at(name);
  std::optional<TensorView> view = source.find(name);
  const char* original = copied_from(spec);
  is_tied = !view && original;
  if (is_tied) view = source.find(original);
  if (!view) throw missing_tensor(source.where(), name, spec, source.model, "--drop-mtp converts without");
  check_shape(view->file, name, view->shape, spec.shape);
  return std::move(*view);
}

}  // namespace fathom::checkpoint
