#include "checkpoint/mindformers_source.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cstdlib>
#include <functional>
#include <memory>
#include <numeric>
#include <set>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "checkpoint/layout_export.h"
#include "checkpoint/layout_rules.h"
#include "checkpoint/mindformers_w8a8.h"

namespace fathom::checkpoint {
namespace {

using config::TensorRole;
using formats::Dtype;
using formats::SafetensorsFile;
using formats::SafetensorsIndex;
using formats::ShardedReader;
using Reader = std::shared_ptr<const ShardedReader>;

constexpr const char* kOldMapName = "ms-model.safetensors.index.json";
constexpr const char* kLegacyEmbedding = "model.tok_embeddings.embedding_weight";
constexpr const char* kMcoreEmbedding = "embedding.word_embeddings.weight";

bool contains(std::string_view text, std::string_view part) {
  return text.find(part) != std::string_view::npos;
}

bool is_foreign(const ShardedReader& reader) {
  return reader.find(kLegacyEmbedding) || reader.find(kMcoreEmbedding);
}

// All tensors of the files that a map names (or of all files), since MindFormers' maps forget some. Where two files hold a
// tensor, the map decides.
SafetensorsIndex index_of_files(const fs::path& path, const SafetensorsIndex& map) {
  std::set<std::string> files;
  for (const auto& [tensor, file] : map.weight_map) files.insert(file);
  if (files.empty())
    for (const auto& entry : fs::directory_iterator(path))
      if (entry.path().extension() == ".safetensors") files.insert(entry.path().filename().string());
  SafetensorsIndex index = map;
  for (const std::string& name : files) {
    if (!fs::exists(path / name)) continue;  // the reader says which are missing
    const SafetensorsFile file(path / name);
    for (const formats::TensorEntry& entry : file.tensors()) index.weight_map.emplace(entry.name, name);
  }
  return index;
}

// nullptr: nothing of MindFormers' lies here.
Reader open_reader(const fs::path& path) {
  if (!fs::is_directory(path)) return nullptr;
  for (const char* name : {formats::kParameterMapName, kOldMapName})
    if (fs::exists(path / name))
      return std::make_shared<const ShardedReader>(
          path, index_of_files(path, formats::read_parameter_map(path / name)));
  if (fs::exists(path / formats::kSingleFileName) || fs::exists(path / formats::kIndexFileName)) {
    auto reader = std::make_shared<const ShardedReader>(path);
    return is_foreign(*reader) ? reader : nullptr;
  }
  if (fs::is_directory(path / "rank_0"))
    throw CheckpointError(
        "{}: these are the slices of MindFormers' ranks: join them first with its unified_safetensors.py, "
        "then give the "
        "directory that it writes",
        path.string());
  bool has_ckpt = false, has_safetensors = false;
  for (const auto& entry : fs::directory_iterator(path)) {
    has_safetensors = has_safetensors || entry.path().extension() == ".safetensors";
    has_ckpt = has_ckpt || entry.path().extension() == ".ckpt";
  }
  if (has_safetensors) {
    auto reader = std::make_shared<const ShardedReader>(path, index_of_files(path, {}));
    return is_foreign(*reader) ? reader : nullptr;
  }
  if (has_ckpt)
    throw CheckpointError(
        "{}: MindSpore's .ckpt files are not read: save as safetensors (--save_format safetensors)",
        path.string());
  return nullptr;
}

// What names and shapes say.
LayoutOptions detect(const ShardedReader& reader, const config::ModelConfig& model) {
  LayoutOptions options;
  const auto any = [&](std::string_view part) {
    return std::any_of(reader.tensors().begin(), reader.tensors().end(),
                       [&](const auto& location) { return contains(location.entry->name, part); });
  };
  if (reader.find(kMcoreEmbedding)) {
    options.layout = Layout::mcore;
    const bool is_dev = any(".self_attention.linear_qkv.");
    options.mcore_version = is_dev ? McoreVersion::dev : McoreVersion::r1_8;
    options.has_interleaved_fc1 = !is_dev;
    options.has_split_mla = any(".self_attention.linear_kv_nope.");
    options.has_local_experts = any(".experts.local_experts.");
    return options;
  }
  if (any(".attention.l2q_proj.") || any(".attention.q_proj.") || any(".attention.qkv2l.")) {
    options.layout = Layout::mindformers_infer;
    options.has_fused_qkv = any(".attention.qkv2l.");
    options.has_fused_ffn = any(".w_gate_hidden.");
    options.has_training_mtp = any("model.mtp_hidden_fusers.");
    return options;
  }
  options.layout = Layout::mindformers_train;
  for (const ShardedReader::Location& location : reader.tensors()) {
    const std::string_view name = location.entry->name;
    if (name.starts_with("adam_")) continue;
    if (name.ends_with(".routed_experts.ffn.w1")) options.layout = Layout::mindformers_train_gmm;
    if (name.ends_with(".routed_experts.ffn.w1.weight"))
      options.has_transposed_experts =
          model.hidden_size != model.moe_intermediate_size &&
          location.entry->shape ==
              std::vector{model.n_routed_experts, model.hidden_size, model.moe_intermediate_size};
  }
  return options;
}

// Names of one thing in different layouts: train2infer changes the shapes and leaves these.
std::vector<std::string> names_of(const std::string& name) {
  static const std::vector<std::vector<std::string>> kSame = {
      {"router.e_score_correction_bias", "router.router.topk_bias", "topk_bias"},
      {"router.dense.weight", "router_dense.weight"},
  };
  std::vector<std::string> names = {name};
  const std::string routed = ".feed_forward.routed_experts.";
  const size_t at = name.find(routed);
  if (at != std::string::npos) {
    const std::string prefix = name.substr(0, at + routed.size()), rest = name.substr(prefix.size());
    for (const auto& same : kSame)
      if (std::find(same.begin(), same.end(), rest) != same.end())
        for (const std::string& other : same)
          if (other != rest) names.push_back(prefix + other);
  }
  const std::string embedding = ".tok_embeddings.weight";
  if (name.ends_with(embedding))
    names.push_back(name.substr(0, name.size() - embedding.size()) + ".embed_tokens.weight");
  return names;
}

// Of training itself: moments, counters, sums of the balancing.
bool is_training_state(std::string_view name) {
  return name.starts_with("adam_m.") || name.starts_with("adam_v.") || !contains(name, ".") ||
         name.ends_with(".expert_load") || name.ends_with(".fi_accu");
}

bool is_mtp(std::string_view name, int64_t num_hidden_layers) {
  constexpr std::string_view kLayers = "model.layers.";
  if (name.starts_with(kLayers))
    return std::strtoll(name.data() + kLayers.size(), nullptr, 10) >= num_hidden_layers;
  return name.starts_with("mtp.") || name.starts_with("model.mtp_");
}

int64_t product(const std::vector<int64_t>& shape) {
  return std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>());
}

// Stacks of experts come with the experts' dimension apart or joined to the next one, the bytes being the same.
bool fits(const LayoutRule& rule, const LayoutTensor& tensor, const std::vector<int64_t>& shape) {
  if (shape == tensor.shape) return true;
  if (rule.groups == 1 || product(shape) != product(tensor.shape)) return false;
  const int64_t rows = rule.is_transposed ? rule.width : rule.group_rows();
  const int64_t columns = rule.is_transposed ? rule.group_rows() : rule.width;
  return shape == std::vector{rule.groups, rows, columns} ||
         shape == std::vector{rule.groups * rows, columns} ||
         (tensor.name.ends_with(".weight1") && shape == std::vector{rows, rule.groups * columns});
}

class MindformersTensors {
 public:
  // `dtype`: of what is stored as int8.
  MindformersTensors(Reader reader, const config::ModelConfig& model, const LayoutOptions& layout,
                     Dtype dtype, std::string where)
      : reader_(std::move(reader)),
        where_(std::move(where)),
        model_(model),
        dtype_(dtype),
        rules_(layout_rules(model, layout)) {
    for (size_t rule = 0; rule < rules_.size(); ++rule)
      for (size_t i = 0; i < rules_[rule].hf.size(); ++i)
        index_.emplace(rules_[rule].hf[i].name, Place{rule, i});
    refuse_unknown(layout);
  }

