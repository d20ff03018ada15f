// The command lines that README and docs show are ones that the program takes: every `fathom ...` line of a
// fenced block names a subcommand that exists and flags that its help knows. Blocks marked `text` are not
// read.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <algorithm>
#include <cctype>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace fathom {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;
using testing::IsEmpty;
using Words = std::vector<std::string>;

struct ShownCommand {
  int line = 0;
  Words words;  // after "fathom"
};

// Words as a shell would cut them, up to a comment, a pipe, a redirection or the next command.
Words shell_words(std::string_view text) {
  Words words;
  std::string word;
  bool is_open = false;  // a word has begun
  char quote = 0;
  for (const char c : text) {
    if (quote) {
      if (c == quote)
        quote = 0;
      else
        word += c;
    } else if (c == '\'' || c == '"') {
      quote = c, is_open = true;
    } else if (std::isspace(static_cast<unsigned char>(c))) {
      if (is_open) words.push_back(word);
      word.clear(), is_open = false;
    } else if ((c == '#' && !is_open) || c == ';' || c == '>' || c == '<' || (c == '|' && !is_open)) {
      break;
    } else {
      word += c, is_open = true;
    }
  }
  if (is_open) words.push_back(word);
  if (const auto end = std::find(words.begin(), words.end(), "&&"); end != words.end())
    words.erase(end, words.end());
  return words;
}

std::vector<ShownCommand> shown_commands(const std::string& markdown) {
  std::vector<ShownCommand> commands;
  bool is_inside = false, is_read = false;
  std::string joined;
  int number = 0, first = 0;
  for (size_t at = 0; at < markdown.size();) {
    const size_t end = std::min(markdown.find('\n', at), markdown.size());
    std::string line = markdown.substr(at, end - at);
    at = end + 1, ++number;
    line.erase(0, std::min(line.find_first_not_of(" \t"), line.size()));
    if (line.starts_with("```")) {
      is_inside = !is_inside;
      const std::string kind = line.substr(3);
      is_read = is_inside &&
                (kind.empty() || kind == "sh" || kind == "bash" || kind == "shell" || kind == "console");
      joined.clear();
      continue;
    }
    if (!is_read) continue;
    if (joined.empty()) first = number;
    const bool goes_on = line.ends_with('\\');
    if (goes_on) line.pop_back();
    joined += line;
    if (goes_on) continue;
    if (joined.starts_with("$ ")) joined.erase(0, 2);
    for (const std::string_view program : {"fathom ", "build/release/fathom ", "./build/release/fathom "})
      if (joined.starts_with(program))
        commands.push_back({first, shell_words(joined.substr(program.size()))});
    joined.clear();
  }
  return commands;
}

struct Help {
  bool is_known = false;
  std::string text;
};

const Help& help_of(const std::string& subcommand) {
  static std::map<std::string, Help> known;
  const auto [entry, is_new] = known.try_emplace(subcommand);
  if (!is_new) return entry->second;
  std::FILE* pipe = ::popen((std::string(FATHOM_BINARY) + " " + subcommand + " --help 2>&1").c_str(), "r");
  if (!pipe) return entry->second;
  char buffer[4096];
  for (size_t count; (count = std::fread(buffer, 1, sizeof buffer, pipe)) > 0;)
    entry->second.text.append(buffer, count);
  const int status = ::pclose(pipe);
  entry->second.is_known = WIFEXITED(status) && WEXITSTATUS(status) == 0;
  return entry->second;
}

bool is_name(const std::string& word) {
  return !word.empty() &&
         std::all_of(word.begin(), word.end(), [](char c) { return std::islower(c) || c == '-'; });
}

// The word stands in the text with nothing of a flag around it.
bool has_word(const std::string& text, const std::string& word) {
  const auto is_part = [](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) || c == '-' || c == '_';
  };
  for (size_t at = text.find(word); at != std::string::npos; at = text.find(word, at + 1)) {
    const size_t end = at + word.size();
    if ((at == 0 || !is_part(text[at - 1])) && (end == text.size() || !is_part(text[end]))) return true;
  }
  return false;
}

