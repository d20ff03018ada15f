// Every parameter of this rank's model with its identity: HF names, global shapes, which slice stands where. Weights on
// disk, optimizer, norms, initial values and memory counts are functions over this registry; nobody keeps a second map.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <cstdint>
#include <deque>
#include <map>
#include <string>
#include <vector>

#include "config/recipe.h"
#include "config/tensor_table.h"
#include "ops/weight.h"

namespace fathom::weights {

// One named HF tensor (or this rank's slice of it) inside a parameter's flat memory; always a contiguous run there.
struct Piece {
  const config::TensorSpec* spec = nullptr;
  int64_t flat_offset = 0;             // elements from the start of the parameter
  std::vector<int64_t> shape;          // local
  std::vector<int64_t> global_offset;  // of the slice in spec->shape
  int64_t numel() const;
  bool is_whole() const { return shape == spec->shape; }
};

struct Parameter : ops::Weight {
  std::vector<int64_t> shape;  // local; the product of the pieces
  std::vector<Piece> pieces;
  bool is_decayed = false;
  bool is_router_bias = false;  // moved by the balance rule, never by a gradient; float32 always
  // bf16 with fp32 masters: master bits = (value << 16) + sign-extended low_bits (kernels/adamw.h). Undefined otherwise.
  at::Tensor low_bits;             // int16
  at::Tensor exp_avg, exp_avg_sq;  // made by the optimizer
  int64_t numel() const { return value.numel(); }
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
                    bool trained);
  ParameterRegistry(const ParameterRegistry&) = delete;
  ParameterRegistry& operator=(const ParameterRegistry&) = delete;

  // A parameter made of whole HF tensors laid one after the other in memory. Names are looked up in the tensor table.
  // The reference stays valid for the life of the registry.
  Parameter& add(const std::string& label, std::vector<int64_t> shape, const std::vector<std::string>& names);
  Parameter& add(const std::string& name);  // one whole tensor
  void add_tied_copy(const std::string& name, const std::string& source);
  // Every tensor of the table is held or tied exactly once, else std::logic_error naming it.
  void check_complete() const;

  std::deque<Parameter>& parameters() { return parameters_; }
  const std::deque<Parameter>& parameters() const { return parameters_; }
  const std::vector<TiedCopy>& tied_copies() const { return tied_copies_; }
  const config::TensorTable& table() const { return table_; }
  const config::ModelConfig& model() const { return config_; }
  config::Precision precision() const { return precision_; }
  bool has_masters() const { return precision_ == config::Precision::bf16; }
  // The parameter and piece of an HF name; nullptr where this rank does not hold it.
  std::pair<Parameter*, const Piece*> find(const std::string& name);

  // Values from (seed, HF name, global element index): any layout starts from the same weights. Normal with
  // initializer_range, norms 1, correction bias 0.
  void initialize(uint64_t seed);
  // main_grad of every trained parameter
  void allocate_grads(config::StateDtype grad_dtype = config::StateDtype::fp32);
  void clear_grads();  // marks them empty; no memory is touched
  // Sets a piece from float values [numel] (masters and value); rounds as the precision says.
  void set_piece(Parameter& parameter, const Piece& piece, const float* values);
  // The fp32 master (the value itself where there is none) of a piece.
  void get_master(const Parameter& parameter, const Piece& piece, float* values) const;

 private:
  config::ModelConfig config_;
  config::TensorTable table_;
  config::Precision precision_;
  c10::Device device_;
  bool trained_;
  std::deque<Parameter> parameters_;  // a deque: references stay valid
  std::vector<TiedCopy> tied_copies_;
  std::map<std::string, std::pair<size_t, size_t>> held_;  // name -> parameter, piece
};

}  // namespace fathom::weights
