// parallel_config, parallel and recompute_config: how the model is spread, which never changes what is trained.
#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "config/mindformers_translation.h"
#include "config/stage_layers.h"

namespace fathom::config {
namespace {

const std::string kSizes = "parallel_config.";

bool is_whole_number(const Tree& tree) {
  return tree.kind == Tree::Kind::scalar && !tree.is_quoted &&
         tree.text.find_first_not_of("-0123456789") == std::string::npos;
}

// Of a number of layers: what sums of them cannot overflow by.
int64_t small_integer(const Tree& tree) {
  const int64_t value = tree.as_integer();
  if (value < -(1 << 20) || value > (1 << 20)) tree.fail("is no number of layers");
  return value;
}

void translate_sizes(Translation& t) {
  const bool is_parallel = t.boolean("use_parallel", false);
  struct Size {
    const char* key;
    const char* target;
    int64_t* value;
  };
  const Size sizes[] = {{"data_parallel", "parallel.data", &t.data},
                        {"model_parallel", "parallel.tensor", &t.tensor},
                        {"pipeline_stage", "parallel.pipeline", &t.pipeline},
                        {"context_parallel", "parallel.context", &t.context},
                        {"expert_parallel", "parallel.expert", &t.expert}};
  for (const Size& size : sizes) {
    const std::string path = kSizes + size.key;
    const int64_t value = t.count(path, 1);
    if (is_parallel) {
      *size.value = value;
      if (t.find(path)) t.mapped(path, t.put(size.target, value));
    } else if (t.find(path)) {
      t.meaningless(path, "use_parallel is False: one device");
    }
  }
  t.by_default("use_parallel", is_parallel ? "the sizes below" : "one rank");
}

// How the ranks of an expert group share the experts' matrices.
void translate_expert_tensor(Translation& t) {
  const std::string key = "moe_config.expert_model_parallel";
  int64_t shares = t.count(key, t.is_grouped_matmul ? 1 : t.tensor);
  if (t.use == RecipeUse::inference)
    shares = std::max<int64_t>(t.data * t.tensor / std::max<int64_t>(t.expert, 1), 1);
  if (shares == 1) {
    if (t.find(key)) t.by_default(key, "each expert is whole on its rank");
    return;
  }
  t.carried(key, t.put("parallel.expert_tensor", shares),
            t.use == RecipeUse::inference ? "all ranks of data x tensor share the experts"
                                          : "without use_gmm, tensor ranks share each expert's matrices");
}

// MindFormers' layers of each stage; empty: it would refuse them itself (reported).
std::vector<int64_t> split_of(Translation& t, const Tree& offset, const std::string& path, int64_t layers,
                              int64_t chunks) {
  const int64_t parts = t.pipeline * chunks, base = layers / parts;
  std::vector<int64_t> split(static_cast<size_t>(t.pipeline), base * chunks);
  const auto add_row = [&](const Tree& row) {
    if (row.items.size() != split.size()) return false;
    for (size_t i = 0; i < split.size(); ++i) split[i] += small_integer(row.items[i]);
    return true;
  };
  bool fits = true;
  if (offset.kind == Tree::Kind::sequence && !offset.items.empty() &&
      offset.items.front().kind == Tree::Kind::sequence) {
    fits = static_cast<int64_t>(offset.items.size()) == chunks;
    for (const Tree& row : offset.items) fits = fits && add_row(row);
  } else if (offset.kind == Tree::Kind::sequence) {
    for (int64_t chunk = 0; chunk < chunks; ++chunk) fits = fits && add_row(offset);
  } else {
    const int64_t all = small_integer(offset);
    for (int64_t& stage : split) stage += all * chunks;
  }
  const int64_t sum = std::accumulate(split.begin(), split.end(), int64_t{0});
  if (fits && sum == layers && *std::min_element(split.begin(), split.end()) >= 0) return split;
  t.unsupported(
      path,
      fits ? fmt::format("gives the {} stages {} layers in all, but there are {} (MTP modules included)",
                         t.pipeline, sum, layers)
           : fmt::format("does not have one number for each of the {} stages", t.pipeline),
      KeyEffect::blocks);
  return {};
}

// What parallel.layer_offset must be to give this split.
std::vector<int64_t> layer_offset_of(const std::vector<int64_t>& split, int64_t layers) {
  ModelConfig counted;
  counted.num_hidden_layers = layers;
  ParallelSection even;
  even.pipeline = static_cast<int64_t>(split.size());
  std::vector<int64_t> offset = stage_layers(counted, even);
  for (size_t i = 0; i < split.size(); ++i) offset[i] = split[i] - offset[i];
  return offset;
}

std::vector<int64_t> translate_stages(Translation& t) {
  const std::string model = "model.model_config.";
  const int64_t trunk =
      t.count(t.either({"model.model_config.num_layers", "model.model_config.num_hidden_layers"}),
              t.is_legacy ? 32 : 61);
  const int64_t mtp =
      t.count(t.either({"model.model_config.mtp_depth", "model.model_config.num_nextn_predict_layers"}),
              t.is_legacy ? 0 : 1, 0);
  // The older code counts MTP modules among the layers that it splits; the newer puts them onto the last stage.
  const int64_t layers = trunk + (t.use == RecipeUse::training && t.is_legacy ? mtp : 0);
  const int64_t appended = t.use == RecipeUse::training && !t.is_legacy ? mtp : 0;
  const std::string offset = model + "offset", interleave = model + "pp_interleave_num";
  const std::string pipeline = "parallel.pipeline_config.";
  const bool is_interleaved = t.boolean(pipeline + "pipeline_interleave", false);
  const int64_t wanted = t.count(interleave, 1);
  const int64_t chunks = is_interleaved ? std::max<int64_t>(wanted, 1) : 1;
  if (t.find(pipeline + "pipeline_interleave"))
    t.by_default(pipeline + "pipeline_interleave", "by the schedule below");

  std::vector<int64_t> split;
  t.know(offset);
  const Tree* node = t.find(offset);
  if (t.pipeline == 1 || t.use == RecipeUse::inference) {
    if (node) t.by_default(offset, "one stage holds all layers");
    split = {layers + appended};
  } else if (node) {
    split = split_of(t, *node, offset, layers, chunks);
    if (split.empty()) return split;
    split.back() += appended;
    const std::vector<int64_t> shift = layer_offset_of(split, layers + appended);
    const bool is_even = std::all_of(shift.begin(), shift.end(), [](int64_t x) { return x == 0; });
    const std::string stages = fmt::format("layers of the stages: {}", Json(split).dump());
    if (is_even)
      t.by_default(offset, stages);
    else
      t.mapped(offset, t.put("parallel.layer_offset", shift), stages + "; counted from the even split here");
  } else {
    ParallelSection even;
    even.pipeline = t.pipeline;
    ModelConfig counted;
    counted.num_hidden_layers = layers + appended;
    split = stage_layers(counted, even);
  }

  if (t.find(interleave)) {
    if (wanted <= 1)
      t.by_default(interleave, "one part of the model a stage");
    else if (chunks > 1)
      t.mapped(interleave, t.put("parallel.schedule", "interleaved_1f1b"));
    else
      t.meaningless(interleave,
                    "parallel.pipeline_config.pipeline_interleave is off, so MindFormers takes 1");
  }
  const std::string scheduler = pipeline + "pipeline_scheduler";
  const std::string kind = t.text(scheduler, "1f1b");
  if (t.find(scheduler)) {
    if (kind == "1f1b")
      t.by_default(scheduler, "the same");
    else if (kind == "zero_bubble_v")
      t.mapped(scheduler, t.put("parallel.schedule", "zero_bubble"), "its one-way form");
    else if (kind == "gpipe")
      t.by_default(scheduler, "1f1b computes the same in less memory");
    else
      t.unsupported(scheduler, "no such schedule; 1f1b computes the same", KeyEffect::none);
  }
  return split;
}

void translate_optimizer_shards(Translation& t) {
  const std::string enable = "parallel.enable_parallel_optimizer",
                    shards = "parallel.parallel_optimizer_config.gradient_accumulation_shard";
  const bool is_sharded = t.boolean(enable, false), is_gradient_sharded = t.boolean(shards, false);
  if (t.use == RecipeUse::inference) return;
  const int64_t zero = !is_sharded ? 0 : is_gradient_sharded ? 2 : 1;
  t.carried(enable, t.put("parallel.zero", zero),
            is_sharded ? "optimizer states over the data ranks" : "nothing is sharded over the data ranks");
  if (t.find(shards)) t.mapped(shards, fmt::format("parallel.zero: {}", zero), "2 shards the gradients too");
}

void translate_recompute(Translation& t, const std::vector<int64_t>& split) {
  const std::string path = "recompute_config.recompute", some = "recompute_config.select_recompute";
  t.know(path);
  t.know(some);
  const Tree* node = t.find(path);
  const Tree* selected = t.find(some);
  const auto is_on = [](const Tree* tree) {
    return tree && !(tree->kind == Tree::Kind::scalar && (tree->text == "False" || tree->text == "false"));
  };
  const auto is_true = [](const Tree& tree) {
    return tree.kind == Tree::Kind::scalar && (tree.text == "True" || tree.text == "true");
  };
  bool is_full = false;
  if (node && node->kind == Tree::Kind::sequence) {
    // A flat list counts layers of a stage; a list of lists those of each of its parts.
    std::vector<int64_t> layers(split.size(), 0);
    const bool is_nested = !node->items.empty() && node->items.front().kind == Tree::Kind::sequence;
    const std::vector<Tree> flat = {*node};
    bool fits = !split.empty();
    for (const Tree& row : is_nested ? node->items : flat) {
      fits = fits && row.items.size() == split.size();
      for (size_t i = 0; fits && i < split.size(); ++i) {
        const Tree& item = row.items[i];
        layers[i] += is_whole_number(item) ? small_integer(item) : is_true(item) ? split[i] : 0;
      }
    }
    if (!fits) {
      t.unsupported(
          path,
          fmt::format("does not have one number for each of the {} stages; none is recomputed", t.pipeline),
          KeyEffect::none);
    } else {
      bool is_cut = false;
      for (size_t i = 0; i < split.size(); ++i) {
        is_cut = is_cut || layers[i] > split[i];
        layers[i] = std::min(layers[i], split[i]);
      }
      is_full = true;
      t.mapped(path, t.put("train.recompute", layers),
               is_cut ? "cut to the layers that the stages hold" : "");
    }
  } else if (node) {
    is_full = node->as_boolean();
    t.mapped(path, t.put("train.recompute", is_full ? "full" : is_on(selected) ? "selective" : "none"));
  }
  if (!selected) return;
  if (!is_on(selected))
    t.by_default(some, "off");
  else if (is_full)
    t.meaningless(some, "the layers above are recomputed whole; the others keep their activations");
  else
    t.mapped(some, t.put("train.recompute", "selective"),
             "Fathom's own choice of what is cheap to compute again");
}

}  // namespace

void translate_parallel(Translation& t) {
  translate_sizes(t);
  const std::string mode = "parallel.parallel_mode", modes = t.text(mode, "1");
  if (t.find(mode)) {
    if (t.use == RecipeUse::inference || modes == "1" || modes == "SEMI_AUTO_PARALLEL" ||
        modes == "semi_auto_parallel")
      t.by_default(mode, "the layout is the one of parallel_config");
    else
      t.unsupported(mode,
                    "only 1 (semi-auto) takes its layout from parallel_config; set the sizes of `parallel`",
                    KeyEffect::blocks);
  }
  const std::string sequence = kSizes + "use_seq_parallel";
  const bool is_split = t.boolean(sequence, false);
  if (t.find(sequence) || t.tensor > 1) t.carried(sequence, t.put("parallel.sequence", is_split));
  translate_expert_tensor(t);
  const std::vector<int64_t> split = translate_stages(t);
  translate_optimizer_shards(t);
  if (t.use == RecipeUse::training) translate_recompute(t, split);

  const std::string parts = kSizes + "seq_split_num";
  if (t.integer(parts, 1) > 1)
    t.unsupported(parts, "sequences are not cut into pipeline chunks here; the loss is the same",
                  KeyEffect::none);
  for (const char* key :
       {"context_parallel_algo", "ulysses_degree_in_cp", "vocab_emb_dp", "gradient_aggregation_group",
        "mem_coeff", "optimizer_shard", "seq_split_num", "ulysses_degree"})
    t.rest_is_meaningless(kSizes + key, "how the ranks share the work is Fathom's choice");
  if (t.use == RecipeUse::inference) t.rest_is_meaningless("parallel_config", "of training");
}

}  // namespace fathom::config