// What is wrong with a command line; empty: nothing.
std::string fault_of(Words words) {
  std::erase(words, "[");
  if (words.empty() || !is_name(words[0]))
    return words.empty() || words[0].starts_with("-") ? "" : "no subcommand";
  std::string subcommand = words[0];
  const std::string top = help_of("").text;
  if (!has_word(top, subcommand) || !help_of(subcommand).is_known)
    return "no subcommand '" + subcommand + "'";
  size_t next = 1;
  if (help_of(subcommand).text.find("Subcommands:") != std::string::npos && words.size() > 1 &&
      is_name(words[1])) {
    if (!has_word(help_of(subcommand).text, words[1]))
      return "'" + subcommand + "' has no '" + words[1] + "'";
    subcommand += " " + words[next++];
    if (!help_of(subcommand).is_known) return "no subcommand '" + subcommand + "'";
  }
  for (; next < words.size(); ++next) {
    std::string flag = words[next];
    if (flag == "--") return fault_of(Words(words.begin() + static_cast<ptrdiff_t>(next) + 1, words.end()));
    std::erase_if(flag, [](char c) { return c == '[' || c == ']' || c == '(' || c == ')'; });  // a synopsis
    if (flag.size() < 2 || flag[0] != '-' || std::isdigit(static_cast<unsigned char>(flag[1]))) continue;
    flag = flag.substr(0, flag.find_first_of("=|."));
    if (!has_word(help_of(subcommand).text, flag)) return "'" + subcommand + "' has no " + flag;
  }
  return "";
}

std::vector<std::string> faults_of(const fs::path& page) {
  std::ifstream file(page);
  const std::string text((std::istreambuf_iterator<char>(file)), {});
  std::vector<std::string> faults;
  for (const ShownCommand& command : shown_commands(text))
    if (const std::string fault = fault_of(command.words); !fault.empty())
      faults.push_back(page.filename().string() + ":" + std::to_string(command.line) + ": " + fault);
  return faults;
}

TEST(DocsCommands, are_found_in_fenced_blocks) {
  const auto commands = shown_commands(
      "fathom outside --no\n```sh\n$ fathom data build \\\n    --input 'a b' # note --no\nls\n```\n"
      "```text\nfathom not-read\n```\n```\nbuild/release/fathom eval D | jq .\n```\n");
  ASSERT_EQ(commands.size(), 2u);
  EXPECT_EQ(commands[0].words, (Words{"data", "build", "--input", "a b"}));
  EXPECT_EQ(commands[0].line, 3);
  EXPECT_EQ(commands[1].words, (Words{"eval", "D"}));
}

TEST(DocsCommands, faults_are_found) {
  EXPECT_THAT(fault_of({"tokenize", "--tokenizer", "DIR", "[--decode]", "text"}), IsEmpty());
  EXPECT_THAT(fault_of({"tokenize", "--tokenise", "DIR"}), HasSubstr("no --tokenise"));
  EXPECT_THAT(fault_of({"tokenize", "--token", "DIR"}), HasSubstr("no --token"));
  EXPECT_THAT(fault_of({"tokenise", "DIR"}), HasSubstr("no subcommand"));
  EXPECT_THAT(fault_of({"data", "bild"}), HasSubstr("has no 'bild'"));
}

TEST(DocsCommands, of_every_page_are_taken) {
  std::vector<fs::path> pages;
  for (const char* name : {"README.md", "README.zh-CN.md"})
    if (fs::exists(fs::path(FATHOM_SOURCE_DIR) / name)) pages.push_back(fs::path(FATHOM_SOURCE_DIR) / name);
  for (const auto& entry : fs::recursive_directory_iterator(fs::path(FATHOM_SOURCE_DIR) / "docs"))
    if (entry.path().extension() == ".md") pages.push_back(entry.path());
  for (const fs::path& page : pages) EXPECT_THAT(faults_of(page), IsEmpty());
}

}  // namespace
}  // namespace fathom
