// The fathom binary: one subcommand a file; kinds of fault become exit codes (0 done, 1 failed, 2 wrong usage).
#include <cstdio>
#include <exception>
#include <string>

#include "base/error.h"
#include "base/log.h"
#include "base/progress.h"
#include "base/stop_signal.h"
#include "cli/commands.h"

int main(int argc, char** argv) {
  using namespace fathom;
  CLI::App app("Fathom trains, converts and runs DeepSeek-V3-architecture models.", "fathom");
  app.require_subcommand(1);
  app.set_version_flag("--version", "fathom 0.1.0");
  app.failure_message([](const CLI::App*, const CLI::Error& e) {
    return fmt::format("error: {}\nRun with --help for the flags and examples.\n", e.what());
  });
  cli::add_data(app);
  cli::add_tokenize(app);
  cli::add_pretrain(app);
  cli::add_generate(app);
  cli::add_eval(app);
  cli::add_inspect(app);
  cli::add_init(app);

  install_stop_signals();
  try {
    app.parse(argc, argv);
    return 0;
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
