// Stop strings in a text that arrives in pieces: found across pieces, never given out (API-1).
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace fathom::infer {

// What push() and finish() return, joined, is the text up to the stop string that is complete first (of
// several that end at one byte, the longest); how the text is cut into pieces does not matter. Text is held
// back only while it may be the beginning of a stop string.
class StopStrings {
 public:
  // Throws RequestError(invalid): an empty stop string, or one that is not well-formed UTF-8.
  explicit StopStrings(std::vector<std::string> strings);

  std::string push(std::string_view piece);  // after a stop: always empty
  std::string finish();                      // what is still held back; empty after a stop
  bool is_stopped() const { return is_stopped_; }

 private:
  std::vector<std::string> strings_;  // longest first
  std::string held_;                  // the longest suffix that begins a stop string
  bool is_stopped_ = false;
};

}  // namespace fathom::infer
