#include "quantize/gptq.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/argsort.h>
#include <ATen/ops/cholesky_inverse.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/linalg_cholesky_ex.h>
#include <ATen/ops/where.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "base/error.h"
#include "base/parallel.h"
#include "kernels/int_codes.h"

namespace fathom::quantize {
namespace {

constexpr int64_t kBlockColumns = 128;  // updated one by one; what lies behind them, by one matrix product
constexpr int64_t kRowGrain = 8;

// Lower Cholesky factor, or undefined where there is none.
at::Tensor cholesky(const at::Tensor& matrix) {
  const auto [factor, info] = at::linalg_cholesky_ex(matrix);
  return info.item<int>() == 0 ? factor : at::Tensor();
}

// The block that starts at `begin`: it never reaches over the start of a group from its middle, so that a group's
// scale is taken when every earlier column has had its effect.
int64_t block_end(int64_t begin, int64_t columns, int64_t group_size) {
  if (group_size < kBlockColumns) return std::min(columns, begin + kBlockColumns / group_size * group_size);
  return std::min({columns, begin + kBlockColumns, (begin / group_size + 1) * group_size});
}

float largest_of(const float* values, int64_t count) {
  float largest = 0;
  for (int64_t i = 0; i < count; ++i) largest = std::max(largest, std::abs(values[i]));
  return largest;
}

float code_of(float value, float scale, const Grid& grid) {
  return std::clamp(std::nearbyint(value / scale), static_cast<float>(grid.lowest),
                    static_cast<float>(grid.highest));
}

void static_scales(const float* row, int64_t columns, const Grid& grid, float* scales) {
  for (int64_t g = 0, begin = 0; begin < columns; ++g, begin += grid.group_size)
    scales[g] = grid.scale_for(largest_of(row + begin, std::min(grid.group_size, columns - begin)));
}

}  // namespace

Grid grid_of(const checkpoint::IntFormat& format) {
  const bool is_int4 = format.weights.bits == 4;
  return {is_int4 ? kernels::kLowestInt4 : -kernels::kHighestInt8,
          is_int4 ? kernels::kHighestInt4 : kernels::kHighestInt8,
          format.weights.group_size > 0 ? format.weights.group_size : std::numeric_limits<int64_t>::max() / 2,
          [format](float largest) { return format.scale(largest); }};
}

GptqFactor gptq_factor(const at::Tensor& hessian, const GptqOptions& options) {
  at::Tensor h = hessian.clone();
  if (!at::isfinite(h).all().item<bool>()) throw NumericError("the inputs' Hessian holds NaN or infinity");
  const int64_t n = h.size(0);
  GptqFactor factor;
  factor.order.resize(static_cast<size_t>(n));
  std::iota(factor.order.begin(), factor.order.end(), 0);
  if (n == 0) {
    factor.upper = h.to(at::kFloat);
    return factor;
  }
  at::Tensor diagonal = h.diagonal();
  if (options.act_order) {
    const at::Tensor order = at::argsort(diagonal, /*stable=*/true, /*dim=*/0, /*descending=*/true);
    std::copy_n(order.const_data_ptr<int64_t>(), n, factor.order.begin());
    h = h.index_select(0, order).index_select(1, order);
    diagonal = h.diagonal();
  }
  const double mean = diagonal.mean().item<double>();
  diagonal.copy_(
      at::where(diagonal == 0, at::Tensor(at::empty({}, diagonal.options()).fill_(1.0)), diagonal));
  double damping = std::max(options.damping * mean, 1e-300);
  at::Tensor lower;
  for (double added = 0; !lower.defined(); added = damping, damping *= 10) {
    diagonal.add_(damping - added);
    lower = cholesky(h);
    if (lower.defined()) {
      // H^-1 = U^T U: the lower factor of the inverse, transposed
      lower = cholesky(at::cholesky_inverse(lower));
    }
    if (!std::isfinite(damping)) throw NumericError("the inputs' Hessian cannot be inverted");
  }
  factor.upper = lower.t().to(at::kFloat).contiguous();
  return factor;
}

checkpoint::IntCodes gptq(const at::Tensor& weight, const GptqFactor& factor, const GptqOptions& options,
                          const Grid& grid) {
  const int64_t rows = weight.size(0), columns = weight.size(1), groups = grid.groups(columns);
  checkpoint::IntCodes result;
  result.codes.resize(static_cast<size_t>(rows * columns));
  result.scales.resize(static_cast<size_t>(rows * groups));
  if (rows == 0 || columns == 0) return result;
  const std::vector<int64_t>& order = factor.order;

  at::Tensor w = weight.clone(at::MemoryFormat::Contiguous);
  if (options.act_order) {
    const float* values = w.const_data_ptr<float>();
    for (int64_t r = 0; r < rows; ++r)
      static_scales(values + r * columns, columns, grid, result.scales.data() + r * groups);
    at::Tensor permuted = at::empty_like(w);
    float* to = permuted.mutable_data_ptr<float>();
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t j = 0; j < columns; ++j)
        to[r * columns + j] = values[r * columns + order[static_cast<size_t>(j)]];
    w = permuted;
  }
  float* values = w.mutable_data_ptr<float>();
  const float* upper = factor.upper.const_data_ptr<float>();
  at::Tensor errors = at::empty({rows, std::min(columns, kBlockColumns)}, w.options());

