// fathom data inspect: looks into an indexed dataset, or at what a recipe trains on.
#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/json.h"
#include "base/progress.h"
#include "cli/data_commands.h"
#include "cli/sft_inspect.h"
#include "cli/window_text.h"
#include "config/recipe.h"
#include "data/builder.h"
#include "data/sft_dataset.h"
#include "data/training_data.h"
#include "formats/indexed_dataset.h"
#include "formats/mindrecord.h"
#include "tokenizer/tokenizer.h"
#include "train/run_plan.h"

namespace fathom::cli {
namespace {

struct InspectFlags {
  std::string path, tokenizer, part = "train";
  std::vector<std::string> set;
  int64_t sample = -1, count = 1, num_samples = 0;
  uint32_t seed = 1234;
  config::DataSection section;  // seq_length 0: documents
  bool json = false;
};

std::optional<tokenizer::Tokenizer> find_tokenizer(const InspectFlags& flags, std::filesystem::path other) {
  if (!flags.tokenizer.empty()) return tokenizer::Tokenizer::load(flags.tokenizer);
  if (other.empty()) {
    const auto metadata = data::read_dataset_metadata(flags.path);
    if (metadata) other = metadata->tokenizer;
  }
  if (other.empty() || !std::filesystem::exists(other)) return std::nullopt;
  return tokenizer::Tokenizer::load(other);
}

data::Split split_of(const InspectFlags& flags) {
  return flags.part == "train"   ? data::Split::train
         : flags.part == "valid" ? data::Split::valid
                                 : data::Split::test;
}

void print_facts(const Json& facts) {
  for (const auto& [key, value] : facts.items())
    if (!value.is_array() && !value.is_object())
      std::printf("%-20s%s\n", key.c_str(),
                  (value.is_string() ? value.get<std::string>() : value.dump()).c_str());
}

void check_range(const InspectFlags& flags, int64_t size, const char* what) {
  if (flags.sample >= size)
    throw UsageError("--sample {}: {} has {} {}, counted from 0", flags.sample, flags.path, size, what);
}

// Windows as the trainer sees them.
void show_windows(const InspectFlags& flags, const data::TrainingData& training, Json facts,
                  const std::filesystem::path& tokenizer_path) {
  Json sources = Json::array();
  for (const auto& member : training.datasets())
    sources.push_back({{"path", member->dataset().prefix().string()},
                       {"tokens_per_epoch", member->tokens_per_epoch()},
                       {"epochs", member->num_epochs()},
                       {"samples", member->size()}});
  facts["samples"] = training.size();
  facts["fingerprint"] = training.fingerprint();
  facts["sources"] = sources;
  std::optional<tokenizer::Tokenizer> tokenizer;
  std::vector<WindowText> windows;
  if (flags.sample >= 0) {
    check_range(flags, training.size(), "samples");
    tokenizer = find_tokenizer(flags, tokenizer_path);
    for (int64_t i = flags.sample; i < std::min(training.size(), flags.sample + flags.count); ++i)
      windows.emplace_back(training, i, tokenizer ? &*tokenizer : nullptr);
  }
  if (flags.json) {
    for (const WindowText& window : windows) facts["windows"].push_back(window.json());
    if (!windows.empty()) facts["sample"] = facts["windows"][0];
    std::puts(facts.dump(-1, ' ', false, Json::error_handler_t::replace).c_str());
    return;
  }
  print_facts(facts);
  for (const Json& source : sources)
    std::printf("source              %s: %s tokens, %s epochs, %s samples\n",
                source["path"].get<std::string>().c_str(), format_integer(source["tokens_per_epoch"]).c_str(),
                source["epochs"].dump().c_str(), format_integer(source["samples"]).c_str());
  for (const WindowText& window : windows) std::printf("\n%s", window.text().c_str());
  if (!windows.empty() && !tokenizer) std::printf("\n(give --tokenizer to see the text)\n");
}

void inspect_recipe(const InspectFlags& flags) {
  const config::Recipe recipe = config::read_recipe(flags.path, flags.set);
  // What the run has stored is used; looking writes nothing.
  const data::IndexCache cache = std::filesystem::is_directory(recipe.output_dir / "cache")
                                     ? data::run_cache(recipe, false)
                                     : data::IndexCache();
  int64_t samples = 0;
  if (flags.part == "train") {
    const int64_t epoch =
        recipe.train.epochs > 0 ? open_run_data(recipe, data::Split::train, 0, cache)->size() : 0;
    samples = train::plan_run(recipe, epoch).total_samples;
  }
  const auto training = open_run_data(recipe, split_of(flags), samples, cache);
  std::filesystem::path tokenizer = recipe.data.tokenizer;
  if (tokenizer.empty() && !recipe.data.train.empty())
    if (const auto metadata = data::read_dataset_metadata(recipe.data.train[0].path))
      tokenizer = metadata->tokenizer;
  show_windows(flags, *training,
               {{"recipe", flags.path},
                {"part", flags.part},
                {"seq_length", recipe.data.seq_length},
                {"samples_of_the_run", samples > 0 ? samples : training->size()}},
               tokenizer);
}

Json dataset_facts(const formats::IndexedDataset& dataset,
                   const std::optional<data::DatasetMetadata>& metadata) {
  Json facts{{"path", dataset.prefix().string()},    {"type", formats::token_type_name(dataset.type())},
             {"documents", dataset.num_documents()}, {"sequences", dataset.num_sequences()},
             {"tokens", dataset.num_tokens()},       {"longest_sequence", dataset.longest_sequence()}};
  if (metadata) {
    facts["eod_id"] = metadata->eod_id;
    facts["append_eod"] = metadata->append_eod;
    facts["vocab_size"] = metadata->vocab_size;
    facts["tokenizer"] = metadata->tokenizer;
  }
  return facts;
}

void inspect_windows(InspectFlags& flags, Json facts, const std::optional<data::DatasetMetadata>& metadata) {
  facts["seq_length"] = flags.section.seq_length;
  flags.section.train = {{flags.path, 1.0}};
  const data::TrainingData training(flags.section, split_of(flags), flags.num_samples, flags.seed,
                                    metadata ? metadata->eod_id : -1, int64_t{1} << 31);
  show_windows(flags, training, std::move(facts), "");
}

void inspect_documents(const InspectFlags& flags, const formats::IndexedDataset& dataset, Json facts) {
  std::optional<tokenizer::Tokenizer> tokenizer;
  if (flags.sample >= 0) {
    check_range(flags, dataset.num_documents(), "documents");
    tokenizer = find_tokenizer(flags, "");
    for (int64_t d = flags.sample; d < std::min(dataset.num_documents(), flags.sample + flags.count); ++d) {
      std::vector<int32_t> ids;
      for (int64_t i = dataset.document_begin(d); i < dataset.document_begin(d + 1); ++i) {
        const size_t at = ids.size();
        ids.resize(at + static_cast<size_t>(dataset.sequence_length(i)));
        dataset.read(i, 0, dataset.sequence_length(i), ids.data() + at);
      }
      Json document{{"index", d}, {"ids", ids}};
      if (tokenizer) document["text"] = tokenizer->decode(ids, false);
      facts["documents_shown"].push_back(std::move(document));
    }
    facts["sample"] = facts["documents_shown"][0];
  }
  if (flags.json) {
    std::puts(facts.dump(-1, ' ', false, Json::error_handler_t::replace).c_str());
    return;
  }
  print_facts(facts);
  if (!facts.contains("documents_shown")) return;
  for (const Json& document : facts["documents_shown"]) {
    std::string ids;
    for (const Json& id : document["ids"]) ids += (ids.empty() ? "" : " ") + id.dump();
    std::printf("\ndocument %s, %zu tokens\n%s\n", document["index"].dump().c_str(), document["ids"].size(),
                ids.c_str());
    if (document.contains("text"))
      std::printf("\n%s\n", document["text"].get_ref<const std::string&>().c_str());
  }
  if (!tokenizer) std::printf("\n(give --tokenizer to see the text)\n");
}

void run_inspect(InspectFlags& flags) {
  const std::filesystem::path path = flags.path;
  if (path.extension() == ".yaml" || path.extension() == ".yml") return inspect_recipe(flags);
  if (!flags.set.empty()) throw UsageError("--set: {} is a dataset, not a recipe (.yaml)", flags.path);
  const LookAt look{flags.path, flags.sample, flags.count, flags.json};
  const auto tokenizer = [&] { return flags.sample >= 0 ? find_tokenizer(flags, "") : std::nullopt; };
  if (formats::MindRecordFile::is_one(path)) return inspect_mindrecord(look, tokenizer());
  if (flags.section.seq_length == 0 && data::SftDataset::is_one(path)) return inspect_sft(look, tokenizer());
  const auto metadata = data::read_dataset_metadata(flags.path);
  const formats::IndexedDataset dataset(flags.path);
  Json facts = dataset_facts(dataset, metadata);
  if (flags.section.seq_length > 0)
    inspect_windows(flags, std::move(facts), metadata);
  else
    inspect_documents(flags, dataset, std::move(facts));
}
}  // namespace

void add_data_inspect(CLI::App& data) {
  CLI::App* command = data.add_subcommand(
      "inspect",
      "Show what a dataset (.bin/.idx, fine-tuning data, MindRecord) holds, or a recipe's samples");
  const auto flags = std::make_shared<InspectFlags>();
  flags->section.seq_length = 0;
  command
      ->add_option("path", flags->path,
                   "a dataset (its prefix, .bin or .idx), a MindRecord file, or a recipe (.yaml)")
      ->required();
  command
      ->add_option(
          "--sample", flags->sample,
          "show this training sample (of a dataset without --seq-length: this document; of fine-tuning data "
          "this row, token by token)")
      ->check(CLI::NonNegativeNumber);
  command->add_option("--count", flags->count, "show so many, from --sample on")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command->add_option("--part", flags->part, "of the data")
      ->check(CLI::IsMember({"train", "valid", "test"}))
      ->capture_default_str();
  command->add_option("--tokenizer", flags->tokenizer,
                      "decodes the sample (default: the recipe's, or the one of P.meta.json, if there)");
  command->add_option("--set", flags->set, "override a key of the recipe (repeatable)")
      ->allow_extra_args(false);
  command
      ->add_option("--seq-length", flags->section.seq_length,
                   "of a dataset: look at training samples of this length, in training order")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 30))
      ->group("Training samples of a dataset");
  command
      ->add_option("--num-samples", flags->num_samples,
                   "as a run of so many samples draws them (0: one epoch)")
      ->check(CLI::NonNegativeNumber)
      ->group("Training samples of a dataset");
  command->add_option("--seed", flags->seed, "of the training order")
      ->capture_default_str()
      ->group("Training samples of a dataset");
  command->add_option("--split", flags->section.split, "the data.split of a run, such as 969,30,1")
      ->group("Training samples of a dataset");
  command->add_flag("--reset-position-ids", flags->section.reset_position_ids, "as data.reset_position_ids")
      ->group("Training samples of a dataset");
  command
      ->add_flag("--reset-attention-mask", flags->section.reset_attention_mask,
                 "as data.reset_attention_mask")
      ->group("Training samples of a dataset");
  command->add_flag("--eod-mask-loss", flags->section.eod_mask_loss, "as data.eod_mask_loss")
      ->group("Training samples of a dataset");
  command->add_flag("--json", flags->json, "print JSON");
  command->footer(
      "Examples:\n"
      "  fathom data inspect out/wiki_train\n"
      "  fathom data inspect out/wiki_train --sample 3 --tokenizer assets/tokenizer\n"
      "  fathom data inspect out/wiki_train --seq-length 512 --sample 0 --json\n"
      "  fathom data inspect out/alpaca --sample 0 --tokenizer DIR\n"
      "  fathom data inspect configs/recipes/demo.yaml --sample 0 --count 2");
  command->callback([flags] { run_inspect(*flags); });
}
}  // namespace fathom::cli
