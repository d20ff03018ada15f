// The fixed parts of report.html. The page is kPageHead + title + kPageStyle + kPageBody + data (a JSON
// object) + kPageScript.
#pragma once

#include <string_view>

namespace fathom::train {

extern const std::string_view kPageHead;   // up to the title's text
extern const std::string_view kPageStyle;  // closes the title
extern const std::string_view kPageBody;   // up to the data, inside a script element of type application/json
extern const std::string_view kPageScript;  // to the end

}  // namespace fathom::train
