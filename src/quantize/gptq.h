// GPTQ (Frantar et al. 2022, arXiv 2210.17323, algorithm 1): columns are rounded one after the other, and what each
// rounding loses is made up for by the columns that follow, as far as the inputs seen in calibration let it.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <vector>

#include "checkpoint/quantized_ints.h"

namespace fathom::quantize {

// Where values may go: code * scale, one scale for `group_size` neighbouring columns of a row (the last group of a row
// may be shorter; group_size >= in: one scale a row).
struct Grid {
  int lowest = -8, highest = 7;
  int64_t group_size = 128;
  std::function<float(float largest)> scale_for;  // of a group's largest |value|; > 0 also for 0

  int64_t groups(int64_t columns) const { return (columns + group_size - 1) / group_size; }
};

// That of a matrix in a file.
Grid grid_of(const checkpoint::IntFormat& format);

struct GptqOptions {
  double damping = 0.01;   // of the mean of the Hessian's diagonal, added to the diagonal
  bool act_order = false;  // columns with the largest inputs first; scales then come from the matrix as it is
};

// What a Hessian contributes, for every matrix that reads the same inputs.
struct GptqFactor {
  at::Tensor upper;  // float [in, in], upper triangular: (H + damping)^-1 = upper^T upper, columns in `order`
  std::vector<int64_t> order;  // column of the matrix at each step
};

// hessian: double [in, in], the sum of x x^T over the inputs x of the matrix. A channel that was always zero is
// rounded to nearest. Where the matrix is not positive definite within its rounding, damping grows tenfold until it
// is. Throws NumericError: NaN or infinity.
GptqFactor gptq_factor(const at::Tensor& hessian, const GptqOptions& options);

// weight: float [out, in].
checkpoint::IntCodes gptq(const at::Tensor& weight, const GptqFactor& factor, const GptqOptions& options,
                          const Grid& grid);

// Round to nearest on the same grid, without looking at inputs: what GPTQ is measured against.
checkpoint::IntCodes round_to_nearest(const at::Tensor& weight, const Grid& grid);

// code * scale, float [out, in].
at::Tensor decode(const checkpoint::IntCodes& codes, int64_t columns, const Grid& grid);

}  // namespace fathom::quantize
