// Ranges of values: conversion, accumulation, rows of an embedding. Sizes count elements; no overlaps unless
// said.
#pragma once

#include <cstdint>

#include "base/bfloat16.h"
#include "kernels/dtype.h"

namespace fathom::kernels {

void convert(const bf16* from, float* to, int64_t count);  // exact
void convert(const float* from, bf16* to, int64_t count);  // to nearest even, NaN stays NaN

// sum += scale * x, in fp32.
void accumulate(float* sum, const float* x, int64_t count, float scale = 1);
void accumulate(float* sum, const bf16* x, int64_t count, float scale = 1);
// sum = round(sum + x) with the addition in fp32 (gradients kept in bf16).
void accumulate(bf16* sum, const float* x, int64_t count);
void accumulate(bf16* sum, const bf16* x, int64_t count);

// grad[ids[t]] += dx[t], in order of t for each row: the same bits for any number of threads. ids in [0,
// num_rows) or negative (skipped), checked by the caller. dx [T, D] dense; grad [num_rows, D] dense.
struct EmbeddingGradParams {
  DType dtype = DType::f32;      // of dx
  DType grad_type = DType::f32;  // of grad; bf16 rows are added in fp32 and rounded once per token
  int64_t num_tokens = 0;        // T
  int64_t dim = 0;               // D
  int64_t num_rows = 0;
  const int64_t* ids = nullptr;  // [T]
  const void* dx = nullptr;
  void* grad = nullptr;
};
void embedding_grad(const EmbeddingGradParams& params);

}  // namespace fathom::kernels
