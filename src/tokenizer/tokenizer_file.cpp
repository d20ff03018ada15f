// Reading tokenizer.json.
#include "tokenizer/tokenizer_file.h"

#include <algorithm>

#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "tokenizer/json_reader.h"

namespace fathom::tokenizer {
namespace {

std::string in_quotes(std::string_view text) { return fmt::format("{:?}", text); }

void check_normalizer(const Json& json, const std::string& where) {
  if (json.is_null()) return;
  const std::string type = json.is_object() ? json.value("type", Json()).dump() : "?";
  if (type != "\"Sequence\"" || !json.contains("normalizers") || !json["normalizers"].is_array())
    throw ConfigError("{}.type: the normalizer {} is not supported; this family has none", where, type);
  for (const Json& step : json["normalizers"]) check_normalizer(step, where + ".normalizers");
}

void check_decoder(const Json& json, const std::string& where) {
  const std::string type = json.is_object() ? json.value("type", Json()).dump() : json.dump();
  if (type == "\"ByteLevel\"") return;
  const bool one = type == "\"Sequence\"" && json.contains("decoders") && json["decoders"].is_array() &&
                   json["decoders"].size() == 1;
  if (!one) throw ConfigError("{}.type: the decoder {} is not supported, only \"ByteLevel\"", where, type);
  check_decoder(json["decoders"][0], where + ".decoders[0]");
}

template <typename T>
T member(const Json& json, const char* key, const std::string& where) {
  if (!json.is_object() || !json.contains(key)) throw ConfigError("{}.{} is missing", where, key);
  try {
    return json[key].get<T>();
  } catch (const nlohmann::json::exception&) {
    throw ConfigError("{}.{} has the wrong type: {}", where, key, json[key].dump(-1, ' ', true));
  }
}

// The ids in front of and behind the text, from `single` of a TemplateProcessing step.
void read_template(const Json& json, const std::string& where, std::vector<int32_t>& prefix,
                   std::vector<int32_t>& suffix) {
  const Json single = member<Json>(json, "single", where);
  if (!single.is_array()) throw ConfigError("{}.single: expected a list", where);
  bool seen_text = false;
  for (const Json& piece : single) {
    if (piece.is_object() && piece.contains("Sequence")) {
      if (seen_text) throw ConfigError("{}.single: the text stands twice", where);
      seen_text = true;
    } else if (piece.is_object() && piece.contains("SpecialToken")) {
      const auto name = member<std::string>(piece["SpecialToken"], "id", where + ".single.SpecialToken");
      const Json token =
          member<Json>(member<Json>(json, "special_tokens", where), name.c_str(), where + ".special_tokens");
      const auto ids =
          member<std::vector<int32_t>>(token, "ids", fmt::format("{}.special_tokens.{}", where, name));
      std::vector<int32_t>& side = seen_text ? suffix : prefix;
      side.insert(side.end(), ids.begin(), ids.end());
    } else {
      throw ConfigError("{}.single: expected SpecialToken or Sequence, found {}", where, piece.dump());
    }
  }
  if (!seen_text) throw ConfigError("{}.single: the text itself is missing", where);
}

class FileReader {
 public:
  FileReader(std::string_view text, std::string where, Bpe& bpe)
      : reader_(text, where), where_(std::move(where)), bpe_(bpe), expected_(text.size() / 61) {}

  void read() {
    bool has_model = false;
    std::string_view view;
    reader_.begin_object();
    while (reader_.next_key(view)) {
      const std::string key(view);
      if (key == "model") {
        if (has_model) throw ConfigError("{}: \"model\" stands twice", where_);
        has_model = true;
        read_model();
      } else if (key == "added_tokens" || key == "normalizer" || key == "pre_tokenizer" ||
                 key == "post_processor" || key == "decoder") {
        if (parts.contains(key)) throw ConfigError("{}: \"{}\" stands twice", where_, key);
        parts[key] = parse_json(reader_.value_text(), where_ + ": " + key);
      } else {
        reader_.value_text();
      }
    }
    reader_.end();
    if (!has_model) throw ConfigError("{}: \"model\" is missing: not a tokenizer.json", where_);
  }

