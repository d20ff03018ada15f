// fathom data index: computes the sample order of a run ahead of it.
#include <chrono>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/log.h"
#include "base/progress.h"
#include "cli/data_commands.h"
#include "config/recipe.h"
#include "data/training_data.h"
#include "train/run_plan.h"

namespace fathom::cli {
namespace {

struct IndexFlags {
  std::string recipe;
  std::vector<std::string> set;
  bool json = false;
};

void run_index(const IndexFlags& flags) {
  const auto start = std::chrono::steady_clock::now();
  const config::Recipe recipe = config::read_recipe(flags.recipe, flags.set);
  const data::IndexCache cache = data::run_cache(recipe);
  const int64_t epoch =
      recipe.train.epochs > 0 ? open_run_data(recipe, data::Split::train, 0, cache)->size() : 0;
  const int64_t samples = train::plan_run(recipe, epoch).total_samples;
  Json parts = Json::array();
  const auto index = [&](data::Split split, int64_t wanted) {
    const auto training = open_run_data(recipe, split, wanted, cache);
    bool stored = true;
    for (const auto& member : training->datasets()) stored = stored && member->is_from_cache();
    parts.push_back({{"part", split_name(split)},
                     {"sources", training->datasets().size()},
                     {"samples", training->size()},
                     {"was_there", stored},
                     {"fingerprint", training->fingerprint()}});
    log::info("{}: {} samples, sources: {}{}", split_name(split), format_integer(training->size()),
              training->datasets().size(), stored ? ", found in the cache" : "");
  };
  index(data::Split::train, samples);
  if (recipe.train.eval_every > 0) index(data::Split::valid, 0);
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  const std::string directory = (recipe.output_dir / "cache").string();
  log::info("{} in {}", directory, format_duration(seconds));
  if (flags.json)
    std::puts(Json({{"cache", directory}, {"parts", parts}, {"seconds", seconds}}).dump().c_str());
}
}  // namespace

void add_data_index(CLI::App& data) {
  CLI::App* command = data.add_subcommand(
      "index", "Compute the order of a run's samples ahead of it, so that its ranks only map files");
  const auto flags = std::make_shared<IndexFlags>();
  command->add_option("recipe", flags->recipe, "the recipe (YAML)")->required();
  command->add_option("--set", flags->set, "override a key (repeatable)")->allow_extra_args(false);
  command->add_flag("--json", flags->json, "print a report as JSON");
  command->footer(
      "Writes OUTPUT_DIR/cache. The run does the same when it starts; this is for doing it once, elsewhere.\n"
      "Example:\n"
      "  fathom data index configs/recipes/demo.yaml");
  command->callback([flags] { run_index(*flags); });
}
}  // namespace fathom::cli
