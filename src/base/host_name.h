// The name of this machine, for messages.
#pragma once

#include <string>

namespace fathom {

std::string host_name();  // "localhost" where there is none

}  // namespace fathom
