#include "tokenizer/regex.h"

#include <algorithm>

#include "base/error.h"
#include "tokenizer/utf8.h"

namespace fathom::tokenizer {
namespace {

// What a piece of the pattern can begin with, and whether it can be empty.
struct Lead {
  CodePointSet characters;
  bool can_be_empty = true;
};

constexpr int kMaxDepth = 32;  // of groups and sets inside one another

}  // namespace

// A recursive-descent parser that emits the program as it goes.
class RegexParser {
 public:
  RegexParser(Regex& regex, std::string_view pattern, const std::string& where)
      : regex_(regex), text_(pattern), where_(where) {}

  void parse() {
    const size_t invalid = find_invalid_utf8(text_);
    if (invalid != std::string_view::npos) refuse("bytes that are not UTF-8", invalid);
    const Lead lead = parse_alternatives(false, 0);
    if (at_ < text_.size()) refuse("a parenthesis that closes nothing", at_);
    if (lead.can_be_empty) refuse("a pattern that can match the empty string", 0);
    emit({Regex::Op::match});
    regex_.first_characters_ = lead.characters;
    const auto& first = regex_.program_.front();
    regex_.leading_run_ = first.op == Regex::Op::loop && first.max == Regex::kUnbounded;
  }

 private:
  [[noreturn]] void refuse(const std::string& what, size_t at) const {
    throw ConfigError(
        "{}: the pattern {:?} uses {} at byte {}: Fathom does not know it and will not guess; use a "
        "tokenizer of the "
        "DeepSeek-V3 family",
        where_, std::string(text_), what, at);
  }

  uint32_t emit(const Regex::Instruction& instruction) {
    regex_.program_.push_back(instruction);
    return static_cast<uint32_t>(regex_.program_.size() - 1);
  }
  uint32_t here() const { return static_cast<uint32_t>(regex_.program_.size()); }
  bool done() const { return at_ >= text_.size(); }
  bool looking_at(std::string_view s) const { return text_.substr(at_, s.size()) == s; }
  bool take(std::string_view s) {
    if (!looking_at(s)) return false;
    at_ += s.size();
    return true;
  }
  uint32_t take_code_point() {
    const char* p = text_.data() + at_;
    const char* start = p;
    const uint32_t c = next_code_point(p);
    at_ += static_cast<size_t>(p - start);
    return c;
  }

  Lead parse_alternatives(bool ignore_case, int depth) {
    if (depth > kMaxDepth) refuse("groups nested too deeply", at_);
    // split(first, second), alternative, jump end, split..., the last alternative.
    std::vector<uint32_t> jumps;
    Lead all;
    all.can_be_empty = false;
    while (true) {
      const uint32_t split = emit({Regex::Op::split});
      const Lead lead = parse_sequence(ignore_case, depth);
      all.characters = all.characters.united(lead.characters);
      all.can_be_empty |= lead.can_be_empty;
      if (!take("|")) {
        // The last alternative needs no split: make it a step to the next instruction.
        regex_.program_[split] = {Regex::Op::jump};
        regex_.program_[split].first = split + 1;
        break;
      }
      jumps.push_back(emit({Regex::Op::jump}));
      regex_.program_[split].first = split + 1;
      regex_.program_[split].second = here();
    }
    for (const uint32_t jump : jumps) regex_.program_[jump].first = here();
    if (jumps.empty() && depth == 0) {
      // A pattern of one alternative starts with its first real instruction, so that leading_run_ can be
      // seen.
      regex_.program_.erase(regex_.program_.begin());
      for (auto& instruction : regex_.program_) {
        if (instruction.op == Regex::Op::split) --instruction.second;
        if (instruction.op == Regex::Op::split || instruction.op == Regex::Op::jump ||
            instruction.op == Regex::Op::look)
          --instruction.first;
      }
    }
    return all;
  }

  Lead parse_sequence(bool ignore_case, int depth) {
    Lead sequence;
    while (!done() && !looking_at("|") && !looking_at(")")) {
      const Lead item = parse_item(ignore_case, depth);
      if (sequence.can_be_empty) {
        sequence.characters = sequence.characters.united(item.characters);
        sequence.can_be_empty = item.can_be_empty;
      }
    }
    return sequence;
  }

