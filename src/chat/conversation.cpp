#include "chat/conversation.h"

#include "base/error.h"
#include "base/suggest.h"

namespace fathom::chat {
namespace {

[[noreturn]] void fail(const std::string& where, const std::string& path, const std::string& problem) {
  throw DataError("{}: {}: {}", where, path, problem);
}

const char* kind_of(const Json& json) { return json.is_null() ? "nothing" : json.type_name(); }

const Json* find(const Json& object, const char* key) {
  const auto it = object.find(key);
  return it == object.end() || it->is_null() ? nullptr : &*it;
}

std::string string_at(const Json& object, const char* key, const std::string& where,
                      const std::string& path) {
  const Json* value = find(object, key);
  if (!value || !value->is_string())
    fail(where, path + "." + key,
         fmt::format("expected a string, got {}", value ? kind_of(*value) : "nothing"));
  return value->get<std::string>();
}

Role parse_role(const std::string& role, const std::string& where, const std::string& path) {
  if (role == "system" || role == "developer") return Role::system;
  if (role == "user") return Role::user;
  if (role == "assistant") return Role::assistant;
  if (role == "tool" || role == "function") return Role::tool;
  const std::string near = nearest(role, {"system", "user", "assistant", "tool"});
  fail(where, path,
       fmt::format("unknown role {:?}{}: use system, user, assistant or tool", role,
                   near.empty() ? "" : " (did you mean " + near + "?)"));
}

// A string, or a list of text parts joined.
std::optional<std::string> parse_content(const Json& message, const std::string& where,
                                         const std::string& path) {
  const Json* content = find(message, "content");
  if (!content) return std::nullopt;
  if (content->is_string()) return content->get<std::string>();
  if (!content->is_array())
    fail(where, path + ".content",
         fmt::format("expected a string or a list of text parts, got {}", kind_of(*content)));
  std::string text;
  for (size_t i = 0; i < content->size(); ++i) {
    const Json& part = (*content)[i];
    const std::string at = fmt::format("{}.content[{}]", path, i);
    if (!part.is_object()) fail(where, at, fmt::format("expected an object, got {}", kind_of(part)));
    const std::string type = string_at(part, "type", where, at);
    if (type != "text")
      fail(where, at + ".type", fmt::format("{:?} is not supported: these models read text only", type));
    text += string_at(part, "text", where, at);
  }
  return text;
}

bool parse_flag(const Json& message, const char* key, bool otherwise, const std::string& where,
                const std::string& path) {
  const Json* value = find(message, key);
  if (!value) return otherwise;
  if (value->is_boolean()) return value->get<bool>();
  if (value->is_number() && (*value == 0 || *value == 1)) return *value == 1;
  fail(where, path + "." + key, fmt::format("expected true, false, 0 or 1, got {}", value->dump()));
}

Message parse_message(const Json& json, const std::string& where, const std::string& path) {
  if (!json.is_object())
    fail(where, path, fmt::format("expected an object with role and content, got {}", kind_of(json)));
  Message message;
  message.role = parse_role(string_at(json, "role", where, path), where, path + ".role");
  message.content = parse_content(json, where, path);
  for (const char* key : {"reasoning_content", "reasoning", "thinking"})
    if (!message.reasoning && find(json, key)) message.reasoning = string_at(json, key, where, path);
  const Json* calls = find(json, "tool_calls");
  // [] means none: a template that asks whether the field is there would write an empty group of calls.
  if (calls && !calls->is_array())
    fail(where, path + ".tool_calls", fmt::format("expected a list, got {}", kind_of(*calls)));
  if (message.role == Role::assistant) {
    if (calls)
      for (size_t i = 0; i < calls->size(); ++i) {
        const std::string at = fmt::format("{}.tool_calls[{}]", path, i);
        const Json& call = (*calls)[i];
        if (!call.is_object()) fail(where, at, fmt::format("expected an object, got {}", kind_of(call)));
        const Json* function = find(call, "function");
        if (!function) fail(where, at + ".function", "missing: it holds the name and the arguments");
        message.tool_calls.push_back(parse_function_call(*function, where, at + ".function"));
        if (find(call, "type")) message.tool_calls.back().type = string_at(call, "type", where, at);
      }
    message.prefix = parse_flag(json, "prefix", false, where, path);
    message.trained = parse_flag(json, "weight", true, where, path);
  } else {
    if (calls && !calls->empty())
      fail(where, path + ".tool_calls",
           fmt::format("only an assistant calls tools, not {}", role_name(message.role)));
    if (message.reasoning)
      fail(where, path, fmt::format("only an assistant has reasoning, not {}", role_name(message.role)));
    if (!message.content) fail(where, path + ".content", "expected a string, got nothing");
  }
  return message;
}

}  // namespace

const char* role_name(Role role) {
  switch (role) {
    case Role::system:
      return "system";
    case Role::user:
      return "user";
    case Role::assistant:
      return "assistant";
    case Role::tool:
      return "tool";
  }
  return "";
}

ToolCall parse_function_call(const Json& json, const std::string& where, const std::string& path) {
  if (!json.is_object()) fail(where, path, fmt::format("expected an object, got {}", kind_of(json)));
  ToolCall call;
  call.name = string_at(json, "name", where, path);
  const Json* arguments = find(json, "arguments");
  if (!arguments) fail(where, path + ".arguments", "missing");
  if (arguments->is_string())
    call.arguments = arguments->get<std::string>();
  else if (arguments->is_object())
    call.arguments = spaced_json(*arguments);
  else
    fail(where, path + ".arguments",
         fmt::format("expected a string of JSON or an object, got {}", kind_of(*arguments)));
  return call;
}

std::vector<ToolDefinition> parse_tools(const Json& json, const std::string& where, const std::string& path) {
  std::vector<ToolDefinition> tools;
  if (json.is_null()) return tools;
  if (!json.is_array()) fail(where, path, fmt::format("expected a list, got {}", kind_of(json)));
  for (size_t i = 0; i < json.size(); ++i) {
    std::string at = fmt::format("{}[{}]", path, i);
    const Json* tool = &json[i];
    if (!tool->is_object()) fail(where, at, fmt::format("expected an object, got {}", kind_of(*tool)));
    if (const Json* function = find(*tool, "function")) {
      tool = function;
      at += ".function";
      if (!tool->is_object()) fail(where, at, fmt::format("expected an object, got {}", kind_of(*tool)));
    }
    ToolDefinition definition;
    definition.name = string_at(*tool, "name", where, at);
    if (find(*tool, "description")) definition.description = string_at(*tool, "description", where, at);
    const Json* parameters = find(*tool, "parameters");
    if (parameters && !parameters->is_object())
      fail(where, at + ".parameters", fmt::format("expected an object, got {}", kind_of(*parameters)));
    definition.parameters = parameters ? spaced_json(*parameters) : "{}";
    tools.push_back(std::move(definition));
  }
  return tools;
}

void check_order(const std::vector<Message>& messages, const std::string& where, const std::string& list) {
  if (messages.empty()) fail(where, list, "there is no message in it");
  bool calls_are_open = false;
  for (size_t i = 0; i < messages.size(); ++i) {
    const Message& message = messages[i];
    const std::string path = fmt::format("{}[{}]", list, i);
    if (message.role == Role::tool && !calls_are_open)
      fail(where, path, "a tool's result without an assistant's call before it");
    if (message.role == Role::assistant && !message.content && message.tool_calls.empty())
      fail(where, path, "an assistant's message has neither content nor tool_calls");
    if (message.prefix && i + 1 < messages.size())
      fail(where, path + ".prefix", "only the last message can be continued");
    if (message.role != Role::tool) calls_are_open = !message.tool_calls.empty();
  }
}

Conversation parse_conversation(const Json& json, const std::string& where) {
  Conversation conversation;
  const Json* messages = &json;
  if (json.is_object()) {
    messages = find(json, "messages");
    if (!messages) fail(where, "messages", "missing");
    if (const Json* tools = find(json, "tools")) conversation.tools = parse_tools(*tools, where, "tools");
  }
  if (!messages->is_array())
    fail(where, "messages", fmt::format("expected a list, got {}", kind_of(*messages)));
  for (size_t i = 0; i < messages->size(); ++i)
    conversation.messages.push_back(parse_message((*messages)[i], where, fmt::format("messages[{}]", i)));
  check_order(conversation.messages, where, "messages");
  return conversation;
}

std::string spaced_json(const Json& json) {
  if (json.is_object()) {
    std::string text = "{";
    for (const auto& [key, value] : json.items())
      text += (text.size() > 1 ? ", " : "") + Json(key).dump() + ": " + spaced_json(value);
    return text + "}";
  }
  if (json.is_array()) {
    std::string text = "[";
    for (const Json& value : json) text += (text.size() > 1 ? ", " : "") + spaced_json(value);
    return text + "]";
  }
  return json.dump();
}

}  // namespace fathom::chat
