// The router's choice (DeepSeek-V3 report §2.1.2, eqs. 12-16; V2: softmax and maximum of a group): all in
// fp32.
//   scores = sigmoid or softmax of the logits;  choice = scores + bias
//   groups of E / num_groups experts: keep the topk_groups with the best group score, the others cannot win,
//   whatever the sign of the biased scores;  indices = top K of choice, best first, ties to the lower index
//   (groups too); weights = scores[indices], divided by (their sum + 1e-20) if normalise, times scale.
// A NaN ranks below every number, so indices are always valid and distinct. Rows are independent.
#pragma once

#include <cstdint>

namespace fathom::kernels {

enum class Scoring { sigmoid, softmax };
enum class GroupScore { top2_sum, maximum };  // noaux_tc, group_limited_greedy

struct RouterForwardParams {
  int64_t num_tokens = 0;   // T
  int64_t num_experts = 0;  // E
  int64_t num_choices = 0;  // K <= experts in the kept groups
  int64_t num_groups = 1;   // divides E; 1: no grouping
  int64_t topk_groups = 1;
  Scoring scoring = Scoring::sigmoid;
  GroupScore group_score = GroupScore::top2_sum;
  bool normalise = true;
  double scale = 1;
  const float* logits = nullptr;  // [T, E] dense
  const float* bias = nullptr;    // [E]; may be null. Steers the choice only (NUM-2)
  int32_t* indices = nullptr;     // [T, K]
  float* weights = nullptr;       // [T, K]
  float* scores = nullptr;        // [T, E] unbiased
};
void router_forward(const RouterForwardParams& params);

// Gradient of the logits from those of the weights and of the scores (balance loss); indices are constants.
struct RouterBackwardParams {
  int64_t num_tokens = 0;
  int64_t num_experts = 0;
  int64_t num_choices = 0;
  Scoring scoring = Scoring::sigmoid;
  bool normalise = true;
  double scale = 1;
  const float* scores = nullptr;     // [T, E] of forward
  const int32_t* indices = nullptr;  // [T, K]
  const float* dweights = nullptr;   // [T, K]; may be null: zero
  const float* dscores = nullptr;    // [T, E]; may be null: zero
  float* dlogits = nullptr;          // [T, E], overwritten
};
void router_backward(const RouterBackwardParams& params);

}  // namespace fathom::kernels
