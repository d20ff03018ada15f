// The bodies for AMX over a software model of the tiles (amx_model/tile_model.h), which needs AVX-512 only:
// against the reference, and where the processor has AMX bit for bit against the tiles themselves.
#include <gtest/gtest.h>

#include <array>
#include <bit>
#include <cmath>

#include "kernels/attention_problem.h"
#include "kernels/dispatch.h"
#include "kernels/support.h"

namespace fathom::kernels::amx_model {

std::size_t attention_scratch_bytes(const AttentionShape& shape, bool backward);
void attention_forward_task(const AttentionForwardParams& params, const AttentionTask& task, void* scratch);
void attention_backward_task(const AttentionBackwardParams& params, const AttentionTask& task, void* scratch);
std::size_t gemm_scratch_bytes(const GemmBlock& block);
void gemm_block(const GemmBlock& block, void* scratch);

}  // namespace fathom::kernels::amx_model

namespace fathom::kernels::testing {
namespace {

class AmxModel : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!is_supported(Isa::avx512)) GTEST_SKIP() << "SKIP_NO_AVX512: the bodies pack with AVX-512";
  }
};

struct Product {
  int64_t rows, columns, depth;
  bool is_a_transposed, is_b_transposed, accumulate;
};

// The operands of one product with gaps of NaN behind the rows, and its result between guards.
template <typename Out>
struct GemmProblem {
  explicit GemmProblem(const Product& p)
      : a(random_rows<bf16>(p.is_a_transposed ? p.depth : p.rows, p.is_a_transposed ? p.rows : p.depth, 3,
                            1)),
        b(random_rows<bf16>(p.is_b_transposed ? p.columns : p.depth, p.is_b_transposed ? p.depth : p.columns,
                            4, 2)),
        c(random_rows<Out>(p.rows, p.columns, 5, 3), 1) {
    block.dtype = DType::bf16, block.out_dtype = dtype_of<Out>();
    block.rows = p.rows, block.columns = p.columns, block.depth = p.depth;
    block.a = a.data(), block.lda = (p.is_a_transposed ? p.rows : p.depth) + 3;
    block.is_a_transposed = p.is_a_transposed;
    block.b = b.data(), block.ldb = (p.is_b_transposed ? p.depth : p.columns) + 4;
    block.is_b_transposed = p.is_b_transposed;
    block.c = c.data(), block.ldc = p.columns + 5;
    block.accumulate = p.accumulate;
  }
  std::vector<bf16> a, b;
  Guarded<Out> c;
  GemmBlock block;
};

template <typename Out>
void check(const Product& p) {
  SCOPED_TRACE(::testing::Message() << p.rows << " x " << p.columns << " x " << p.depth << ", transposed "
                                    << p.is_a_transposed << p.is_b_transposed << ", added " << p.accumulate);
  GemmProblem<Out> expected(p), model(p), tiles(p);
  reference::gemm_block(expected.block, thread_scratch(reference::gemm_scratch_bytes(expected.block)));
  amx_model::gemm_block(model.block, thread_scratch(amx_model::gemm_scratch_bytes(model.block)));
  EXPECT_TRUE(model.c.is_intact());
  const std::vector<Out> values = expected.c.values();
  const double sums = kEpsF32 * std::sqrt(double(p.depth) + 4) * std::max(1.0, largest_finite(values));
  EXPECT_TRUE(close(model.c.values(), values, Bound{sizeof(Out) == 2 ? 2 * kEpsBf16 : 0, sums, 2e-5}));
  if (is_supported(Isa::amx)) {
    amx::gemm_block(tiles.block, thread_scratch(amx::gemm_scratch_bytes(tiles.block)));
    EXPECT_TRUE(same_bits(model.c.values(), tiles.c.values(), "model and tiles"));
  }
}

TEST_F(AmxModel, gemm_agrees_with_the_reference_and_the_tiles) {
  for (const auto& [rows, columns, depth] :
       {std::array<int64_t, 3>{1, 1, 1}, {16, 32, 64}, {31, 33, 65}, {130, 40, 34}, {33, 70, 700}}) {
    for (bool is_a_transposed : {false, true}) {
      for (bool is_b_transposed : {false, true}) {
        check<float>({rows, columns, depth, is_a_transposed, is_b_transposed, is_a_transposed});
        check<bf16>({rows, columns, depth, is_a_transposed, is_b_transposed, false});
      }
    }
  }
}

