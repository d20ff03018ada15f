#include "checkpoint/convert.h"

#include <fmt/ranges.h>

#include <atomic>
#include <cstring>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "base/crc32c.h"
#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "base/parallel.h"
#include "base/progress.h"
#include "checkpoint/convert_journal.h"
#include "checkpoint/fp8_blocks.h"
#include "checkpoint/known_tensors.h"
#include "checkpoint/model_files.h"
#include "checkpoint/stored_values.h"
#include "checkpoint/tensor_view.h"

namespace fathom::checkpoint {
namespace {

using config::TensorRole;
using config::TensorSpec;
using formats::Dtype;
using formats::ShardedReader;
using Reader = std::shared_ptr<const ShardedReader>;

constexpr int64_t kChunkElements = 1 << 18;
constexpr uint64_t kSmallFilesBytes = 64 << 20;

std::optional<Dtype> dtype_of(const std::string& name) {
  if (name == "bf16") return Dtype::BF16;
  if (name == "fp32") return Dtype::F32;
  if (name == "fp16") return Dtype::F16;
  return std::nullopt;
}

void check_arguments(const fs::path& source, const fs::path& directory, const ConvertOptions& options) {
  if (!options.dtype.empty() && options.dtype != "fp8" && !dtype_of(options.dtype))
    throw UsageError("--dtype {}: use bf16, fp32, fp16 or fp8", options.dtype);
  if (!options.scale_format.empty() && options.dtype != "fp8")
    throw UsageError("--scale-fmt {} goes with --dtype fp8 only", options.scale_format);
  if (!options.scale_format.empty() && options.scale_format != "float32" && options.scale_format != "ue8m0")
    throw UsageError("--scale-fmt {}: use float32 or ue8m0", options.scale_format);
  if (options.max_shard_bytes == 0) throw UsageError("--max-shard-size 0: a file must hold something");
  if (!fs::exists(source)) throw FileError("{}: there is no such directory", source.string());
  if (!fs::is_regular_file(source / "config.json"))
    throw CheckpointError("{}: no config.json is here: give the directory of a checkpoint", source.string());
  if (fs::weakly_canonical(source) == fs::weakly_canonical(directory))
    throw UsageError("{} is both source and destination: give another directory to write to",
                     source.string());
}

// Every stored tensor is one of the model's, a scale of one, or known to be of no use.
void check_tensors(const ShardedReader& reader, const config::TensorTable& table,
                   const config::ModelConfig& model, const std::string& where) {
  for (const ShardedReader::Location& location : reader.tensors()) {
    const std::string& name = location.entry->name;
    if (!name.ends_with(kScaleSuffix)) continue;
    const ShardedReader::Location* matrix =
        reader.find(name.substr(0, name.size() - std::strlen(kScaleSuffix)));
    if (matrix && matrix->entry->dtype != Dtype::F8_E4M3)
      throw CheckpointError("{}: tensor {} would scale {}, which is no fp8 but {}", where, name,
                            matrix->entry->name, formats::dtype_name(matrix->entry->dtype));
  }
  if (const int64_t ignored_mtp = refuse_unknown_tensors(reader, table, model, where); ignored_mtp > 0)
    log::info("{}: {} tensors of layers beyond num_hidden_layers + num_nextn_predict_layers are left out",
              where, ignored_mtp);
  if (reader.unlisted() > 0)
    log::warning("{}: {} tensors lie in its files but not in its index, and are left out", where,
                 reader.unlisted());
}

class Plan {
 public:
  Plan(Reader reader, const config::ModelConfig& model, const ConvertOptions& options, std::string where)
      : reader_(std::move(reader)),
        model_(model),
        options_(options),
        where_(std::move(where)),
        table_(model),
        cut_(cut_model(model, options.cut)),
        target_(cut_.model) {
    if (model.quantization && model.quantization->quant_method != "fp8")
      throw CheckpointError("{}: its weights are quantized as {}; fp8, bf16, fp16 and fp32 are read", where_,
                            model.quantization->quant_method);
    check_tensors(*reader_, table_, model, where_);
    set_target();
  }

  const config::ModelConfig& target() const { return target_; }

  std::vector<SavedTensor> tensors() {
    const config::TensorTable table(target_);
    std::vector<SavedTensor> result;
    for (const TensorSpec& spec : table.tensors()) add(spec, result);
    if (!tied_.empty())
      log::info("{}: {} of the MTP layers not there: written as the trunk's", where_, fmt::join(tied_, ", "));
    return result;
  }

