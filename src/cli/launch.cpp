// fathom launch: the ranks of a run on this machine, and together with other machines.
#include <fmt/format.h>

#include <charconv>
#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "cli/commands.h"
#include "parallel/launcher.h"

namespace fathom::cli {
namespace {

struct Flags {
  parallel::LaunchOptions options;
  std::string master;
  std::vector<std::string> command;
};

void read_master(const std::string& text, parallel::LaunchOptions& options) {
  const size_t colon = text.rfind(':');
  unsigned port = 0;
  const char* end = text.data() + text.size();
  if (colon == std::string::npos || colon == 0 ||
      std::from_chars(text.data() + colon + 1, end, port).ptr != end || port == 0 || port > 65535)
    throw UsageError("--master {}: write HOST:PORT, the address of the first machine and a free port there",
                     text);
  options.master_host = text.substr(0, colon);
  options.master_port = static_cast<uint16_t>(port);
}

[[noreturn]] void run(Flags& flags) {
  parallel::LaunchOptions& options = flags.options;
  if (!flags.master.empty()) read_master(flags.master, options);
  if (options.nodes > 1 && flags.master.empty())
    throw UsageError("--nnodes {} needs --master HOST:PORT, the same on every machine", options.nodes);
  if (options.node_rank >= options.nodes)
    throw UsageError("--node-rank {} of --nnodes {}: machines count from 0", options.node_rank,
                     options.nodes);
  options.command = {"/proc/self/exe"};
  options.command.insert(options.command.end(), flags.command.begin(), flags.command.end());
  throw CLI::RuntimeError(parallel::launch(options));
}

}  // namespace

void add_launch(CLI::App& app) {
  CLI::App* command = app.add_subcommand("launch", "Start the ranks of a run, on this machine or on several");
  const auto flags = std::make_shared<Flags>();
  command->add_option("-n,--ranks", flags->options.ranks, "ranks on this machine")
      ->required()
      ->check(CLI::Range(int64_t{1}, int64_t{4096}))
      ->option_text("N");
  command->add_option("--nnodes", flags->options.nodes, "machines; each runs this command")
      ->check(CLI::Range(int64_t{1}, int64_t{65536}))
      ->option_text("M");
  command->add_option("--node-rank", flags->options.node_rank, "which of them this is, from 0")
      ->check(CLI::NonNegativeNumber)
      ->option_text("R");
  command
      ->add_option("--master", flags->master, "address of machine 0 and a free port there, on all the same")
      ->option_text("HOST:PORT");
  command
      ->add_option("--max-restarts", flags->options.max_restarts,
                   "times that all ranks start again after one failed; default 3")
      ->check(CLI::NonNegativeNumber)
      ->option_text("N");
  command
      ->add_option("--silence", flags->options.silence_seconds,
                   "seconds without a sign of life after which a rank is taken for dead; default 60")
      ->check(CLI::PositiveNumber)
      ->option_text("S");
  command->add_option("command", flags->command, "what each rank runs: pretrain RECIPE ...")
      ->required()
      ->option_text("-- COMMAND...");
  command->footer(
      "Rank 0 has the terminal; every rank's log is OUT/logs/rank_<r>.log. Ctrl-C saves and stops all "
      "ranks.\n"
      "Ranks started by torchrun, srun or mpirun need no launcher: they read its environment.\n"
      "Examples:\n"
      "  fathom launch -n 2 -- pretrain configs/recipes/tiny.yaml --set parallel.data=2\n"
      "  fathom launch -n 8 --nnodes 2 --node-rank 1 --master 10.0.0.1:29500 -- pretrain recipe.yaml");
  command->callback([flags] { run(*flags); });
}

}  // namespace fathom::cli
