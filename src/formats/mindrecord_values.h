// The encodings of values inside MindRecord files.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "formats/mindrecord.h"

namespace fathom::formats {

// Each returns what is wrong with the bytes, empty where nothing is.
std::string decode_mind_integers(std::string_view bytes, MindType type, std::vector<int64_t>& out);
std::string decode_mind_floats(std::string_view bytes, MindType type, std::vector<double>& out);
// A MessagePack map of scalars: integers, floats, strings.
using MindScalars = std::map<std::string, MindValue, std::less<>>;
std::string decode_mind_scalars(std::string_view bytes, MindScalars& out);

void encode_mind_integers(std::span<const int64_t> values, std::string& out);
void encode_mind_floats(std::span<const double> values, MindType type, std::string& out);

}  // namespace fathom::formats
