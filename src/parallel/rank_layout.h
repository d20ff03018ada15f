// Which rank holds what (docs/design.md, Parallelism): ranks are numbered tensor fastest, then context, data, pipeline.
// The expert group is `expert` consecutive ranks of data x tensor; a group's `expert_tensor` ranks share each expert.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "config/recipe.h"

namespace fathom::parallel {

enum class Dimension {
  world,
  tensor,
  context,
  data,
  pipeline,
  expert,         // ranks that hold different experts of one layer
  expert_tensor,  // ranks that share each expert's matrices
  expert_data,    // ranks with the same experts: their gradients are summed
  stage,          // data x context x tensor: all ranks of a pipeline stage
  replica,        // data x context: ranks with the same dense parameters
};
const char* name(Dimension dimension);  // "data", "expert_data", ...

class RankLayout {
 public:
  explicit RankLayout(const config::ParallelSection& section);

  int64_t world_size() const { return tensor_ * context_ * data_ * pipeline_; }
  int64_t size(Dimension dimension) const;
  // The ranks of the group of `rank` along a dimension, ascending; their order is the place in the group.
  std::vector<int64_t> group(Dimension dimension, int64_t rank) const;
  int64_t place(Dimension dimension, int64_t rank) const;  // of `rank` in its group
  // Every group along a dimension; each rank is in exactly one.
  std::vector<std::vector<int64_t>> groups(Dimension dimension) const;
  std::string describe(int64_t rank) const;  // "data 1, tensor 0, pipeline 2": the dimensions above 1

 private:
  int64_t tensor_, context_, data_, pipeline_, expert_, expert_tensor_;
};

}  // namespace fathom::parallel
