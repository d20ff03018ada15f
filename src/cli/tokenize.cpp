// fathom tokenize: text to ids and back.
#include <algorithm>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "chat/template.h"
#include "chat/training.h"
#include "cli/commands.h"
#include "tokenizer/tokenizer.h"

namespace fathom::cli {
namespace {

struct Options {
  std::string tokenizer, file, text, special_tokens = "text", chat, chat_template = "auto";
  bool thinking = false, no_generation_prompt = false, mend_tool_calls = false,
       tools_in_system_prompt = false;
  bool has_text = false, decode = false, add_bos = false, skip_special_tokens = false, json = false,
       json_lines = false;
};

std::string read_standard_input() {
  std::string text;
  char buffer[1 << 16];
  size_t count;
  while ((count = std::fread(buffer, 1, sizeof buffer, stdin)) > 0) text.append(buffer, count);
  if (std::ferror(stdin)) throw FileError("cannot read standard input");
  return text;
}

// Whole numbers between white space, commas and one pair of brackets (what this command prints, or a JSON
// list).
std::vector<int32_t> parse_ids(const std::string& text) {
  std::vector<int32_t> ids;
  for (size_t at = 0; at < text.size();) {
    if (std::string_view(" \t\r\n,[]").find(text[at]) != std::string_view::npos) {
      ++at;
      continue;
    }
    const size_t begin = at;
    int64_t value = 0;
    while (at < text.size() && text[at] >= '0' && text[at] <= '9' && value <= INT32_MAX)
      value = value * 10 + (text[at++] - '0');
    if (at == begin || value > INT32_MAX)
      throw DataError(
          "--decode: no token id at byte {} of the input: give whole numbers with spaces or commas between",
          begin);
    ids.push_back(static_cast<int32_t>(value));
  }
  return ids;
}

void print(const std::string& out) {
  if (std::fwrite(out.data(), 1, out.size(), stdout) != out.size() || std::fflush(stdout) != 0)
    throw FileError("cannot write to standard output");
}

std::string result_json(const std::vector<int32_t>& ids, const std::string& text) {
  return Json({{"ids", ids}, {"text", text}}).dump() + "\n";
}

class Command {
 public:
  explicit Command(const Options& options)
      : options_(options), tokenizer_(tokenizer::Tokenizer::load(options.tokenizer)) {}

  void run() {
    if (!options_.chat.empty()) return run_chat();
    const std::string input = options_.has_text                               ? options_.text
                              : options_.file.empty() || options_.file == "-" ? read_standard_input()
                                                                              : read_text_file(options_.file);
    if (options_.json_lines) return run_lines(input);
    if (options_.decode) {
      const std::vector<int32_t> ids = parse_ids(input);
      const std::string text = tokenizer_.decode(ids, options_.skip_special_tokens);
      return print(options_.json ? result_json(ids, text) : text + "\n");
    }
    const std::vector<int32_t> ids = encode(input);
    if (options_.json) return print(result_json(ids, input));
    std::string out;
    for (const int32_t id : ids) out += (out.empty() ? "" : " ") + std::to_string(id);
    print(out + "\n");
  }

 private:
  // A conversation as a server would send it to the model.
  void run_chat() {
    const auto which = options_.chat_template == "auto" ? chat::template_of(tokenizer_.path().parent_path())
                                                        : chat::find_template(options_.chat_template);
    if (!which)
      throw ConfigError(
          "{}: no chat template stands beside it: name one with --chat-template v3|v3-0324|r1|v3.1",
          tokenizer_.path().string());
    const chat::Conversation conversation =
        chat::parse_conversation(read_json_file(options_.chat), options_.chat);
    const chat::Segments segments = chat::render(*which, conversation,
                                                 {!options_.no_generation_prompt, options_.thinking,
                                                  options_.mend_tool_calls, options_.tools_in_system_prompt});
    std::vector<int32_t> ids;
    chat::encode_segments(segments, tokenizer_, scratch_, ids);
    const std::string text = chat::joined(segments);
    print(options_.json ? result_json(ids, text) : text + "\n");
  }

  std::vector<int32_t> encode(const std::string& text) {
    std::vector<int32_t> ids;
    const auto special = options_.special_tokens == "encode" ? tokenizer::SpecialTokens::encode
                                                             : tokenizer::SpecialTokens::text;
    tokenizer_.encode_into(text, scratch_, ids, special, options_.add_bos);
    return ids;
  }