  Lead parse_item(bool ignore_case, int depth) {
    const size_t start = at_;
    if (take("(?=")) return parse_look(false, ignore_case, depth);
    if (take("(?!")) return parse_look(true, ignore_case, depth);
    if (take("(?:")) return parse_group(ignore_case, depth);
    if (take("(?i:")) return parse_group(true, depth);
    if (looking_at("(?")) refuse("the group " + std::string(text_.substr(start, 4)), start);
    if (looking_at("(")) refuse("a capturing group", start);
    if (take("$")) {
      emit({Regex::Op::line_end});
      if (!done() && !looking_at("|") && !looking_at(")")) refuse("$ before the end", start);
      return {};
    }
    if (looking_at("^")) refuse("the anchor ^", start);
    if (looking_at(".")) refuse("the dot", start);
    if (looking_at("*") || looking_at("+") || looking_at("?")) refuse("a repetition of nothing", start);
    if (looking_at("{")) refuse("a bare {", start);

    CodePointSet set;
    if (take("[")) {
      if (ignore_case) refuse("a set inside (?i:", start);
      set = parse_set(0);
    } else if (take("\\")) {
      set = parse_escape(false, start);
      if (ignore_case) refuse("an escape inside (?i:", start);
    } else {
      const uint32_t c = take_code_point();
      set = ignore_case ? both_cases(c, start) : CodePointSet({{c, c}});
    }
    Regex::Instruction loop{Regex::Op::loop};
    loop.set = static_cast<uint32_t>(regex_.sets_.size());
    const bool repeated = parse_repeat(loop.min, loop.max);
    if (ignore_case && repeated) refuse("a repetition inside (?i:", start);
    regex_.sets_.push_back(set);
    emit(loop);
    return {set, loop.min == 0};
  }

  Lead parse_look(bool negative, bool ignore_case, int depth) {
    const size_t start = at_;
    const uint32_t look = emit({Regex::Op::look});
    parse_alternatives(ignore_case, depth + 1);
    if (!take(")")) refuse("a group that is not closed", start);
    emit({Regex::Op::match});
    regex_.program_[look].negative = negative;
    regex_.program_[look].first = here();
    return {};
  }

  Lead parse_group(bool ignore_case, int depth) {
    const size_t start = at_;
    const uint32_t split = emit({Regex::Op::split});
    Lead lead = parse_alternatives(ignore_case, depth + 1);
    if (!take(")")) refuse("a group that is not closed", start);
    regex_.program_[split].first = split + 1;
    regex_.program_[split].second = here();
    const size_t repeat = at_;
    if (take("?")) {
      lead.can_be_empty = true;
      if (looking_at("?") || looking_at("+")) refuse("a lazy or possessive repetition", repeat);
    } else {
      regex_.program_[split].op = Regex::Op::jump;
      if (looking_at("*") || looking_at("+") || looking_at("{")) refuse("a repeated group", repeat);
    }
    return lead;
  }

  bool parse_repeat(uint32_t& min, uint32_t& max) {
    const size_t start = at_;
    min = max = 1;
    if (take("?")) {
      min = 0;
    } else if (take("*")) {
      min = 0, max = Regex::kUnbounded;
    } else if (take("+")) {
      max = Regex::kUnbounded;
    } else if (take("{")) {
      min = parse_number(start);
      max = min;
      if (take(",")) max = looking_at("}") ? Regex::kUnbounded : parse_number(start);
      if (!take("}")) refuse("a repetition that is not closed", start);
      if (max < min || max == 0) refuse("a repetition with its bounds reversed or zero", start);
    } else {
      return false;
    }
    if (looking_at("?") || looking_at("+") || looking_at("*") || looking_at("{"))
      refuse("a lazy, possessive or double repetition", start);
    return true;
  }

  uint32_t parse_number(size_t start) {
    uint32_t value = 0;
    size_t digits = 0;
    while (!done() && text_[at_] >= '0' && text_[at_] <= '9') {
      value = value * 10 + static_cast<uint32_t>(text_[at_++] - '0');
      if (++digits > 4) refuse("a repetition above 9999", start);
    }
    if (digits == 0) refuse("a repetition without a number", start);
    return value;
  }

  uint32_t parse_hex(size_t min_digits, size_t max_digits, size_t start) {
    uint32_t value = 0;
    size_t digits = 0;
    while (!done() && digits < max_digits) {
      const char c = text_[at_];
      uint32_t digit;
      if (c >= '0' && c <= '9')
        digit = static_cast<uint32_t>(c - '0');
      else if (c >= 'a' && c <= 'f')
        digit = static_cast<uint32_t>(c - 'a' + 10);
      else if (c >= 'A' && c <= 'F')
        digit = static_cast<uint32_t>(c - 'A' + 10);
      else
        break;
      value = value * 16 + digit;
      ++digits, ++at_;
    }
    if (digits < min_digits || value > kMaxCodePoint) refuse("a malformed code point", start);
    return value;
  }

