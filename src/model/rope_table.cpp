#include "model/rope_table.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>

#include <vector>

namespace fathom::model {

RopeTable::RopeTable(const config::ModelConfig& config, at::ScalarType dtype)
    : amplitude_(config.rope_amplitude()) {
  const std::vector<double> inv_freq = config.rope_inv_freq();
  at::Tensor wide = at::empty({static_cast<int64_t>(inv_freq.size())}, at::kDouble);
  std::copy(inv_freq.begin(), inv_freq.end(), wide.mutable_data_ptr<double>());
  inv_freq_ = wide.to(dtype);
}

std::pair<at::Tensor, at::Tensor> RopeTable::at(const at::Tensor& position_ids) const {
  const at::Tensor angles = position_ids.to(inv_freq_.scalar_type()).unsqueeze(1) *
                            inv_freq_.to(position_ids.device()).unsqueeze(0);
  return {angles.cos() * amplitude_, angles.sin() * amplitude_};
}

}  // namespace fathom::model
