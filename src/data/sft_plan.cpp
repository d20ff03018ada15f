#include "data/sft_plan.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <set>

#include <fmt/format.h>

#include "base/error.h"
#include "base/random.h"
#include "data/blend.h"
#include "data/numpy_random.h"

namespace fathom::data {

std::vector<int64_t> mix_samples(std::span<const int64_t> sizes, std::span<const double> weights,
                                 int64_t total, uint32_t seed) {
  std::vector<int64_t> begins(sizes.size() + 1, 0), order;
  std::partial_sum(sizes.begin(), sizes.end(), begins.begin() + 1);
  if (weights.empty()) {
    order.resize(static_cast<size_t>(begins.back()));
    std::iota(order.begin(), order.end(), int64_t{0});
    return order;
  }
  std::vector<size_t> files;
  std::vector<double> shares;
  for (size_t f = 0; f < sizes.size(); ++f)
    if (sizes[f] > 0 && weights[f] > 0) {
      files.push_back(f);
      shares.push_back(weights[f]);
    }
  if (files.empty()) return order;
  shares = normalized(shares);
  const bool only_once = total == 0;
  if (only_once) {
    double most = std::numeric_limits<double>::infinity();
    for (size_t i = 0; i < files.size(); ++i)
      most = std::min(most, static_cast<double>(sizes[files[i]]) / shares[i]);
    total = static_cast<int64_t>(most);
  }
  const BlendIndex mix = blend(shares, total);
  std::vector<std::vector<int64_t>> permutations(files.size());
  for (size_t i = 0; i < mix.dataset.size(); ++i) {
    const auto f = static_cast<size_t>(mix.dataset[i]);
    const int64_t size = sizes[files[f]], place = mix.sample[i] % size;
    if (only_once && mix.sample[i] >= size) break;  // rounding asks for one more than there is
    if (place == 0) {
      permutations[f].resize(static_cast<size_t>(size));
      std::iota(permutations[f].begin(), permutations[f].end(), begins[files[f]]);
      NumpyRandomState random(static_cast<uint32_t>(
          stream_key(seed, fmt::format("sft file {} epoch {}", files[f], mix.sample[i] / size))));
      random.shuffle(std::span(permutations[f]));
    }
    order.push_back(permutations[f][static_cast<size_t>(place)]);
  }
  return order;
}

PackingPlan one_a_row(int64_t samples) {
  PackingPlan plan;
  plan.order.resize(static_cast<size_t>(samples));
  plan.begins.resize(static_cast<size_t>(samples) + 1);
  std::iota(plan.order.begin(), plan.order.end(), int64_t{0});
  std::iota(plan.begins.begin(), plan.begins.end(), int64_t{0});
  return plan;
}

PackingPlan pack_samples(std::span<const int32_t> lengths, int64_t capacity) {
  std::vector<int64_t> by_length(lengths.size());
  std::iota(by_length.begin(), by_length.end(), int64_t{0});
  const auto length = [&](int64_t sample) { return lengths[static_cast<size_t>(sample)]; };
  std::stable_sort(by_length.begin(), by_length.end(),
                   [&](int64_t a, int64_t b) { return length(a) > length(b); });
  std::vector<std::vector<int64_t>> rows;
  std::set<std::pair<int64_t, int64_t>> open;  // (what is left, row)
  for (const int64_t sample : by_length) {
    FATHOM_ASSERT(length(sample) <= capacity);
    auto best = open.lower_bound({length(sample), -1});
    if (best == open.end()) {
      best = open.insert({capacity, static_cast<int64_t>(rows.size())}).first;
      rows.emplace_back();
    }
    const auto [left, row] = *best;
    open.erase(best);
    rows[static_cast<size_t>(row)].push_back(sample);
    if (left > length(sample)) open.insert({left - length(sample), row});
  }
  for (auto& row : rows) std::sort(row.begin(), row.end());
  std::sort(rows.begin(), rows.end());
  PackingPlan plan;
  plan.begins.push_back(0);
  for (const auto& row : rows) {
    plan.order.insert(plan.order.end(), row.begin(), row.end());
    plan.begins.push_back(static_cast<int64_t>(plan.order.size()));
  }
  return plan;
}

}  // namespace fathom::data
