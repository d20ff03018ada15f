// fathom data: make training data, look into it.
#include "cli/commands.h"
#include "cli/data_commands.h"

namespace fathom::cli {

void add_data(CLI::App& app) {
  CLI::App* command = app.add_subcommand("data", "Make and inspect training data");
  command->require_subcommand(1);
  add_data_build(*command);
  add_data_inspect(*command);
}

}  // namespace fathom::cli
