// fathom data: make training data, join it, check it, look into it.
#include "cli/commands.h"
#include "cli/data_commands.h"

namespace fathom::cli {

void add_data(CLI::App& app) {
  CLI::App* command = app.add_subcommand("data", "Make, join, check and inspect training data");
  command->require_subcommand(1);
  add_data_build(*command);
  add_data_sft(*command);
  add_data_inspect(*command);
  add_data_index(*command);
  add_data_merge(*command);
  add_data_validate(*command);
}

}  // namespace fathom::cli
