// Views made of views, without reading them: what layouts are built from. Elements are counted in row-major order.
#pragma once

#include <cstdint>
#include <vector>

#include "checkpoint/tensor_view.h"

namespace fathom::checkpoint {

// The same elements under another shape of equally many.
TensorView reshaped(TensorView view, std::vector<int64_t> shape);
// Consecutive elements, from `begin` on.
TensorView slice(const TensorView& view, int64_t begin, std::vector<int64_t> shape);
// The elements of one view after those of another: rows joined, or matrices stacked, as `shape` says.
TensorView concatenated(std::vector<TensorView> parts, std::vector<int64_t> shape);
// [rows, columns] -> [columns, rows]. Reads panels of whole columns of at most a million elements into memory of the
// thread's own, so it is fast only when `granule` elements or more are asked for at a time.
TensorView transposed(TensorView matrix);

// out[column][row] = in[row][column], elements of 1, 2, 4 or 8 bytes; neither side need be aligned.
void transpose(const std::byte* in, int64_t rows, int64_t columns, size_t element_size, std::byte* out);

struct Block {
  int64_t row, rows, column, columns;
};
// A block of a matrix, row-major; cheap also for transposed ones.
void read_block(const TensorView& matrix, const Block& block, formats::Dtype as, std::byte* out);

}  // namespace fathom::checkpoint
