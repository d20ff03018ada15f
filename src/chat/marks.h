// The control tokens of DeepSeek's templates, as tokenizer.json spells them (full-width bars U+FF5C, lower blocks
// U+2581).
#pragma once

#include <string_view>

namespace fathom::chat::marks {

inline constexpr std::string_view kBegin = "<\uff5cbegin\u2581of\u2581sentence\uff5c>";
inline constexpr std::string_view kEnd = "<\uff5cend\u2581of\u2581sentence\uff5c>";
inline constexpr std::string_view kPad = "<\uff5c\u2581pad\u2581\uff5c>";
inline constexpr std::string_view kUser = "<\uff5cUser\uff5c>";
inline constexpr std::string_view kAssistant = "<\uff5cAssistant\uff5c>";
inline constexpr std::string_view kThink = "<think>";
inline constexpr std::string_view kEndThink = "</think>";
inline constexpr std::string_view kCallsBegin = "<\uff5ctool\u2581calls\u2581begin\uff5c>";
inline constexpr std::string_view kCallsEnd = "<\uff5ctool\u2581calls\u2581end\uff5c>";
inline constexpr std::string_view kCallBegin = "<\uff5ctool\u2581call\u2581begin\uff5c>";
inline constexpr std::string_view kCallEnd = "<\uff5ctool\u2581call\u2581end\uff5c>";
inline constexpr std::string_view kCallSeparator = "<\uff5ctool\u2581sep\uff5c>";
inline constexpr std::string_view kOutputsBegin = "<\uff5ctool\u2581outputs\u2581begin\uff5c>";
inline constexpr std::string_view kOutputsEnd = "<\uff5ctool\u2581outputs\u2581end\uff5c>";
inline constexpr std::string_view kOutputBegin = "<\uff5ctool\u2581output\u2581begin\uff5c>";
inline constexpr std::string_view kOutputEnd = "<\uff5ctool\u2581output\u2581end\uff5c>";

}  // namespace fathom::chat::marks
