// The fathom binary: one subcommand a file; kinds of fault become exit codes (0 done, 1 failed, 2 wrong usage).
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/log.h"
#include "base/progress.h"
#include "base/stop_signal.h"
#include "base/suggest.h"
#include "cli/commands.h"

namespace {

// CLI11 only says that a subcommand is missing.
void refuse_unknown_command(const CLI::App& app, int argc, char** argv) {
  if (argc < 2 || argv[1][0] == '-') return;
  std::vector<std::string> commands;
  for (const CLI::App* command : app.get_subcommands({})) commands.push_back(command->get_name());
  if (std::find(commands.begin(), commands.end(), argv[1]) != commands.end()) return;
  const std::string near = fathom::nearest(argv[1], commands);
  throw fathom::UsageError("no command \"{}\"{}; fathom --help lists them", argv[1],
                           near.empty() ? "" : fmt::format("; did you mean {}", near));
}

}  // namespace

int main(int argc, char** argv) {
  using namespace fathom;
  ::setenv("TORCH_CPP_LOG_LEVEL", "ERROR", 0);  // c10d's warnings are pages with stack traces
  CLI::App app("Fathom trains, converts and runs DeepSeek-V3-architecture models.", "fathom");
  app.require_subcommand(1);
  app.set_version_flag("--version", "fathom 0.1.0");
  app.failure_message([](const CLI::App*, const CLI::Error& e) {
    return fmt::format("error: {}\nRun with --help for the flags and examples.\n", e.what());
  });
  cli::add_data(app);
  cli::add_tokenize(app);
  cli::add_pretrain(app);
  cli::add_recipe(app);
  cli::add_generate(app);
  cli::add_eval(app);
  cli::add_inspect(app);
  cli::add_init(app);
  cli::add_convert(app);
  cli::add_launch(app);
  cli::add_quantize(app);

  install_stop_signals();
  try {
    refuse_unknown_command(app, argc, argv);
    app.parse(argc, argv);
    return 0;
  } catch (const CLI::RuntimeError& e) {  // a command's own exit code
    return e.get_exit_code();
  } catch (const CLI::ParseError& e) {
    return app.exit(e) == 0 ? 0 : 2;
  } catch (const UsageError& e) {
    log::error("{}", e.what());
    return 2;
  } catch (const std::exception& e) {
    clear_live_line();
    log::error("{}", e.what());
    return 1;
  }
}
