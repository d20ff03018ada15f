// A software model of the tile instructions that src/kernels/cpu/amx uses, taking over the names of the
// intrinsics, so that the bodies there run on processors without AMX. Include before the bodies, which are then
// compiled as a set of their own (FATHOM_SET amx_model).
//
// TDPBF16PS as Intel's manual (volume 2) gives it: even and odd members of the pairs are summed apart along the
// depth, each by fp32 FMA from zero; the two sums are added, then their sum is added to the accumulator. All
// round to nearest even, denormal inputs count as zero and denormal results become zero; MXCSR plays no part.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace fathom::kernels::FATHOM_SET {
namespace {

struct TileModel {
  struct Tile {
    int rows = 0, row_bytes = 0;
    alignas(64) unsigned char data[16][64] = {};
  };

  // The 64 bytes of LDTILECFG, palette 1.
  void configure(const void* config) {
    const unsigned char* bytes = static_cast<const unsigned char*>(config);
    if (bytes[0] != 1) __builtin_trap();
    for (int t = 0; t < 8; ++t) {
      uint16_t row_bytes;
      std::memcpy(&row_bytes, bytes + 16 + 2 * t, 2);
      tiles[t] = Tile{bytes[48 + t], row_bytes};
    }
  }
  void release() {
    for (Tile& tile : tiles) tile = Tile{};
  }

  void zero(int t) { std::memset(used(t).data, 0, sizeof(Tile::data)); }
  void load(int t, const void* base, int64_t stride) {
    zero(t);
    for (int row = 0; row < tiles[t].rows; ++row)
      std::memcpy(tiles[t].data[row], static_cast<const char*>(base) + row * stride,
                  static_cast<std::size_t>(tiles[t].row_bytes));
  }
  void store(int t, void* base, int64_t stride) {
    for (int row = 0; row < used(t).rows; ++row)
      std::memcpy(static_cast<char*>(base) + row * stride, tiles[t].data[row],
                  static_cast<std::size_t>(tiles[t].row_bytes));
  }

  void multiply_bf16(int to, int left, int right) {
    Tile &c = used(to), &a = used(left), &b = used(right);
    if (c.rows != a.rows || c.row_bytes != b.row_bytes || a.row_bytes != 4 * b.rows) __builtin_trap();
    for (int m = 0; m < c.rows; ++m) {
      float even[16] = {}, odd[16] = {};
      for (int k = 0; k < a.row_bytes / 4; ++k)
        for (int n = 0; n < c.row_bytes / 4; ++n) {
          even[n] = flushed(__builtin_fmaf(value_of(a, m, 2 * k), value_of(b, k, 2 * n), even[n]));
          odd[n] = flushed(__builtin_fmaf(value_of(a, m, 2 * k + 1), value_of(b, k, 2 * n + 1), odd[n]));
        }
      for (int n = 0; n < c.row_bytes / 4; ++n) {
        float sum;
        std::memcpy(&sum, c.data[m] + 4 * n, 4);
        sum = flushed(flushed(sum) + flushed(even[n] + odd[n]));
        std::memcpy(c.data[m] + 4 * n, &sum, 4);
      }
    }
  }

  static float flushed(float x) { return __builtin_fabsf(x) < 0x1p-126f ? __builtin_copysignf(0, x) : x; }
  static float value_of(const Tile& tile, int row, int column) {
    uint16_t half;
    std::memcpy(&half, tile.data[row] + 2 * column, 2);
    const uint32_t bits = uint32_t{half} << 16;
    float x;
    std::memcpy(&x, &bits, 4);
    return flushed(x);
  }
  Tile& used(int t) {  // the processor raises an error where no configuration is loaded
    if (tiles[t].rows == 0) __builtin_trap();
    return tiles[t];
  }

  Tile tiles[8];
};

thread_local TileModel tile_model;

}  // namespace
}  // namespace fathom::kernels::FATHOM_SET

#undef _tile_loadd
#undef _tile_stored
#undef _tile_zero
#undef _tile_dpbf16ps
#define _tile_loadconfig(config) tile_model.configure(config)
#define _tile_release() tile_model.release()
#define _tile_zero(tile) tile_model.zero(tile)
#define _tile_loadd(tile, base, stride) tile_model.load(tile, base, stride)
#define _tile_stored(tile, base, stride) tile_model.store(tile, base, stride)
#define _tile_dpbf16ps(to, left, right) tile_model.multiply_bf16(to, left, right)
