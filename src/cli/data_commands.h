// The subcommands of `fathom data`, one file each.
#pragma once

#include <CLI/CLI.hpp>

namespace fathom::cli {

void add_data_build(CLI::App& data);
void add_data_index(CLI::App& data);
void add_data_inspect(CLI::App& data);
void add_data_merge(CLI::App& data);
void add_data_sft(CLI::App& data);
void add_data_validate(CLI::App& data);

}  // namespace fathom::cli
