#include "kernels/router.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "base/parallel.h"
#include "kernels/dispatch.h"

namespace fathom::kernels {
namespace {

constexpr float kLowest = -std::numeric_limits<float>::infinity();

// Keeps the best `size` of what it is offered, best first; of equals the one offered first stays ahead.
class TopK {
 public:
  explicit TopK(int64_t size)
      : size_(size), values_(static_cast<std::size_t>(size)), indices_(values_.size()) {}
  void clear() { count_ = 0; }
  void offer(float value, int32_t index) {
    if (count_ == size_ && !(value > values_[static_cast<std::size_t>(size_ - 1)])) return;
    int64_t at = count_ < size_ ? count_++ : size_ - 1;
    for (; at > 0 && value > values_[static_cast<std::size_t>(at - 1)]; --at) {
      values_[static_cast<std::size_t>(at)] = values_[static_cast<std::size_t>(at - 1)];
      indices_[static_cast<std::size_t>(at)] = indices_[static_cast<std::size_t>(at - 1)];
    }
    values_[static_cast<std::size_t>(at)] = value;
    indices_[static_cast<std::size_t>(at)] = index;
  }
  int32_t index(int64_t i) const { return indices_[static_cast<std::size_t>(i)]; }

 private:
  int64_t size_, count_ = 0;
  std::vector<float> values_;
  std::vector<int32_t> indices_;
};

float group_score(const float* choice, int64_t size, GroupScore how) {
  float best = kLowest, second = kLowest;
  for (int64_t i = 0; i < size; ++i) {
    if (choice[i] > best) {
      second = best;
      best = choice[i];
    } else if (choice[i] > second) {
      second = choice[i];
    }
  }
  return how == GroupScore::maximum || size < 2 ? best : best + second;
}

// The choice of one row; `choice` holds the biased scores, NaN replaced.
void choose(const RouterForwardParams& p, const float* choice, TopK& groups, std::vector<char>& is_kept,
            TopK& top, int32_t* indices) {
  const int64_t group_size = p.num_experts / p.num_groups;
  if (p.topk_groups < p.num_groups) {
    groups.clear();
    for (int64_t g = 0; g < p.num_groups; ++g)
      groups.offer(group_score(choice + g * group_size, group_size, p.group_score), static_cast<int32_t>(g));
    std::fill(is_kept.begin(), is_kept.end(), char{0});
    for (int64_t g = 0; g < p.topk_groups; ++g) is_kept[static_cast<std::size_t>(groups.index(g))] = 1;
  }
  top.clear();
  for (int64_t g = 0; g < p.num_groups; ++g) {
    if (!is_kept[static_cast<std::size_t>(g)]) continue;
    for (int64_t e = g * group_size; e < (g + 1) * group_size; ++e)
      top.offer(choice[e], static_cast<int32_t>(e));
  }
  for (int64_t k = 0; k < p.num_choices; ++k) indices[k] = top.index(k);
}

}  // namespace

void router_forward(const RouterForwardParams& params) {
  auto* scores_body = FATHOM_PICK(DType::f32, router_scores);
  parallel_for(0, params.num_tokens, 16, [&](int64_t begin, int64_t end) {
    TopK groups(params.topk_groups), top(params.num_choices);
    std::vector<char> is_kept(static_cast<std::size_t>(params.num_groups), char{1});
    std::vector<float> choice(static_cast<std::size_t>(params.num_experts));
    for (int64_t t = begin; t < end; ++t) {
      float* scores = params.scores + t * params.num_experts;
      scores_body(params.scoring, params.logits + t * params.num_experts, scores, params.num_experts);
      for (int64_t e = 0; e < params.num_experts; ++e) {
        const float biased = scores[e] + (params.bias ? params.bias[e] : 0.0f);
        choice[static_cast<std::size_t>(e)] = std::isnan(biased) ? kLowest : biased;
      }
      int32_t* indices = params.indices + t * params.num_choices;
      choose(params, choice.data(), groups, is_kept, top, indices);
      float* weights = params.weights + t * params.num_choices;
      float sum = 0;
      for (int64_t k = 0; k < params.num_choices; ++k) sum += weights[k] = scores[indices[k]];
      const float scale = static_cast<float>(params.scale);
      for (int64_t k = 0; k < params.num_choices; ++k)
        weights[k] = (params.normalise ? weights[k] / (sum + 1e-20f) : weights[k]) * scale;
    }
  });
}

void router_backward(const RouterBackwardParams& params) {
  parallel_for(0, params.num_tokens, 32, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const float* scores = params.scores + t * params.num_experts;
      const int32_t* indices = params.indices + t * params.num_choices;
      float* dlogits = params.dlogits + t * params.num_experts;  // first the gradient of the scores
      if (params.dscores) {
        std::copy_n(params.dscores + t * params.num_experts, params.num_experts, dlogits);
      } else {
        std::fill_n(dlogits, params.num_experts, 0.0f);
      }
      if (params.dweights) {
        const float* dweights = params.dweights + t * params.num_choices;
        double sum = 1e-20, products = 0;
        for (int64_t k = 0; k < params.num_choices; ++k) {
          sum += scores[indices[k]];
          products += double(dweights[k]) * scores[indices[k]];
        }
        for (int64_t k = 0; k < params.num_choices; ++k) {
          const double gradient = params.normalise ? (dweights[k] - products / sum) / sum : dweights[k];
          dlogits[indices[k]] += static_cast<float>(params.scale * gradient);
        }
      }
      if (params.scoring == Scoring::sigmoid) {
        for (int64_t e = 0; e < params.num_experts; ++e) dlogits[e] *= scores[e] * (1 - scores[e]);
      } else {
        double mean = 0;
        for (int64_t e = 0; e < params.num_experts; ++e) mean += double(dlogits[e]) * scores[e];
        for (int64_t e = 0; e < params.num_experts; ++e)
          dlogits[e] = scores[e] * (dlogits[e] - static_cast<float>(mean));
      }
    }
  });
}

}  // namespace fathom::kernels
