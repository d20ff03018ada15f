#include "checkpoint/layout_export.h"

#include <unordered_map>
#include <utility>

namespace fathom::checkpoint {
namespace {

using config::TensorRole;
using formats::Dtype;

bool is_mindformers_train(Layout layout) {
  return layout == Layout::mindformers_train || layout == Layout::mindformers_train_gmm;
}

// MindFormers' own rule goes by parts of names and so misses the router of one layout and the bias of another.
bool is_float32(TensorRole role, const LayoutOptions& options) {
  switch (role) {
    case TensorRole::router_bias:
      return true;
    case TensorRole::norm:
      return is_mindformers_train(options.layout) ||
             (options.layout == Layout::mcore && options.mcore_version == McoreVersion::dev);
    case TensorRole::router:
      return is_mindformers_train(options.layout);
    default:
      return false;
  }
}

}  // namespace

std::vector<SavedFile> layout_files(const config::ModelConfig& model, const LayoutOptions& options,
                                    std::optional<Dtype> dtype,
                                    const std::function<TensorView(const config::TensorSpec&)>& view,
                                    const EncodeRule& encode) {
  const config::TensorTable table(model);
  std::vector<SavedFile> files;
  std::unordered_map<std::string, size_t> index;
  for (const LayoutRule& rule : layout_rules(model, options)) {
    const auto [place, is_new] = index.emplace(rule.file, files.size());
    if (is_new) {
      SavedFile& file = files.emplace_back();
      file.name = rule.file;
      if (is_mindformers_train(options.layout) && model.num_nextn_predict_layers > 0)
        file.metadata[kMtpHalvesKey] = options.swaps_mtp_halves ? kSwappedHalves : "embedding,hidden";
      if (options.layout == Layout::mcore)
        file.metadata[kFc1RowsKey] = options.has_interleaved_fc1 ? kInterleavedRows : "gate,up";
    }
    std::vector<TensorView> hf;
    for (const LayoutTensor& tensor : rule.hf) hf.push_back(view(table.at(tensor.name)));
    if (encode) {
      if (std::optional<std::vector<SavedTensor>> encoded = encode(rule, hf)) {
        for (SavedTensor& tensor : *encoded) files[place->second].tensors.push_back(std::move(tensor));
        continue;
      }
    }
    for (TensorView& there : to_layout(rule, std::move(hf))) {
      const Dtype as = is_float32(rule.role, options) ? Dtype::F32 : dtype.value_or(there.dtype);
      files[place->second].tensors.push_back(saved(std::move(there), as));
    }
  }
  return files;
}

}  // namespace fathom::checkpoint
