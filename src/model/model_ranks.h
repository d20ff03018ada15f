// The ranks that a model's layers are spread over (docs/design.md, Parallelism).
#pragma once

#include <cstdint>

#include "parallel/communicator.h"

namespace fathom::model {

// A part of something that is cut into as many parts as a group has ranks, as evenly as whole units allow.
struct Share {
  int64_t begin = 0, count = 0;
};

// Null pointers: groups of one.
struct ModelRanks {
  parallel::Communicator* tensor = nullptr;  // share each matrix, and the tokens between the matrices
  parallel::Communicator* expert = nullptr;  // hold different experts; every rank of it has tokens of its own

  int64_t tensor_size() const { return tensor ? tensor->size() : 1; }
  int64_t expert_size() const { return expert ? expert->size() : 1; }
  bool cuts_matrices() const { return tensor_size() > 1; }
  bool cuts_experts() const { return expert_size() > 1; }
  // What this rank has of `total` rows, heads, columns; of `total` experts.
  Share tensor_share(int64_t total) const { return share(tensor, total); }
  Share expert_share(int64_t total) const { return share(expert, total); }

  static Share share(const parallel::Communicator* group, int64_t total) {
    if (!group) return {0, total};
    const int64_t begin = total * group->place() / group->size();
    return {begin, total * (group->place() + 1) / group->size() - begin};
  }
};

}  // namespace fathom::model
