#include "kernels/gemm.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "base/parallel.h"
#include "kernels/dispatch.h"
#include "kernels/fp8.h"

namespace fathom::kernels {
namespace {

constexpr int64_t kMinTaskRows = 128;  // below, packing the other operand again costs more than it spreads

const char* at(const void* base, int64_t elements, DType type) {
  return static_cast<const char*>(base) + elements * size_of(type);
}
char* at(void* base, int64_t elements, DType type) {
  return static_cast<char*>(base) + elements * size_of(type);
}

// The columns of a task: its packed operand, depth x columns, should stay in the second cache. A multiple of kFp8Block.
int64_t columns_of_task(const GemmBlock& block) { return block.depth <= 1024 ? 512 : 256; }

void clear(const GemmBlock& block) {
  for (int64_t row = 0; row < block.rows; ++row)
    std::memset(at(block.c, row * block.ldc, block.out_dtype), 0,
                static_cast<std::size_t>(block.columns * size_of(block.out_dtype)));
}

// Columns [column, column + columns) and rows [row, row + rows) of a product.
GemmBlock part_of(const GemmBlock& whole, int64_t row, int64_t rows, int64_t column, int64_t columns) {
  GemmBlock part = whole;
  part.rows = rows;
  part.columns = columns;
  part.a = at(whole.a, whole.is_a_transposed ? row : row * whole.lda, whole.dtype);
  if (whole.b_scales) {
    part.b = static_cast<const uint8_t*>(whole.b) + column * whole.ldb;
    part.b_scales = whole.b_scales + column / kFp8Block * whole.b_scale_stride;
  } else {
    part.b = at(whole.b, whole.is_b_transposed ? column * whole.ldb : column, whole.dtype);
  }
  part.c = at(whole.c, row * whole.ldc + column, whole.out_dtype);
  return part;
}

// Cuts the products of all groups into tasks of about equal work. A block of columns shares its packed
// operand over all its rows; rows are cut only as far as it takes to keep the threads busy.
std::vector<GemmBlock> cut(const std::vector<GemmBlock>& products) {
  int64_t work = 0;
  for (const GemmBlock& p : products) work += p.rows * p.columns * std::max<int64_t>(1, p.depth);
  const int64_t work_of_task = std::max<int64_t>(1, work / (8 * num_threads()));
  std::vector<GemmBlock> tasks;
  for (const GemmBlock& p : products) {
    const int64_t step = columns_of_task(p);
    for (int64_t column = 0; column < p.columns; column += step) {
      const int64_t columns = std::min(step, p.columns - column);
      const int64_t work_of_column = p.rows * columns * std::max<int64_t>(1, p.depth);
      const int64_t parts = num_threads() == 1
                                ? 1
                                : std::clamp<int64_t>(work_of_column / work_of_task, 1,
                                                      std::max<int64_t>(1, p.rows / kMinTaskRows));
      const int64_t rows = (p.rows / parts + 127) / 128 * 128;
      for (int64_t row = 0; row < p.rows; row += rows)
        tasks.push_back(part_of(p, row, std::min(rows, p.rows - row), column, columns));
    }
  }
  return tasks;
}

void run(const std::vector<GemmBlock>& products, DType type) {
  auto* body = FATHOM_PICK(type, gemm_block);
  auto* bytes = FATHOM_PICK(type, gemm_scratch_bytes);
  if (type == DType::bf16 && isa() == Isa::amx) {
    body = &amx::gemm_block;
    bytes = &amx::gemm_scratch_bytes;
  }
  const std::vector<GemmBlock> tasks = cut(products);
  parallel_tasks(static_cast<int64_t>(tasks.size()), [&](int64_t i) {
    const GemmBlock& task = tasks[static_cast<std::size_t>(i)];
    if (task.depth == 0) {
      clear(task);
    } else {
      body(task, thread_scratch(bytes(task)));
    }
  });
}

// nt and nn differ in which dim of w is summed over.
void run_rows(const GroupedGemmParams& p, bool is_nt) {
  std::vector<GemmBlock> products;
  for (int64_t e = 0; e < p.num_groups; ++e) {
    GemmBlock product{p.dtype, p.out_dtype};
    product.rows = p.offsets[e + 1] - p.offsets[e];
    product.columns = is_nt ? p.n : p.k;
    product.depth = is_nt ? p.k : p.n;
    if (product.rows == 0 || product.columns == 0) continue;
    product.a = at(p.a, p.offsets[e] * p.lda, p.dtype);
    product.lda = p.lda;
    product.b = at(p.w, e * p.w_group_stride, p.dtype);
    product.ldb = p.ldw;
    product.is_b_transposed = is_nt;
    product.c = at(p.c, p.offsets[e] * p.ldc, p.out_dtype);
    product.ldc = p.ldc;
    products.push_back(product);
  }
  run(products, p.dtype);
}

}  // namespace

void grouped_gemm_nt(const GroupedGemmParams& params) { run_rows(params, true); }
void grouped_gemm_nn(const GroupedGemmParams& params) { run_rows(params, false); }

void stored_gemm_nt(const StoredGemmParams& p) {
  if (p.n == 0) return;
  std::vector<GemmBlock> products;
  for (int64_t e = 0; e < p.num_groups; ++e) {
    GemmBlock product{p.dtype, p.out_dtype, p.offsets[e + 1] - p.offsets[e], p.n, p.k};
    if (product.rows == 0) continue;
    product.a = at(p.a, p.offsets[e] * p.lda, p.dtype);
    product.lda = p.lda;
    product.b = p.w[e].values;
    product.ldb = p.w[e].ld;
    product.is_b_transposed = true;
    product.b_scales = p.w[e].scales;
    product.b_scale_stride = p.w[e].scale_stride;
    product.c = at(p.c, p.offsets[e] * p.ldc, p.out_dtype);
    product.ldc = p.ldc;
    products.push_back(product);
  }
  run(products, p.dtype);
}

void grouped_gemm_tn(const GroupedGemmTnParams& p) {
  if (p.n == 0 || p.k == 0) return;
  std::vector<GemmBlock> products;
  for (int64_t e = 0; e < p.num_groups; ++e) {
    GemmBlock product{p.dtype, p.grad_dtype, p.n, p.k, p.offsets[e + 1] - p.offsets[e]};
    if (product.depth == 0 && !p.overwrite) continue;
    product.a = at(p.d, p.offsets[e] * p.ldd, p.dtype);
    product.lda = p.ldd;
    product.is_a_transposed = true;
    product.b = at(p.x, p.offsets[e] * p.ldx, p.dtype);
    product.ldb = p.ldx;
    product.c = at(p.g, e * p.g_group_stride, p.grad_dtype);
    product.ldc = p.ldg;
    product.accumulate = !p.overwrite;
    products.push_back(product);
  }
  run(products, p.dtype);
}

}  // namespace fathom::kernels
