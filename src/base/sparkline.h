// A curve in one line of text, of the eight Unicode block heights.
#pragma once

#include <string>
#include <vector>

namespace fathom {

// At most `width` characters (3 bytes each in UTF-8): each shows the mean of its share of `values`, scaled so
// that the lowest mean is the lowest block and the highest the full one. Values that are not finite are left
// out; a share without a finite value shows as a blank. Empty for no values or width < 1; all equal: the
// lowest block.
std::string sparkline(const std::vector<double>& values, int width);

}  // namespace fathom
