// fathom generate: continuations of one prompt or a file of prompts.
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/stop_signal.h"
#include "cli/commands.h"
#include "infer/engine_api.h"

namespace fathom::cli {
namespace {

struct Options {
  std::string directory, prompt, prompts, special_tokens = "text", dtype = "auto";
  std::vector<int32_t> prompt_ids;
  bool has_prompt = false, json = false;
  int64_t max_new_tokens = -1;
  int64_t seed = -1;
  int threads = 0;
  int64_t max_tokens = 0;
  infer::SamplingParams params;
};

// One prompt: text or ids, as given.
struct Prompt {
  std::string text;
  std::vector<int32_t> ids;
  bool has_ids = false;
};

Prompt parse_json_prompt(std::string_view line, const std::string& where) {
  const Json value = parse_json(line, where);
  Prompt prompt;
  try {
    if (value.contains("prompt_ids")) {
      prompt.ids = value.at("prompt_ids").get<std::vector<int32_t>>();
      prompt.has_ids = true;
    } else {
      prompt.text = value.at("prompt").get<std::string>();
    }
  } catch (const nlohmann::json::exception&) {
    throw DataError("{}: expected an object with \"prompt\" (a text) or \"prompt_ids\" (a list of token ids)",
                    where);
  }
  return prompt;
}

std::vector<Prompt> read_prompts(const std::string& file) {
  const std::string content = read_text_file(file);
  const bool is_json = fs::path(file).extension() == ".jsonl";
  std::vector<Prompt> prompts;
  std::string_view rest = content;
  for (size_t number = 1; !rest.empty(); ++number) {
    const size_t end = std::min(rest.find('\n'), rest.size());
    std::string_view line = rest.substr(0, end);
    rest.remove_prefix(std::min(end + 1, rest.size()));
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (!is_json)
      prompts.push_back({std::string(line), {}, false});
    else if (line.find_first_not_of(" \t") != std::string_view::npos)
      prompts.push_back(parse_json_prompt(line, fmt::format("{}:{}", file, number)));
  }
  if (prompts.empty()) throw DataError("{}: holds no prompt: write one a line", file);
  return prompts;
}

void print(std::string_view out) {
  if (std::fwrite(out.data(), 1, out.size(), stdout) != out.size() || std::fflush(stdout) != 0)
    throw FileError("cannot write to standard output");
}

Json to_json(const infer::Result& result) {
  Json object = {{"prompt_ids", result.prompt_ids},
                 {"token_ids", result.token_ids},
                 {"logprobs", result.logprobs},
                 {"text", result.text},
                 {"finish_reason", infer::to_string(result.finish_reason)}};
  if (!result.top_logprobs.empty()) {
    Json places = Json::array();
    for (const auto& place : result.top_logprobs) {
      Json top = Json::array();
      for (const infer::TokenLogprob& one : place)
        top.push_back({{"token_id", one.token_id}, {"logprob", one.logprob}});
      places.push_back(std::move(top));
    }
    object["top_logprobs"] = std::move(places);
  }
  return object;
}

class Command {
 public:
  explicit Command(const Options& options) : options_(options) {}

  void run() {
    const std::vector<Prompt> prompts = gather_prompts();
    infer::EngineOptions engine_options;
    engine_options.dtype = options_.dtype == "fp32"   ? infer::EngineDtype::fp32
                           : options_.dtype == "bf16" ? infer::EngineDtype::bf16
                                                      : infer::EngineDtype::automatic;
    engine_options.threads = options_.threads;
    engine_options.max_tokens = options_.max_tokens;
    engine_ = infer::load_engine(options_.directory, engine_options);
    if (!options_.json && !engine_->tokenizer())
      throw UsageError(
          "{} holds no tokenizer.json, so there is no text to print: add --json to see token ids",
          options_.directory);
    size_t failed = 0;
    for (size_t i = 0; i < prompts.size() && !stop_requested(); ++i)
      if (!run_one(prompts[i], i, prompts.size())) ++failed;
    if (stop_requested()) throw Error("stopped by a signal before the end");
    if (failed > 0) throw DataError("{} of {} prompts failed", failed, prompts.size());
  }

 private:
  std::vector<Prompt> gather_prompts() const {
    const int given =
        int{options_.has_prompt} + int{!options_.prompts.empty()} + int{!options_.prompt_ids.empty()};
    if (given != 1) throw UsageError("give one of --prompt, --prompts and --prompt-ids");
    if (!options_.prompts.empty()) return read_prompts(options_.prompts);
    return {{options_.prompt, options_.prompt_ids, !options_.prompt_ids.empty()}};
  }

