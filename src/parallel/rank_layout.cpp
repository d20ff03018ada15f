#include "parallel/rank_layout.h"

#include <fmt/ranges.h>

#include <stdexcept>

#include "base/error.h"

namespace fathom::parallel {

const char* name(Dimension dimension) {
  switch (dimension) {
    case Dimension::world:
      return "world";
    case Dimension::tensor:
      return "tensor";
    case Dimension::context:
      return "context";
    case Dimension::data:
      return "data";
    case Dimension::pipeline:
      return "pipeline";
    case Dimension::expert:
      return "expert";
    case Dimension::expert_tensor:
      return "expert_tensor";
    case Dimension::expert_data:
      return "expert_data";
    case Dimension::replica:
      return "replica";
    case Dimension::stage:
      return "stage";
  }
  throw std::logic_error("no such dimension");
}

RankLayout::RankLayout(const config::ParallelSection& section)
    : tensor_(section.tensor),
      context_(section.context),
      data_(section.data),
      pipeline_(section.pipeline),
      expert_(section.expert),
      expert_tensor_(section.expert_tensor) {
  FATHOM_ASSERT(data_ * tensor_ % (expert_ * expert_tensor_) == 0);  // recipe_check names the keys
}

int64_t RankLayout::size(Dimension dimension) const {
  switch (dimension) {
    case Dimension::world:
      return world_size();
    case Dimension::tensor:
      return tensor_;
    case Dimension::context:
      return context_;
    case Dimension::data:
      return data_;
    case Dimension::pipeline:
      return pipeline_;
    case Dimension::expert:
      return expert_;
    case Dimension::expert_tensor:
      return expert_tensor_;
    case Dimension::expert_data:
      return data_ * tensor_ * context_ / (expert_ * expert_tensor_);
    case Dimension::replica:
      return data_ * context_;
    case Dimension::stage:
      return data_ * context_ * tensor_;
  }
  throw std::logic_error("no such dimension");
}

// The dense dimensions cut rank = ((p * data + d) * context + c) * tensor + t. Experts cut the same ranks of a stage
// anew: m = d * tensor + t is expert_tensor fastest, then expert, then what is left; with c that is expert_data.
int64_t RankLayout::place(Dimension dimension, int64_t rank) const {
  const int64_t t = rank % tensor_, c = rank / tensor_ % context_, d = rank / (tensor_ * context_) % data_,
                p = rank / (tensor_ * context_ * data_), m = d * tensor_ + t;
  switch (dimension) {
    case Dimension::world:
      return rank;
    case Dimension::tensor:
      return t;
    case Dimension::context:
      return c;
    case Dimension::data:
      return d;
    case Dimension::pipeline:
      return p;
    case Dimension::expert_tensor:
      return m % expert_tensor_;
    case Dimension::expert:
      return m / expert_tensor_ % expert_;
    case Dimension::expert_data:
      return m / (expert_tensor_ * expert_) * context_ + c;
    case Dimension::replica:
      return d * context_ + c;
    case Dimension::stage:
      return (d * context_ + c) * tensor_ + t;
  }
  throw std::logic_error("no such dimension");
}

std::vector<int64_t> RankLayout::group(Dimension dimension, int64_t rank) const {
  // Ranks that agree with this one on every other dimension of the same family.
  std::vector<Dimension> fixed;
  const auto fix = [&](std::initializer_list<Dimension> family) {
    for (const Dimension other : family)
      if (other != dimension) fixed.push_back(other);
  };
  switch (dimension) {
    case Dimension::world:
      break;
    case Dimension::expert:
    case Dimension::expert_tensor:
    case Dimension::expert_data:
      fix({Dimension::expert_tensor, Dimension::expert, Dimension::expert_data, Dimension::pipeline});
      break;
    case Dimension::replica:
      fix({Dimension::tensor, Dimension::pipeline});
      break;
    case Dimension::stage:
      fix({Dimension::pipeline});
      break;
    default:
      fix({Dimension::tensor, Dimension::context, Dimension::data, Dimension::pipeline});
  }
  std::vector<int64_t> ranks(static_cast<size_t>(size(dimension)), -1);
  for (int64_t other = 0; other < world_size(); ++other) {
    bool is_member = true;
    for (const Dimension d : fixed) is_member = is_member && place(d, other) == place(d, rank);
    if (is_member) ranks[static_cast<size_t>(place(dimension, other))] = other;
  }
  return ranks;
}

std::vector<std::vector<int64_t>> RankLayout::groups(Dimension dimension) const {
  std::vector<std::vector<int64_t>> result;
  for (int64_t rank = 0; rank < world_size(); ++rank)
    if (place(dimension, rank) == 0) result.push_back(group(dimension, rank));
  return result;
}

std::string RankLayout::describe(int64_t rank) const {
  std::vector<std::string> parts;
  for (const Dimension d : {Dimension::data, Dimension::tensor, Dimension::context, Dimension::pipeline,
                            Dimension::expert, Dimension::expert_tensor})
    if (size(d) > 1) parts.push_back(fmt::format("{} {}", name(d), place(d, rank)));
  return parts.empty() ? "one rank" : fmt::format("{}", fmt::join(parts, ", "));
}

}  // namespace fathom::parallel
