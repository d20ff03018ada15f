// What is a conversation, and what is refused with its key path.
#include "chat/conversation.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"

namespace fathom::chat {
namespace {

using testing::HasSubstr;

Conversation parse(const std::string& json) {
  return parse_conversation(parse_json(json, "test"), "f.jsonl: line 3");
}

std::string refusal(const std::string& json) {
  try {
    parse(json);
  } catch (const DataError& error) {
    return error.what();
  }
  return "accepted";
}

TEST(Conversation, openai_messages) {
  const Conversation c = parse(R"({"messages":[
      {"role":"developer","content":"s"},
      {"role":"user","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]},
      {"role":"assistant","content":null,"reasoning_content":"r","weight":0,
       "tool_calls":[{"id":"1","type":"function","function":{"name":"f","arguments":{"x":[1,2],"y":"é"}}}]},
      {"role":"tool","tool_call_id":"1","content":"result"},
      {"role":"assistant","content":"done","tool_calls":[]}],
      "tools":[{"type":"function","function":{"name":"f"}}]})");
  ASSERT_EQ(c.messages.size(), 5u);
  EXPECT_EQ(c.messages[0].role, Role::system);
  EXPECT_EQ(c.messages[1].content, "ab");
  EXPECT_EQ(c.messages[2].content, std::nullopt);
  EXPECT_EQ(c.messages[2].reasoning, "r");
  EXPECT_FALSE(c.messages[2].trained);
  ASSERT_EQ(c.messages[2].tool_calls.size(), 1u);
  EXPECT_EQ(c.messages[2].tool_calls[0].arguments, "{\"x\": [1, 2], \"y\": \"é\"}");
  EXPECT_TRUE(c.messages[4].tool_calls.empty());
  ASSERT_EQ(c.tools.size(), 1u);
  EXPECT_EQ(c.tools[0].parameters, "{}");
}

TEST(Conversation, malformed_ones_are_refused_with_line_and_key_path) {
  const std::pair<const char*, const char*> cases[] = {
      {R"({"message":[]})", "messages: missing"},
      {R"({"messages":{}})", "messages: expected a list, got object"},
      {R"({"messages":[]})", "messages: there is no message"},
      {R"({"messages":[3]})", "messages[0]: expected an object with role and content, got number"},
      {R"({"messages":[{"content":"x"}]})", "messages[0].role: expected a string, got nothing"},
      {R"({"messages":[{"role":"usr","content":"x"}]})",
       "messages[0].role: unknown role \"usr\" (did you mean user?)"},
      {R"({"messages":[{"role":"user"}]})", "messages[0].content: expected a string"},
      {R"({"messages":[{"role":"user","content":3}]})", "messages[0].content: expected a string or a list"},
      {R"({"messages":[{"role":"user","content":[{"type":"image_url"}]}]})", "messages[0].content[0].type"},
      {R"({"messages":[{"role":"user","content":"x"},{"role":"assistant"}]})",
       "messages[1]: an assistant's message has"},
      {R"({"messages":[{"role":"user","content":"x"},{"role":"tool","content":"y"}]})",
       "messages[1]: a tool's result"},
      {R"({"messages":[{"role":"user","content":"x","tool_calls":[1]}]})",
       "messages[0].tool_calls: only an assistant"},
      {R"({"messages":[{"role":"assistant","tool_calls":[{}]}]})",
       "messages[0].tool_calls[0].function: missing"},
      {R"({"messages":[{"role":"assistant","tool_calls":[{"function":{"name":"f"}}]}]})",
       "function.arguments: missing"},
      {R"({"messages":[{"role":"assistant","tool_calls":[{"function":{"name":"f","arguments":[]}}]}]})",
       "arguments: expected a string of JSON"},
      {R"({"messages":[{"role":"assistant","content":"x","weight":0.5}]})",
       "messages[0].weight: expected true"},
      {R"({"messages":[{"role":"assistant","content":"x","prefix":true},{"role":"user","content":"y"}]})",
       "messages[0].prefix: only the last"},
      {R"({"messages":[{"role":"user","content":"x"}],"tools":[{"description":"d"}]})",
       "tools[0].name: expected a string"},
      {R"({"messages":[{"role":"user","content":"x"}],"tools":"none"})", "tools: expected a list"},
  };
  for (const auto& [json, message] : cases) {
    EXPECT_THAT(refusal(json), HasSubstr(message)) << json;
    EXPECT_THAT(refusal(json), HasSubstr("f.jsonl: line 3: ")) << json;
  }
}

TEST(Conversation, json_is_spaced_as_python_does) {
  EXPECT_EQ(spaced_json(parse_json(R"({"a":{},"b":[],"c":[1,2.5,null,true,"\"é\n"]})", "t")),
            "{\"a\": {}, \"b\": [], \"c\": [1, 2.5, null, true, \"\\\"é\\n\"]}");
}

}  // namespace
}  // namespace fathom::chat
