// Cross-entropy over a chunk of logits: per row log-sum-exp, negative log-likelihood and, in the same sweep
// over a row in cache, the gradient. With lse = log(sum exp(z)) (the maximum taken out first):
//   nll = lse - z[target];  loss = coefficient * (nll + z_loss * lse^2)
//   dlogits = coefficient * ((1 + 2 z_loss lse) * softmax(z) - onehot(target))
// fp32 (reference: double), rows independent; a row whose target is `ignore` has nll 0 and gradient 0
// exactly.
#pragma once

#include <cstdint>

#include "kernels/dtype.h"

namespace fathom::kernels {

struct CrossEntropyParams {
  DType dtype = DType::f32;      // of logits
  DType grad_type = DType::f32;  // of dlogits
  int64_t num_rows = 0;          // T
  int64_t vocab_size = 0;        // V
  const void* logits = nullptr;  // [T, V], row stride logits_stride
  int64_t logits_stride = 0;
  const int64_t* targets = nullptr;  // [T] in [0, V) or `ignore`
  int64_t ignore = -100;
  double coefficient = 1;
  double z_loss = 0;
  float* nll = nullptr;       // [T]; may be null
  float* lse = nullptr;       // [T]; may be null (of ignored rows too)
  double* nll_f64 = nullptr;  // [T], for f64 in place of nll; may be null
  double* lse_f64 = nullptr;  // [T], for f64 in place of lse; may be null
  void* dlogits = nullptr;    // [T, V], row stride dlogits_stride; may be logits (same dtype and stride, or
                              // bf16 over fp32 with rows starting at the same bytes); may be null
  int64_t dlogits_stride = 0;
};
void cross_entropy(const CrossEntropyParams& params);

}  // namespace fathom::kernels