  Json parts = Json::object();

 private:
  void read_model() {
    if (reader_.peek() != '{') throw ConfigError("{}: model: expected an object", where_);
    bool has_vocab = false, has_merges = false, ignore_merges = false;
    std::string_view merges_text, view;  // merges that stand in front of the vocabulary wait
    std::string type = "BPE";            // old files leave it out
    reader_.begin_object();
    while (reader_.next_key(view)) {
      const std::string key(view);
      if (key == "vocab" && !has_vocab) {
        if (type != "BPE" || reader_.peek() != '{') refuse_type(type);
        has_vocab = true;
        // An entry and a merge take some 60 bytes of the file together; a wrong guess only costs time.
        bpe_.reserve(expected_, expected_);
        reader_.begin_object();
        std::string_view token;
        while (reader_.next_key(token)) {
          spelled_.assign(token);
          bpe_.add_token(spelled_, reader_.integer(), where_);
        }
      } else if (key == "merges" && !has_merges) {
        has_merges = true;
        if (has_vocab)
          read_merges(reader_);
        else
          merges_text = reader_.value_text();
      } else if (key == "type") {
        type = reader_.string();
        if (type != "BPE") refuse_type(type);
      } else {
        const std::string_view value = reader_.value_text();
        if (key == "ignore_merges") ignore_merges = value == "true";
        const bool is_off = value == "null" || value == "\"\"" || value == "0" || value == "0.0";
        if ((key == "dropout" || key == "continuing_subword_prefix" || key == "end_of_word_suffix") &&
            !is_off)
          throw ConfigError("{}: model.{} is {}, which is not supported", where_, key, value);
        // unk_token, fuse_unk, byte_fallback: a byte-level vocabulary never meets an unknown symbol.
      }
    }
    if (!has_vocab || !has_merges)
      throw ConfigError("{}: model.{} is missing", where_, has_vocab ? "merges" : "vocab");
    if (!merges_text.empty()) {
      JsonReader merges(merges_text, where_ + ": model.merges");
      read_merges(merges);
    }
    bpe_.finish(ignore_merges, where_);
  }

  [[noreturn]] void refuse_type(const std::string& type) const {
    throw ConfigError("{}: model.type \"{}\" is not supported, only byte-level BPE", where_,
                      type == "BPE" ? "without a vocabulary object" : type);
  }

  void read_merges(JsonReader& reader) {
    reader.begin_array();
    std::string left;
    for (size_t i = 0; reader.next_element(); ++i) {
      if (reader.peek() == '[') {  // ["a", "b"], as newer files write it
        reader.begin_array();
        bool two = reader.next_element();
        if (two) left = reader.string();
        two = two && reader.next_element();
        if (two) bpe_.add_merge(left, std::string(reader.string()), where_);
        if (!two || reader.next_element())
          throw ConfigError("{}: model.merges[{}]: expected two tokens", where_, i);
        continue;
      }
      const std::string_view merge = reader.string();  // "a b"
      const size_t space = merge.find(' ');
      if (space == std::string_view::npos || merge.find(' ', space + 1) != std::string_view::npos)
        throw ConfigError("{}: model.merges[{}]: expected two tokens with one space between them, found {}",
                          where_, i, in_quotes(merge));
      bpe_.add_merge(merge.substr(0, space), merge.substr(space + 1), where_);
    }
  }