TEST_F(AmxModel, fp8_blocks_are_cast_as_they_are_packed) {
  const Product shape{33, 70, 700, false, true, false};
  std::vector<uint8_t> codes(70 * 700);
  for (size_t i = 0; i < codes.size(); ++i)
    codes[i] = static_cast<uint8_t>(i * 37 % 127 | (i % 3 == 0 ? 0x80 : 0));
  const std::vector<float> scales = {0.3f, 0.02f, 1.7f, 0.11f, 0.9f, 0.004f};
  GemmProblem<float> cast(shape), stored(shape), tiles(shape);
  for (int64_t i = 0; i < 70; ++i)
    for (int64_t j = 0; j < 700; ++j)
      cast.b[static_cast<size_t>(i * 704 + j)] = to_bf16(e4m3_value(codes[static_cast<size_t>(i * 700 + j)]) *
                                                         scales[static_cast<size_t>(j / kFp8Block)]);
  for (GemmProblem<float>* p : {&stored, &tiles}) {
    p->block.b = codes.data(), p->block.ldb = 700;
    p->block.b_scales = scales.data(), p->block.b_scale_stride = 6;
  }
  amx_model::gemm_block(cast.block, thread_scratch(amx_model::gemm_scratch_bytes(cast.block)));
  amx_model::gemm_block(stored.block, thread_scratch(amx_model::gemm_scratch_bytes(stored.block)));
  EXPECT_TRUE(stored.c.is_intact());
  EXPECT_TRUE(same_bits(stored.c.values(), cast.c.values(), "blocks and cast"));
  if (!is_supported(Isa::amx)) return;
  amx::gemm_block(tiles.block, thread_scratch(amx::gemm_scratch_bytes(tiles.block)));
  EXPECT_TRUE(same_bits(tiles.c.values(), cast.c.values(), "tiles and model"));
}

// c [32, 32] = A [32, depth] B [depth, 32] where all rows of A are one and all columns of B are one.
float sum_of_products(const std::vector<float>& a, const std::vector<float>& b, bool on_tiles) {
  const int64_t depth = static_cast<int64_t>(a.size());
  std::vector<bf16> left, right;
  for (int i = 0; i < 32; ++i)
    for (float x : a) left.push_back(to_bf16(x));
  for (float x : b) right.insert(right.end(), 32, to_bf16(x));
  std::vector<float> c(32 * 32);
  GemmBlock block{DType::bf16, DType::f32, 32, 32, depth};
  block.a = left.data(), block.lda = depth, block.b = right.data(), block.ldb = 32;
  block.c = c.data(), block.ldc = 32;
  if (on_tiles) {
    amx::gemm_block(block, thread_scratch(amx::gemm_scratch_bytes(block)));
  } else {
    amx_model::gemm_block(block, thread_scratch(amx_model::gemm_scratch_bytes(block)));
  }
  for (float x : c) EXPECT_EQ(std::bit_cast<uint32_t>(x), std::bit_cast<uint32_t>(c[0]));
  return c[0];
}

TEST_F(AmxModel, rounding_and_denormals) {
  struct Case {
    const char* what;
    std::vector<float> a, b;
    float expected;
  };
  std::vector<float> wide_a, wide_b;  // every order of summing gives another result
  for (float x : random_values<float>(64, 5)) wide_a.push_back(std::ldexp(x, static_cast<int>(x * 7)));
  for (float x : random_values<float>(64, 6)) wide_b.push_back(std::ldexp(x, static_cast<int>(x * 5)));
  const std::vector<Case> cases = {
      {"nearest even, down", {1, 0x1p-12f}, {1, 0x1p-12f}, 1},
      {"nearest even, up", {0x1.02p0f, 0x1p-12f, 0x1.02p0f}, {0x1.02p0f, 0x1p-12f, 0x1p-23f}, NAN},
      {"even and odd members apart", {0x1p24f, 1, 0, 1, -0x1p24f, 1}, {1, 1, 1, 1, 1, 1}, 3},
      {"a sum cut at the ends of its own list", {0x1p24f, 0, 1, 0, 1, 0}, {1, 0, 1, 0, 1, 0}, 0x1p24f},
      {"denormal factors are zero", {0x1p-127f}, {0x1p30f}, 0},
      {"denormal products are zero", {0x1p-70f, 0x1p-70f}, {0x1p-57f, 0x1p-57f}, 0},
      {"the least normal product stays", {0x1p-70f}, {0x1p-56f}, 0x1p-126f},
      {"a denormal difference is zero", {0x1.8p-126f, 0, -0x1p-126f}, {1, 0, 1}, 0},
      {"just below the least normal", {0x1p-126f, 0, -0x1p-100f}, {1, 0, 0x1p-51f}, NAN},
      {"overflow", {0x1p127f}, {2}, INFINITY},
      {"infinity less infinity", {INFINITY, INFINITY}, {1, -1}, NAN},
      {"wide", wide_a, wide_b, NAN},
  };
  for (const Case& c : cases) {
    const float model = sum_of_products(c.a, c.b, false);
    if (!std::isnan(c.expected)) {
      EXPECT_EQ(model, c.expected) << c.what;
    }
    if (!is_supported(Isa::amx)) continue;
    const float tiles = sum_of_products(c.a, c.b, true);
    if (std::isnan(model) && std::isnan(tiles)) continue;  // which NaN is not promised
    EXPECT_EQ(std::bit_cast<uint32_t>(model), std::bit_cast<uint32_t>(tiles))
        << c.what << ": model " << model << ", tiles " << tiles;
  }
}

