#include "checkpoint/quantize.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <initializer_list>
#include <memory>
#include <utility>

#include "base/bfloat16.h"
#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "checkpoint/fp8_blocks.h"
#include "checkpoint/layout_export.h"
#include "checkpoint/mindformers_w8a8.h"
#include "checkpoint/model_files.h"
#include "checkpoint/source_tensors.h"
#include "checkpoint/stored_values.h"
#include "kernels/elementwise.h"

namespace fathom::checkpoint {
namespace {

using config::IntWeights;
using config::TensorRole;
using config::TensorSpec;
using formats::Dtype;

bool is_mindformers(const QuantizeOptions& options) { return options.scheme == kW8A8Scheme; }

bool is_integer_scheme(const QuantizeOptions& options) { return options.scheme != "fp8"; }

// Of the layers' matrices; nullopt under fp8.
std::optional<IntWeights> layer_weights(const QuantizeOptions& options) {
  if (options.scheme == "w8a8" || is_mindformers(options)) return config::kW8A8;
  if (options.scheme == "int4") return config::int4_weights(options.group_size);
  return std::nullopt;
}

std::optional<IntWeights> head_weights(const QuantizeOptions& options) {
  if (options.lm_head == "int8") return config::kW8A8;
  if (options.lm_head == "int4") return config::int4_weights(options.group_size);
  return std::nullopt;
}

void check_arguments(const fs::path& source, const fs::path& directory, const QuantizeOptions& options) {
  const auto is_one_of = [](const std::string& text, std::initializer_list<const char*> words) {
    return std::find(words.begin(), words.end(), text) != words.end();
  };
  if (!is_one_of(options.scheme, {"w8a8", "int4", "fp8", kW8A8Scheme}))
    throw UsageError("--scheme {}: use w8a8, int4, fp8 or {}", options.scheme, kW8A8Scheme);
  if (is_mindformers(options) && options.lm_head != "keep")
    throw UsageError("--lm-head {}: {} keeps the head, as MindFormers' recipe does", options.lm_head,
                     kW8A8Scheme);
  if (is_mindformers(options) && !options.static_inputs)
    throw UsageError("--scheme {} needs a text to find the range of attention's inputs: --calibration FILE",
                     kW8A8Scheme);
  if (!is_mindformers(options) && (options.has_fused_qkv || options.has_fused_ffn))
    throw UsageError("--fuse goes with --scheme {} only", kW8A8Scheme);
  if (!is_one_of(options.lm_head, {"keep", "int8", "int4"}))
    throw UsageError("--lm-head {}: use keep, int8 or int4", options.lm_head);
  if (options.group_size != -1 && options.group_size != 32 && options.group_size != 64 &&
      options.group_size != 128)
    throw UsageError("--group-size {}: use 128, 64, 32, or -1 for one scale a row", options.group_size);
  if (!is_integer_scheme(options) && options.lm_head != "keep")
    throw UsageError("--lm-head {} goes with w8a8 and int4: DeepSeek's fp8 keeps the head", options.lm_head);
  if (is_integer_scheme(options) && !options.scale_format.empty())
    throw UsageError("--scale-fmt {} goes with --scheme fp8 only", options.scale_format);
  if (!is_one_of(options.scale_format, {"", "float32", "ue8m0"}))
    throw UsageError("--scale-fmt {}: use float32 or ue8m0", options.scale_format);
  if (options.max_shard_bytes == 0) throw UsageError("--max-shard-size 0: a file must hold something");
  if (fs::weakly_canonical(source) == fs::weakly_canonical(directory))
    throw UsageError("{} is both source and destination: give another directory to write to",
                     source.string());
}

std::string format_name(const IntWeights& weights) { return weights.bits == 8 ? "int8" : "int4"; }

// Its values as a bf16 copy of the source would have them, so that the way there makes no difference (WT-11).
TensorView as_copied(TensorView view) {
  if (view.dtype != Dtype::BF16 || view.stored == Dtype::BF16) return view;
  view.read = [read = std::move(view.read)](int64_t begin, int64_t count, Dtype as, std::byte* out) {
    if (as != Dtype::F32) return read(begin, count, as, out);
    std::vector<bf16> values(static_cast<size_t>(count));
    read(begin, count, Dtype::BF16, reinterpret_cast<std::byte*>(values.data()));
    kernels::convert(values.data(), reinterpret_cast<float*>(out), count);
  };
  return view;
}

class Plan {
 public:
  Plan(const SourceTensors& source, const QuantizeOptions& options)
      : source_(source), options_(options), table_(source.model), target_(source.model) {
    if (is_mindformers(options)) {
      target_.quantization.reset();  // a file of its own says what is what
      return;
    }
    if (is_integer_scheme(options)) {
      target_.quantization = integer_config();
      return;
    }
    const auto& old = source.model.quantization;
    const bool is_fp8 = old && old->quant_method == "fp8";
    const std::string format = options.scale_format.empty()      ? (is_fp8 ? old->scale_fmt : "")
                               : options.scale_format == "ue8m0" ? "ue8m0"
                                                                 : "";
    keeps_blocks_ = is_fp8 && old->scale_fmt == format && !options.transform;
    if (!keeps_blocks_) target_.quantization = config::fp8_config(format);
  }

