// fathom recipe import: a YAML of MindFormers becomes a recipe, with what became of every key.
#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>

#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "cli/commands.h"
#include "config/mindformers_import.h"

namespace fathom::cli {
namespace {

struct ImportFlags {
  std::string yaml, output;
  bool allow_unsupported = false, json = false;
};

void print(std::FILE* stream, const std::string& text) { std::fwrite(text.data(), 1, text.size(), stream); }

std::string blocking_keys(const config::MindFormersImport& result) {
  std::string list;
  for (const config::ImportedKey& key : result.keys)
    if (key.effect == config::KeyEffect::blocks) list += (list.empty() ? "" : ", ") + key.key;
  return list;
}

void run(const ImportFlags& flags) {
  const fs::path output = flags.output,
                 directory = output.empty() ? fs::current_path() : fs::absolute(output).parent_path();
  const config::MindFormersImport result = config::import_mindformers(read_yaml_file(flags.yaml), directory);
  // The recipe is the only thing on standard output where it has no file.
  std::FILE* report = output.empty() || flags.json ? stderr : stdout;
  if (flags.json)
    print(stdout, config::report_json(result).dump(-1, ' ', false, Json::error_handler_t::replace) + "\n");
  else
    print(report, config::report_text(result));
  std::fflush(stdout);

  const std::string blocking = blocking_keys(result);
  if (!blocking.empty() && !flags.allow_unsupported)
    throw ConfigError(
        "{}: no recipe is written, because it would be something else: {} (see above). Mend the YAML, or "
        "give "
        "--allow-unsupported and look at the recipe",
        flags.yaml, blocking);
  const fs::path file = output.empty() ? directory / "recipe.yaml" : output;
  try {
    config::parse_recipe(result.recipe_yaml, file, {}, result.use);
  } catch (const ConfigError& e) {
    throw ConfigError("{}: the recipe that it becomes does not hold together: {}", flags.yaml, e.what());
  }
  if (!output.empty()) {
    make_directories(directory);
    write_text_file(output, result.recipe_yaml);
  } else if (!flags.json) {
    print(stdout, result.recipe_yaml);
  }
  if (!blocking.empty()) log::warning("imported without: {}", blocking);
  if (!output.empty()) log::info("{}: a valid recipe", output.string());
}

void add_import(CLI::App& recipe) {
  CLI::App* command =
      recipe.add_subcommand("import", "Translate a YAML of MindFormers (DeepSeek models) into a recipe");
  const auto flags = std::make_shared<ImportFlags>();
  command->add_option("yaml", flags->yaml, "a pretrain, finetune or predict YAML of MindFormers")
      ->required()
      ->option_text("X.yaml");
  command->add_option(
      "-o,--output", flags->output,
      "where to write the recipe (default: standard output; the report then goes to standard error)");
  command->add_flag("--allow-unsupported", flags->allow_unsupported,
                    "write the recipe even where a key would make it something else and has no counterpart");
  command->add_flag("--json", flags->json, "print the report as JSON, the recipe in it");
  command->footer(
      "The report says of every key: mapped, default, meaningless here, unsupported; then what is not the "
      "same here as\n"
      "there (also on top of the recipe). Exit code 1 where a key would make it something else and has no "
      "counterpart.\n"
      "Examples:\n"
      "  fathom recipe import pretrain_deepseek3_671b.yaml --output configs/recipes/imported.yaml\n"
      "  fathom recipe import predict_deepseek3_671b.yaml\n"
      "  fathom pretrain configs/recipes/imported.yaml --set model.hidden_size=512");
  command->callback([flags] { run(*flags); });
}

}  // namespace

void add_recipe(CLI::App& app) {
  CLI::App* command = app.add_subcommand("recipe", "Recipes made from what other programs use");
  command->require_subcommand(1);
  add_import(*command);
}

}  // namespace fathom::cli