  void run_lines(std::string_view input) {
    std::string out;
    for (size_t number = 1; !input.empty(); ++number) {
      const size_t end = std::min(input.find('\n'), input.size());
      const std::string where = "line " + std::to_string(number);
      const Json value = parse_json(input.substr(0, end), where);
      input.remove_prefix(std::min(end + 1, input.size()));
      try {
        if (options_.decode) {
          const auto ids = value.get<std::vector<int32_t>>();
          out += result_json(ids, tokenizer_.decode(ids, options_.skip_special_tokens));
        } else {
          const auto text = value.get<std::string>();
          out += result_json(encode(text), text);
        }
      } catch (const nlohmann::json::type_error&) {
        throw DataError("{}: expected {}", where, options_.decode ? "a list of token ids" : "a JSON string");
      }
    }
    print(out);
  }

  const Options& options_;
  tokenizer::Tokenizer tokenizer_;
  tokenizer::EncodeScratch scratch_;
};

}  // namespace

void add_tokenize(CLI::App& app) {
  CLI::App* command = app.add_subcommand("tokenize", "Turn text into token ids, or ids into text");
  const auto options = std::make_shared<Options>();
  command
      ->add_option("--tokenizer", options->tokenizer,
                   "tokenizer.json, tiktoken.model, or a directory that holds one")
      ->required();
  command->add_option("--file", options->file,
                      "read the input from this file (- or nothing: standard input)");
  CLI::Option* text = command->add_option("text", options->text, "the input itself");
  command->add_flag("--decode", options->decode, "the input is token ids; print their text");
  command
      ->add_option("--special-tokens", options->special_tokens,
                   "literal special-token text in the input: text (stays text, the default) or encode "
                   "(becomes its id)")
      ->check(CLI::IsMember({"text", "encode"}));
  command->add_flag("--add-bos", options->add_bos,
                    "put the beginning mark in front (or what the post-processor says)");
  command->add_flag("--skip-special-tokens", options->skip_special_tokens,
                    "with --decode: leave special tokens out");
  command->add_flag("--json", options->json, "print {\"ids\": [...], \"text\": \"...\"}");
  command->add_flag(
      "--json-lines", options->json_lines,
      "each line of the input is a JSON string (--decode: a list of ids) by itself; one object a line");
  const char* const chat_group = "Conversations";
  command
      ->add_option(
          "--chat", options->chat,
          "a JSON file of messages (a list, or an object with messages and tools): their prompt by the chat "
          "template, its ids with --json")
      ->group(chat_group);
  command->add_option("--chat-template", options->chat_template, "auto: the one beside the tokenizer")
      ->check(CLI::IsMember({"auto", "v3", "v3-0324", "r1", "v3.1"}))
      ->capture_default_str()
      ->group(chat_group);
  command->add_flag("--thinking", options->thinking, "the variable of v3.1's template")->group(chat_group);
  command
      ->add_flag("--no-generation-prompt", options->no_generation_prompt,
                 "the conversation alone, not asking for a reply")
      ->group(chat_group);
  command
      ->add_flag("--mend-tool-calls", options->mend_tool_calls,
                 "with the marks that published templates forget")
      ->group(chat_group);
  command
      ->add_flag("--tools-in-system-prompt", options->tools_in_system_prompt,
                 "with the tool definitions, which published templates leave out")
      ->group(chat_group);
  command->footer(
      "Examples:\n"
      "  fathom tokenize --tokenizer assets/tokenizer 'hello world'\n"
      "  fathom tokenize --tokenizer DIR --file book.txt --json\n"
      "  fathom tokenize --tokenizer DIR --decode '33310 2058'\n"
      "  fathom tokenize --tokenizer DIR --chat messages.json --chat-template v3.1 --thinking --json\n"
      "  fathom tokenize --tokenizer DIR 'hello' | fathom tokenize --tokenizer DIR --decode");
  command->callback([options, text] {
    options->has_text = text->count() > 0;
    if (options->has_text + !options->file.empty() + !options->chat.empty() > 1)
      throw UsageError("give one of TEXT, --file and --chat");
    Command(*options).run();
  });
}

}  // namespace fathom::cli
