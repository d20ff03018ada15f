// "did you mean": the candidate nearest to a misspelt word.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace fathom {

// Empty when nothing is near (edit distance above a third of the word).
std::string nearest(std::string_view word, const std::vector<std::string>& candidates);

}  // namespace fathom
