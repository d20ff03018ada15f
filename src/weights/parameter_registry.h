// Every parameter of this rank's model with its identity: HF names, global shapes, which slice stands where. Weights on
// disk, optimizer, norms, initial values and memory counts are functions over this registry; nobody keeps a second map.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "config/recipe.h"
#include "config/tensor_table.h"
#include "ops/weight.h"
#include "weights/element_range.h"

namespace fathom::weights {

// One named HF tensor (or this rank's slice of it) inside a parameter's flat memory; always a contiguous run there.
struct Piece {
  const config::TensorSpec* spec = nullptr;
  int64_t flat_offset = 0;             // elements from the start of the parameter
  std::vector<int64_t> shape;          // local
  std::vector<int64_t> global_offset;  // of the slice in spec->shape
  int64_t numel() const;
  ElementRange range() const { return {flat_offset, flat_offset + numel()}; }  // in the parameter
  bool is_whole() const { return shape == spec->shape; }
  // Calls use(global, local, count) for its runs: `count` elements from element `global` of the HF tensor (row-major)
  // are those from element `local` of the piece. Ascending; one run where whole rows are held.
  void for_each_run(const std::function<void(int64_t global, int64_t local, int64_t count)>& use) const;
};

// An HF tensor, or `count` of its rows (dim 0) or columns (dim 1) from `begin` on.
struct Slice {
  std::string name;
  int64_t dim = 0, begin = 0, count = -1;  // -1: all of it
};

// The ranks that hold the same values of a parameter, among which its gradients are summed
// (parallel::Dimension of the same name).
enum class Holders {
  stage,        // every rank of the stage: each sees other tokens
  replica,      // cut by tensor ranks: data x context
  expert_data,  // ranks with the same experts
};

// This rank's place among the ranks that hold the same parameter.
struct Replica {
  int64_t place = 0, size = 1;
};

// What of the training state lies on this rank alone. Weights that a forward pass uses are whole on every rank.
struct Sharding {
  Replica dense, experts;         // Holders::stage, expert_data
  bool shards_state = false;      // low bits of the masters and moments: of the own share only (ZeRO-1, -2)
  bool shards_gradients = false;  // no whole main_grad outlives the sum over the ranks (ZeRO-2)
  Replica cut = {};               // Holders::replica
  const Replica& of(Holders holders) const {
    return holders == Holders::expert_data ? experts : holders == Holders::replica ? cut : dense;
  }
};

struct Parameter : ops::Weight {
  std::vector<int64_t> shape;  // local; the product of the pieces
  std::vector<Piece> pieces;
  bool is_decayed = false;
  Holders holders = Holders::stage;
  bool is_follower = false;  // another pipeline stage owns it: gradients go there, values come back
  Replica replica;
  ElementRange share;  // this rank's part of what the copies do once: the norm, a sharded step, saving
  ElementRange state;  // of low_bits and moments: the share, or everything
  at::Tensor
      grad_share;  // [share.count()] once summed over the ranks; a view of main_grad unless gradients are sharded
  bool is_router_bias = false;  // moved by the balance rule, never by a gradient; float32 always
  // bf16 with fp32 masters: master bits = (value << 16) + sign-extended low_bits (kernels/adamw.h). Undefined otherwise.
  at::Tensor low_bits;             // int16; of `state`: shaped as value where that is everything, else flat
  at::Tensor exp_avg, exp_avg_sq;  // likewise, made by the optimizer
  int64_t numel() const { return value.numel(); }
  bool is_stepped() const { return is_trained() && !is_follower; }  // by an optimizer of this rank's group
  bool has_whole_state() const { return state.count() == numel(); }
  std::vector<int64_t> state_shape() const;
  at::Tensor value_of(ElementRange range) const;  // flat view
  at::Tensor piece_of(const at::Tensor& whole,
                      const Piece& piece) const;  // view of a tensor laid out like `value`
};

// A tensor that DeepSeek ships as a copy: written with the same values as `source`, not a parameter of its own.
struct TiedCopy {
  const config::TensorSpec* spec;
  std::string source;  // HF name of the piece that holds the values
};

// What the dtype of a parameter is under a precision: fp32 float, bf16 and bf16_pure bfloat16, fp64 double.
at::ScalarType value_dtype(config::Precision precision);
// bf16 and fp32 float (bf16: bfloat16 where `grad_dtype` says so), bf16_pure bfloat16, fp64 double.
at::ScalarType main_grad_dtype(config::Precision precision, config::StateDtype grad_dtype);

class ParameterRegistry {
 public:
  ParameterRegistry(const config::ModelConfig& config, config::Precision precision, c10::Device device,
                    bool trained, const Sharding& sharding = {});
  ParameterRegistry(const ParameterRegistry&) = delete;
  ParameterRegistry& operator=(const ParameterRegistry&) = delete;