 private:
  void set_target() {
    if (options_.dtype.empty()) return;
    target_.dtype = options_.dtype == "fp32" ? "float32" : options_.dtype == "fp16" ? "float16" : "bfloat16";
    if (options_.dtype != "fp8") return target_.quantization.reset();
    const std::string old = model_.quantization ? model_.quantization->scale_fmt : "";
    const std::string format = options_.scale_format.empty()      ? old
                               : options_.scale_format == "ue8m0" ? "ue8m0"
                                                                  : "";
    keeps_blocks_ = format == old;
    if (model_.quantization && keeps_blocks_) return;
    config::QuantizationConfig fp8{"fp8", {kScaleBlock, kScaleBlock}, format, Json::object()};
    fp8.raw = {{"activation_scheme", "dynamic"}, {"fmt", "e4m3"}, {"quant_method", "fp8"}};
    if (!format.empty()) fp8.raw["scale_fmt"] = format;
    fp8.raw["weight_block_size"] = fp8.weight_block_size;
    target_.quantization = std::move(fp8);
  }

  // Where the tensor lies in the source; the trunk's own for a copy of it that is missing (WT-7).
  const ShardedReader::Location& find(const TensorSpec& spec) {
    const std::string name = cut_.source_name(spec);
    const ShardedReader::Location* location = reader_->find(name);
    if (!location && (spec.role == TensorRole::mtp_embedding || spec.role == TensorRole::mtp_head)) {
      location =
          reader_->find(spec.role == TensorRole::mtp_head ? "lm_head.weight" : "model.embed_tokens.weight");
      if (location) tied_.push_back(name);
    }
    if (!location) {
      const bool is_mtp = spec.layer >= target_.num_hidden_layers;
      throw CheckpointError("{}: tensor {} is missing{}", where_, name,
                            is_mtp ? " (it is of an MTP layer: --drop-mtp converts without)" : "");
    }
    const std::vector<int64_t>& shape = table_.at(name).shape;
    if (location->entry->shape != shape)
      throw CheckpointError("{}: tensor {} has shape [{}], config.json implies [{}]",
                            location->file->path().string(), name, fmt::join(location->entry->shape, ", "),
                            fmt::join(shape, ", "));
    return *location;
  }

  void add(const TensorSpec& spec, std::vector<SavedTensor>& result) {
    const ShardedReader::Location& location = find(spec);
    const std::string& stored = location.entry->name;
    const Dtype from = location.entry->dtype;
    const bool is_fp8 = from == Dtype::F8_E4M3;
    if (is_fp8) fp8_scales(*reader_, location);
    if (!is_fp8 && from != Dtype::BF16 && from != Dtype::F16 && from != Dtype::F32 && from != Dtype::F64)
      throw CheckpointError("{}: tensor {} has dtype {}, which is not a weight dtype that can be read here",
                            location.file->path().string(), stored, formats::dtype_name(from));
    TensorView view = stored_view(reader_, stored);
    view.name = spec.name;
    const bool is_router = spec.role == TensorRole::router || spec.role == TensorRole::router_bias;
    if (is_router && cut_.has_fewer_experts) view = select_rows(std::move(view), cut_.experts);

    const bool wants_fp8 = options_.dtype == "fp8" && config::scale_shape(spec, target_).has_value();
    if (spec.role == TensorRole::router_bias) {
      result.push_back(saved(std::move(view), Dtype::F32));
    } else if (is_fp8 && (options_.dtype.empty() || (wants_fp8 && keeps_blocks_))) {
      TensorView scales = stored_view(reader_, stored + kScaleSuffix);
      scales.name = spec.name + kScaleSuffix;
      const Dtype scale_dtype = reader_->at(stored + kScaleSuffix).entry->dtype;
      result.push_back(saved(std::move(view), Dtype::F8_E4M3));
      result.push_back(saved(std::move(scales), scale_dtype));
    } else if (wants_fp8) {
      const bool is_power = target_.quantization->scale_fmt == "ue8m0";
      for (SavedTensor& part :
           quantized(std::move(view), is_power ? ScaleFormat::ue8m0 : ScaleFormat::float32))
        result.push_back(std::move(part));
    } else {
      result.push_back(saved(std::move(view),
                             options_.dtype.empty() ? from : dtype_of(options_.dtype).value_or(Dtype::BF16)));
    }
  }