  std::optional<TensorView> find(const std::string& name) const {
    const auto place = index_.find(name);
    if (place == index_.end()) return std::nullopt;
    const LayoutRule& rule = rules_[place->second.rule];
    std::vector<TensorView> parts;
    for (const LayoutTensor& tensor : rule.there) {
      if (const ShardedReader::Location* codes = find_w8a8(*reader_, tensor.name)) {
        check_shape(rule, tensor, *codes);
        parts.push_back(w8a8_view(reader_, rule, tensor, dtype_));
        continue;
      }
      const ShardedReader::Location* location = locate(tensor.name);
      if (!location) {
        if (rule.role == TensorRole::mtp_embedding || rule.role == TensorRole::mtp_head) return std::nullopt;
        throw CheckpointError("{}: tensor {}, which holds {}, is missing{}", where_, tensor.name, name,
                              is_mtp(tensor.name, model_.num_hidden_layers)
                                  ? " (it is of an MTP layer: --drop-mtp converts without)"
                                  : "");
      }
      check(rule, tensor, *location);
      parts.push_back(stored_view(reader_, location->entry->name));
    }
    TensorView view = from_layout(rule, place->second.i, parts);
    view.stored = view.dtype;
    return view;
  }

 private:
  struct Place {
    size_t rule, i;
  };