  // Behind the backslash. In a set (`in_set`) an escaped letter may also be a range's end, so a single
  // character is told apart by single_ (its value), kMaxCodePoint + 1 otherwise.
  CodePointSet parse_escape(bool in_set, size_t start) {
    if (done()) refuse("a backslash at the end", start);
    single_ = kMaxCodePoint + 1;
    const uint32_t c = take_code_point();
    const auto one = [&](uint32_t value) {
      single_ = value;
      return CodePointSet({{value, value}});
    };
    switch (c) {
      case 'r':
        return one('\r');
      case 'n':
        return one('\n');
      case 't':
        return one('\t');
      case 'f':
        return one('\f');
      case 'v':
        return one('\v');
      case 's':
        return CodePointSet::white_space();
      case 'S':
        return CodePointSet::white_space().complement();
      case 'u':
        return one(parse_hex(4, 4, start));
      case 'x': {
        if (!take("{")) refuse("\\x without braces", start);
        const uint32_t value = parse_hex(1, 6, start);
        if (!take("}")) refuse("a malformed code point", start);
        return one(value);
      }
      case 'p':
      case 'P': {
        if (!take("{")) refuse("\\p without braces", start);
        const bool inverted = take("^");
        const size_t close = text_.find('}', at_);
        if (close == std::string_view::npos) refuse("a property that is not closed", start);
        const std::string name(text_.substr(at_, close - at_));
        CodePointSet set;
        if (!CodePointSet::property(name, set)) refuse("the property \\p{" + name + "}", start);
        at_ = close + 1;
        return (c == 'P') != inverted ? set.complement() : set;
      }
      default:
        if (c < 128 && !(c >= '0' && c <= '9') && !(c >= 'A' && c <= 'Z') && !(c >= 'a' && c <= 'z'))
          return one(c);
        std::string name = "the escape \\";
        append_utf8(name, c);
        refuse(name + (in_set ? " in a set" : ""), start);
    }
  }

  // Behind the opening bracket: union of items, && between unions, negation of the whole.
  CodePointSet parse_set(int depth) {
    const size_t start = at_ - 1;
    if (depth > kMaxDepth) refuse("sets nested too deeply", start);
    const bool negated = take("^");
    CodePointSet result, part;
    bool has_left_side = false, any = false;
    if (looking_at("]")) refuse("an empty set", start);
    while (true) {
      if (done()) refuse("a set that is not closed", start);
      if (take("]")) break;
      if (take("&&")) {
        if (!any) refuse("&& without a left side", start);
        result = has_left_side ? result.intersected(part) : part;
        has_left_side = true;
        part = CodePointSet();
        any = false;
        continue;
      }
      any = true;
      if (looking_at("[:")) refuse("a POSIX bracket", at_);
      if (take("[")) {
        part = part.united(parse_set(depth + 1));
        continue;
      }
      const size_t item = at_;
      uint32_t first;
      if (take("\\")) {
        const CodePointSet set = parse_escape(true, item);
        if (single_ > kMaxCodePoint) {
          part = part.united(set);
          if (looking_at("-") && !looking_at("-]")) refuse("a range that starts with a class", item);
          continue;
        }
        first = single_;
      } else {
        first = take_code_point();
      }
      uint32_t last = first;
      if (looking_at("-") && !looking_at("-]") && !looking_at("-&&")) {
        take("-");
        if (done()) refuse("a set that is not closed", start);
        if (looking_at("[")) refuse("a range that ends with a class", item);
        if (take("\\")) {
          parse_escape(true, item);
          if (single_ > kMaxCodePoint) refuse("a range that ends with a class", item);
          last = single_;
        } else {
          last = take_code_point();
        }
        if (last < first) refuse("a range with its ends reversed", item);
      }
      part = part.united(CodePointSet({{first, last}}));
    }
    if (has_left_side && !any) refuse("&& without a right side", start);
    if (has_left_side) part = result.intersected(part);
    return negated ? part.complement() : part;
  }

