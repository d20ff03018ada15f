#include "checkpoint/source_tensors.h"

#include <fmt/ranges.h>

#include <cstring>
#include <memory>

#include "base/crc32c.h"
#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "checkpoint/fp8_blocks.h"
#include "checkpoint/known_tensors.h"
#include "checkpoint/quantized_ints.h"
#include "checkpoint/stored_values.h"

namespace fathom::checkpoint {
namespace {

using config::TensorRole;
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

Json identity(const fs::path& source, const ShardedReader& reader) {
  Json files = Json::array();
  for (const formats::SafetensorsFile& file : reader.files())
    files.push_back({file.path().filename().string(), fs::file_size(file.path()),
                     static_cast<int64_t>(fs::last_write_time(file.path()).time_since_epoch().count())});
  const std::string text = read_text_file(source / "config.json");
  return {{"config", crc32c(text.data(), text.size())}, {"files", files}};
}

// One of the dtypes that weights have; of fp8, with its scales.
void check_dtype(const ShardedReader& reader, const std::string& name, const StoredTensor& tensor) {
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

}  // namespace

SourceTensors open_source(const fs::path& path) {
  if (!fs::exists(path)) throw FileError("{}: there is no such directory", path.string());
  if (!fs::is_regular_file(path / "config.json"))
    throw CheckpointError("{}: no config.json is here: give the directory of a checkpoint", path.string());
  SourceTensors source;
  source.path = path;
  source.model = config::read_model_config(path);
  const auto reader = std::make_shared<const ShardedReader>(path);
  check_scales(*reader, source.where());
  const config::TensorTable table(source.model);
  if (const int64_t ignored = refuse_unknown_tensors(*reader, table, source.model, source.where());
      ignored > 0)
    log::info("{}: {} tensors of layers beyond num_hidden_layers + num_nextn_predict_layers are left out",
              source.where(), ignored);
  if (reader->unlisted() > 0)
    log::warning("{}: {} tensors lie in its files but not in its index, and are left out", source.where(),
                 reader->unlisted());
  source.identity = identity(path, *reader);
  source.find = [reader](const std::string& name) -> std::optional<TensorView> {
    const std::optional<StoredTensor> tensor = find_stored(*reader, name);
    if (!tensor) return std::nullopt;
    if (!name.ends_with(kScaleSuffix) && !weight_of_part(name)) check_dtype(*reader, name, *tensor);
    return stored_view(reader, name);
  };
  return source;
}

TensorView source_tensor(const SourceTensors& source, const config::TensorTable& table,
                         const std::string& name, bool& is_tied) {
  const config::TensorSpec& spec = table.at(name);
  std::optional<TensorView> view = source.find(name);
  is_tied = !view && (spec.role == TensorRole::mtp_embedding || spec.role == TensorRole::mtp_head);
  if (is_tied)
    view = source.find(spec.role == TensorRole::mtp_head ? "lm_head.weight" : "model.embed_tokens.weight");
  if (!view) {
    const bool is_mtp = spec.layer >= source.model.num_hidden_layers;
    throw CheckpointError("{}: tensor {} is missing{}", source.where(), name,
                          is_mtp ? " (it is of an MTP layer: --drop-mtp converts without)" : "");
  }
  if (view->shape != spec.shape)
    throw CheckpointError("{}: tensor {} has shape [{}], config.json implies [{}]", view->file, name,
                          fmt::join(view->shape, ", "), fmt::join(spec.shape, ", "));
  return std::move(*view);
}

}  // namespace fathom::checkpoint
