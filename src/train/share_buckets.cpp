#include "train/share_buckets.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <cstring>

#include "base/error.h"

namespace fathom::train {

using weights::ElementRange;
using weights::Parameter;

namespace {

ElementRange share_at(const Parameter& p, int64_t place) {
  return weights::share_of(p.numel(), place, p.replica.size);
}

std::byte* at_element(const at::Tensor& tensor, int64_t index) {
  return static_cast<std::byte*>(tensor.data_ptr()) +
         static_cast<size_t>(index) * static_cast<size_t>(tensor.element_size());
}

void copy_elements(const at::Tensor& from, int64_t from_index, const at::Tensor& to, int64_t to_index,
                   int64_t count) {
  FATHOM_ASSERT(from.scalar_type() == to.scalar_type() && from.is_contiguous() && to.is_contiguous());
  std::memcpy(at_element(to, to_index), at_element(from, from_index),
              static_cast<size_t>(count) * static_cast<size_t>(from.element_size()));
}

template <typename Number>
void add_elements(const at::Tensor& from, int64_t from_index, const at::Tensor& to, int64_t to_index,
                  int64_t count) {
  const Number* source = from.const_data_ptr<Number>() + from_index;
  Number* sum = to.mutable_data_ptr<Number>() + to_index;
  for (int64_t i = 0; i < count; ++i) sum[i] += source[i];
}

// bfloat16: from float, rounded once.
void put_sum(const at::Tensor& from, int64_t from_index, const at::Tensor& to, int64_t to_index,
             int64_t count, bool adds) {
  if (to.scalar_type() == at::kBFloat16) {
    const float* source = from.const_data_ptr<float>() + from_index;
    auto* sum = to.mutable_data_ptr<at::BFloat16>() + to_index;
    for (int64_t i = 0; i < count; ++i)
      sum[i] = static_cast<at::BFloat16>(adds ? static_cast<float>(sum[i]) + source[i] : source[i]);
  } else if (!adds) {
    copy_elements(from, from_index, to, to_index, count);
  } else if (to.scalar_type() == at::kDouble) {
    add_elements<double>(from, from_index, to, to_index, count);
  } else {
    add_elements<float>(from, from_index, to, to_index, count);
  }
}

}  // namespace

ShareBucket::ShareBucket(std::vector<Part> parts) : parts_(std::move(parts)) {
  rows_.assign(static_cast<size_t>(first().replica.size), 0);
  for (const Part& part : parts_)
    for (size_t p = 0; p < rows_.size(); ++p) rows_[p] += range(part, static_cast<int64_t>(p)).count();
}

ElementRange ShareBucket::range(const Part& part, int64_t place) const {
  const ElementRange share = share_at(*part.parameter, place);
  const int64_t begin = std::min(share.end, share.begin + part.begin);
  return {begin, std::min(share.end, begin + part.length)};
}

void ShareBucket::reduce(parallel::Communicator& ranks, at::ScalarType dtype, const TensorOf& whole,
                         const TensorOf& share, bool adds) const {
  int64_t total = 0;
  for (const int64_t rows : rows_) total += rows;
  const at::Tensor packed = at::empty({total}, dtype);
  int64_t at = 0;
  for (int64_t place = 0; place < ranks.size(); ++place) {
    for (const Part& part : parts_) {
      const ElementRange r = range(part, place);
      const at::Tensor source = whole(*part.parameter);
      if (source.defined())
        copy_elements(source, r.begin, packed, at, r.count());
      else
        std::memset(at_element(packed, at), 0, static_cast<size_t>(r.count() * packed.element_size()));
      at += r.count();
    }
  }
  at::Tensor sum =
      at::empty({rows_[static_cast<size_t>(ranks.place())]}, dtype == at::kBFloat16 ? at::kFloat : dtype);
  ranks.reduce_scatter(packed, rows_, sum);
  at = 0;
  for (const Part& part : parts_) {
    const int64_t count = range(part, ranks.place()).count();
    if (count > 0) put_sum(sum, at, share(*part.parameter), part.begin, count, adds);
    at += count;
  }
}

void ShareBucket::gather(parallel::Communicator& ranks, at::ScalarType dtype, const TensorOf& whole) const {
  const int64_t most = *std::max_element(rows_.begin(), rows_.end());
  const at::Tensor mine = at::empty({most}, dtype);
  std::memset(mine.data_ptr(), 0, mine.nbytes());  // of unequal shares the rest travels too
  int64_t at = 0;
  for (const Part& part : parts_) {
    const ElementRange r = range(part, ranks.place());
    copy_elements(whole(*part.parameter), r.begin, mine, at, r.count());
    at += r.count();
  }
  at::Tensor all = at::empty({most * ranks.size()}, dtype);
  ranks.all_gather(mine, all);
  for (int64_t place = 0; place < ranks.size(); ++place) {
    if (place == ranks.place()) continue;
    at = place * most;
    for (const Part& part : parts_) {
      const ElementRange r = range(part, place);
      copy_elements(all, at, whole(*part.parameter), r.begin, r.count());
      at += r.count();
    }
  }
}

std::vector<ShareBucket> make_buckets(const std::vector<Parameter*>& parameters, int64_t bucket_elements) {
  std::vector<ShareBucket> buckets;
  using weights::Holders;
  for (const Holders holders : {Holders::stage, Holders::replica, Holders::expert_data}) {
    std::vector<ShareBucket::Part> parts;
    int64_t filled = 0;
    const auto close = [&] {
      if (!parts.empty()) buckets.emplace_back(std::move(parts));
      parts = {};
      filled = 0;
    };
    for (Parameter* p : parameters) {
      if (p->holders != holders || p->replica.size == 1) continue;
      const int64_t room = std::max<int64_t>(1, bucket_elements / p->replica.size);
      int64_t longest = 0;
      for (int64_t place = 0; place < p->replica.size; ++place)
        longest = std::max(longest, share_at(*p, place).count());
      for (int64_t begin = 0; begin < longest;) {
        const int64_t length = std::min(longest - begin, room - filled);
        parts.push_back({p, begin, length});
        begin += length;
        filled += length;
        if (filled == room) close();
      }
    }
    close();
  }
  return buckets;
}

}  // namespace fathom::train