  const ShardedReader::Location* locate(const std::string& name) const {
    for (const std::string& candidate : names_of(name))
      if (const ShardedReader::Location* location = reader_->find(candidate)) return location;
    return nullptr;
  }

  void check(const LayoutRule& rule, const LayoutTensor& tensor,
             const ShardedReader::Location& location) const {
    check_weight_dtype(*reader_, location.entry->name, *find_stored(*reader_, location.entry->name));
    check_shape(rule, tensor, location);
  }

  void check_shape(const LayoutRule& rule, const LayoutTensor& tensor,
                   const ShardedReader::Location& location) const {
    const std::vector<int64_t>& shape = location.entry->shape;
    if (fits(rule, tensor, shape)) return;
    const int64_t expert = rule.group_rows() * rule.width, elements = product(shape);
    std::string hint;
    if (rule.groups > 1 && elements % expert == 0 && elements / expert != rule.groups)
      hint = fmt::format(": it holds {} experts, not {}", elements / expert, rule.groups);
    throw CheckpointError("{}: tensor {} has shape [{}], the config implies [{}]{}",
                          location.file->path().string(), location.entry->name, fmt::join(shape, ", "),
                          fmt::join(tensor.shape, ", "), hint);
  }

  void refuse_unknown(const LayoutOptions& layout) const {
    std::unordered_set<std::string> known;
    for (const LayoutRule& rule : rules_)
      for (const LayoutTensor& tensor : rule.there) {
        std::vector<std::string> names =
            find_w8a8(*reader_, tensor.name) ? w8a8_names(tensor.name) : names_of(tensor.name);
        for (std::string& name : names) known.insert(std::move(name));
      }
    int64_t states = 0, layers = 0;
    for (const ShardedReader::Location& location : reader_->tensors()) {
      const std::string& name = location.entry->name;
      if (known.contains(name)) continue;
      if (is_training_state(name)) {
        ++states;
      } else if (contains(name, "._layer.") || contains(name, ".quant_op.") || contains(name, ".matmul.")) {
        throw CheckpointError(
            "{}: tensor {} is of a quantised model, and no int8 matrix is here that it belongs to; of "
            "MindFormers' quantised weights only int8 ones (W8A8, W8A8_DYNAMIC) are read here",
            where_, name);
      } else if (is_mtp(name, model_.num_hidden_layers)) {
        ++layers;
      } else {
        throw CheckpointError(
            "{}: tensor {} is not part of the model that the config describes ({} layers, {} experts), as "
            "{} has it",
            where_, name, model_.num_hidden_layers, model_.n_routed_experts, layout_name(layout.layout));
      }
    }
    if (states > 0) log::info("{}: {} tensors of the training's own state are left out", where_, states);
    if (layers > 0)
      log::info("{}: {} tensors of layers beyond num_hidden_layers + num_nextn_predict_layers are left out",
                where_, layers);
  }

