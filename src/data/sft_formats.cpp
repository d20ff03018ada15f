#include "data/sft_formats.h"

#include <algorithm>

#include "base/error.h"
#include "base/suggest.h"

namespace fathom::data {
namespace {

using chat::Conversation;
using chat::Message;
using chat::Role;

[[noreturn]] void fail(const std::string& where, const std::string& path, const std::string& problem) {
  throw DataError("{}: {}: {}", where, path, problem);
}

const Json* find(const Json& record, const char* key) {
  const auto at = record.find(key);
  return at == record.end() || at->is_null() ? nullptr : &*at;
}

std::string text_of(const Json& value, const std::string& where, const std::string& path) {
  if (!value.is_string()) fail(where, path, fmt::format("expected a string, got {}", value.type_name()));
  return value.get<std::string>();
}

std::string required(const Json& record, const char* key, const std::string& where) {
  if (const Json* value = find(record, key)) return text_of(*value, where, key);
  std::vector<std::string> keys;
  for (const auto& [name, value] : record.items()) keys.push_back(name);
  const std::string near = nearest(key, keys);
  fail(where, key, near.empty() ? "missing" : fmt::format("missing ({:?} is there)", near));
}

Message message(Role role, std::string text) {
  Message message;
  message.role = role;
  message.content = std::move(text);
  return message;
}

void read_alpaca(const Json& record, const std::string& where, Conversation& out) {
  if (const Json* system = find(record, "system"); system && !text_of(*system, where, "system").empty())
    out.messages.push_back(message(Role::system, system->get<std::string>()));
  if (const Json* history = find(record, "history")) {
    if (!history->is_array()) fail(where, "history", "expected a list of [question, answer]");
    for (size_t i = 0; i < history->size(); ++i) {
      const Json& pair = (*history)[i];
      const std::string path = fmt::format("history[{}]", i);
      if (!pair.is_array() || pair.size() != 2) fail(where, path, "expected [question, answer]");
      out.messages.push_back(message(Role::user, text_of(pair[0], where, path + "[0]")));
      out.messages.push_back(message(Role::assistant, text_of(pair[1], where, path + "[1]")));
    }
  }
  std::string question = required(record, "instruction", where);
  if (const Json* input = find(record, "input"); input && !text_of(*input, where, "input").empty())
    question += "\n" + input->get<std::string>();
  out.messages.push_back(message(Role::user, std::move(question)));
  out.messages.push_back(message(Role::assistant, required(record, "output", where)));
}

Message read_sharegpt_turn(const Json& turn, const std::string& where, const std::string& path) {
  if (!turn.is_object()) fail(where, path, fmt::format("expected an object, got {}", turn.type_name()));
  const Json* from = find(turn, "from");
  const Json* value = find(turn, "value");
  if (!from) fail(where, path + ".from", "missing");
  if (!value) fail(where, path + ".value", "missing");
  const std::string name = text_of(*from, where, path + ".from"),
                    text = text_of(*value, where, path + ".value");
  const auto is = [&](std::initializer_list<const char*> names) {
    return std::any_of(names.begin(), names.end(), [&](const char* n) { return name == n; });
  };
  if (is({"system"})) return message(Role::system, text);
  if (is({"human", "user"})) return message(Role::user, text);
  if (is({"observation", "tool"})) return message(Role::tool, text);
  if (is({"gpt", "assistant", "chatgpt", "bing", "bard"})) {
    Message reply = message(Role::assistant, text);
    for (const char* key : {"reasoning_content", "reasoning"})
      if (const Json* reasoning = find(turn, key); reasoning && !reply.reasoning)
        reply.reasoning = text_of(*reasoning, where, path + "." + key);
    if (const Json* weight = find(turn, "weight")) reply.trained = *weight != 0 && *weight != false;
    return reply;
  }
  if (is({"function_call"})) {
    Message call;
    call.role = Role::assistant;
    const std::string at = path + ".value";
    Json calls;
    try {
      calls = parse_json(text, where + ": " + at);
    } catch (const ConfigError& error) {
      throw DataError(std::string(error.what()));
    }
    if (!calls.is_array()) calls = Json::array({calls});
    for (const Json& each : calls) call.tool_calls.push_back(chat::parse_function_call(each, where, at));
    return call;
  }
  fail(where, path + ".from",
       fmt::format("unknown speaker {:?}: use system, human, gpt, function_call or observation", name));
}

void read_sharegpt(const Json& record, const std::string& where, Conversation& out) {
  const Json* turns = find(record, "conversations");
  if (!turns || !turns->is_array()) fail(where, "conversations", "missing, or no list");
  if (const Json* system = find(record, "system"); system && !text_of(*system, where, "system").empty())
    out.messages.push_back(message(Role::system, system->get<std::string>()));
  const size_t first = out.messages.size();
  for (size_t i = 0; i < turns->size(); ++i)
    out.messages.push_back(read_sharegpt_turn((*turns)[i], where, fmt::format("conversations[{}]", i)));
  if (const Json* tools = find(record, "tools")) {
    if (!tools->is_string()) {
      out.tools = chat::parse_tools(*tools, where, "tools");
    } else if (const auto text = tools->get<std::string>(); !text.empty()) {
      try {
        out.tools = chat::parse_tools(parse_json(text, where + ": tools"), where, "tools");
      } catch (const ConfigError& error) {
        throw DataError(std::string(error.what()));
      }
    }
  }
  chat::check_order({out.messages.begin() + static_cast<std::ptrdiff_t>(first), out.messages.end()}, where,
                    "conversations");
}

}  // namespace

std::string_view sft_format_name(SftFormat format) {
  switch (format) {
    case SftFormat::alpaca:
      return "alpaca";
    case SftFormat::sharegpt:
      return "sharegpt";
    case SftFormat::messages:
      return "messages";
  }
  return "";
}

SftFormat detect_sft_format(const Json& record, const std::string& where) {
  if (record.is_object()) {
    if (record.contains("messages")) return SftFormat::messages;
    if (record.contains("conversations")) return SftFormat::sharegpt;
    if (record.contains("instruction")) return SftFormat::alpaca;
  }
  throw DataError(
      "{}: neither Alpaca (instruction, input, output) nor ShareGPT (conversations) nor OpenAI's messages "
      "(messages)",
      where);
}

chat::Conversation read_sft_record(const Json& record, SftFormat format, const std::string& system,
                                   const std::string& where) {
  if (!record.is_object())
    throw DataError("{}: expected an object in {} form, got {}", where, sft_format_name(format),
                    record.type_name());
  Conversation conversation;
  if (format == SftFormat::messages)
    conversation = chat::parse_conversation(record, where);
  else if (format == SftFormat::sharegpt)
    read_sharegpt(record, where, conversation);
  else
    read_alpaca(record, where, conversation);
  auto& messages = conversation.messages;
  if (!system.empty() &&
      std::none_of(messages.begin(), messages.end(), [](const Message& m) { return m.role == Role::system; }))
    messages.insert(messages.begin(), message(Role::system, system));
  return conversation;
}

}  // namespace fathom::data
