#include "kernels/dispatch.h"
#include "kernels/reference/values.h"

namespace fathom::kernels::reference {

std::size_t gemm_scratch_bytes(const GemmBlock&) { return 0; }

void gemm_block(const GemmBlock& block, void*) {
  const auto product = [&]<typename T, typename Out>(T, Out) {
    const T *a = static_cast<const T*>(block.a), *b = static_cast<const T*>(block.b);
    const auto from_blocks = [&](int64_t column, int64_t i) {
      const float scale = block.b_scales[column / kFp8Block * block.b_scale_stride + i / kFp8Block];
      bf16 value;
      dequantize_fp8_range(static_cast<const uint8_t*>(block.b) + column * block.ldb + i, scale, 1, &value);
      return get(&value);
    };
    for (int64_t row = 0; row < block.rows; ++row) {
      for (int64_t column = 0; column < block.columns; ++column) {
        double sum = 0;
        for (int64_t i = 0; i < block.depth; ++i)
          sum += get(a + (block.is_a_transposed ? i * block.lda + row : row * block.lda + i)) *
                 (block.b_scales
                      ? from_blocks(column, i)
                      : get(b + (block.is_b_transposed ? column * block.ldb + i : i * block.ldb + column)));
        Out* c = static_cast<Out*>(block.c) + row * block.ldc + column;
        put(c, block.accumulate ? get(c) + sum : sum);
      }
    }
  };
  with_type(block.dtype,
            [&](auto type) { with_type(block.out_dtype, [&](auto out_type) { product(type, out_type); }); });
}

}  // namespace fathom::kernels::reference
