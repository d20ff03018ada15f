// Collectives among the ranks of one group (c10d underneath). Every rank of the group calls the same ones in the same
// order; whether it has anything to send never depends on routing (PAR-1). A group of one does nothing.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace c10d {
class Backend;
class Work;
}  // namespace c10d

namespace fathom::parallel {

enum class Reduce { sum, max, min };

struct Traffic {
  int64_t calls = 0;
  int64_t bytes =
      0;  // that this rank sends by the collective's definition (docs/parallelism.md), not by its algorithm
};

class Communicator {
 public:
  // `ranks`: the group's members as numbers of the world, in the order of their places. A null backend makes a group
  // of one.
  Communicator(std::string name, std::vector<int64_t> ranks, int64_t place,
               std::shared_ptr<c10d::Backend> backend);
  ~Communicator();
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;

  int64_t size() const { return static_cast<int64_t>(ranks_.size()); }
  int64_t place() const { return place_; }  // this rank's, from 0
  const std::vector<int64_t>& ranks() const { return ranks_; }
  const std::string& name() const { return name_; }

  // All of them block until this rank's part is done, take contiguous tensors, and throw DistributedError naming the
  // collective, the group's ranks and the step (set_step) when a rank is gone or the time-out of the group is over.

  // In place. Every rank gets the same bits. bfloat16 is summed in float.
  void all_reduce(at::Tensor& tensor, Reduce reduce = Reduce::sum);
  void all_reduce(std::span<double> values, Reduce reduce = Reduce::sum);
  void all_reduce(std::span<int64_t> values, Reduce reduce = Reduce::sum);
  void broadcast(at::Tensor& tensor, int64_t root);
  // all: [size * n, ...] of mine: [n, ...], by place.
  void all_gather(const at::Tensor& mine, at::Tensor& all);
  // Rows (of the first dimension): send_rows[p] consecutive rows of `send` go to place p, recv_rows[p] come from it.
  // The counts of both sides must agree; 0 is a count like any other.
  void all_to_all(const at::Tensor& send, std::span<const int64_t> send_rows, at::Tensor& recv,
                  std::span<const int64_t> recv_rows);
  // Rows as above: place p gets the sum over all ranks of its rows, added in the order of the places, in `mine`
  // [rows[place], ...]. Deterministic; float, double, or bfloat16, which is added in float (`mine` may be float then).
  void reduce_scatter(const at::Tensor& all, std::span<const int64_t> rows, at::Tensor& mine);
  // Rows rows[p] of `all` are those of place p: fills in the others'.
  void all_gather_rows(at::Tensor& all, std::span<const int64_t> rows);
  void send(const at::Tensor& tensor, int64_t to, int tag = 0);
  // Begins to send; the call of what is returned blocks until it is done. The tensor is kept until then.
  std::function<void()> send_later(const at::Tensor& tensor, int64_t to, int tag = 0);
  void recv(at::Tensor& tensor, int64_t from, int tag = 0);
  void barrier();

  void set_step(int64_t step) { step_ = step; }  // for messages
  const std::map<std::string, Traffic>& traffic() const {
    return traffic_;
  }  // by collective, since the start

 private:
  template <typename Start>
  void run(const char* collective, int64_t bytes, Start start);
  std::string name_;
  std::vector<int64_t> ranks_;
  int64_t place_;
  std::shared_ptr<c10d::Backend> backend_;
  int64_t step_ = 0;
  std::map<std::string, Traffic> traffic_;
};

}  // namespace fathom::parallel
