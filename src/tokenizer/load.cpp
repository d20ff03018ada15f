// Tokenizer::load: which files a tokenizer consists of, and what tokenizer_config.json adds to them.
#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "tokenizer/tokenizer_file.h"

namespace fathom::tokenizer {
namespace {

// Of tokenizer_config.json: "bos_token": "<...>" or {"content": "<...>"}, or null.
std::optional<int32_t> read_named_token(const Json& config, const char* key, const std::string& where,
                                        const TokenizerData& data) {
  if (!config.contains(key) || config[key].is_null()) return std::nullopt;
  const Json& token = config[key];
  const Json content = token.is_object() && token.contains("content") ? token["content"] : token;
  if (!content.is_string())
    throw ConfigError("{}: {}: expected a string or an object with \"content\"", where, key);
  const auto text = content.get<std::string>();
  int32_t id = data.added_ids.find(text);
  if (id < 0) id = data.bpe.find(text);
  if (id < 0) throw ConfigError("{}: {}: {:?} is not in {}", where, key, text, data.path.filename().string());
  return id;
}

void read_config(const fs::path& path, TokenizerData& data) {
  std::error_code error;
  if (!fs::exists(path, error)) return;
  const Json config = read_json_file(path);
  if (!config.is_object()) throw ConfigError("{}: expected an object", path.string());
  data.bos_id = read_named_token(config, "bos_token", path.string(), data);
  data.eos_id = read_named_token(config, "eos_token", path.string(), data);
  const auto flag = [&](const char* key) {
    if (!config.contains(key) || config[key].is_null()) return false;
    if (!config[key].is_boolean()) throw ConfigError("{}: {}: expected true or false", path.string(), key);
    return config[key].get<bool>();
  };
  data.add_bos_token = flag("add_bos_token");
  data.add_eos_token = flag("add_eos_token");
}

bool is_tiktoken(const fs::path& path) {
  return path.extension() == ".model" || path.extension() == ".tiktoken";
}

}  // namespace

bool Tokenizer::is_in(const fs::path& dir) {
  std::error_code error;
  return fs::exists(dir / "tokenizer.json", error) || fs::exists(dir / "tiktoken.model", error);
}

void read_tokenizer(const fs::path& file_or_dir, TokenizerData& data) {
  data.path = file_or_dir;
  std::error_code error;
  if (fs::is_directory(data.path, error)) {
    data.path = file_or_dir / "tokenizer.json";
    if (!fs::exists(data.path, error)) data.path = file_or_dir / "tiktoken.model";
    if (!fs::exists(data.path, error))
      throw FileError("there is no tokenizer.json in {}, and no tiktoken.model either", file_or_dir.string());
  }
  if (is_tiktoken(data.path))
    read_tiktoken_model(data);
  else
    read_tokenizer_json(data);
  read_config(data.path.parent_path() / "tokenizer_config.json", data);
}

Tokenizer Tokenizer::load(const fs::path& file_or_dir) {
  auto data = std::make_shared<TokenizerData>();
  read_tokenizer(file_or_dir, *data);
  return Tokenizer(std::move(data));
}

}  // namespace fathom::tokenizer
