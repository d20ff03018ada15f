// All ranks of a run: joined once, at the start; its groups live as long as it does.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "config/recipe.h"
#include "parallel/communicator.h"
#include "parallel/launch_environment.h"
#include "parallel/notice_board.h"
#include "parallel/rank_layout.h"

namespace c10d {
class Store;
}

namespace fathom::parallel {

class World {
 public:
  // Joins the ranks of `environment` and makes the groups of the layout that have more than one rank. Throws ConfigError:
  // the recipe's layout needs another number of ranks (both numbers, and how to start them); DistributedError: the
  // others did not come within parallel.timeout_s.
  World(const LaunchEnvironment& environment, const config::ParallelSection& section);
  World(const World&) = delete;
  World& operator=(const World&) = delete;
  ~World();

  int64_t rank() const { return environment_.rank; }
  int64_t size() const { return environment_.world_size; }
  bool is_first() const { return rank() == 0; }
  const LaunchEnvironment& environment() const { return environment_; }
  const RankLayout& layout() const { return layout_; }
  int64_t place(Dimension dimension) const { return layout_.place(dimension, rank()); }
  Communicator& along(Dimension dimension);
  // The same ranks as along(), over connections of its own, for a thread that works beside the caller's: replica or
  // expert_data.
  Communicator& beside(Dimension dimension);
  NoticeBoard& board() { return *board_; }
  // Shown in messages and to the launcher.
  void set_step(int64_t step);

 private:
  using Backends = std::map<std::vector<int64_t>, std::shared_ptr<c10d::Backend>>;
  using Groups = std::map<Dimension, std::unique_ptr<Communicator>>;
  std::unique_ptr<Communicator> make_group(Dimension dimension, const char* kind, Backends& backends);
  LaunchEnvironment environment_;
  RankLayout layout_;
  std::chrono::milliseconds timeout_;
  std::string address_;
  std::shared_ptr<c10d::Store> store_;
  // Groups of the same ranks share one set of connections.
  Backends backends_, backends_beside_;
  Groups groups_, groups_beside_;
  std::unique_ptr<NoticeBoard> board_;
};

}  // namespace fathom::parallel
