// The string of a line of .jsonl: the streaming scanner judges as nlohmann does and takes the same string, however
// the line is cut.
#include <nlohmann/json.hpp>

#include "data/json_text.h"
#include "fuzz/fuzz.h"
#include "tokenizer/utf8.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace fathom;
  if (size == 0) return 0;
  const size_t step = data[0] % 7 + 1;
  const std::string_view line = fuzz::as_text(data + 1, size - 1);
  const auto scan = [&](size_t bytes, std::string& text) {
    data::JsonTextScanner scanner("text");
    scanner.start();
    for (size_t at = 0; at < line.size(); at += bytes)
      if (!scanner.feed(line.substr(at, bytes), text)) return scanner.problem();
    return scanner.finish() ? std::string() : scanner.problem();
  };
  std::string whole, cut;
  const std::string problem = scan(line.size() + 1, whole);
  FATHOM_CHECK(scan(step, cut) == problem);
  FATHOM_CHECK(!problem.empty() || whole == cut);
  if (tokenizer::find_invalid_utf8(line) != std::string_view::npos) return 0;  // checked elsewhere
  // To nlohmann a NUL is the end, and it passes over a byte-order mark.
  if (line.find('\0') != std::string_view::npos || line.starts_with("\xef\xbb\xbf")) return 0;
  const auto json = nlohmann::json::parse(line, nullptr, false);
  const bool holds = json.is_object() && json.contains("text") && json["text"].is_string();
  if (problem.empty()) {
    // nlohmann refuses numbers that no double holds.
    FATHOM_CHECK(json.is_discarded() || (holds && json["text"].get<std::string>() == whole));
  } else if (holds) {
    FATHOM_CHECK(problem.find("twice") != std::string::npos || problem.find("nested") != std::string::npos ||
                 line.find("\"text\"", line.find("\"text\"") + 1) != std::string_view::npos);
  }
  return 0;
}
