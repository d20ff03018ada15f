#include <memory>
#include <string>
#include <vector>

#include "cli/commands.h"
#include "config/recipe.h"
#include "train/trainer.h"

namespace fathom::cli {

void add_pretrain(CLI::App& app) {
  struct Options {
    std::string recipe;
    std::vector<std::string> set;
  };
  auto options = std::make_shared<Options>();
  CLI::App* command =
      app.add_subcommand("pretrain", "Train a model from a recipe; the same command continues a run");
  command->add_option("recipe", options->recipe, "The recipe (YAML); docs/recipes.md lists its keys")
      ->required();
  command->add_option("--set", options->set, "Override a key: --set train.steps=20 (repeatable)")
      ->allow_extra_args(false);
  command->footer(
      "Examples:\n"
      "  fathom pretrain configs/recipes/demo.yaml\n"
      "  fathom pretrain configs/recipes/tiny.yaml --set train.steps=20 --set output_dir=out/try\n"
      "Ctrl-C saves a checkpoint and stops; the same command goes on from there.");
  command->callback([options] { train::pretrain(config::read_recipe(options->recipe, options->set)); });
}

}  // namespace fathom::cli
