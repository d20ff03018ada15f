// Other layouts of the model's tensors than Hugging Face's, as tables: which tensors of the one hold which of the other, and
// in what arrangement. One table serves both directions.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "checkpoint/view_ops.h"
#include "config/tensor_table.h"

namespace fathom::checkpoint {

struct LayoutTensor {
  std::string name;
  std::vector<int64_t> shape;
};

// The HF tensors of a group, flattened to rows of `width` elements, lie one after the other; `rows` puts these rows into
// another order; the matrix may be transposed; the groups follow each other; and that is cut into the layout's tensors.
struct LayoutRule {
  std::vector<LayoutTensor> hf;     // of group 0, then of group 1, ...
  std::vector<LayoutTensor> there;  // the layout's, elements in this order
  std::string file;                 // that the layout's own tools write them to
  config::TensorRole role = config::TensorRole::norm;
  int64_t groups = 1;
  int64_t width = 1;
  RowOrder rows;  // row i of a group there is row rows[i] of its HF rows; null: i
  bool is_transposed = false;
  int64_t group_rows() const;
};

// `hf` in the rule's order; the results are named as there.
std::vector<TensorView> to_layout(const LayoutRule& rule, std::vector<TensorView> hf);
// rule.hf[i] out of all of rule.there, whatever their shapes.
TensorView from_layout(const LayoutRule& rule, size_t i, const std::vector<TensorView>& there);

enum class Layout { hf, mindformers_train, mindformers_train_gmm, mindformers_infer, mcore };
enum class McoreVersion { dev, r1_8 };  // of the names: dev's head of July 2025, or release 1.8

struct LayoutOptions {
  Layout layout = Layout::hf;
  // MindFormers' training puts the hidden state before the embedding in front of eh_proj, HF behind it. True: the halves
  // of its rows change places.
  bool swaps_mtp_halves = true;
  bool has_fused_qkv = false, has_fused_ffn = false;  // mindformers_infer: qkv_concat, ffn_concat
  McoreVersion mcore_version = McoreVersion::dev;
  bool has_interleaved_fc1 = false;  // mcore: rows of gate and up in turn
  // Variants that are read and not written.
  bool has_split_mla = false;           // mcore: up-projections cut in two each
  bool has_local_experts = false;       // mcore: experts one by one
  bool has_transposed_experts = false;  // mindformers_train: stacks of [in, out]
  bool has_training_mtp = false;        // mindformers_infer: the MTP layers' own tensors as in training
};

const char* layout_name(Layout layout);  // as --format has it

// Every tensor of the model but the copies that the layout has no place for. Throws CheckpointError: this layout cannot hold
// this model (why).
std::vector<LayoutRule> layout_rules(const config::ModelConfig& model, const LayoutOptions& options);

}  // namespace fathom::checkpoint
