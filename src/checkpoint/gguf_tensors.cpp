#include "checkpoint/gguf_tensors.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <numeric>
#include <string>
#include <utility>

namespace fathom::checkpoint {
namespace {

using config::ModelConfig;
using config::TensorRole;
using config::TensorSpec;
using formats::Dtype;

// HF's name behind the layer's prefix -> llama.cpp's behind "blk.N.". The rest is made in pieces below.
const std::map<std::string, std::string> kLayerNames = {
    {"input_layernorm.weight", "attn_norm.weight"},
    {"self_attn.q_proj.weight", "attn_q.weight"},
    {"self_attn.q_a_proj.weight", "attn_q_a.weight"},
    {"self_attn.q_a_layernorm.weight", "attn_q_a_norm.weight"},
    {"self_attn.q_b_proj.weight", "attn_q_b.weight"},
    {"self_attn.kv_a_proj_with_mqa.weight", "attn_kv_a_mqa.weight"},
    {"self_attn.kv_a_layernorm.weight", "attn_kv_a_norm.weight"},
    {"self_attn.o_proj.weight", "attn_output.weight"},
    {"post_attention_layernorm.weight", "ffn_norm.weight"},
    {"mlp.gate_proj.weight", "ffn_gate.weight"},
    {"mlp.up_proj.weight", "ffn_up.weight"},
    {"mlp.down_proj.weight", "ffn_down.weight"},
    {"mlp.gate.weight", "ffn_gate_inp.weight"},
    {"mlp.gate.e_score_correction_bias", "exp_probs_b.bias"},
    {"mlp.shared_experts.gate_proj.weight", "ffn_gate_shexp.weight"},
    {"mlp.shared_experts.up_proj.weight", "ffn_up_shexp.weight"},
    {"mlp.shared_experts.down_proj.weight", "ffn_down_shexp.weight"},
};

const std::map<std::string, std::string> kOtherNames = {
    {"model.embed_tokens.weight", "token_embd.weight"},
    {"model.norm.weight", "output_norm.weight"},
    {"lm_head.weight", "output.weight"},
};

size_t size_of(Dtype dtype) { return static_cast<size_t>(formats::dtype_bits(dtype) / 8); }

// Views of one shape as one, behind each other: [n, shape...].
TensorView stacked(std::vector<TensorView> parts) {
  TensorView result = parts.front();
  const int64_t size = result.numel();
  result.shape.insert(result.shape.begin(), static_cast<int64_t>(parts.size()));
  result.read = [parts = std::move(parts), size](int64_t begin, int64_t count, Dtype as, std::byte* out) {
    for (int64_t i = begin, last = begin + count; i < last;) {
      const int64_t part = i / size, end = std::min(last, (part + 1) * size);
      parts[static_cast<size_t>(part)].read(i - part * size, end - i, as,
                                            out + static_cast<size_t>(i - begin) * size_of(as));
      i = end;
    }
  };
  return result;
}

// [heads, rows, columns] of the first `rows` rows of every head of a [heads * stride, columns] matrix, each transposed:
// [heads, columns, rows].
TensorView transposed_heads(const TensorView& matrix, int64_t heads, int64_t stride, int64_t rows) {
  TensorView result = matrix;
  const int64_t columns = matrix.shape[1];
  result.shape = {heads, columns, rows};
  result.read = [read = matrix.read, stride, rows, columns](int64_t begin, int64_t count, Dtype as,
                                                            std::byte* out) {
    const size_t width = size_of(as);
    std::vector<std::byte> block(static_cast<size_t>(rows * columns) * width);
    for (int64_t i = begin, last = begin + count; i < last;) {
      const int64_t head = i / (rows * columns), first = i - head * rows * columns;
      const int64_t end = std::min(last - head * rows * columns, rows * columns);
      read(head * stride * columns, rows * columns, as, block.data());
      for (int64_t j = first; j < end; ++j, out += width)
        std::memcpy(out, block.data() + static_cast<size_t>(j % rows * columns + j / rows) * width, width);
      i += end - first;
    }
  };
  return result;
}

std::vector<int64_t> every(int64_t count) {
  std::vector<int64_t> rows(static_cast<size_t>(count));
  std::iota(rows.begin(), rows.end(), 0);
  return rows;
}

// Rows of `heads` blocks of `size`, whose last `rope` rows hold the first halves of all pairs, then the second halves
// (rope_interleave: false): pairs side by side instead.
std::vector<int64_t> paired_rows(int64_t heads, int64_t size, int64_t rope) {
  std::vector<int64_t> rows = every(heads * size);
  for (int64_t head = 0; head < heads; ++head) {
    const int64_t first = head * size + size - rope;
    for (int64_t i = 0; i < rope; ++i)
      rows[static_cast<size_t>(first + i)] = first + i / 2 + i % 2 * (rope / 2);
  }
  return rows;
}

class Layout {
 public:
  Layout(const SourceTensors& source, const ModelCut& cut)
      : source_(source), source_table_(source.model), cut_(cut), model_(cut.model) {}

