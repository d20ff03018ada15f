// Every collective that is used, on two and three processes: the headers of Gloo that this is built with are older than
// the Gloo inside LibTorch (docs/design.md, Dependencies), so these tests also guard against a mismatch.
#include "parallel/communicator.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <gmock/gmock.h>

#include "base/error.h"
#include "ranks.h"

namespace fathom::parallel {
namespace {

at::Tensor rows(int64_t count, double value, at::ScalarType dtype = at::kFloat) {
  return at::full({count, 3}, value, at::TensorOptions().dtype(dtype));
}

class Collectives : public ::testing::TestWithParam<int64_t> {};

TEST_P(Collectives, all_reduce_sums_every_dtype) {
  run_ranks(data_ranks(GetParam()), [](World& world) {
    Communicator& group = world.along(Dimension::data);
    const auto n = static_cast<double>(group.size());
    for (const at::ScalarType dtype : {at::kFloat, at::kDouble, at::kBFloat16, at::kLong}) {
      at::Tensor tensor = rows(5, static_cast<double>(group.place() + 1), dtype);
      group.all_reduce(tensor);
      if (!at::equal(tensor, rows(5, n * (n + 1) / 2, dtype))) return false;
    }
    std::vector<double> values = {static_cast<double>(group.place()), -1.5};
    group.all_reduce(std::span(values), Reduce::max);
    return values[0] == n - 1 && values[1] == -1.5;
  });
}

// 1 + 2^-8 is no bfloat16: a sum in bfloat16 would lose it.
TEST_P(Collectives, bfloat16_is_summed_in_float) {
  run_ranks(data_ranks(GetParam()), [](World& world) {
    Communicator& group = world.along(Dimension::data);
    at::Tensor tensor =
        at::full({4}, group.place() == 0 ? 256.0 : 1.0, at::TensorOptions().dtype(at::kBFloat16));
    group.all_reduce(tensor);
    const double expected = group.size() == 2 ? 256.0 : 258.0;  // 257 rounds to even, 258 is exact
    return tensor[0].item<double>() == expected;
  });
}

TEST_P(Collectives, broadcast_and_all_gather) {
  run_ranks(data_ranks(GetParam()), [](World& world) {
    Communicator& group = world.along(Dimension::data);
    const int64_t last = group.size() - 1;
    at::Tensor tensor = rows(2, static_cast<double>(group.place()), at::kBFloat16);
    group.broadcast(tensor, last);
    if (!at::equal(tensor, rows(2, static_cast<double>(last), at::kBFloat16))) return false;
    at::Tensor all = at::empty({group.size()}, at::kLong);
    group.all_gather(at::full({1}, group.place() * 7, at::TensorOptions().dtype(at::kLong)), all);
    return at::equal(all, at::arange(group.size(), at::kLong) * 7);
  });
}

// Uneven counts, a pair that sends nothing, a rank that gets nothing at all.
TEST_P(Collectives, all_to_all_takes_any_counts) {
  run_ranks(data_ranks(GetParam()), [](World& world) {
    Communicator& group = world.along(Dimension::data);
    const int64_t n = group.size(), me = group.place();
    const auto count = [&](int64_t from, int64_t to) { return to == n - 1 ? 0 : from + 2 * to; };
    std::vector<int64_t> sent, received;
    std::vector<at::Tensor> parts;
    int64_t total_sent = 0, total_received = 0;
    for (int64_t p = 0; p < n; ++p) {
      sent.push_back(count(me, p));
      received.push_back(count(p, me));
      total_sent += sent.back();
      total_received += received.back();
    }
    at::Tensor send = at::empty({total_sent, 3}), recv = at::full({total_received, 3}, -1.0);
    for (int64_t p = 0, row = 0; p < n; row += sent[static_cast<size_t>(p)], ++p)
      send.narrow(0, row, sent[static_cast<size_t>(p)]).fill_(static_cast<double>(10 * me + p));
    group.all_to_all(send, sent, recv, received);
    for (int64_t p = 0, row = 0; p < n; row += received[static_cast<size_t>(p)], ++p)
      if (!at::equal(recv.narrow(0, row, received[static_cast<size_t>(p)]),
                     rows(received[static_cast<size_t>(p)], static_cast<double>(10 * p + me))))
        return false;
    return true;
  });
}

TEST_P(Collectives, reduce_scatter_and_gather_of_uneven_rows) {
  run_ranks(data_ranks(GetParam()), [](World& world) {
    Communicator& group = world.along(Dimension::data);
    const int64_t n = group.size(), me = group.place();
    std::vector<int64_t> share;  // 0, 3, 6, ...
    int64_t total = 0, begin = 0;
    for (int64_t p = 0; p < n; ++p) {
      if (p == me) begin = total;
      share.push_back(3 * p);
      total += share.back();
    }
    const int64_t own = share[static_cast<size_t>(me)];
    at::Tensor all = at::arange(total, at::kDouble) * static_cast<double>(me + 1);
    at::Tensor mine = at::empty({own}, at::kDouble);
    group.reduce_scatter(all, share, mine);
    const double factor = static_cast<double>(n * (n + 1)) / 2;
    if (!at::equal(mine, at::arange(begin, begin + own, at::kDouble) * factor)) return false;
    at::Tensor whole = at::full({total}, -1.0, at::TensorOptions().dtype(at::kDouble));
    whole.narrow(0, begin, own).copy_(mine);
    group.all_gather_rows(whole, share);
    return at::equal(whole, at::arange(total, at::kDouble) * factor);
  });
}

TEST_P(Collectives, neighbours_send_and_receive) {
  run_ranks(data_ranks(GetParam()), [](World& world) {
    Communicator& group = world.along(Dimension::data);
    const int64_t me = group.place();
    at::Tensor tensor = rows(2, 0, at::kBFloat16);
    if (me > 0) group.recv(tensor, me - 1);
    at::Tensor next = tensor + 1;
    if (me + 1 < group.size()) group.send(next, me + 1);
    return at::equal(tensor, rows(2, static_cast<double>(me), at::kBFloat16));
  });
}

INSTANTIATE_TEST_SUITE_P(ranks, Collectives, ::testing::Values(2, 3));

TEST(Communicator, a_group_of_one_changes_nothing) {
  config::ParallelSection section;
  World world(LaunchEnvironment{}, section);
  Communicator& group = world.along(Dimension::data);
  at::Tensor tensor = rows(2, 4);
  group.all_reduce(tensor);
  group.broadcast(tensor, 0);
  group.barrier();
  at::Tensor mine = at::empty({2, 3});
  const std::vector<int64_t> all = {2};
  group.reduce_scatter(tensor, all, mine);
  EXPECT_TRUE(at::equal(mine, rows(2, 4)));
  EXPECT_TRUE(group.traffic().empty());
}

TEST(Communicator, a_rank_that_is_gone_is_an_error_that_says_where) {
  const std::vector<int> codes = exit_codes(data_ranks(2), [](World& world) {
    world.set_step(7);
    world.along(Dimension::world).barrier();  // all groups are there on both
    if (world.rank() == 1) ::raise(SIGKILL);
    at::Tensor tensor = rows(2, 1);
    try {
      for (int i = 0; i < 2; ++i) world.along(Dimension::data).all_reduce(tensor);
    } catch (const DistributedError& error) {
      EXPECT_THAT(error.what(),
                  ::testing::HasSubstr("step 7: all_reduce over the data group (ranks 0,1) failed"));
      ::_exit(::testing::Test::HasFailure() ? 1 : 42);
    }
    return false;
  });
  EXPECT_THAT(codes, ::testing::ElementsAre(42, 137));
}

TEST(World, another_number_of_ranks_is_refused) {
  try {
    World world(LaunchEnvironment{}, data_ranks(4));
    FAIL();
  } catch (const ConfigError& error) {
    EXPECT_THAT(error.what(), ::testing::HasSubstr("needs 4 ranks"));
    EXPECT_THAT(error.what(), ::testing::HasSubstr("fathom launch -n 4"));
  }
}

TEST(World, groups_of_a_grid_do_not_mix) {
  config::ParallelSection section = data_ranks(2);
  section.tensor = 2;
  run_ranks(section, [](World& world) {
    at::Tensor by_tensor = rows(1, static_cast<double>(world.rank())), by_data = by_tensor.clone();
    world.along(Dimension::tensor).all_reduce(by_tensor);  // ranks 0+1, 2+3
    world.along(Dimension::data).all_reduce(by_data);      // ranks 0+2, 1+3
    return by_tensor[0][0].item<double>() == (world.rank() < 2 ? 1 : 5) &&
           by_data[0][0].item<double>() == (world.rank() % 2 == 0 ? 2 : 4);
  });
}

}  // namespace
}  // namespace fathom::parallel