  for (int64_t begin = 0, end; begin < columns; begin = end) {
    end = block_end(begin, columns, grid.group_size);
    const int64_t width = end - begin;
    at::Tensor block_errors = errors.narrow(1, 0, width);
    float* lost = errors.mutable_data_ptr<float>();
    const int64_t lost_stride = errors.stride(0);
    parallel_for(0, rows, kRowGrain, [&](int64_t first, int64_t last) {
      for (int64_t r = first; r < last; ++r) {
        float* row = values + r * columns;
        float* scales = result.scales.data() + r * groups;
        for (int64_t i = begin; i < end; ++i) {
          const int64_t column = order[static_cast<size_t>(i)], group = column / grid.group_size;
          if (!options.act_order && i % grid.group_size == 0)
            scales[group] = grid.scale_for(largest_of(row + i, std::min(grid.group_size, columns - i)));
          const float code = code_of(row[i], scales[group], grid);
          result.codes[static_cast<size_t>(r * columns + column)] = static_cast<int8_t>(code);
          const float* u = upper + i * columns;
          const float error = (row[i] - code * scales[group]) / u[i];
          lost[r * lost_stride + i - begin] = error;
          for (int64_t j = i + 1; j < end; ++j) row[j] -= error * u[j];
        }
      }
    });
    if (end < columns) {
      at::Tensor rest = w.narrow(1, end, columns - end);
      at::addmm_out(rest, rest, block_errors,
                    factor.upper.narrow(0, begin, width).narrow(1, end, columns - end), 1, -1);
    }
  }
  return result;
}

checkpoint::IntCodes round_to_nearest(const at::Tensor& weight, const Grid& grid) {
  const at::Tensor dense = weight.contiguous();
  const int64_t rows = dense.size(0), columns = dense.size(1), groups = grid.groups(columns);
  checkpoint::IntCodes result;
  result.codes.resize(static_cast<size_t>(rows * columns));
  result.scales.resize(static_cast<size_t>(rows * groups));
  const float* values = dense.const_data_ptr<float>();
  parallel_for(0, rows, kRowGrain, [&](int64_t first, int64_t last) {
    for (int64_t r = first; r < last; ++r) {
      float* scales = result.scales.data() + r * groups;
      static_scales(values + r * columns, columns, grid, scales);
      for (int64_t j = 0; j < columns; ++j)
        result.codes[static_cast<size_t>(r * columns + j)] =
            static_cast<int8_t>(code_of(values[r * columns + j], scales[j / grid.group_size], grid));
    }
  });
  return result;
}

at::Tensor decode(const checkpoint::IntCodes& codes, int64_t columns, const Grid& grid) {
  const int64_t rows = columns > 0 ? static_cast<int64_t>(codes.codes.size()) / columns : 0;
  const int64_t groups = grid.groups(columns);
  at::Tensor result = at::empty({rows, columns}, at::TensorOptions().dtype(at::kFloat));
  float* values = result.mutable_data_ptr<float>();
  parallel_for(0, rows, kRowGrain, [&](int64_t first, int64_t last) {
    for (int64_t r = first; r < last; ++r)
      for (int64_t j = 0; j < columns; ++j)
        values[r * columns + j] = static_cast<float>(codes.codes[static_cast<size_t>(r * columns + j)]) *
                                  codes.scales[static_cast<size_t>(r * groups + j / grid.group_size)];
  });
  return result;
}

}  // namespace fathom::quantize
