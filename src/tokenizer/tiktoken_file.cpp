// Reading tiktoken.model as Kimi-K2 and Moonlight ship it.
#include <algorithm>
#include <charconv>
#include <map>

#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "tokenizer/tokenizer_file.h"
#include "tokenizer/utf8.h"

namespace fathom::tokenizer {
namespace {

// Behind the ranks the tokenizer of these models has this many special tokens; those without a name in
// tokenizer_config.json are called <|reserved_token_ID|>.
constexpr int32_t kSpecialTokens = 256;
constexpr int32_t kMaxTokens = 1 << 24;

// The bytes of standard base64 with its padding. False: not that.
bool decode_base64(std::string_view text, std::string& bytes) {
  bytes.clear();
  if (text.empty() || text.size() % 4 != 0) return false;
  const size_t padding = text.ends_with("==") ? 2 : text.ends_with("=") ? 1 : 0;
  uint32_t bits = 0;
  int count = 0;
  for (const char c : text.substr(0, text.size() - padding)) {
    uint32_t value;
    if (c >= 'A' && c <= 'Z')
      value = static_cast<uint32_t>(c - 'A');
    else if (c >= 'a' && c <= 'z')
      value = static_cast<uint32_t>(c - 'a' + 26);
    else if (c >= '0' && c <= '9')
      value = static_cast<uint32_t>(c - '0' + 52);
    else if (c == '+' || c == '/')
      value = c == '+' ? 62 : 63;
    else
      return false;
    bits = bits << 6 | value;
    count += 6;
    if (count >= 8) bytes += static_cast<char>(bits >> (count -= 8) & 0xFF);
  }
  return true;
}

// Adds the tokens of the file; returns their number.
int32_t read_ranks(std::string_view text, const std::string& where, Bpe& bpe) {
  const auto expected = static_cast<size_t>(std::count(text.begin(), text.end(), '\n'));
  bpe.reserve(expected, 2 * expected);
  std::string bytes, spelled;
  int32_t count = 0, highest = -1;
  for (size_t number = 1; !text.empty(); ++number) {
    const size_t end = std::min(text.find('\n'), text.size());
    std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (line.empty()) continue;
    const auto refuse = [&](const char* what) {
      throw ConfigError("{}: line {}: {}; expected a token in base64, a space and its rank", where, number,
                        what);
    };
    const size_t space = line.find(' ');
    if (space == std::string_view::npos) refuse("there is no space");
    if (!decode_base64(line.substr(0, space), bytes)) refuse("the token is not base64");
    int32_t rank = -1;
    const char* const line_end = line.data() + line.size();
    const auto parsed = std::from_chars(line.data() + space + 1, line_end, rank);
    if (parsed.ec != std::errc() || parsed.ptr != line_end || rank < 0 || rank >= kMaxTokens)
      refuse("the rank is not a whole number below 16777216");
    spelled.clear();
    for (const char c : bytes) append_utf8(spelled, byte_alphabet()[static_cast<unsigned char>(c)]);
    bpe.add_token(spelled, rank, where + ": line " + std::to_string(number));
    ++count;
    highest = std::max(highest, rank);
  }
  if (count == 0) throw ConfigError("{}: there is no token in it: not a tiktoken.model", where);
  if (highest != count - 1)
    throw ConfigError("{}: {} tokens, but ranks up to {}: ranks must be 0, 1, 2, ... without a hole", where,
                      count, highest);
  return count;
}

// The names of special tokens by id, from tokenizer_config.json.
std::map<int32_t, AddedToken> read_special_tokens(const fs::path& path, int32_t first) {
  std::map<int32_t, AddedToken> tokens;
  const auto put = [&](int32_t id, std::string content, bool special) {
    AddedToken token;
    token.id = id;
    token.content = std::move(content);
    token.special = special;
    token.normalized = false;
    tokens[id] = std::move(token);
  };
  for (int32_t id = first; id < first + kSpecialTokens; ++id)
    put(id, "<|reserved_token_" + std::to_string(id) + "|>", true);
  std::error_code error;
  if (!fs::exists(path, error))
    throw FileError("{} is missing: the names of the special tokens of a tiktoken.model stand in it",
                    path.string());
  const Json config = read_json_file(path);
  if (!config.is_object() || !config.contains("added_tokens_decoder") ||
      !config["added_tokens_decoder"].is_object())
    throw ConfigError("{}: added_tokens_decoder: expected an object of the special tokens by id",
                      path.string());
  for (const auto& [key, value] : config["added_tokens_decoder"].items()) {
    const std::string where = path.string() + ": added_tokens_decoder." + key;
    int32_t id = -1;
    const auto parsed = std::from_chars(key.data(), key.data() + key.size(), id);
    if (parsed.ec != std::errc() || parsed.ptr != key.data() + key.size() || id < first ||
        id >= first + kSpecialTokens)
      throw ConfigError("{}: expected an id from {} to {}, behind the ranks", where, first,
                        first + kSpecialTokens - 1);
    if (!value.is_object() || !value.contains("content") || !value["content"].is_string() ||
        value["content"].get<std::string>().empty())
      throw ConfigError("{}.content: expected the token's text", where);
    for (const char* flag : {"lstrip", "rstrip", "single_word", "normalized"})
      if (value.contains(flag) && value[flag] != Json(false))
        throw ConfigError("{}.{}: {} is not supported, tiktoken knows only false", where, flag,
                          value[flag].dump());
    put(id, value["content"].get<std::string>(), value.value("special", Json(true)) != Json(false));
  }
  return tokens;
}

// tiktoken.model does not say how text is cut: the Python file beside it does. Where there is one, it must hold the
// pattern that we apply.
void check_pattern(const fs::path& folder) {
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder.empty() ? fs::path(".") : folder, error)) {
    if (entry.path().extension() != ".py" || !entry.is_regular_file(error)) continue;
    const std::string source = read_text_file(entry.path());
    if (source.find("pat_str") == std::string::npos) continue;
    for (const char* const pattern : kKimiPatterns)
      if (source.find(pattern) == std::string::npos)
        throw ConfigError(
            "{}: its pat_str lacks {:?}: only the pattern of Kimi-K2 and Moonlight is known for a "
            "tiktoken.model",
            entry.path().string(), pattern);
  }
}

}  // namespace

void read_tiktoken_model(TokenizerData& data) {
  const std::string where = data.path.string();
  const fs::path folder = data.path.parent_path();
  int32_t count;
  {
    const MappedFile file(data.path);
    count = read_ranks(file.text(), where, data.bpe);
  }
  data.bpe.add_merges_by_rank();
  data.bpe.finish(true, where);  // tiktoken looks a whole piece up before it merges
  check_pattern(folder);
  data.pre_tokenizer = PreTokenizer::kimi();
  std::vector<AddedToken> tokens;
  for (auto& [id, token] : read_special_tokens(folder / "tokenizer_config.json", count))
    tokens.push_back(std::move(token));
  place_added_tokens(std::move(tokens),
                     (folder / "tokenizer_config.json").string() + ": added_tokens_decoder", data);
}

}  // namespace fathom::tokenizer
