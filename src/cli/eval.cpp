// fathom eval: perplexity of a checkpoint on a text or a dataset.
#include <algorithm>
#include <cstdio>
#include <memory>
#include <string>

#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "base/stop_signal.h"
#include "cli/commands.h"
#include "eval/dump_logits.h"
#include "eval/perplexity.h"
#include "eval/windows.h"
#include "infer/loaded_model.h"

namespace fathom::cli {
namespace {

// Long enough to be representative, short enough for memory: the default where the model's window is longer.
constexpr int64_t kDefaultSeqLength = 2048;

struct Options {
  std::string directory, text, data, dump_logits, dtype = "auto";
  int64_t seq_length = 0;
  int threads = 0;
  bool json = false;
};

eval::Windows open_windows(const Options& options, const infer::LoadedModel& loaded, int64_t seq_length) {
  if (!options.data.empty()) return eval::windows_of_dataset(loaded.config, options.data, seq_length);
  if (!loaded.tokenizer)
    throw UsageError("{} holds no tokenizer.json, so --text cannot be read: put one there, or give --data",
                     options.directory);
  return eval::windows_of_tokens(
      loaded.config,
      loaded.tokenizer->encode(read_text_file(options.text), tokenizer::SpecialTokens::text,
                               loaded.tokenizer->adds_bos()),
      seq_length);
}

void run(const Options& options) {
  if (options.text.empty() == options.data.empty()) throw UsageError("give one of --text and --data");
  const infer::EngineDtype dtype = options.dtype == "fp32"   ? infer::EngineDtype::fp32
                                   : options.dtype == "bf16" ? infer::EngineDtype::bf16
                                                             : infer::EngineDtype::automatic;
  infer::LoadedModel loaded = infer::load_model(options.directory, dtype, options.threads);
  const int64_t seq_length = options.seq_length > 0
                                 ? options.seq_length
                                 : std::min(kDefaultSeqLength, loaded.config.max_position_embeddings);
  const eval::Windows windows = open_windows(options, loaded, seq_length);
  if (!options.dump_logits.empty()) {
    if (windows.count < 1) throw DataError("{} holds no whole window of {} tokens", options.data, seq_length);
    eval::dump_logits(*loaded.model, windows.at(0), options.dump_logits);
  }
  const eval::Perplexity found = eval::perplexity_of_windows(*loaded.model, windows.count, windows.at);
  if (stop_requested()) throw Error("stopped before the end: no figure to report");
  const std::string out =
      options.json ? Json({{"tokens", found.tokens},
                           {"nll", found.nll()},
                           {"perplexity", found.perplexity()},
                           {"nll_sum", found.nll_sum},
                           {"seq_length", seq_length}})
                             .dump() +
                         "\n"
                   : fmt::format("perplexity {:.4f}  nll {:.6f} a token  tokens {}  seq_length {}\n",
                                 found.perplexity(), found.nll(), found.tokens, seq_length);
  if (std::fwrite(out.data(), 1, out.size(), stdout) != out.size() || std::fflush(stdout) != 0)
    throw FileError("cannot write to standard output");
}

}  // namespace

void add_eval(CLI::App& app) {
  CLI::App* command = app.add_subcommand("eval", "Perplexity of a checkpoint on a text or a dataset");
  const auto options = std::make_shared<Options>();
  command
      ->add_option("checkpoint", options->directory,
                   "checkpoint directory (config.json, *.safetensors, tokenizer.json), or a run's: its "
                   "newest good one")
      ->required();
  command->add_option(
      "--text", options->text,
      "a text file: BOS once in front where the tokenizer adds it, then windows laid end to end, the "
      "last one shorter");
  command->add_option("--data", options->data,
                      "a .bin/.idx prefix: the whole windows that a recipe's evaluation takes");
  command
      ->add_option(
          "--seq-length", options->seq_length,
          "tokens a window predicts; no context crosses windows (default: the model's, at most 2048)")
      ->check(CLI::PositiveNumber);
  command->add_option(
      "--dump-logits", options->dump_logits,
      "write tokens [1, S] and logits [1, S, V] of the first window to this safetensors file, for "
      "comparison with other programs");
  command->add_option("--dtype", options->dtype, "auto (that of the file), fp32 or bf16")
      ->check(CLI::IsMember({"auto", "fp32", "bf16"}));
  command->add_option("--threads", options->threads, "0: the cores this process may use")
      ->check(CLI::Range(0, 4096));
  command->add_flag("--json", options->json,
                    "print {\"tokens\", \"nll\" (mean, natural log), \"perplexity\", ...}");
  command->footer(
      "Examples:\n"
      "  fathom eval out/demo --data data/wiki_valid_text_document --seq-length "
      "256\n"
      "  fathom eval DIR --text book.txt --json\n"
      "  fathom eval DIR --text book.txt --dtype fp32 --seq-length 128 --dump-logits logits.safetensors");
  command->callback([options] { run(*options); });
}

}  // namespace fathom::cli
