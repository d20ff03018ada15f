#include "weights/tensor_slice.h"

#include <gtest/gtest.h>

#include <map>

namespace fathom::weights {
namespace {

int64_t numel(const std::vector<int64_t>& shape) {
  int64_t n = 1;
  for (const int64_t size : shape) n *= size;
  return n;
}

// Which element of the whole tensor each element of the run is.
std::vector<int64_t> elements(const TensorSlice& slice, const std::vector<int64_t>& whole) {
  std::vector<int64_t> result;
  for (int64_t i = slice.run.begin; i < slice.run.end; ++i) {
    int64_t rest = i, element = 0, stride = 1;
    for (size_t d = whole.size(); d-- > 0;) {
      element += (rest % slice.shape[d] + slice.offset[d]) * stride;
      rest /= slice.shape[d];
      stride *= whole[d];
    }
    result.push_back(element);
  }
  return result;
}

// Every pair of these slices, against a map of elements.
TEST(TensorSlice, overlaps_are_those_of_the_elements) {
  const std::vector<int64_t> whole = {3, 4, 5};
  std::vector<TensorSlice> slices;
  for (const auto& [offset, shape] :
       std::vector<std::pair<std::vector<int64_t>, std::vector<int64_t>>>{{{0, 0, 0}, {3, 4, 5}},
                                                                          {{0, 2, 0}, {3, 2, 5}},
                                                                          {{1, 1, 1}, {2, 2, 3}},
                                                                          {{0, 0, 3}, {3, 4, 2}},
                                                                          {{2, 3, 4}, {1, 1, 1}}})
    for (const int64_t cuts : {1, 2, 5})
      for (int64_t c = 0; c < cuts; ++c)
        slices.push_back({offset, shape, {numel(shape) * c / cuts, numel(shape) * (c + 1) / cuts}});
  for (const TensorSlice& a : slices) {
    const std::vector<int64_t> of_a = elements(a, whole);
    for (const TensorSlice& b : slices) {
      const std::vector<int64_t> of_b = elements(b, whole);
      std::map<int64_t, int64_t> expected, found;  // place in a -> place in b
      for (size_t i = 0; i < of_a.size(); ++i)
        for (size_t j = 0; j < of_b.size(); ++j)
          if (of_a[i] == of_b[j]) expected[static_cast<int64_t>(i)] = static_cast<int64_t>(j);
      for_each_overlap(a, b, [&](int64_t in_a, int64_t in_b, int64_t count) {
        ASSERT_GT(count, 0);
        for (int64_t i = 0; i < count; ++i) EXPECT_TRUE(found.emplace(in_a + i, in_b + i).second);
      });
      EXPECT_EQ(found, expected);
      EXPECT_EQ(count_overlap(a, b), static_cast<int64_t>(expected.size()));
    }
  }
}

TEST(TensorSlice, scalars_and_nothing) {
  const TensorSlice scalar{{}, {}, {0, 1}}, nothing{{}, {}, {0, 0}}, empty{{0, 0}, {4, 0}, {0, 0}};
  EXPECT_EQ(count_overlap(scalar, scalar), 1);
  EXPECT_EQ(count_overlap(scalar, nothing), 0);
  EXPECT_EQ(count_overlap(empty, empty), 0);
}

TEST(ElementRange, shares_are_everything_once) {
  for (const int64_t numel : {0, 1, 63, 64, 65, 1000, 100000})
    for (const int64_t size : {1, 2, 3, 7}) {
      int64_t at = 0;
      for (int64_t place = 0; place < size; ++place) {
        const ElementRange share = share_of(numel, place, size);
        EXPECT_EQ(share.begin, at);
        EXPECT_GE(share.count(), 0);
        EXPECT_LE(share.count(), numel / size + 2 * kShareUnit);
        at = share.end;
      }
      EXPECT_EQ(at, numel);
    }
}

}  // namespace
}  // namespace fathom::weights