// All tasks of a problem by the bodies of one set.
template <typename ScratchBytes, typename Forward>
void run_forward(AttentionProblem<bf16>& p, ScratchBytes& bytes, Forward& forward) {
  const int64_t blocks = (p.shape.seq_length + kAttentionBlock - 1) / kAttentionBlock;
  for (int64_t sequence = 0; sequence < p.shape.num_sequences; ++sequence)
    for (int64_t head = 0; head < p.shape.num_heads; ++head)
      forward(p.forward_params(), {sequence, head, 0, blocks}, thread_scratch(bytes(p.shape, false)));
}
template <typename ScratchBytes, typename Backward>
void run_backward(AttentionProblem<bf16>& p, ScratchBytes& bytes, Backward& backward) {
  const int64_t blocks = (p.shape.seq_length + kAttentionBlock - 1) / kAttentionBlock;
  for (int64_t sequence = 0; sequence < p.shape.num_sequences; ++sequence)
    for (int64_t head = 0; head < p.shape.num_heads; ++head)
      backward(p.backward_params(), {sequence, head, 0, blocks}, thread_scratch(bytes(p.shape, true)));
}

TEST_F(AmxModel, attention_agrees_with_the_reference_and_the_tiles) {
  AttentionCase documents{2, 100, 1, 24, 16, 4};
  documents.doc_start.assign(200, 0);
  for (int32_t t = 40; t < 100; ++t) documents.doc_start[t] = 40;
  for (const AttentionCase& c : {AttentionCase{1, 1, 1, 16, 16}, AttentionCase{1, 65, 2, 48, 32, 3},
                                 AttentionCase{1, 130, 1, 96, 64}, documents}) {
    SCOPED_TRACE(::testing::Message() << "S " << c.length << " Dqk " << c.qk_dim << " Dv " << c.v_dim);
    AttentionProblem<bf16> expected(c), model(c), tiles(c);
    under(Isa::reference, [&] {
      expected.forward();
      expected.backward();
    });
    run_forward(model, amx_model::attention_scratch_bytes, amx_model::attention_forward_task);
    const double top = std::max(1.0, largest_finite(expected.lse));
    EXPECT_TRUE(close(model.lse, expected.lse, Bound{4 * kEpsF32, kEpsF32 * (8 + 8 * top), 1}, "lse"));
    EXPECT_TRUE(close(model.out, expected.out, attention_bound(model, expected.out, top), "out"));
    run_backward(model, amx_model::attention_scratch_bytes, amx_model::attention_backward_task);
    EXPECT_TRUE(close(model.dq, expected.dq, attention_bound(model, expected.dq, top), "dq"));
    EXPECT_TRUE(close(model.dk, expected.dk, attention_bound(model, expected.dk, top), "dk"));
    EXPECT_TRUE(close(model.dv, expected.dv, attention_bound(model, expected.dv, top), "dv"));
    if (!is_supported(Isa::amx)) continue;
    run_forward(tiles, amx::attention_scratch_bytes, amx::attention_forward_task);
    run_backward(tiles, amx::attention_scratch_bytes, amx::attention_backward_task);
    EXPECT_TRUE(same_bits(model.out, tiles.out, "out, model and tiles"));
    EXPECT_TRUE(same_bits(model.lse, tiles.lse, "lse, model and tiles"));
    EXPECT_TRUE(same_bits(model.dq, tiles.dq, "dq, model and tiles"));
    EXPECT_TRUE(same_bits(model.dk, tiles.dk, "dk, model and tiles"));
    EXPECT_TRUE(same_bits(model.dv, tiles.dv, "dv, model and tiles"));
  }
}

}  // namespace
}  // namespace fathom::kernels::testing
