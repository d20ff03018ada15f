#include "parallel/world.h"

#include <fmt/ranges.h>

#include <chrono>
#include <exception>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include "base/error.h"
#include "parallel/broken_pipe.h"
#include "parallel/c10d_pointer.h"
#include "parallel/gloo_backend.h"
#include "parallel/heartbeat.h"
#include "parallel/local_address.h"

namespace fathom::parallel {
namespace {

constexpr Dimension kDimensions[] = {Dimension::world,         Dimension::tensor,      Dimension::context,
                                     Dimension::data,          Dimension::pipeline,    Dimension::expert,
                                     Dimension::expert_tensor, Dimension::expert_data, Dimension::replica,
                                     Dimension::stage};

void check_world_size(const LaunchEnvironment& environment, const RankLayout& layout) {
  if (environment.world_size == layout.world_size()) return;
  throw ConfigError(
      "the recipe's parallel section needs {} ranks (data x tensor x pipeline x context), and {} started "
      "({}): use "
      "fathom launch -n {} -- pretrain RECIPE, or other sizes",
      layout.world_size(), environment.world_size, environment.launcher, layout.world_size());
}

}  // namespace

World::World(const LaunchEnvironment& environment, const config::ParallelSection& section)
    : environment_(environment), layout_(section), timeout_(std::chrono::seconds(section.timeout_s)) {
  check_world_size(environment, layout_);
  Heartbeat::start();
  if (size() > 1) {
    ignore_broken_pipes();
    try {
      address_ = local_address_towards(environment_.master_host, environment_.master_port);
      c10d::TCPStoreOptions options;
      options.port = environment_.master_port;
      options.isServer = is_first() && !environment_.launcher_has_store;
      options.waitWorkers = false;
      options.timeout = timeout_;
      const auto tcp = c10::make_intrusive<c10d::TCPStore>(environment_.master_host, options);
      // A restart must not meet the keys of the attempt before.
      store_ = as_shared<c10d::Store>(
          c10::make_intrusive<c10d::PrefixStore>(fmt::format("fathom/{}", environment_.restart), tcp));
    } catch (const std::exception& error) {
      throw DistributedError("rank {}: cannot reach the rendezvous at {}:{}: {}", rank(),
                             environment_.master_host, environment_.master_port,
                             std::string(error.what()).substr(0, 200));
    }
  }
  for (const Dimension dimension : kDimensions) groups_[dimension] = make_group(dimension, "", backends_);
  for (const Dimension dimension : {Dimension::stage, Dimension::replica, Dimension::expert_data})
    groups_beside_[dimension] = make_group(dimension, "beside/", backends_beside_);
  board_ = size() > 1
               ? std::make_unique<NoticeBoard>(store_, rank(), size(), static_cast<double>(section.timeout_s))
               : std::make_unique<NoticeBoard>();
}

World::~World() = default;

std::unique_ptr<Communicator> World::make_group(Dimension dimension, const char* kind, Backends& backends) {
  const std::vector<int64_t> ranks = layout_.group(dimension, rank());
  std::shared_ptr<c10d::Backend>& backend = backends[ranks];
  if (ranks.size() > 1 && !backend) {
    try {
      const auto store = as_shared<c10d::Store>(c10::make_intrusive<c10d::PrefixStore>(
          fmt::format("{}{}/{}", kind, name(dimension), ranks.front()), as_intrusive(store_)));
      backend = make_gloo_backend(store, layout_.place(dimension, rank()), static_cast<int64_t>(ranks.size()),
                                  address_, timeout_);
    } catch (const std::exception& error) {
      throw DistributedError("rank {}: the {} group (ranks {}) did not come together: {}", rank(),
                             name(dimension), fmt::join(ranks, ","),
                             std::string(error.what()).substr(0, 200));
    }
  }
  return std::make_unique<Communicator>(name(dimension), ranks, layout_.place(dimension, rank()), backend);
}

Communicator& World::along(Dimension dimension) { return *groups_.at(dimension); }
Communicator& World::beside(Dimension dimension) { return *groups_beside_.at(dimension); }

void World::set_step(int64_t step) {
  for (Groups* groups : {&groups_, &groups_beside_})
    for (auto& [dimension, group] : *groups) group->set_step(step);
  Heartbeat::set_step(step);
}

}  // namespace fathom::parallel