  bool run_one(const Prompt& prompt, size_t number, size_t count) {
    infer::Request request;
    request.params = options_.params;
    if (options_.max_new_tokens >= 0) request.params.max_new_tokens = options_.max_new_tokens;
    // Each prompt its own stream of draws; prompt 0 alone draws what `--seed` alone says.
    if (options_.seed >= 0) request.params.seed = static_cast<uint64_t>(options_.seed) + number;
    const bool stream = !options_.json;
    try {
      request.prompt_ids =
          prompt.has_ids ? prompt.ids : engine_->encode(prompt.text, options_.special_tokens == "encode");
      const infer::Result result = infer::generate(*engine_, request, [&](const infer::TokenEvent& event) {
        if (stream && !event.text.empty()) print(event.text);
        return !stop_requested();
      });
      print(stream ? (number + 1 < count ? "\n\n" : "\n") : to_json(result).dump() + "\n");
      return true;
    } catch (const FileError&) {
      throw;  // standard output is gone: no further prompt can be of use
    } catch (const Error& e) {
      if (count == 1) throw;
      log::error("prompt {}: {}", number + 1, e.what());
      if (!stream)
        print(Json({{"prompt_ids", request.prompt_ids}, {"finish_reason", "error"}, {"error", e.what()}})
                  .dump() +
              "\n");
      return false;
    }
  }

  const Options& options_;
  std::unique_ptr<infer::Engine> engine_;
};

}  // namespace

void add_generate(CLI::App& app) {
  CLI::App* command =
      app.add_subcommand("generate", "Continue a prompt, or a file of prompts, from a checkpoint");
  const auto options = std::make_shared<Options>();
  infer::SamplingParams& params = options->params;
  command
      ->add_option("checkpoint", options->directory,
                   "checkpoint directory (config.json, *.safetensors, tokenizer.json), or a run's: its "
                   "newest good one")
      ->required();
  CLI::Option* prompt = command->add_option("--prompt", options->prompt, "the text to continue");
  command->add_option(
      "--prompts", options->prompts,
      "a file of prompts: one a line, or in a .jsonl file objects with \"prompt\" or \"prompt_ids\"");
  command
      ->add_option("--prompt-ids", options->prompt_ids,
                   "token ids to continue, such as 0,128803,20; taken as they are")
      ->delimiter(',');
  command
      ->add_option(
          "--special-tokens", options->special_tokens,
          "literal special-token text in a prompt: text (stays text, the default) or encode (becomes its id)")
      ->check(CLI::IsMember({"text", "encode"}));
  command
      ->add_option("--max-new-tokens", options->max_new_tokens,
                   "at most so many tokens; without it, what the model's window has left")
      ->check(CLI::NonNegativeNumber);
  command->add_option("--temperature", params.temperature,
                      "0: the most probable token each time (the default)");
  command->add_option("--top-k", params.top_k, "choose among the k most probable tokens; 0: all");
  command->add_option("--top-p", params.top_p,
                      "choose among the fewest tokens whose probabilities sum to this");
  command->add_option("--min-p", params.min_p,
                      "choose among tokens of at least this share of the largest probability");
  command->add_option("--repetition-penalty", params.repetition_penalty,
                      "above 1: tokens already seen become less likely");
  command->add_option("--presence-penalty", params.presence_penalty,
                      "taken from the logits of tokens in the output");
  command->add_option("--frequency-penalty", params.frequency_penalty,
                      "the same, for each time they are there");
  command
      ->add_option("--seed", options->seed,
                   "the same seed draws the same tokens; prompt number i (from 0) uses seed + i")
      ->check(CLI::NonNegativeNumber);
  command
      ->add_option("--stop", params.stop,
                   "end at this text, which is not printed; may be given several times")
      ->allow_extra_args(false);
  command
      ->add_option("--stop-token-id", params.stop_token_ids, "end at this token; may be given several times")
      ->allow_extra_args(false);
  command->add_flag("--ignore-eos", params.ignore_eos, "go on past the model's end tokens");
  command->add_option("--logprobs", params.logprobs,
                      "with --json: so many alternatives at each place, in top_logprobs");
  command->add_option("--dtype", options->dtype, "auto (that of the file), fp32 or bf16")
      ->check(CLI::IsMember({"auto", "fp32", "bf16"}));
  command->add_option("--max-tokens", options->max_tokens, "a smaller window than the model's, in tokens")
      ->check(CLI::NonNegativeNumber);
  command->add_option("--threads", options->threads, "0: the cores this process may use")
      ->check(CLI::Range(0, 4096));
  command->add_flag(
      "--json", options->json,
      "one object a prompt: prompt_ids, token_ids, logprobs, text, finish_reason; no streaming");
  command->footer(
      "Examples:\n"
      "  fathom generate out/demo --prompt 'The river' --max-new-tokens 40\n"
      "  fathom generate DIR --prompts questions.jsonl --temperature 0.6 --top-p 0.95 --seed 1 --json\n"
      "  fathom generate DIR --prompt 'Q: 2+2?' --stop 'Q:' --stop Answer:\n"
      "  fathom generate DIR --prompt-ids 0,33310,2058 --max-new-tokens 8 --json");
  command->callback([options, prompt] {
    options->has_prompt = prompt->count() > 0;
    Command(*options).run();
  });
}

}  // namespace fathom::cli