  std::vector<GgufView> views() {
    const config::TensorTable table(model_);
    for (const TensorSpec& spec : table.tensors()) {
      if (spec.layer >= model_.num_hidden_layers) continue;
      if (spec.layer < 0)
        add(kOtherNames.at(spec.name), view_of(spec), spec);
      else
        add_of_layer(spec);
    }
    return std::move(views_);
  }

 private:
  TensorView view_of(const TensorSpec& spec) {
    bool is_tied = false;
    TensorView view = source_tensor(source_, source_table_, cut_.source_name(spec), is_tied);
    const bool is_router = spec.role == TensorRole::router || spec.role == TensorRole::router_bias;
    if (is_router && cut_.has_fewer_experts) view = select_rows(std::move(view), cut_.experts);
    return view;
  }

  void add(std::string name, TensorView view, const TensorSpec& spec) {
    view.name = std::move(name);
    views_.push_back({std::move(view), spec.shape.size() == 1 || spec.role == TensorRole::norm ||
                                           spec.role == TensorRole::router});
  }

  void add_of_layer(const TensorSpec& spec) {
    const std::string part = spec.name.substr(config::layer_prefix(spec.layer).size());
    const std::string block = "blk." + std::to_string(spec.layer) + ".";
    const int64_t heads = model_.num_attention_heads, nope = model_.qk_nope_head_dim, v = model_.v_head_dim;
    TensorView view = view_of(spec);
    if (spec.role == TensorRole::routed_expert) {
      // gate, up and down of expert 0, then of 1, ...: all of a kind are one tensor.
      const std::string kind = part.ends_with("gate_proj.weight") ? "gate"
                               : part.ends_with("up_proj.weight") ? "up"
                                                                  : "down";
      std::vector<TensorView>& experts = experts_[kind];
      experts.push_back(std::move(view));
      if (static_cast<int64_t>(experts.size()) < model_.n_routed_experts) return;
      add(block + "ffn_" + kind + "_exps.weight", stacked(std::exchange(experts, {})), spec);
    } else if (part == "self_attn.kv_b_proj.weight") {
      add(block + "attn_k_b.weight", transposed_heads(view, heads, nope + v, nope), spec);
      std::vector<int64_t> rows;
      for (int64_t head = 0; head < heads; ++head)
        for (int64_t i = 0; i < v; ++i) rows.push_back(head * (nope + v) + nope + i);
      TensorView values = select_rows(std::move(view), std::move(rows));
      values.shape = {heads, v, model_.kv_lora_rank};
      add(block + "attn_v_b.weight", std::move(values), spec);
    } else {
      if (!model_.rope_interleave &&
          (part == "self_attn.q_proj.weight" || part == "self_attn.q_b_proj.weight"))
        view =
            select_rows(std::move(view), paired_rows(heads, model_.qk_head_dim(), model_.qk_rope_head_dim));
      if (!model_.rope_interleave && part == "self_attn.kv_a_proj_with_mqa.weight")
        view = select_rows(std::move(view), paired_rows(1, model_.latent_dim(), model_.qk_rope_head_dim));
      add(block + kLayerNames.at(part), std::move(view), spec);
    }
  }

  const SourceTensors& source_;
  config::TensorTable source_table_;
  const ModelCut& cut_;
  const ModelConfig& model_;
  std::map<std::string, std::vector<TensorView>> experts_;  // of the layer that is being laid out
  std::vector<GgufView> views_;
};

}  // namespace

std::vector<GgufView> gguf_views(const SourceTensors& source, const ModelCut& cut) {
  return Layout(source, cut).views();
}

}  // namespace fathom::checkpoint