  Reader reader_;
  const config::ModelConfig& model_;
  const ConvertOptions& options_;
  std::string where_;
  config::TensorTable table_;  // of the source
  ModelCut cut_;
  config::ModelConfig target_;
  bool keeps_blocks_ = true;  // fp8 to fp8 copies codes and scales
  std::vector<std::string> tied_;
};

// What the result is a function of.
Json description(const fs::path& source, const ShardedReader& reader, const ConvertOptions& options) {
  Json files = Json::array();
  for (const formats::SafetensorsFile& file : reader.files())
    files.push_back({file.path().filename().string(), fs::file_size(file.path()),
                     static_cast<int64_t>(fs::last_write_time(file.path()).time_since_epoch().count())});
  const std::string text = read_text_file(source / "config.json");
  Json result;
  result["source"] = {{"config", crc32c(text.data(), text.size())}, {"files", files}};
  result["options"] = {{"dtype", options.dtype},
                       {"scale_format", options.scale_format},
                       {"max_shard_bytes", options.max_shard_bytes},
                       {"layers", options.cut.layers},
                       {"experts", options.cut.experts},
                       {"drop_mtp", options.cut.drop_mtp}};
  return result;
}

struct Chunk {
  const SavedTensor* tensor;
  int64_t begin, count;
};

void write_file(const fs::path& directory, const SavedFile& file, const std::function<bool()>& is_stopped,
                Progress& progress) {
  formats::SafetensorsWriter writer(directory / file.name, declarations(file.tensors));
  std::vector<Chunk> chunks;
  for (const SavedTensor& tensor : file.tensors)
    for (int64_t begin = 0, numel = tensor.numel(); begin < numel; begin += kChunkElements)
      chunks.push_back({&tensor, begin, std::min(kChunkElements, numel - begin)});
  std::atomic<size_t> next{0};
  parallel_tasks(num_threads(), [&](int64_t) {
    std::vector<std::byte> buffer;
    try {
      for (size_t i; (i = next.fetch_add(1)) < chunks.size();) {
        if (is_stopped())
          throw Error("{}: stopped by a signal; the same command goes on from the files that are done",
                      directory.string());
        const Chunk& chunk = chunks[i];
        const int64_t size = formats::dtype_bits(chunk.tensor->declaration.dtype) / 8;
        const auto bytes = static_cast<size_t>(chunk.count * size);
        buffer.resize(std::max(buffer.size(), bytes));
        chunk.tensor->read(chunk.begin, chunk.count, buffer.data());
        writer.write_slice(chunk.tensor->declaration.name, static_cast<uint64_t>(chunk.begin * size),
                           std::span(buffer).first(bytes));
        progress.advance(bytes);
      }
    } catch (...) {
      next = chunks.size();  // the other threads have no more to do
      throw;
    }
  });
  writer.commit();
}

}  // namespace

ConvertReport convert_checkpoint(const fs::path& source, const fs::path& directory,
                                 const ConvertOptions& options) {
  check_arguments(source, directory, options);
  const config::ModelConfig model = config::read_model_config(source);
  const auto reader = std::make_shared<const ShardedReader>(source);
  Plan plan(reader, model, options, source.string());
  std::vector<SavedFile> files = cut_into_files(plan.tensors(), options.max_shard_bytes);
  ConvertReport report;
  report.files = files.size();
  std::vector<bool> is_done;
  ConvertJournal journal(directory, description(source, *reader, options), files);
  for (const SavedFile& file : files) {
    is_done.push_back(journal.is_written(file));
    report.bytes += file.bytes();
    report.tensors += file.tensors.size();
    if (is_done.back()) report.resumed_bytes += file.bytes();
  }
  const uint64_t missing = report.bytes - report.resumed_bytes, available = free_disk_bytes(directory);
  if (available < missing + kSmallFilesBytes)
    throw FileError("{}: too little disk: {} are to be written, {} is free", directory.string(),
                    format_bytes(static_cast<double>(missing + kSmallFilesBytes)),
                    format_bytes(static_cast<double>(available)));
  if (report.resumed_bytes > 0)
    log::info("{}: goes on after {} of an earlier run", directory.string(),
              format_bytes(static_cast<double>(report.resumed_bytes)));
  Progress progress("convert", missing, "B");
  for (size_t i = 0; i < files.size(); ++i) {
    if (!is_done[i]) write_file(directory, files[i], options.is_stopped, progress);
    for (SavedTensor& tensor : files[i].tensors) tensor.read = nullptr;  // with what it kept of its blocks
  }
  copy_companions(source, directory);
  if (files.size() > 1) write_index(directory, files);
  write_text_file(directory / "config.json", config::to_json(plan.target()).dump(2) + "\n");
  sync_directory(directory);
  journal.finish();
  progress.finish();
  report.seconds = progress.seconds();
  return report;
}

}  // namespace fathom::checkpoint
