// Static int8 activations, one scale a tensor, with the shift of Outlier Suppression+ (Wei et al. 2023, arXiv
// 2304.09145, equation 3): each channel is moved so that its range is centred, which takes from the tensor's range what
// only some channels' offset has put there.
//
//   x' = x + shift;  q = clamp(round(x' / scale), -127, 127);  y = w_scale * scale * (codes q + bias)
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace fathom::checkpoint {

// Shift and scale are bfloat16 values: that is what the engines that read them keep them in.
struct StaticActivation {
  std::vector<float> shift;  // [in], minus the middle of each channel's range (MindFormers: beta)
  float scale = 1;           // of the tensor; the zero point is 0, for the shifted range is symmetric
};

// From each channel's smallest and largest input. `with_shift` false: shift 0 and the largest |x| as range.
StaticActivation static_activation(std::span<const float> minimum, std::span<const float> maximum,
                                   bool with_shift = true);

// What takes the shift out again, in units of w_scale * scale (MindFormers: quant_bias): -sum_j codes[r, j] shift[j] /
// scale, rounded. codes: int8 [out, in].
std::vector<int32_t> shift_bias(std::span<const int8_t> codes, const StaticActivation& activation);

}  // namespace fathom::checkpoint
