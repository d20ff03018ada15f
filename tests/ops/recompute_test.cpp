// Tensors that are given back between forward and backward.
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include "ops/linear.h"
#include "ops/norm.h"
#include "ops/recompute.h"
#include "support/tensors.h"

namespace fathom::ops {
namespace {

struct NormThenLinear {
  Weight norm = test::trained_weight(test::normal({33}, "norm"));
  Weight matrix = test::trained_weight(test::normal({7, 33}, "matrix"));
  at::Tensor x = test::normal({5, 33}, "x").requires_grad_(true);
  at::Tensor x_grad;

  // Returns the normed tensor, as it is once the forward pass is over.
  at::Tensor run(bool release) {
    const at::Tensor y = rms_norm(x, norm, 1e-6), z = linear(y, matrix);
    if (release)
      release_until_backward(y, z, [this, kept = x.detach()] { return rms_norm(kept, norm, 1e-6); });
    const at::Tensor seen = y.detach();
    EXPECT_EQ(seen.storage().data() == nullptr, release);
    (z * test::normal({5, 7}, "dz")).sum().backward();
    x_grad = x.grad();
    return seen;
  }
};

TEST(ReleaseUntilBackward, gradients_keep_their_bits) {
  NormThenLinear kept, released;
  const at::Tensor expected = kept.run(false), again = released.run(true);
  EXPECT_TRUE(again.equal(expected)) << "the values are back where they were";
  EXPECT_TRUE(released.x_grad.equal(kept.x_grad));
  EXPECT_TRUE(released.norm.main_grad.equal(kept.norm.main_grad));
  EXPECT_TRUE(released.matrix.main_grad.equal(kept.matrix.main_grad));
}

TEST(ReleaseUntilBackward, does_nothing_without_a_graph) {
  NormThenLinear parts;
  at::NoGradGuard no_grad;
  const at::Tensor y = rms_norm(parts.x, parts.norm, 1e-6), z = linear(y, parts.matrix);
  release_until_backward(y, z, [] { return at::Tensor(); });
  EXPECT_NE(y.storage().data(), nullptr);
}

}  // namespace
}  // namespace fathom::ops
