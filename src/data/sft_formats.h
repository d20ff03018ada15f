// The forms of instruction data as conversations.
//   alpaca     {"instruction": ..., "input": ..., "output": ...}, optional system, history: [[question, answer], ...].
//              The user says the instruction and, on a line of its own behind it, the input where it is not empty.
//   sharegpt   {"conversations": [{"from": "human", "value": ...}, {"from": "gpt", ...}]}, optional system and tools (a
//              list, or its JSON as a string). from: system; human, user; gpt, assistant, chatgpt, bing, bard;
//              function_call (value: JSON of a call or a list of calls); observation, tool.
//   messages   OpenAI's, see chat/conversation.h
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "base/json.h"
#include "chat/conversation.h"

namespace fathom::data {

enum class SftFormat { alpaca, sharegpt, messages };
std::string_view sft_format_name(SftFormat format);

// By the keys of a record: messages, conversations, instruction. Throws DataError: none of them.
SftFormat detect_sft_format(const Json& record, const std::string& where);
// Throws DataError "WHERE: key.path: ...". `system` stands in where the record has no system message; may be empty.
chat::Conversation read_sft_record(const Json& record, SftFormat format, const std::string& system,
                                   const std::string& where);

}  // namespace fathom::data