  const config::ModelConfig& target() const { return target_; }
  uint64_t source_bytes() const { return source_bytes_; }

  std::vector<SavedFile> files() {
    std::vector<SavedFile> result;
    if (is_mindformers(options_)) {
      result = mindformers_files();
    } else {
      std::vector<SavedTensor> tensors;
      for (const TensorSpec& spec : table_.tensors()) add(spec, tensors);
      result = cut_into_files(std::move(tensors), options_.max_shard_bytes);
    }
    if (!tied_.empty())
      log::info("{}: {} of the MTP layers not there: written as the trunk's", source_.where(),
                fmt::join(tied_, ", "));
    return result;
  }

  // Of mindformers-w8a8: what each parameter is.
  const Json& types() const { return types_; }

  std::vector<QuantizedTensor> report() const {
    std::vector<QuantizedTensor> result;
    for (const auto& [tensor, error] : quantized_) {
      result.push_back(tensor);
      result.back().error = error->sums();
    }
    return result;
  }

 private:
  config::QuantizationConfig integer_config() const {
    std::vector<config::ModulePattern> ignore;
    const std::optional<IntWeights> layers = layer_weights(options_), head = head_weights(options_);
    if (!head) ignore.emplace_back("lm_head");
    for (const char* module : {"re:.*kv_b_proj$", "re:.*mlp\\.gate$", "re:.*eh_proj$", "re:.*shared_head.*"})
      ignore.emplace_back(module);
    std::vector<config::QuantizationGroup> groups = {{{config::ModulePattern("Linear")}, *layers}};
    if (head && *head != *layers) groups.push_back({{config::ModulePattern("lm_head")}, *head});
    return config::compressed_tensors_config(std::move(groups), std::move(ignore));
  }

  std::shared_ptr<WeightError> note(const TensorSpec& spec, const std::string& format) {
    auto error = std::make_shared<WeightError>();
    quantized_.push_back({{spec.name, spec.layer, format, {}}, error});
    return error;
  }

  TensorView source_view(const TensorSpec& spec) {
    bool is_tied = false;
    TensorView view = source_tensor(source_, table_, spec.name, is_tied);
    if (is_tied) tied_.push_back(spec.name);
    view.name = spec.name;
    source_bytes_ += static_cast<uint64_t>(view.numel() * formats::dtype_bits(view.stored) / 8);
    if (is_integer_scheme(options_)) view = as_copied(std::move(view));
    return options_.transform ? options_.transform(std::move(view)) : view;
  }

  std::vector<SavedFile> mindformers_files() {
    LayoutOptions layout;
    layout.layout = Layout::mindformers_infer;
    layout.has_fused_qkv = options_.has_fused_qkv;
    layout.has_fused_ffn = options_.has_fused_ffn;
    const EncodeRule encode = [&](const LayoutRule& rule,
                                  std::vector<TensorView>& hf) -> std::optional<std::vector<SavedTensor>> {
      std::vector<W8A8Matrix> matrices;
      for (TensorView& view : hf) {
        const TensorSpec& spec = table_.at(view.name);
        const std::optional<IntFormat> format = int_format(target_, spec, view.dtype, options_);
        if (!format) return std::nullopt;  // then none of the rule's has one
        matrices.push_back({std::move(view), *format, note(spec, "int8")});
      }
      if (rule.role != TensorRole::attention) return w8a8_tensors(rule, std::move(matrices), nullptr, types_);
      // Matrices that are joined read the same inputs.
      const StaticActivation inputs = options_.static_inputs(rule.hf.front().name);
      return w8a8_tensors(rule, std::move(matrices), &inputs, types_);
    };
    std::vector<SavedFile> files = layout_files(
        target_, layout, std::nullopt, [&](const TensorSpec& spec) { return source_view(spec); }, encode);
    for (const SavedFile& file : files)
      for (const SavedTensor& tensor : file.tensors)
        if (!types_.contains(tensor.declaration.name)) types_[tensor.declaration.name] = "FLOAT";
    return files;
  }

