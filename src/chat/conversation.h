// Conversations in OpenAI's form of messages: what every chat encoding takes.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/json.h"

namespace fathom::chat {

enum class Role { system, user, assistant, tool };
const char* role_name(Role role);

struct ToolCall {
  std::string type = "function";
  std::string name;
  std::string arguments;  // JSON text, as the model writes it
};

struct Message {
  Role role = Role::user;
  // Of an assistant, nullopt where it only calls tools (JSON null).
  std::optional<std::string> content;
  // reasoning_content (or reasoning, thinking) beside the content; nullopt: no such field.
  std::optional<std::string> reasoning;
  std::vector<ToolCall> tool_calls;  // of an assistant
  bool prefix = false;               // DeepSeek's prefix mode: the reply continues this text
  bool trained = true;               // OpenAI's weight: 0 takes the loss away from an assistant's message
};

struct ToolDefinition {
  std::string name, description;
  std::string parameters;  // JSON schema, as text
};

struct Conversation {
  std::vector<Message> messages;
  std::vector<ToolDefinition> tools;
};

// {"messages": [...], "tools": [...]} or a bare list of messages. Roles: system (developer), user, assistant, tool
// (function). Contents are strings or lists of {"type": "text", "text": ...}. Throws DataError "WHERE: messages[2].role:
// ...": an unknown role, a missing or mistyped field, an assistant without content and calls, a tool's result
// without a call before it, no message.
Conversation parse_conversation(const Json& json, const std::string& where);

// The parts, for other forms of conversation. `path` is the key path in messages.
std::vector<ToolDefinition> parse_tools(const Json& json, const std::string& where, const std::string& path);
ToolCall parse_function_call(const Json& json, const std::string& where, const std::string& path);
// What holds between messages. `list` names them in messages ("messages", "conversations").
void check_order(const std::vector<Message>& messages, const std::string& where, const std::string& list);

// JSON as Python's json.dumps(ensure_ascii=False) writes it, which is how models of this family saw schemas:
// {"a": 1, "b": [1, 2]}.
std::string spaced_json(const Json& json);

}  // namespace fathom::chat
