// The table of bodies. Every family has its loops in each set under one signature, over a range of rows or
// one task, so that the portable code of src/kernels/<family>.cpp owns checks, scratch and threads. Bodies of
// a set are compiled with its flags; they use no inline function of external linkage, or the linker might
// keep the AVX-512 copy of one for a processor without it.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/adamw.h"
#include "kernels/attention.h"
#include "kernels/cross_entropy.h"
#include "kernels/dtype.h"
#include "kernels/elementwise.h"
#include "kernels/fp8.h"
#include "kernels/gemm.h"
#include "kernels/int_codes.h"
#include "kernels/isa.h"
#include "kernels/moe.h"
#include "kernels/norm.h"
#include "kernels/rope.h"
#include "kernels/router.h"
#include "kernels/swiglu.h"

namespace fathom::kernels {

inline constexpr int64_t kNormBlockRows = 64;      // rows of one partial sum of dweight
inline constexpr int64_t kSquareSumChunk = 65536;  // values of one partial sum of squares

// One (sequence, head) and, forward, a range of query blocks.
struct AttentionTask {
  int64_t sequence_idx = 0, head_idx = 0;
  int64_t begin_block = 0, end_block = 0;
};
inline constexpr int64_t kAttentionBlock = 64;  // tokens of a block of queries, and of keys

// One product: c [rows, columns] (+)= A [rows, depth] B [depth, columns]; depth > 0.
struct GemmBlock {
  DType dtype = DType::f32, out_dtype = DType::f32;
  int64_t rows = 0, columns = 0, depth = 0;
  const void* a = nullptr;
  int64_t lda = 0;
  bool is_a_transposed = false;  // a [depth, rows], else [rows, depth]
  const void* b = nullptr;
  int64_t ldb = 0;
  bool is_b_transposed = false;  // b [columns, depth], else [depth, columns]
  // Not null (dtype bf16, b transposed): b holds e4m3 codes, and these are the scales of its blocks of kFp8Block x kFp8Block,
  // the first of them at column 0.
  const float* b_scales = nullptr;
  int64_t b_scale_stride = 0;
  void* c = nullptr;
  int64_t ldc = 0;
  bool accumulate = false;
};

// clang-format off
#define FATHOM_ROW_BODIES \
  void adamw_range(const AdamWParams& params, int64_t begin, int64_t end); \
  void split_range(const float* master, bf16* hi, uint16_t* lo, int64_t count); \
  void merge_range(const bf16* hi, const uint16_t* lo, float* master, int64_t count); \
  SquareSum square_sum_chunk(DType type, const void* values, int64_t begin, int64_t end); \
  void rms_norm_forward_rows(const RmsNormForwardParams& params, int64_t begin, int64_t end); \
  void rms_norm_backward_rows(const RmsNormBackwardParams& params, int64_t begin, int64_t end, \
                              void* dweight); \
  void rope_tokens(const RopeParams& params, int64_t begin, int64_t end); \
  void swiglu_forward_rows(const SwigluForwardParams& params, int64_t begin, int64_t end); \
  void swiglu_backward_rows(const SwigluBackwardParams& params, int64_t begin, int64_t end); \
  void router_scores(Scoring scoring, const float* logits, float* scores, int64_t num_experts); \
  void combine_tokens(const MoeCombineParams& params, int64_t begin, int64_t end); \
  void combine_backward_tokens(const MoeCombineBackwardParams& params, int64_t begin, int64_t end); \
  void cross_entropy_rows(const CrossEntropyParams& params, int64_t begin, int64_t end); \
  void exp_range(const float* x, float* y, int64_t count); \
  void convert_range(const bf16* from, float* to, int64_t count); \
  void convert_range(const float* from, bf16* to, int64_t count); \
  void accumulate_range(DType sum_type, void* sum, DType type, const void* x, int64_t count, float scale); \
  void dequantize_fp8_range(const uint8_t* codes, float scale, int64_t count, float* out); \
  void dequantize_fp8_range(const uint8_t* codes, float scale, int64_t count, bf16* out); \
  float absolute_max_range(const float* values, int64_t count); \
  void quantize_fp8_range(const float* values, float scale, int64_t count, uint8_t* codes); \
  void quantize_int_range(const float* values, float scale, int lowest, int highest, int64_t count, \
                          int8_t* codes); \
  void dequantize_int_range(const int8_t* codes, float scale, int64_t count, float* out); \
  void dequantize_int_range(const int8_t* codes, float scale, int64_t count, bf16* out); \
  CodeError code_error_range(const float* values, const float* decoded, int64_t count);
// clang-format on

#define FATHOM_ATTENTION_BODIES                                                                  \
  std::size_t attention_scratch_bytes(const AttentionShape& shape, bool backward);               \
  void attention_forward_task(const AttentionForwardParams& params, const AttentionTask& task,   \
                              void* scratch);                                                    \
  void attention_backward_task(const AttentionBackwardParams& params, const AttentionTask& task, \
                               void* scratch);

#define FATHOM_GEMM_BODIES                                \
  std::size_t gemm_scratch_bytes(const GemmBlock& block); \
  void gemm_block(const GemmBlock& block, void* scratch);

// clang-format off
namespace reference { FATHOM_ROW_BODIES FATHOM_ATTENTION_BODIES FATHOM_GEMM_BODIES }
namespace avx2 { FATHOM_ROW_BODIES FATHOM_ATTENTION_BODIES FATHOM_GEMM_BODIES }
namespace avx512 { FATHOM_ROW_BODIES FATHOM_ATTENTION_BODIES FATHOM_GEMM_BODIES }
namespace amx { FATHOM_ATTENTION_BODIES FATHOM_GEMM_BODIES }
// clang-format on

#undef FATHOM_ROW_BODIES
#undef FATHOM_ATTENTION_BODIES
#undef FATHOM_GEMM_BODIES

// The body in force; f64 always runs the reference.
template <typename Function>
Function* pick(DType type, Function* reference_body, Function* avx2_body, Function* avx512_body) {
  if (type == DType::f64) return reference_body;
  switch (isa()) {
    case Isa::avx2:
      return avx2_body;
    case Isa::avx512:
    case Isa::amx:
      return avx512_body;
    default:
      return reference_body;
  }
}
#define FATHOM_PICK(type, name) pick(type, &reference::name, &avx2::name, &avx512::name)

// Scratch memory of this thread, 64-byte aligned, grown and kept; valid until this thread's next call.
void* thread_scratch(std::size_t bytes);

}  // namespace fathom::kernels