  void add(const TensorSpec& spec, std::vector<SavedTensor>& result) {
    TensorView view = source_view(spec);
    const bool is_fp8 = view.stored == Dtype::F8_E4M3;
    const auto push = [&](std::vector<SavedTensor> parts) {
      for (SavedTensor& part : parts) result.push_back(std::move(part));
    };
    if (const std::optional<IntFormat> format = int_format(source_.model, spec, view.dtype, options_)) {
      push(quantized_ints(std::move(view), *format, options_.encode,
                          note(spec, format_name(format->weights))));
    } else if (is_fp8 && keeps_blocks_) {
      TensorView scales = *source_.find(spec.name + kScaleSuffix);
      const Dtype scale_dtype = scales.stored;
      push({saved(std::move(view), Dtype::F8_E4M3), saved(std::move(scales), scale_dtype)});
    } else if (!is_integer_scheme(options_) && config::scale_shape(spec, target_)) {
      const bool is_power = target_.quantization->scale_fmt == "ue8m0";
      push(quantized(std::move(view), is_power ? ScaleFormat::ue8m0 : ScaleFormat::float32,
                     note(spec, "fp8")));
    } else {
      const Dtype dtype = spec.role == TensorRole::router_bias ? Dtype::F32 : view.dtype;
      result.push_back(saved(std::move(view), dtype));
    }
  }

  const SourceTensors& source_;
  const QuantizeOptions& options_;
  config::TensorTable table_;
  config::ModelConfig target_;
  bool keeps_blocks_ = false;
  uint64_t source_bytes_ = 0;
  Json types_ = Json::object();
  std::vector<std::string> tied_;
  std::vector<std::pair<QuantizedTensor, std::shared_ptr<WeightError>>> quantized_;
};

// What the result is a function of, beside the source.
Json description(const QuantizeOptions& options) {
  return {{"scheme", options.scheme},
          {"group_size", options.scheme == "int4" || options.lm_head == "int4" ? options.group_size : 0},
          {"lm_head", options.lm_head},
          {"scale_format", options.scale_format},
          {"max_shard_bytes", options.max_shard_bytes},
          {"fused", {options.has_fused_qkv, options.has_fused_ffn}},
          {"calibration", options.calibration}};
}

}  // namespace

std::optional<IntFormat> int_format(const config::ModelConfig& model, const TensorSpec& spec,
                                    Dtype source_dtype, const QuantizeOptions& options) {
  std::optional<IntWeights> weights;
  if (is_mindformers(options) && !is_w8a8_matrix(model, spec)) return std::nullopt;
  switch (spec.role) {
    case TensorRole::attention:
      // Decoding multiplies kv_b_proj into query and output, which integer kernels do not do.
      if (!spec.name.ends_with("kv_b_proj.weight")) weights = layer_weights(options);
      break;
    case TensorRole::dense_mlp:
    case TensorRole::routed_expert:
    case TensorRole::shared_expert:
      weights = layer_weights(options);
      break;
    case TensorRole::head:
      weights = head_weights(options);
      break;
    default:
      break;
  }
  if (!weights) return std::nullopt;
  if (weights->group_size > 0 && spec.shape[1] % weights->group_size != 0)
    throw UsageError("--group-size {}: {} has {} columns, which it does not divide; use another, or -1",
                     weights->group_size, spec.name, spec.shape[1]);
  return IntFormat{*weights, source_dtype == Dtype::BF16 ? Dtype::BF16 : Dtype::F32};
}

QuantizeReport quantize_checkpoint(const fs::path& source_path, const fs::path& directory,
                                   const QuantizeOptions& options) {
  check_arguments(source_path, directory, options);
  const SourceTensors source = open_source(source_path);
  if (source.model.quantization && source.model.quantization->quant_method != "fp8")
    log::warning("{}: its weights are integers already, and are rounded a second time", source.where());
  Plan plan(source, options);
  std::vector<SavedFile> files = plan.files();
  QuantizeReport report;
  report.written = write_converted(
      directory, {{"source", source.identity}, {"options", description(options)}}, files, options.is_stopped,
      [&] {
        copy_companions(source_path, directory);
        if (is_mindformers(options)) {
          write_parameter_map(directory, files);
          write_text_file(directory / kW8A8DescriptionName, plan.types().dump(2) + "\n");
        } else if (files.size() > 1) {
          write_index(directory, files);
        }
        write_text_file(directory / "config.json", config::to_json(plan.target()).dump(2) + "\n");
      });
  report.tensors = plan.report();
  report.source_bytes = plan.source_bytes();
  return report;
}

}  // namespace fathom::checkpoint