  // A parameter made of whole HF tensors laid one after the other in memory. Names are looked up in the tensor table.
  // The reference stays valid for the life of the registry.
  Parameter& add(const std::string& label, std::vector<int64_t> shape, const std::vector<std::string>& names);
  Parameter& add(const std::string& name);  // one whole tensor
  Parameter& add(const std::string& label, std::vector<int64_t> shape, const std::vector<Slice>& slices,
                 Holders holders);
  void add_elsewhere(const std::string& name) { elsewhere_.insert(name); }  // other ranks hold all of it
  void add_tied_copy(const std::string& name, const std::string& source);
  // Every tensor of the table is held (a slice counts), tied or elsewhere exactly once, else std::logic_error naming it.
  void check_complete() const;

  std::deque<Parameter>& parameters() { return parameters_; }
  const std::deque<Parameter>& parameters() const { return parameters_; }
  const std::vector<TiedCopy>& tied_copies() const { return tied_copies_; }
  const config::TensorTable& table() const { return table_; }
  const config::ModelConfig& model() const { return config_; }
  config::Precision precision() const { return precision_; }
  const Sharding& sharding() const { return sharding_; }
  bool has_masters() const { return precision_ == config::Precision::bf16; }
  // The parameter and piece of an HF name; nullptr where this rank does not hold it.
  std::pair<Parameter*, const Piece*> find(const std::string& name);

  // Values from (seed, HF name, global element index): any layout starts from the same weights. Normal with
  // initializer_range, norms 1, correction bias 0.
  void initialize(uint64_t seed);
  // main_grad and grad_share of every trained parameter. Where gradients are sharded, main_grad is an empty tensor:
  // who adds to it makes it first (train/gradient_reducer.h).
  void allocate_grads(config::StateDtype grad_dtype = config::StateDtype::fp32);
  void clear_grads();  // marks them empty; no memory is touched
  // Of the tensors that lie here.
  struct HeldBytes {
    int64_t weights = 0, gradients = 0, state = 0;  // state: low bits and moments
  };
  HeldBytes held_bytes() const;
  // Sets a piece from float values [numel] (value, and the low bits that lie here); rounds as the precision says.
  void set_piece(Parameter& parameter, const Piece& piece, const float* values);
  void set_elements(Parameter& parameter, ElementRange range, const float* values);
  // The fp32 master (the value itself where there is none) of a piece, or of elements. Its low bits must lie here.
  void get_master(const Parameter& parameter, const Piece& piece, float* values) const;
  void get_master(const Parameter& parameter, ElementRange range, float* values) const;

 private:
  config::ModelConfig config_;
  config::TensorTable table_;
  config::Precision precision_;
  c10::Device device_;
  bool trained_;
  Sharding sharding_;
  std::deque<Parameter> parameters_;  // a deque: references stay valid
  std::vector<TiedCopy> tied_copies_;
  std::map<std::string, std::pair<size_t, size_t>> held_;  // name -> parameter, piece
  std::set<std::string> elsewhere_;
};

}  // namespace fathom::weights
