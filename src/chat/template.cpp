#include "chat/template.h"

#include <array>

#include "base/error.h"
#include "chat/marks.h"

namespace fathom::chat {
namespace {

// Writes segments, joining texts.
class Writer {
 public:
  Writer& mark(std::string_view control) {
    out_.push_back({std::string(control), true});
    return *this;
  }
  Writer& text(std::string_view text) {
    if (text.empty()) return *this;
    if (!out_.empty() && !out_.back().is_control)
      out_.back().text += text;
    else
      out_.push_back({std::string(text), false});
    return *this;
  }
  Segments take() { return std::move(out_); }

 private:
  Segments out_;
};

constexpr std::string_view kClose = "</think>";

// Past turns lose what stands before </think>: v3.1 cuts at the first, r1 at the last.
std::string_view without_thinking(const Message& message, bool at_first) {
  const std::string_view content = *message.content;
  if (message.reasoning) return content;
  const size_t at = at_first ? content.find(kClose) : content.rfind(kClose);
  return at == std::string_view::npos ? content : content.substr(at + kClose.size());
}

void write_call(Template which, const ToolCall& call, Writer& out) {
  out.mark(marks::kCallBegin);
  if (which == Template::v3_1) {
    out.text(call.name).mark(marks::kCallSeparator).text(call.arguments);
  } else {
    out.text(call.type).mark(marks::kCallSeparator).text(call.name);
    out.text("\n```json\n").text(call.arguments).text("\n```");
  }
  out.mark(marks::kCallEnd);
}

// All calls of a message, opened and closed once.
void write_calls(Template which, const Message& message, Writer& out) {
  out.mark(marks::kCallsBegin);
  for (size_t i = 0; i < message.tool_calls.size(); ++i) {
    if (i > 0 && which != Template::v3_1) out.text("\n");
    write_call(which, message.tool_calls[i], out);
  }
  out.mark(marks::kCallsEnd);
}

// The description of tools in V3.1's model card; the other templates differ in how a call is spelt.
void write_tools(Template which, const std::vector<ToolDefinition>& tools, Writer& out) {
  out.text("## Tools\nYou have access to the following tools:\n");
  for (const ToolDefinition& tool : tools)
    out.text("\n### " + tool.name + "\nDescription: " + tool.description +
             "\n\nParameters: " + tool.parameters + "\n");
  out.text("\nIMPORTANT: ALWAYS adhere to this exact format for tool use:\n").mark(marks::kCallsBegin);
  write_call(which, {"function", "tool_call_name", "tool_call_arguments"}, out);
  out.text("{additional_tool_calls}").mark(marks::kCallsEnd);
  out.text(
      "\n\nWhere:\n- `tool_call_name` must be an exact match to one of the available tools\n- "
      "`tool_call_arguments` "
      "must be valid JSON that strictly follows the tool's Parameters Schema\n");
  out.text(which == Template::v3_1
               ? "- For multiple tool calls, chain them directly without separators or spaces"
               : "- For multiple tool calls, chain them with a line break between them");
}

void write_system(Template which, const Conversation& conversation, const RenderOptions& options,
                  Writer& out) {
  out.mark(marks::kBegin);
  std::string system;
  bool is_first = true;
  for (const Message& message : conversation.messages) {
    if (message.role != Role::system) continue;
    if (which == Template::r1)
      system = *message.content;
    else
      system += (is_first ? "" : "\n\n") + *message.content;
    is_first = false;
  }
  out.text(system);
  if (!options.tools_in_system_prompt || conversation.tools.empty()) return;
  out.text("\n\n");
  write_tools(which, conversation.tools, out);
}

void write_result(const Message& message, bool is_first, Writer& out) {
  if (is_first)
    out.mark(marks::kOutputsBegin);
  else
    out.text("\n");
  out.mark(marks::kOutputBegin).text(*message.content).mark(marks::kOutputEnd);
}

void write_generation_prompt(Template which, Writer& out) {
  out.mark(marks::kAssistant);
  if (which == Template::r1) out.mark(marks::kThink).text("\n");
}

// v3 and r1 as published. The state is the template's own, never reset where it is not.
void render_v3(Template which, const Conversation& conversation, bool add_generation_prompt, Writer& out) {
  bool is_first = false, is_tool = false, is_output_first = true;
  for (const Message& message : conversation.messages) {
    switch (message.role) {
      case Role::system:
        break;
      case Role::user:
        is_tool = false;
        out.mark(marks::kUser).text(*message.content);
        break;
      case Role::assistant:
        if (!message.content) {
          is_tool = false;
          for (const ToolCall& call : message.tool_calls) {
            if (!is_first) {
              out.mark(marks::kAssistant).mark(marks::kCallsBegin);
              write_call(which, call, out);
              is_first = true;
            } else {
              out.text("\n");
              write_call(which, call, out);
              out.mark(marks::kCallsEnd).mark(marks::kEnd);
            }
          }
        } else if (is_tool) {
          out.mark(marks::kOutputsEnd).text(*message.content).mark(marks::kEnd);
          is_tool = false;
        } else {
          out.mark(marks::kAssistant);
          out.text(which == Template::r1 ? without_thinking(message, false)
                                         : std::string_view(*message.content));
          out.mark(marks::kEnd);
        }
        break;
      case Role::tool:
        is_tool = true;
        write_result(message, is_output_first, out);
        is_output_first = false;
        break;
    }
  }
  if (is_tool)
    out.mark(marks::kOutputsEnd);
  else if (add_generation_prompt)
    write_generation_prompt(which, out);
}

void render_v3_0324(const Conversation& conversation, bool add_generation_prompt, Writer& out) {
  bool is_tool = false, is_output_first = true, is_last_user = false;
  for (const Message& message : conversation.messages) {
    switch (message.role) {
      case Role::system:
        break;
      case Role::user:
        is_tool = false;
        is_last_user = true;
        out.mark(marks::kUser).text(*message.content).mark(marks::kAssistant);
        break;
      case Role::assistant:
        is_last_user = false;
        if (is_tool) out.mark(marks::kOutputsEnd);
        is_tool = false;
        if (message.content) out.text(*message.content);
        if (!message.tool_calls.empty()) {
          is_output_first = true;
          write_calls(Template::v3_0324, message, out);
        }
        out.mark(marks::kEnd);
        break;
      case Role::tool:
        is_last_user = false;
        is_tool = true;
        write_result(message, is_output_first, out);
        is_output_first = false;
        break;
    }
  }
  if (is_tool)
    out.mark(marks::kOutputsEnd);
  else if (add_generation_prompt && !is_last_user)
    out.mark(marks::kAssistant);
}

// What v3, v3-0324 and r1 mean: every group is opened and closed once.
void render_mended(Template which, const Conversation& conversation, bool add_generation_prompt,
                   Writer& out) {
  bool results_are_open = false;
  const auto close_results = [&] {
    if (results_are_open) out.mark(marks::kOutputsEnd);
    return std::exchange(results_are_open, false);
  };
  for (const Message& message : conversation.messages) {
    switch (message.role) {
      case Role::system:
        break;
      case Role::user:
        close_results();
        out.mark(marks::kUser).text(*message.content);
        break;
      case Role::assistant:
        if (!close_results()) out.mark(marks::kAssistant);
        if (message.content)
          out.text(which == Template::r1 ? without_thinking(message, false)
                                         : std::string_view(*message.content));
        if (!message.tool_calls.empty()) write_calls(which, message, out);
        out.mark(marks::kEnd);
        break;
      case Role::tool:
        write_result(message, !results_are_open, out);
        results_are_open = true;
        break;
    }
  }
  if (!close_results() && add_generation_prompt) write_generation_prompt(which, out);
}

void render_v3_1(const Conversation& conversation, const RenderOptions& options, bool add_generation_prompt,
                 Writer& out) {
  bool is_tool = false, is_last_user = false;
  for (const Message& message : conversation.messages) {
    switch (message.role) {
      case Role::system:
        break;
      case Role::user:
        is_tool = false;
        is_last_user = true;
        out.mark(marks::kUser).text(*message.content);
        break;
      case Role::assistant:
        if (!message.tool_calls.empty()) {
          if (is_last_user) out.mark(marks::kAssistant).mark(marks::kEndThink);
          if (message.content) out.text(*message.content);
          write_calls(Template::v3_1, message, out);
        } else {
          if (is_last_user)
            out.mark(marks::kAssistant)
                .mark(message.prefix && options.thinking ? marks::kThink : marks::kEndThink);
          out.text(is_tool ? std::string_view(*message.content) : without_thinking(message, true));
        }
        out.mark(marks::kEnd);
        is_last_user = is_tool = false;
        break;
      case Role::tool:
        is_last_user = false;
        is_tool = true;
        out.mark(marks::kOutputBegin).text(*message.content).mark(marks::kOutputEnd);
        break;
    }
  }
  if (add_generation_prompt && is_last_user && !is_tool)
    out.mark(marks::kAssistant).mark(options.thinking ? marks::kThink : marks::kEndThink);
}

constexpr std::array<std::string_view, 4> kNames = {"v3", "v3-0324", "r1", "v3.1"};

}  // namespace

std::string_view template_name(Template which) { return kNames[static_cast<size_t>(which)]; }

std::optional<Template> find_template(std::string_view name) {
  for (size_t i = 0; i < kNames.size(); ++i)
    if (kNames[i] == name) return static_cast<Template>(i);
  return std::nullopt;
}

std::string joined(const Segments& segments) {
  std::string text;
  for (const Segment& segment : segments) text += segment.text;
  return text;
}

Segments render(Template which, const Conversation& conversation, const RenderOptions& options) {
  const auto& messages = conversation.messages;
  if (options.add_generation_prompt && !messages.empty() && messages.back().prefix) {
    Conversation before = conversation;
    before.messages.pop_back();
    Segments prompt = render(which, before, options);
    const std::string& text = messages.back().content ? *messages.back().content : std::string();
    if (!prompt.empty() && !prompt.back().is_control)
      prompt.back().text += text;
    else if (!text.empty())
      prompt.push_back({text, false});
    return prompt;
  }
  Writer out;
  write_system(which, conversation, options, out);
  const bool prompt = options.add_generation_prompt;
  if (which == Template::v3_1)
    render_v3_1(conversation, options, prompt, out);
  else if (options.mend_tool_calls)
    render_mended(which, conversation, prompt, out);
  else if (which == Template::v3_0324)
    render_v3_0324(conversation, prompt, out);
  else
    render_v3(which, conversation, prompt, out);
  return out.take();
}

bool opens_thinking(const Segments& prompt) {
  // After the mark r1's prompt has a line end, and a continued message its text.
  for (size_t i = prompt.size(); i-- > 0;)
    if (prompt[i].is_control) return prompt[i].text == marks::kThink;
  return false;
}

Reasoning split_reasoning(const Message& message) {
  constexpr std::string_view kSpace = " \t\r\n", kOpen = "<think>";
  std::string_view content = message.content ? std::string_view(*message.content) : std::string_view();
  if (message.reasoning) return {message.reasoning, std::string(content)};
  const size_t begin = content.find_first_not_of(kSpace);
  if (begin == std::string_view::npos || !content.substr(begin).starts_with(kOpen))
    return {std::nullopt, std::string(content)};
  const size_t from = begin + kOpen.size(), end = content.find(kClose, from);
  if (end == std::string_view::npos) return {std::nullopt, std::string(content)};
  const auto trimmed = [&](std::string_view text) {
    const size_t first = text.find_first_not_of(kSpace);
    if (first == std::string_view::npos) return std::string();
    return std::string(text.substr(first, text.find_last_not_of(kSpace) - first + 1));
  };
  std::string_view after = content.substr(end + kClose.size());
  after.remove_prefix(std::min(after.find_first_not_of(kSpace), after.size()));
  return {trimmed(content.substr(from, end - from)), std::string(after)};
}

Segments reply(Template which, const Message& message, const Segments& prompt) {
  Writer out;
  if (which == Template::r1 || which == Template::v3_1) {
    const Reasoning parts = split_reasoning(message);
    if (opens_thinking(prompt)) {
      // R1 writes "<think>\nreasoning\n</think>\n\nanswer", V3.1 "<think>reasoning</think>answer".
      if (parts.text) out.text(*parts.text);
      if (which == Template::r1) out.text("\n");
      out.mark(marks::kEndThink);
      if (which == Template::r1) out.text("\n\n");
    }
    out.text(parts.content);
  } else if (message.content) {
    out.text(*message.content);
  }
  if (!message.tool_calls.empty()) write_calls(which, message, out);
  out.mark(marks::kEnd);
  return out.take();
}

}  // namespace fathom::chat
