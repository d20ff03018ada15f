// The chat encodings of the family as native code, byte-identical to the published Jinja templates under
// transformers (jinja2 with trim_blocks and lstrip_blocks), their faults included:
//   v3       DeepSeek-V3 of December 2024. One tool call gets no closing marks and no end token, n > 1 calls get n - 1
//            pairs; a second message with calls lacks its opening; an assistant's calls beside content are dropped.
//   v3-0324  DeepSeek-V3-0324. A second group of tool results after an answer lacks its opening mark.
//   r1       DeepSeek-R1 and its distillations: v3's marks, of several system messages only the last, past turns
//            without what stands before </think>, and a prompt that ends with "<think>\n".
//   v3.1     DeepSeek-V3.1(-Terminus): variable `thinking`, tool calls without type and fence.
// Two deviations. A message that carries reasoning beside its content keeps that content whole, even where it quotes
// </think> (the templates, which know no such field, would cut it). An empty list of tool_calls counts as none.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "chat/conversation.h"

namespace fathom::chat {

enum class Template { v3, v3_0324, r1, v3_1 };
std::string_view template_name(Template which);  // "v3", "v3-0324", "r1", "v3.1"
std::optional<Template> find_template(std::string_view name);

// Which of them a published template's text is: compared whole, but for the spelling of line ends (a Jinja string may
// write "\n" or hold the character) and white space around it.
std::optional<Template> recognise_template(std::string_view jinja);
// The template of a tokenizer's or checkpoint's directory: chat_template.jinja, else chat_template of
// tokenizer_config.json. nullopt: there is none. Throws ConfigError: it is none of the four.
std::optional<Template> template_of(const std::filesystem::path& directory);

// A rendered piece: a control mark of the template, or text, in which no mark is ever recognised.
struct Segment {
  std::string text;
  bool is_control = false;
  bool operator==(const Segment&) const = default;
};
using Segments = std::vector<Segment>;  // texts next to each other are joined; none is empty
std::string joined(const Segments& segments);

struct RenderOptions {
  bool add_generation_prompt = true;
  bool thinking = false;  // v3.1 only, as the template's variable of that name
  // false: as published. true: each group of calls and results is opened and closed once, and calls beside content
  // are kept (v3, v3-0324, r1; v3.1 has none of these faults).
  bool mend_tool_calls = false;
  // The templates show no tool definitions. true: they follow the system prompt, in the words of V3.1's model card.
  bool tools_in_system_prompt = false;
};

// The whole conversation. With add_generation_prompt and a last message that is an assistant's with `prefix`, the
// prompt ends with that message's text, to be continued.
Segments render(Template which, const Conversation& conversation, const RenderOptions& options);

// Whether the model's output goes on inside reasoning that this prompt has opened: the start of a reply's parser.
bool opens_thinking(const Segments& prompt);

// What the model is to say after `prompt` (rendered with a generation prompt): reasoning where the prompt opened it
// or, without, an empty one; content; calls, always closed; the end token.
Segments reply(Template which, const Message& message, const Segments& prompt);

// The reasoning of an assistant's message and the content without it: the field, or what stands inside a leading
// <think> ... </think> of the content, without the white space around it.
struct Reasoning {
  std::optional<std::string> text;
  std::string content;
};
Reasoning split_reasoning(const Message& message);

}  // namespace fathom::chat
