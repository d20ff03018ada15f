// One function per command: adds its subcommand, flags, help text and examples to the application. The callback
// calls one function of a lower layer and prints.
#pragma once

#include <CLI/CLI.hpp>

namespace fathom::cli {

void add_tokenize(CLI::App& app);
void add_data(CLI::App& app);  // data build | inspect
void add_pretrain(CLI::App& app);
void add_generate(CLI::App& app);
void add_eval(CLI::App& app);
void add_inspect(CLI::App& app);
void add_init(CLI::App& app);
void add_convert(CLI::App& app);
void add_launch(CLI::App& app);
void add_quantize(CLI::App& app);
void add_recipe(CLI::App& app);  // recipe import

}  // namespace fathom::cli
