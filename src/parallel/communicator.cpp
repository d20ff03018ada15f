#include "parallel/communicator.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <fmt/ranges.h>

#include <exception>
#include <stdexcept>
#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <utility>

#include "base/error.h"
#include "parallel/heartbeat.h"

namespace fathom::parallel {
namespace {

c10d::ReduceOp operation(Reduce reduce) {
  switch (reduce) {
    case Reduce::sum:
      return c10d::ReduceOp::SUM;
    case Reduce::max:
      return c10d::ReduceOp::MAX;
    case Reduce::min:
      return c10d::ReduceOp::MIN;
  }
  throw std::logic_error("no such reduction");
}

// c10d's messages are paragraphs with stack traces: the first line, without the source's place.
std::string reason(const std::exception& error) {
  std::string text = error.what();
  text = text.substr(0, text.find('\n'));
  if (text.starts_with('[')) {
    const size_t end = text.find("] ");
    if (end != std::string::npos) text = text.substr(end + 2);
  }
  return text;
}

void check_contiguous(const at::Tensor& tensor) { FATHOM_ASSERT(tensor.is_contiguous()); }

// A plain loop: it may run in a thread beside the computing, where LibTorch's own would start more threads.
template <typename Part, typename Sum>
void add_parts(const Part* parts, int64_t num_parts, Sum* sum, int64_t count) {
  for (int64_t i = 0; i < count; ++i) sum[i] = static_cast<Sum>(parts[i]);
  for (int64_t p = 1; p < num_parts; ++p)
    for (int64_t i = 0; i < count; ++i) sum[i] += static_cast<Sum>(parts[p * count + i]);
}

int64_t total(std::span<const int64_t> rows) {
  int64_t sum = 0;
  for (const int64_t n : rows) sum += n;
  return sum;
}

}  // namespace

Communicator::Communicator(std::string name, std::vector<int64_t> ranks, int64_t place,
                           std::shared_ptr<c10d::Backend> backend)
    : name_(std::move(name)), ranks_(std::move(ranks)), place_(place), backend_(std::move(backend)) {
  FATHOM_ASSERT((backend_ != nullptr) == (size() > 1));
}

Communicator::~Communicator() = default;

template <typename Start>
void Communicator::run(const char* collective, int64_t bytes, Start start) {
  Traffic& traffic = traffic_[collective];
  ++traffic.calls;
  traffic.bytes += bytes;
  const Heartbeat::InCollective mark(name_, collective);
  try {
    start()->wait();
  } catch (const std::exception& error) {
    throw DistributedError("step {}: {} over the {} group (ranks {}) failed on rank {}: {}", step_,
                           collective, name_, fmt::join(ranks_, ","), ranks_[static_cast<size_t>(place_)],
                           reason(error));
  }
}

void Communicator::all_reduce(at::Tensor& tensor, Reduce reduce) {
  check_contiguous(tensor);
  if (size() == 1 || tensor.numel() == 0) return;
  if (tensor.scalar_type() == at::kBFloat16 && reduce == Reduce::sum) {
    at::Tensor wide = tensor.to(at::kFloat);
    all_reduce(wide, reduce);
    tensor.copy_(wide);
    return;
  }
  c10d::AllreduceOptions options;
  options.reduceOp = operation(reduce);
  std::vector<at::Tensor> tensors = {tensor};
  run("all_reduce", static_cast<int64_t>(tensor.nbytes()),
      [&] { return backend_->allreduce(tensors, options); });
}

void Communicator::all_reduce(std::span<double> values, Reduce reduce) {
  at::Tensor tensor = at::from_blob(values.data(), {static_cast<int64_t>(values.size())}, at::kDouble);
  all_reduce(tensor, reduce);
}

void Communicator::all_reduce(std::span<int64_t> values, Reduce reduce) {
  at::Tensor tensor = at::from_blob(values.data(), {static_cast<int64_t>(values.size())}, at::kLong);
  all_reduce(tensor, reduce);
}

void Communicator::broadcast(at::Tensor& tensor, int64_t root) {
  check_contiguous(tensor);
  if (size() == 1 || tensor.numel() == 0) return;
  c10d::BroadcastOptions options;
  options.rootRank = root;
  std::vector<at::Tensor> tensors = {tensor};
  run("broadcast", place_ == root ? static_cast<int64_t>(tensor.nbytes()) : 0,
      [&] { return backend_->broadcast(tensors, options); });
}

void Communicator::all_gather(const at::Tensor& mine, at::Tensor& all) {
  check_contiguous(mine);
  check_contiguous(all);
  FATHOM_ASSERT(all.numel() == mine.numel() * size());
  if (size() == 1) {
    all.view(-1).copy_(mine.view(-1));
    return;
  }
  if (mine.numel() == 0) return;
  at::Tensor from = mine.view(-1);
  std::vector<std::vector<at::Tensor>> parts(1);
  for (int64_t p = 0; p < size(); ++p)
    parts[0].push_back(all.view(-1).narrow(0, p * mine.numel(), mine.numel()));
  std::vector<at::Tensor> inputs = {from};
  run("all_gather", static_cast<int64_t>(mine.nbytes()), [&] { return backend_->allgather(parts, inputs); });
}

void Communicator::all_to_all(const at::Tensor& send, std::span<const int64_t> send_rows, at::Tensor& recv,
                              std::span<const int64_t> recv_rows) {
  check_contiguous(send);
  check_contiguous(recv);
  FATHOM_ASSERT(send.scalar_type() == recv.scalar_type());
  FATHOM_ASSERT(send.size(0) == total(send_rows) && recv.size(0) == total(recv_rows));
  if (size() == 1) {
    recv.copy_(send);
    return;
  }
  const int64_t own = send_rows[static_cast<size_t>(place_)];
  const int64_t row_bytes = send.size(0) == 0 ? 0 : static_cast<int64_t>(send.nbytes()) / send.size(0);
  std::vector<int64_t> from(send_rows.begin(), send_rows.end()), to(recv_rows.begin(), recv_rows.end());
  at::Tensor input = send, output = recv;
  run("all_to_all", (send.size(0) - own) * row_bytes,
      [&] { return backend_->alltoall_base(output, input, to, from); });
}

void Communicator::reduce_scatter(const at::Tensor& all, std::span<const int64_t> rows, at::Tensor& mine) {
  const int64_t own = rows[static_cast<size_t>(place_)];
  FATHOM_ASSERT(mine.size(0) == own);
  if (size() == 1) {
    mine.copy_(all);
    return;
  }
  std::vector<int64_t> shape = all.sizes().vec();
  shape[0] = own * size();
  at::Tensor parts = at::empty(shape, all.options());
  const std::vector<int64_t> equal(static_cast<size_t>(size()), own);
  all_to_all(all, rows, parts, equal);
  if (own == 0) return;
  const int64_t count = parts.numel() / size();
  switch (all.scalar_type()) {
    case at::kBFloat16: {
      if (mine.scalar_type() == at::kFloat && mine.is_contiguous()) {
        add_parts(parts.const_data_ptr<at::BFloat16>(), size(), mine.mutable_data_ptr<float>(), count);
        break;
      }
      std::vector<float> sum(static_cast<size_t>(count));
      add_parts(parts.const_data_ptr<at::BFloat16>(), size(), sum.data(), count);
      mine.view(-1).copy_(at::from_blob(sum.data(), {count}, at::kFloat));
      break;
    }
    case at::kFloat:
      FATHOM_ASSERT(mine.scalar_type() == at::kFloat && mine.is_contiguous());
      add_parts(parts.const_data_ptr<float>(), size(), mine.mutable_data_ptr<float>(), count);
      break;
    case at::kDouble:
      FATHOM_ASSERT(mine.scalar_type() == at::kDouble && mine.is_contiguous());
      add_parts(parts.const_data_ptr<double>(), size(), mine.mutable_data_ptr<double>(), count);
      break;
    default:
      throw std::logic_error("reduce_scatter adds bfloat16, float and double");
  }
}

void Communicator::all_gather_rows(at::Tensor& all, std::span<const int64_t> rows) {
  check_contiguous(all);
  FATHOM_ASSERT(all.size(0) == total(rows));
  int64_t begin = 0;
  for (int64_t p = 0; p < size(); ++p) {
    const int64_t count = rows[static_cast<size_t>(p)];
    at::Tensor part = all.narrow(0, begin, count);
    broadcast(part, p);
    begin += count;
  }
}

void Communicator::send(const at::Tensor& tensor, int64_t to, int tag) {
  check_contiguous(tensor);
  std::vector<at::Tensor> tensors = {tensor};
  run("send", static_cast<int64_t>(tensor.nbytes()),
      [&] { return backend_->send(tensors, static_cast<int>(to), tag); });
}

std::function<void()> Communicator::send_later(const at::Tensor& tensor, int64_t to, int tag) {
  check_contiguous(tensor);
  std::vector<at::Tensor> tensors = {tensor};
  const auto work = backend_->send(tensors, static_cast<int>(to), tag);
  Traffic& traffic = traffic_["send"];
  ++traffic.calls;
  traffic.bytes += static_cast<int64_t>(tensor.nbytes());
  return [this, work, tensor] { run("send", 0, [&] { return work; }); };
}

void Communicator::recv(at::Tensor& tensor, int64_t from, int tag) {
  check_contiguous(tensor);
  std::vector<at::Tensor> tensors = {tensor};
  run("recv", 0, [&] { return backend_->recv(tensors, static_cast<int>(from), tag); });
}

void Communicator::barrier() {
  if (size() == 1) return;
  run("barrier", 0, [&] { return backend_->barrier(); });
}

}  // namespace fathom::parallel