  Reader reader_;
  std::string where_;
  config::ModelConfig model_;
  Dtype dtype_;
  std::vector<LayoutRule> rules_;
  std::unordered_map<std::string, Place> index_;  // by HF name
};

std::optional<bool> noted(const ShardedReader& reader, const char* key, const char* yes) {
  for (const SafetensorsFile& file : reader.files()) {
    const auto note = file.metadata().find(key);
    if (note != file.metadata().end()) return note->second == yes;
  }
  return std::nullopt;
}

}  // namespace

std::optional<SourceTensors> open_mindformers(const fs::path& path, const SourceOptions& options) {
  const Reader reader = open_reader(path);
  if (!reader) return std::nullopt;
  const std::string where = path.string();
  const ShardedReader::Location* embedding = reader->find(kLegacyEmbedding);
  if (!embedding) embedding = reader->find(kMcoreEmbedding);
  if (!embedding)
    throw CheckpointError("{}: neither {} nor {} is among its tensors: is this a checkpoint of MindFormers?",
                          where, kLegacyEmbedding, kMcoreEmbedding);
  const fs::path config = options.config.empty() ? path / "config.json" : options.config;
  if (options.config.empty() && !fs::is_regular_file(config))
    throw UsageError(
        "{}: a MindFormers checkpoint without a config.json: give the HF one of its model with --config PATH",
        where);
  SourceTensors source;
  source.path = path;
  source.model = config::read_model_config(config);
  source.model.quantization.reset();
  const Dtype stored = embedding->entry->dtype,
              dtype = stored == Dtype::F32 || stored == Dtype::F16 ? stored : Dtype::BF16;
  source.model.dtype = dtype == Dtype::F32 ? "float32" : dtype == Dtype::F16 ? "float16" : "bfloat16";
  LayoutOptions layout = detect(*reader, source.model);
  const auto decide = [&](bool& value, const std::optional<bool>& given, const char* key, const char* yes) {
    const std::optional<bool> note = noted(*reader, key, yes);
    value = given.value_or(note.value_or(value));
    return given.has_value() || note.has_value();
  };
  const bool is_told =
      decide(layout.swaps_mtp_halves, options.swaps_mtp_halves, kMtpHalvesKey, kSwappedHalves);
  decide(layout.has_interleaved_fc1, options.has_interleaved_fc1, kFc1RowsKey, kInterleavedRows);
  const bool has_training_mtp = layout.layout == Layout::mindformers_train ||
                                layout.layout == Layout::mindformers_train_gmm || layout.has_training_mtp;
  if (has_training_mtp && !is_told && source.model.num_nextn_predict_layers > 0)
    log::info(
        "{}: the halves of the MTP layers' eh_proj are exchanged, since MindFormers' training has the hidden "
        "state first; "
        "for a file that convert_weight.py made and nothing trained since, give --mtp-halves as-is",
        where);
  const auto tensors = std::make_shared<const MindformersTensors>(reader, source.model, layout, dtype, where);
  log::info("{}: the layout is {}", where, layout_name(layout.layout));
  source.identity = source_identity(config, *reader);
  source.identity["layout"] = {{"mtp_halves", layout.swaps_mtp_halves}, {"fc1", layout.has_interleaved_fc1}};
  source.find = [tensors](const std::string& name) { return tensors->find(name); };
  return source;
}

}  // namespace fathom::checkpoint