  // Case folding of one character; of all of Unicode only s and k have a third form. Two letters that fold
  // together into one ligature (ss, st, ff, fi, fl) are another matter, and refused.
  CodePointSet both_cases(uint32_t c, size_t at) {
    if (c >= 128) refuse("a character outside ASCII inside (?i:", at);
    const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    if (!letter) return CodePointSet({{c, c}});
    const uint32_t lower = c | 0x20, upper = lower - 0x20;
    if (!done()) {
      const char pair[2] = {static_cast<char>(lower), static_cast<char>(text_[at_] | 0x20)};
      for (const std::string_view ligature : {"ss", "st", "ff", "fi", "fl"})
        if (ligature == std::string_view(pair, 2))
          refuse("letters that fold into a ligature inside (?i:", at);
    }
    std::vector<CodePointRange> forms = {{lower, lower}, {upper, upper}};
    if (lower == 's') forms.push_back({0x17F, 0x17F});    // long s
    if (lower == 'k') forms.push_back({0x212A, 0x212A});  // Kelvin sign
    return CodePointSet(std::move(forms));
  }

  Regex& regex_;
  std::string_view text_;
  const std::string& where_;
  size_t at_ = 0;
  uint32_t single_ = kMaxCodePoint + 1;
};

Regex::Regex(std::string_view pattern, const std::string& where) : pattern_(pattern) {
  RegexParser(*this, pattern_, where).parse();
  for (CodePointSet& set : sets_) set.make_table();
  first_characters_.make_table();
}

Regex Regex::literal(std::string_view text, const std::string& where) {
  if (text.empty()) throw ConfigError("{}: the split string is empty", where);
  if (find_invalid_utf8(text) != std::string_view::npos)
    throw ConfigError("{}: the split string is not UTF-8", where);
  Regex regex;
  regex.pattern_ = text;
  for (const char* p = text.data(); p < text.data() + text.size();) {
    const uint32_t c = next_code_point(p);
    Instruction loop{Op::loop};
    loop.set = static_cast<uint32_t>(regex.sets_.size());
    regex.sets_.push_back(CodePointSet({{c, c}}));
    regex.program_.push_back(loop);
  }
  regex.program_.push_back({Op::match});
  regex.first_characters_ = regex.sets_.front();
  return regex;
}

// The recursion is bounded by the length of the program: no instruction leads backwards.
const char* Regex::run(uint32_t at, const char* p, const char* end) const {
  while (true) {
    const Instruction& instruction = program_[at];
    switch (instruction.op) {
      case Op::match:
        return p;
      case Op::jump:
        at = instruction.first;
        break;
      case Op::split: {
        if (const char* matched = run(instruction.first, p, end)) return matched;
        at = instruction.second;
        break;
      }
      case Op::line_end:
        if (p != end && *p != '\n') return nullptr;
        ++at;
        break;
      case Op::look: {
        const bool found = run(at + 1, p, end) != nullptr;
        if (found == instruction.negative) return nullptr;
        at = instruction.first;
        break;
      }
      case Op::loop: {
        const CodePointSet& set = sets_[instruction.set];
        const char* minimum = instruction.min == 0 ? p : nullptr;
        uint32_t count = 0;
        while (count < instruction.max && p < end) {
          const char* next = p;
          if (!set.contains(next_code_point(next))) break;
          p = next;
          if (++count == instruction.min) minimum = p;
        }
        if (count < instruction.min) return nullptr;
        ++at;
        if (program_[at].op == Op::match) return p;
        // Give back one character at a time.
        while (p > minimum) {
          if (const char* matched = run(at, p, end)) return matched;
          p = previous_character(p);
        }
        break;
      }
    }
  }
}

bool Regex::find(const char* from, const char* end, const char*& match_begin, const char*& match_end) const {
  for (const char* p = from; p < end;) {
    const char* next = p;
    if (first_characters_.contains(next_code_point(next))) {
      if (const char* matched = run(0, p, end)) {
        match_begin = p;
        match_end = matched;
        return true;
      }
      // After a leading run fails at every length, it fails from every later start inside the run too
      // (nothing looks behind): skip it, or `\s+$` would take quadratic time. Bounded minimum: only when the
      // run was long enough.
      if (leading_run_ && program_[0].min <= 1) {
        const CodePointSet& set = sets_[program_[0].set];
        while (next < end) {
          const char* after = next;
          if (!set.contains(next_code_point(after))) break;
          next = after;
        }
      }
    }
    p = next;
  }
  return false;
}

}  // namespace fathom::tokenizer
