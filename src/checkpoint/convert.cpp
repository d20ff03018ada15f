#include "checkpoint/convert.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "checkpoint/fp8_blocks.h"
#include "checkpoint/layout_export.h"
#include "checkpoint/model_files.h"
#include "checkpoint/quantized_ints.h"
#include "checkpoint/source_tensors.h"
#include "checkpoint/stored_values.h"
#include "checkpoint/tensor_view.h"

namespace fathom::checkpoint {
namespace {

using config::TensorRole;
using config::TensorSpec;
using formats::Dtype;

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
  if (options.dtype == "fp8" && options.layout.layout != Layout::hf)
    throw UsageError("--dtype fp8: {} has no place for fp8 blocks and their scales; use bf16, fp16 or fp32",
                     layout_name(options.layout.layout));
  if (options.max_shard_bytes == 0) throw UsageError("--max-shard-size 0: a file must hold something");
  const auto whole = [](const fs::path& path) {
    const fs::path canonical = fs::weakly_canonical(fs::absolute(path));
    return canonical.has_filename() ? canonical : canonical.parent_path();
  };
  const fs::path from = whole(source), to = whole(directory);
  if (from == to)
    throw UsageError("{} is both source and destination: give another directory to write to",
                     source.string());
  if (std::mismatch(from.begin(), from.end(), to.begin(), to.end()).first == from.end())
    throw UsageError("{} lies inside its source {}, which stays as it is: write elsewhere",
                     directory.string(), source.string());
}

class Plan {
 public:
  Plan(const SourceTensors& source, const ConvertOptions& options)
      : source_(source),
        options_(options),
        table_(source.model),
        cut_(cut_model(source.model, options.cut)),
        target_(cut_.model) {
    set_target();
  }

  const config::ModelConfig& target() const { return target_; }

  std::vector<SavedFile> files() {
    std::vector<SavedFile> files;
    if (options_.layout.layout == Layout::hf) {
      std::vector<SavedTensor> tensors;
      const config::TensorTable table(target_);
      for (const TensorSpec& spec : table.tensors()) add(spec, tensors);
      files = cut_into_files(std::move(tensors), options_.max_shard_bytes);
    } else {
      files = layout_files(target_, options_.layout, dtype_of(options_.dtype),
                           [&](const TensorSpec& spec) { return view(spec); });
    }
    if (!tied_.empty())
      log::info("{}: {} of the MTP layers not there: written as the trunk's", source_.where(),
                fmt::join(tied_, ", "));
    return files;
  }

 private:
  void set_target() {
    if (options_.layout.layout != Layout::hf) target_.quantization.reset();
    if (options_.dtype.empty()) return;
    target_.dtype = options_.dtype == "fp32" ? "float32" : options_.dtype == "fp16" ? "float16" : "bfloat16";
    if (options_.dtype != "fp8") return target_.quantization.reset();
    const bool is_fp8 = source_.model.quantization && source_.model.quantization->quant_method == "fp8";
    const std::string old = is_fp8 ? source_.model.quantization->scale_fmt : "";
    const std::string format = options_.scale_format.empty()      ? old
                               : options_.scale_format == "ue8m0" ? "ue8m0"
                                                                  : "";
    keeps_blocks_ = format == old;
    if (!is_fp8 || !keeps_blocks_) target_.quantization = config::fp8_config(format);
  }

  // Of the target's model.
  TensorView view(const TensorSpec& spec) {
    bool is_tied = false;
    TensorView view = source_tensor(source_, table_, cut_.source_name(spec), is_tied);
    if (is_tied) tied_.push_back(cut_.source_name(spec));
    view.name = spec.name;
    const bool is_router = spec.role == TensorRole::router || spec.role == TensorRole::router_bias;
    return is_router && cut_.has_fewer_experts ? select_rows(std::move(view), cut_.experts) : view;
  }

  void add(const TensorSpec& spec, std::vector<SavedTensor>& result) {
    TensorView view = this->view(spec);
    const bool is_fp8 = view.stored == Dtype::F8_E4M3;
    const Dtype from = view.stored;
    const bool wants_fp8 = options_.dtype == "fp8" && config::scale_shape(spec, target_).has_value();
    if (spec.role == TensorRole::router_bias) {
      result.push_back(saved(std::move(view), Dtype::F32));
    } else if (options_.dtype.empty() && (from == Dtype::I8 || from == Dtype::I32)) {
      const std::vector<std::string> parts = int_part_names(cut_.source_name(spec), from == Dtype::I32),
                                     names = int_part_names(spec.name, from == Dtype::I32);
      for (size_t i = 0; i < parts.size(); ++i) {
        TensorView part = *source_.find(parts[i]);
        part.name = names[i];
        const Dtype dtype = part.stored;
        result.push_back(saved(std::move(part), dtype));
      }
    } else if (is_fp8 && (options_.dtype.empty() || (wants_fp8 && keeps_blocks_))) {
      TensorView scales = *source_.find(cut_.source_name(spec) + kScaleSuffix);
      scales.name = spec.name + kScaleSuffix;
      const Dtype scale_dtype = scales.stored;
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

  const SourceTensors& source_;
  const ConvertOptions& options_;
  config::TensorTable table_;  // of the source
  ModelCut cut_;
  config::ModelConfig target_;
  bool keeps_blocks_ = true;  // fp8 to fp8 copies codes and scales
  std::vector<std::string> tied_;
};

// What the result is a function of, beside the source.
Json description(const ConvertOptions& options) {
  return {{"dtype", options.dtype},
          {"scale_format", options.scale_format},
          {"max_shard_bytes", options.max_shard_bytes},
          {"layers", options.cut.layers},
          {"experts", options.cut.experts},
          {"drop_mtp", options.cut.drop_mtp},
          {"layout",
           {layout_name(options.layout.layout), options.layout.swaps_mtp_halves, options.layout.has_fused_qkv,
            options.layout.has_fused_ffn, options.layout.mcore_version == McoreVersion::dev,
            options.layout.has_interleaved_fc1}}};
}

}  // namespace

ConvertReport convert_checkpoint(const fs::path& source_path, const fs::path& directory,
                                 const ConvertOptions& options) {
  check_arguments(source_path, directory, options);
  const SourceTensors source = open_source(source_path, options.source);
  Plan plan(source, options);
  std::vector<SavedFile> files = plan.files();
  const bool is_hf = options.layout.layout == Layout::hf;
  return write_converted(directory, {{"source", source.identity}, {"options", description(options)}}, files,
                         options.is_stopped, [&] {
                           copy_companions(source_path, directory);
                           if (!is_hf)
                             write_parameter_map(directory, files);
                           else if (files.size() > 1)
                             write_index(directory, files);
                           write_text_file(directory / "config.json",
                                           config::to_json(plan.target()).dump(2) + "\n");
                         });
}

}  // namespace fathom::checkpoint
