// Parameters on their way between the ranks that hold copies of them: packed into messages of bounded size, small ones
// together and large ones in parts, every message with the same amount for each rank.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <vector>

#include "parallel/communicator.h"
#include "weights/parameter_registry.h"

namespace fathom::train {

// The ranks with copies of this rank's parameters.
struct CopyHolders {
  parallel::Communicator* dense = nullptr;
  parallel::Communicator* experts = nullptr;  // of routed experts
  parallel::Communicator* cut = nullptr;      // of matrices that tensor ranks share
  parallel::Communicator* all = nullptr;      // every rank, whatever it holds
  parallel::Communicator& of(const weights::Parameter& p) const {
    return p.holders == weights::Holders::expert_data ? *experts
           : p.holders == weights::Holders::replica   ? *cut
                                                      : *dense;
  }
};

class ShareBucket {
 public:
  // Elements [begin, begin + length) of each rank's share of the parameter, as far as it goes.
  struct Part {
    weights::Parameter* parameter;
    int64_t begin, length;
  };
  explicit ShareBucket(std::vector<Part> parts);

  const std::vector<Part>& parts() const { return parts_; }
  const weights::Parameter& first() const { return *parts_.front().parameter; }

  // `whole` gives a parameter's tensor (its shape; undefined: zeros), `share` the tensor of this rank's share. The share
  // becomes (with `adds`: gets added) the sum over the ranks, added in their order; bfloat16 in float.
  using TensorOf = std::function<at::Tensor(weights::Parameter&)>;
  void reduce(parallel::Communicator& ranks, at::ScalarType dtype, const TensorOf& whole,
              const TensorOf& share, bool adds) const;
  // Every rank's share of `whole` to every rank.
  void gather(parallel::Communicator& ranks, at::ScalarType dtype, const TensorOf& whole) const;

 private:
  // Elements of the parameter that this part means at a place.
  weights::ElementRange range(const Part& part, int64_t place) const;
  std::vector<Part> parts_;
  std::vector<int64_t> rows_;  // elements by place
};

// All of `parameters` that more than one rank holds. Parameters of different holders never share a bucket.
std::vector<ShareBucket> make_buckets(const std::vector<weights::Parameter*>& parameters,
                                      int64_t bucket_elements = int64_t{1} << 21);

}  // namespace fathom::train
