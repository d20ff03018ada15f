// Bytes to text: whole characters as they are, everything else as U+FFFD.
#pragma once

#include <string>
#include <string_view>

namespace fathom::tokenizer {

// Appends `bytes` to `out`; each maximal part of an ill-formed sequence becomes one U+FFFD (Unicode standard,
// section 3.9). is_last = false: a sequence at the end that more bytes could complete is left alone. Returns
// the bytes consumed.
size_t append_lossy(std::string& out, std::string_view bytes, bool is_last);

}  // namespace fathom::tokenizer
