#include "tokenizer/pre_tokenizer.h"

#include "base/error.h"

namespace fathom::tokenizer {

// The middle pattern's ends are written as escapes to keep this file ASCII.
const char* const kV3Patterns[3] = {
    "\\p{N}{1,3}",
    "[\u4E00-\u9FA5\u3040-\u309F\u30A0-\u30FF]+",
    ("[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| "
     "?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+"),
};

#define FATHOM_KIMI_UPPER "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}&&[^\\p{Han}]]"
#define FATHOM_KIMI_LOWER "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}&&[^\\p{Han}]]"
#define FATHOM_KIMI_ENDING "(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
const char* const kKimiPatterns[8] = {
    "[\\p{Han}]+",
    "[^\\r\\n\\p{L}\\p{N}]?" FATHOM_KIMI_UPPER "*" FATHOM_KIMI_LOWER "+" FATHOM_KIMI_ENDING,
    "[^\\r\\n\\p{L}\\p{N}]?" FATHOM_KIMI_UPPER "+" FATHOM_KIMI_LOWER "*" FATHOM_KIMI_ENDING,
    "\\p{N}{1,3}",
    " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*",
    "\\s*[\\r\\n]+",
    "\\s+(?!\\S)",
    "\\s+"};
#undef FATHOM_KIMI_UPPER
#undef FATHOM_KIMI_LOWER
#undef FATHOM_KIMI_ENDING

namespace {

// The pattern that ByteLevel itself applies when use_regex is true (GPT-2's).
constexpr const char* kByteLevelPattern =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

std::string kimi_pattern() {
  std::string pattern;
  for (const char* const alternative : kKimiPatterns)
    pattern += (pattern.empty() ? "" : "|") + std::string(alternative);
  return pattern;
}

std::string type_of(const Json& json, const std::string& where) {
  if (!json.is_object() || !json.contains("type") || !json["type"].is_string())
    throw ConfigError("{}: expected an object with a \"type\"", where);
  return json["type"].get<std::string>();
}

bool flag(const Json& json, const char* key, bool otherwise, const std::string& where) {
  if (!json.contains(key)) return otherwise;
  if (!json[key].is_boolean()) throw ConfigError("{}.{}: expected true or false", where, key);
  return json[key].get<bool>();
}

}  // namespace

PreTokenizer PreTokenizer::from_json(const Json& json, const std::string& where) {
  PreTokenizer result;
  if (json.is_null())
    throw ConfigError("{}: null, but a byte-level tokenizer needs a ByteLevel step here", where);
  result.add_step(json, where);
  if (!result.has_byte_level_)
    throw ConfigError("{}: there is no ByteLevel step; only byte-level tokenizers are supported", where);
  result.is_v3_ = result.steps_.size() == 3;
  for (size_t i = 0; result.is_v3_ && i < 3; ++i)
    result.is_v3_ =
        result.steps_[i].kind == Step::Kind::split && result.steps_[i].regex.pattern() == kV3Patterns[i];
  return result;
}

std::string_view PreTokenizer::scheme() const {
  const auto is_split = [&](size_t step, std::string_view begin, bool is_whole) {
    const std::string_view pattern =
        steps_[step].kind == Step::Kind::split ? std::string_view(steps_[step].regex.pattern()) : "";
    return is_whole ? pattern == begin : pattern.starts_with(begin);
  };
  if (is_v3_) return "deepseek-v3";
  if (steps_.size() == 1 && is_split(0, kByteLevelPattern, true)) return "gpt-2";
  if (steps_.size() == 1 && is_split(0, kimi_pattern(), true)) return "kimi-k2";
  // The second and third list letters and punctuation by the hundred; the others tell V2 from DeepSeek-Coder.
  if (steps_.size() == 6 && is_split(0, "[\r\n]", true) && is_split(1, "\\s?[A-Za-z\u00B5\u00C0-", false) &&
      is_split(2, "\\s?[!-/:-~", false) && is_split(3, "\\s+$", true) &&
      is_split(4, "[\u4E00-\u9FA5\u0800-\u4E00\uAC00-\uD7FF]+", true) &&
      steps_[5].kind == Step::Kind::digits_individual)
    return "deepseek-llm";
  return "";
}

PreTokenizer PreTokenizer::kimi() {
  PreTokenizer result;
  result.steps_.push_back({Step::Kind::split, Regex(kimi_pattern(), "the pattern of Kimi")});
  result.has_byte_level_ = true;
  return result;
}

void PreTokenizer::add_step(const Json& json, const std::string& where) {
  const std::string type = type_of(json, where);
  if (has_byte_level_) throw ConfigError("{}: a {} step behind ByteLevel is not supported", where, type);
  if (type == "Sequence") {
    if (!json.contains("pretokenizers") || !json["pretokenizers"].is_array())
      throw ConfigError("{}.pretokenizers: expected a list", where);
    size_t i = 0;
    for (const Json& step : json["pretokenizers"]) {
      const std::string step_where = where + ".pretokenizers[" + std::to_string(i++) + "]";
      if (step.is_object() && step.contains("type") && step["type"] == "Sequence")
        throw ConfigError("{}: a Sequence inside a Sequence is not supported", step_where);
      add_step(step, step_where);
    }
  } else if (type == "Split") {
    if (!json.contains("behavior") || json["behavior"] != "Isolated")
      throw ConfigError("{}.behavior: {} is not supported, only \"Isolated\"", where,
                        json.contains("behavior") ? json["behavior"].dump() : "a missing value");
    if (flag(json, "invert", false, where)) throw ConfigError("{}.invert: true is not supported", where);
    const Json pattern = json.contains("pattern") ? json["pattern"] : Json();
    if (pattern.is_object() && pattern.contains("Regex") && pattern["Regex"].is_string())
      steps_.push_back(
          {Step::Kind::split, Regex(pattern["Regex"].get<std::string>(), where + ".pattern.Regex")});
    else if (pattern.is_object() && pattern.contains("String") && pattern["String"].is_string())
      steps_.push_back({Step::Kind::split,
                        Regex::literal(pattern["String"].get<std::string>(), where + ".pattern.String")});
    else
      throw ConfigError("{}.pattern: expected {{\"Regex\": ...}} or {{\"String\": ...}}", where);
  } else if (type == "Digits") {
    const bool individual = flag(json, "individual_digits", false, where);
    // The regex of a Digits step is never run.
    steps_.push_back(
        {individual ? Step::Kind::digits_individual : Step::Kind::digits_runs, Regex::literal("0", where)});
  } else if (type == "ByteLevel") {
    if (flag(json, "add_prefix_space", true, where))
      throw ConfigError("{}.add_prefix_space: true is not supported (this family has false)", where);
    if (flag(json, "use_regex", true, where))
      steps_.push_back({Step::Kind::split, Regex(kByteLevelPattern, where + ".use_regex")});
    has_byte_level_ = true;
  } else {
    throw ConfigError(
        "{}.type: the pre-tokenizer \"{}\" is not supported; known are Sequence, Split, Digits and "
        "ByteLevel",
        where, type);
  }
}

void PreTokenizer::split_generic(std::string_view text, Scratch& scratch) const {
  if (text.size() > UINT32_MAX)
    throw DataError("a text of {} bytes is too long to tokenize at once: cut it below 4 GiB", text.size());
  std::vector<uint32_t>& ends = scratch.ends;
  std::vector<uint32_t>& next_ends = scratch.next_ends;
  ends.clear();
  if (text.empty()) return;
  ends.push_back(static_cast<uint32_t>(text.size()));
  const char* const base = text.data();
  const auto offset = [&](const char* p) { return static_cast<uint32_t>(p - base); };
  for (const Step& step : steps_) {
    next_ends.clear();
    const char* begin = base;
    for (const uint32_t piece_end : ends) {
      const char* const end = base + piece_end;
      if (step.kind == Step::Kind::split) {
        const char *match_begin, *match_end;
        while (begin < end && step.regex.find(begin, end, match_begin, match_end)) {
          if (match_begin > begin) next_ends.push_back(offset(match_begin));
          next_ends.push_back(offset(match_end));
          begin = match_end;
        }
        if (begin < end) next_ends.push_back(piece_end);
      } else {
        const CodePointSet& numeric = CodePointSet::digits_numeric();
        const bool individual = step.kind == Step::Kind::digits_individual;
        bool in_number = false;
        for (const char* p = begin; p < end;) {
          const char* const start = p;
          const bool is_number = numeric.contains(next_code_point(p));
          if (start > begin && (is_number != in_number || (is_number && individual)))
            next_ends.push_back(offset(start));
          in_number = is_number;
        }
        next_ends.push_back(piece_end);
      }
      begin = end;
    }
    ends.swap(next_ends);
  }
}

}  // namespace fathom::tokenizer
