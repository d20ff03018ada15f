// fathom data sft: instruction data into rows of token ids with a loss mask.
#include <algorithm>
#include <charconv>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/json.h"
#include "base/log.h"
#include "base/parallel.h"
#include "base/progress.h"
#include "cli/data_commands.h"
#include "data/sft_builder.h"

namespace fathom::cli {
namespace {

struct SftFlags {
  data::SftOptions options;
  std::vector<std::string> inputs;
  std::vector<double> weights;
  std::string tokenizer, output, format = "auto", container = "bin", chat_template = "auto",
                                 train_on = "assistant";
  std::string thinking = "auto", on_long = "drop", on_error = "stop", tool_calls = "published",
              tools = "published";
  int workers = 0;
  bool json = false;
};

template <typename T>
T chosen(const std::string& name, std::initializer_list<std::pair<const char*, T>> values) {
  for (const auto& [known, value] : values)
    if (name == known) return value;
  throw UsageError("{:?} is none of the choices", name);
}

// F, or F:0.3 where no file has that whole name.
data::SftInput parse_input(const std::string& text) {
  std::error_code error;
  const size_t colon = text.rfind(':');
  if (colon == std::string::npos || std::filesystem::exists(text, error)) return {text, 0};
  double weight = 0;
  const char* end = text.data() + text.size();
  const auto parsed = std::from_chars(text.data() + colon + 1, end, weight);
  if (parsed.ec != std::errc() || parsed.ptr != end || !(weight > 0) || weight > 1e9)
    throw UsageError("--input {}: there is no such file, and what follows the colon is no weight above 0",
                     text);
  return {text.substr(0, colon), weight};
}

void read_flags(SftFlags& flags) {
  data::SftOptions& options = flags.options;
  options.tokenizer = flags.tokenizer;
  options.output = flags.output;
  for (const std::string& text : flags.inputs) options.inputs.push_back(parse_input(text));
  for (const data::SftInput& input : options.inputs)
    if (std::error_code error; !std::filesystem::exists(input.path, error))
      throw UsageError("--input {}: there is no such file", input.path.string());
  if (!flags.weights.empty() && flags.weights.size() != options.inputs.size())
    throw UsageError("--weights: {} weights for {} files", flags.weights.size(), options.inputs.size());
  for (size_t i = 0; i < flags.weights.size(); ++i) {
    if (!(flags.weights[i] > 0)) throw UsageError("--weights: {} is not above 0", flags.weights[i]);
    options.inputs[i].weight = flags.weights[i];
  }
  if (flags.format != "auto")
    options.format = chosen<data::SftFormat>(flags.format, {{"alpaca", data::SftFormat::alpaca},
                                                            {"sharegpt", data::SftFormat::sharegpt},
                                                            {"messages", data::SftFormat::messages}});
  if (flags.chat_template != "auto") options.chat_template = chat::find_template(flags.chat_template);
  options.container = flags.container == "bin" ? data::SftContainer::bin : data::SftContainer::mindrecord;
  if (options.shards > 1 && options.container == data::SftContainer::bin)
    throw UsageError("--shards: only MindRecord files come in several (--container mindrecord)");
  options.training.train_on = chosen<chat::TrainOn>(
      flags.train_on,
      {{"assistant", chat::TrainOn::assistant}, {"last", chat::TrainOn::last}, {"all", chat::TrainOn::all}});
  options.training.thinking = chosen<chat::Thinking>(
      flags.thinking,
      {{"auto", chat::Thinking::automatic}, {"on", chat::Thinking::on}, {"off", chat::Thinking::off}});
  options.training.mend_tool_calls = flags.tool_calls == "mended";
  options.training.tools_in_system_prompt = flags.tools == "system";
  options.on_long = chosen<data::OnLong>(
      flags.on_long,
      {{"drop", data::OnLong::drop}, {"truncate", data::OnLong::truncate}, {"error", data::OnLong::error}});
  options.skip_bad = flags.on_error == "skip";
}

Json as_json(const data::SftReport& report) {
  Json files = Json::array();
  for (const data::SftFileReport& file : report.files)
    files.push_back({{"path", file.path},
                     {"format", data::sft_format_name(file.format)},
                     {"conversations", file.conversations},
                     {"samples", file.samples},
                     {"written", file.written}});
  return {{"output", report.output},
          {"chat_template", chat::template_name(report.chat_template)},
          {"conversations", report.conversations},
          {"samples", report.samples},
          {"rows", report.rows},
          {"tokens", report.tokens},
          {"trained_tokens", report.trained_tokens},
          {"longest_row", report.longest_row},
          {"bad_records", report.bad_records},
          {"without_target", report.without_target},
          {"too_long_dropped", report.too_long_dropped},
          {"truncated", report.truncated},
          {"truncated_without_target", report.truncated_without_target},
          {"trained_replies", report.notes.trained_replies},
          {"empty_replies", report.notes.empty_replies},
          {"dropped_reasoning", report.notes.dropped_reasoning},
          {"replies_without_reasoning", report.notes.replies_without_reasoning},
          {"dropped_tools", report.notes.dropped_tools},
          {"dropped_messages", report.notes.dropped_messages},
          {"split_conversations", report.notes.split_conversations},
          {"examples", report.examples},
          {"files", files},
          {"seconds", report.seconds}};
}

// What a person should know before training on it; nothing is left out without a line here.
void print_report(const data::SftReport& report, const data::SftOptions& options) {
  for (const data::SftFileReport& file : report.files)
    log::info("{}: {}, {} conversations, {} samples, {} written", file.path,
              data::sft_format_name(file.format), format_integer(file.conversations),
              format_integer(file.samples), format_integer(file.written));
  const auto share = [](int64_t part, int64_t whole) {
    return whole > 0 ? 100.0 * static_cast<double>(part) / static_cast<double>(whole) : 0.0;
  };
  log::info(
      "{}: {} rows of up to {} + 1 tokens, {} samples, {} tokens ({:.1f}% of the room), {} trained "
      "({:.1f}%), {}",
      report.output, format_integer(report.rows), options.seq_length, format_integer(report.samples),
      format_integer(report.tokens), share(report.tokens, report.rows * (options.seq_length + 1)),
      format_integer(report.trained_tokens), share(report.trained_tokens, report.tokens),
      format_duration(report.seconds));
  const auto warn = [](int64_t count, const std::string& what) {
    if (count > 0) log::warning("{} {}", format_integer(count), what);
  };
  warn(report.bad_records, "bad records left out");
  warn(report.without_target, "conversations without anything to train left out");
  warn(report.too_long_dropped, "samples longer than --seq-length left out (--on-long drop)");
  warn(report.truncated, "samples cut to --seq-length; their last reply lacks its end");
  warn(report.truncated_without_target, "samples left out because nothing to train was left after the cut");
  warn(report.notes.empty_replies, "empty replies are not trained");
  warn(report.notes.dropped_reasoning,
       "replies trained without their reasoning: the template has no place for it");
  warn(report.notes.replies_without_reasoning,
       "replies without reasoning behind a prompt that opens thinking: many of them unteach it");
  warn(report.notes.dropped_tools,
       "conversations whose tool definitions the published template does not show (--tools system puts them "
       "there)");
  if (report.notes.dropped_messages > 0)
    log::info("{} messages behind the last trained reply are not in the data",
              format_integer(report.notes.dropped_messages));
  if (report.notes.split_conversations > 0)
    log::info(
        "{} conversations became a sample for each trained reply, since their template rewrites past turns",
        format_integer(report.notes.split_conversations));
  for (const std::string& example : report.examples) log::info("left out: {}", example);
}

void run_sft(SftFlags& flags) {
  read_flags(flags);
  set_num_threads(flags.workers);
  const data::SftReport report = data::build_sft(flags.options);
  print_report(report, flags.options);
  if (flags.json) std::puts(as_json(report).dump(-1, ' ', false, Json::error_handler_t::replace).c_str());
}

}  // namespace

void add_data_sft(CLI::App& data) {
  CLI::App* command = data.add_subcommand(
      "sft",
      "Turn instruction data (Alpaca, ShareGPT, OpenAI messages) into fine-tuning data with loss masks");
  const auto flags = std::make_shared<SftFlags>();
  const auto choice = [&](const char* name, std::string& value, const char* help,
                          std::vector<std::string> names) {
    command->add_option(name, value, help)->check(CLI::IsMember(std::move(names)))->capture_default_str();
  };
  command->add_option("--tokenizer", flags->tokenizer, "tokenizer.json, or a directory that holds one")
      ->required();
  command
      ->add_option("--input", flags->inputs,
                   "JSON lists or .jsonl, each also as .gz or .zst; F:0.3 gives a file a weight, its share "
                   "of the samples")
      ->required();
  command->add_option("--weights", flags->weights, "the same for all files, in their order: 0.7,0.3")
      ->delimiter(',');
  command
      ->add_option(
          "--samples", flags->options.num_samples,
          "with weights: so many samples, files repeated (0: as many as there are without repeating one)")
      ->check(CLI::NonNegativeNumber);
  command->add_option("--seed", flags->options.seed, "of the mix")->capture_default_str();
  choice("--format", flags->format, "of the records", {"auto", "alpaca", "sharegpt", "messages"});
  command->add_option("--seq-length", flags->options.seq_length, "of the training: rows have one token more")
      ->required()
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 30));
  command
      ->add_option("--output", flags->output,
                   "P: writes P.bin, P.idx, P_loss_mask.bin, P_loss_mask.idx, P.meta.json; or P.mindrecord "
                   "and its .db")
      ->required();
  choice("--container", flags->container, "what is written", {"bin", "mindrecord"});
  command->add_option("--shards", flags->options.shards, "of MindRecord: so many files")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  command->add_flag("--pack", flags->options.pack,
                    "several samples a row, isolated in attention and positions (else one a row, padded)");
  choice("--chat-template", flags->chat_template,
         "auto: the one beside the tokenizer, which must be one of these four",
         {"auto", "v3", "v3-0324", "r1", "v3.1"});
  choice("--train-on", flags->train_on,
         "loss on every reply of the assistant, on the last one, or on all tokens but the first",
         {"assistant", "last", "all"});
  choice("--thinking", flags->thinking, "of v3.1's prompts: auto where the reply has reasoning",
         {"auto", "on", "off"});
  choice("--on-long", flags->on_long,
         "a sample longer than --seq-length + 1 tokens: leave it out, cut its end, stop",
         {"drop", "truncate", "error"});
  choice("--on-error", flags->on_error, "a malformed record: stop, or skip it and count it",
         {"stop", "skip"});
  command->add_option("--system", flags->options.system, "system message of conversations that have none");
  choice("--tool-calls", flags->tool_calls,
         "in prompts: as the published template writes them, or with the marks it forgets",
         {"published", "mended"});
  choice("--tools", flags->tools,
         "definitions: as the published templates (which show none), or behind the system message",
         {"published", "system"});
  command->add_option("--workers", flags->workers, "threads; 0: all cores. The result does not depend on it")
      ->check(CLI::Range(0, 4096));
  command->add_flag("--json", flags->json, "print a report as JSON");
  command->footer(
      "Examples:\n"
      "  fathom data sft --tokenizer DIR --input alpaca.json --seq-length 2048 --output out/alpaca --pack\n"
      "  fathom data sft --tokenizer DIR --input chats.jsonl.gz:0.7 code.json:0.3 --chat-template v3.1 \\\n"
      "      --seq-length 8192 --output out/mix --pack\n"
      "  fathom data sft --tokenizer DIR --input alpaca.json --seq-length 4096 --output out/alpaca \\\n"
      "      --container mindrecord --on-long truncate\n"
      "  fathom data inspect out/alpaca --sample 0 --tokenizer DIR");
  command->callback([flags] { run_sft(*flags); });
}

}  // namespace fathom::cli
