#include "infer/stop_strings.h"

#include <algorithm>

#include "infer/engine_api.h"
#include "tokenizer/utf8.h"

namespace fathom::infer {

StopStrings::StopStrings(std::vector<std::string> strings) : strings_(std::move(strings)) {
  for (const std::string& text : strings_) {
    if (text.empty())
      throw RequestError(RequestFault::invalid, "a stop string is empty: it would stop at once");
    if (const size_t at = tokenizer::find_invalid_utf8(text); at != std::string_view::npos)
      throw RequestError(RequestFault::invalid,
                         fmt::format("a stop string is not valid UTF-8 at byte {}", at));
  }
  std::sort(strings_.begin(), strings_.end(), [](const std::string& a, const std::string& b) {
    return a.size() != b.size() ? a.size() > b.size() : a < b;
  });
}

std::string StopStrings::push(std::string_view piece) {
  if (is_stopped_) return {};
  if (strings_.empty()) return std::string(piece);
  std::string out;
  for (const char byte : piece) {
    held_ += byte;
    for (const std::string& stop : strings_) {
      if (!held_.ends_with(stop)) continue;
      out.append(held_, 0, held_.size() - stop.size());
      held_.clear();
      is_stopped_ = true;
      return out;
    }
    // Give out the front until the rest begins a stop string (or nothing is left).
    size_t begin = 0;
    const auto may_complete = [&](const std::string& stop) {
      return std::string_view(stop).starts_with(std::string_view(held_).substr(begin));
    };
    while (begin < held_.size() && std::none_of(strings_.begin(), strings_.end(), may_complete)) ++begin;
    out.append(held_, 0, begin);
    held_.erase(0, begin);
  }
  return out;
}

std::string StopStrings::finish() {
  std::string rest;
  rest.swap(held_);
  return rest;
}

}  // namespace fathom::infer
