#include "tokenizer/lossy.h"

#include <algorithm>

#include "tokenizer/utf8.h"

namespace fathom::tokenizer {
namespace {

// The length of the longest beginning of bytes (which is ill-formed or cut off at its first byte) that is a
// beginning of some character; 0 when not even the first byte is. `cut` tells that it reaches the end of the
// bytes.
size_t partial_length(std::string_view bytes, bool& cut) {
  cut = false;
  for (size_t length = std::min<size_t>(bytes.size(), 3); length > 0; --length) {
    // A beginning is right when some continuation makes a character of it: try the smallest and the largest.
    for (const char fill : {'\x80', '\xBF', '\x90'}) {
      std::string probe(bytes.substr(0, length));
      while (probe.size() < 4) {
        probe += fill;
        if (find_invalid_utf8(probe) == std::string_view::npos) {
          cut = length == bytes.size();
          return length;
        }
      }
    }
  }
  return 0;
}

}  // namespace

size_t append_lossy(std::string& out, std::string_view bytes, bool is_last) {
  size_t at = 0;
  while (at < bytes.size()) {
    const std::string_view rest = bytes.substr(at);
    const size_t invalid = find_invalid_utf8(rest);
    if (invalid == std::string_view::npos) {
      out += rest;
      return bytes.size();
    }
    out += rest.substr(0, invalid);
    at += invalid;
    bool cut;
    const size_t length = partial_length(bytes.substr(at), cut);
    if (cut && !is_last) return at;
    out += "\uFFFD";
    at += std::max<size_t>(length, 1);
  }
  return at;
}

}  // namespace fathom::tokenizer