  JsonReader reader_;
  std::string where_;
  Bpe& bpe_;
  size_t expected_;
  std::string spelled_;
};

std::vector<AddedToken> read_added_tokens(const Json& json, const std::string& where) {
  std::vector<AddedToken> tokens;
  if (json.is_null()) return tokens;
  if (!json.is_array()) throw ConfigError("{}: expected a list", where);
  for (size_t i = 0; i < json.size(); ++i) {
    const std::string here = where + "[" + std::to_string(i) + "]";
    AddedToken token;
    token.id = member<int32_t>(json[i], "id", here);
    token.content = member<std::string>(json[i], "content", here);
    token.special = member<bool>(json[i], "special", here);
    token.normalized = member<bool>(json[i], "normalized", here);
    token.single_word = member<bool>(json[i], "single_word", here);
    token.lstrip = member<bool>(json[i], "lstrip", here);
    token.rstrip = member<bool>(json[i], "rstrip", here);
    if (token.content.empty()) throw ConfigError("{}.content is empty", here);
    if (token.id < 0 || token.id > (1 << 24))
      throw ConfigError("{}.id: {} is outside 0..{}", here, token.id, 1 << 24);
    tokens.push_back(std::move(token));
  }
  return tokens;
}

void read_post_processor(const Json& json, const std::string& where, TokenizerData& data) {
  if (json.is_null()) return;
  const auto type = member<std::string>(json, "type", where);
  if (type == "ByteLevel") return;  // moves offsets only
  if (type == "Sequence") {
    const Json steps = member<Json>(json, "processors", where);
    if (!steps.is_array()) throw ConfigError("{}.processors: expected a list", where);
    for (const Json& step : steps) read_post_processor(step, where + ".processors", data);
  } else if (type == "TemplateProcessing") {
    if (data.has_template) throw ConfigError("{}: a second TemplateProcessing is not supported", where);
    data.has_template = true;
    read_template(json, where, data.prefix, data.suffix);
  } else {
    throw ConfigError(
        "{}.type: the post-processor \"{}\" is not supported; known are ByteLevel, TemplateProcessing "
        "and Sequence",
        where, type);
  }
}

}  // namespace

void place_added_tokens(std::vector<AddedToken> tokens, const std::string& where, TokenizerData& data) {
  int32_t highest = data.bpe.num_ids() - 1;
  for (const AddedToken& token : tokens) highest = std::max(highest, token.id);
  data.vocab_size = highest + 1;
  data.added_at.assign(static_cast<size_t>(data.vocab_size), -1);
  for (size_t i = 0; i < tokens.size(); ++i) {
    const AddedToken& token = tokens[i];
    const int32_t in_vocab = data.bpe.find(token.content);
    if (in_vocab >= 0 ? in_vocab != token.id : data.bpe.has_id(token.id))
      throw ConfigError("{}[{}]: {} has the id {}, but model.vocab disagrees", where, i,
                        in_quotes(token.content), token.id);
    if (data.added_at[static_cast<size_t>(token.id)] >= 0 || !data.added_ids.insert(token.content, token.id))
      throw ConfigError("{}[{}]: {} or its id {} stands twice", where, i, in_quotes(token.content), token.id);
    data.added_at[static_cast<size_t>(token.id)] = static_cast<int32_t>(i);
  }
  data.added = AddedTokens(std::move(tokens));
}

void read_tokenizer_json(TokenizerData& data) {
  const std::string where = data.path.string();
  const MappedFile file(data.path);
  FileReader reader(file.text(), where, data.bpe);
  reader.read();
  const auto part = [&](const char* key) { return reader.parts.contains(key) ? reader.parts[key] : Json(); };
  place_added_tokens(read_added_tokens(part("added_tokens"), where + ": added_tokens"),
                     where + ": added_tokens", data);
  check_normalizer(part("normalizer"), where + ": normalizer");
  data.pre_tokenizer = PreTokenizer::from_json(part("pre_tokenizer"), where + ": pre_tokenizer");
  read_post_processor(part("post_processor"), where + ": post_processor", data);
  check_decoder(part("decoder"), where + ": decoder");
}

}  // namespace fathom::tokenizer
