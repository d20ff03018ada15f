// The native encodings against the published Jinja templates (tests/chat/make_golden.py), and which template is which.
#include "chat/template.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "base/file.h"
#include "chat/marks.h"
#include "support/scratch.h"

namespace fathom::chat {
namespace {

using testing::HasSubstr;

const std::filesystem::path kData = std::filesystem::path(FATHOM_SOURCE_DIR) / "tests/chat/data";

Conversation conversation(const std::string& json) {
  return parse_conversation(parse_json(json, "test"), "test");
}

Conversation asks(const std::string& text) {
  return conversation(R"([{"role":"user","content":")" + text + "\"}]");
}

// Each golden render; returns how many there were.
int compare_with(const std::string& file) {
  int compared = 0;
  for (const Json& item : read_json_file(kData / file)) {
    const Conversation messages = parse_conversation(item, item["name"]);
    for (const Json& golden : item["renders"]) {
      const auto which = find_template(golden["template"].get<std::string>());
      RenderOptions options;
      options.add_generation_prompt = golden["add_generation_prompt"];
      options.thinking = golden.value("thinking", false);
      // Prefix mode is ours to continue (TOK-7); the template itself closes the message.
      if (options.add_generation_prompt && messages.messages.back().prefix) continue;
      EXPECT_EQ(joined(render(which.value(), messages, options)), golden["text"].get<std::string>())
          << item["name"] << " " << golden.dump();
      ++compared;
    }
  }
  return compared;
}

TEST(ChatTemplate, renders_what_the_published_templates_do) {
  EXPECT_GE(compare_with("golden.json"), 600);
  EXPECT_EQ(compare_with("golden_jinja2.json"), 36);
}

TEST(ChatTemplate, texts_are_joined_and_marks_stand_alone) {
  for (const Json& item : read_json_file(kData / "golden.json"))
    for (const Template which : {Template::v3, Template::v3_0324, Template::r1, Template::v3_1}) {
      const Segments segments = render(which, parse_conversation(item, "golden"), {});
      for (size_t i = 0; i < segments.size(); ++i) {
        EXPECT_FALSE(segments[i].text.empty());
        EXPECT_FALSE(i > 0 && !segments[i].is_control && !segments[i - 1].is_control);
      }
    }
}

TEST(ChatTemplate, TOK_8_quoted_think_mark_is_kept_beside_a_reasoning_field) {
  const Conversation history = conversation(
      R"([{"role":"user","content":"q"},
          {"role":"assistant","content":"hello </think> world","reasoning_content":"r"},
          {"role":"user","content":"q2"}])");
  for (const Template which : {Template::r1, Template::v3_1})
    EXPECT_THAT(joined(render(which, history, {})), HasSubstr("hello </think> world"));
}

TEST(ChatTemplate, TOK_9_closing_marks_of_tool_calls_as_published_and_mended) {
  const auto count = [](const std::string& text, std::string_view what) {
    int found = 0;
    for (size_t at = text.find(what); at != std::string::npos; at = text.find(what, at + 1)) ++found;
    return found;
  };
  for (int n = 1; n <= 3; ++n) {
    Json calls = Json::array();
    for (int i = 0; i < n; ++i) calls.push_back({{"function", {{"name", "f"}, {"arguments", "{}"}}}});
    Json messages = Json::array();
    messages.push_back({{"role", "user"}, {"content", "q"}});
    messages.push_back({{"role", "assistant"}, {"content", nullptr}, {"tool_calls", calls}});
    const Conversation conversation = parse_conversation(messages, "test");
    for (const Template which : {Template::v3, Template::r1}) {
      RenderOptions options{.add_generation_prompt = false};
      const std::string published = joined(render(which, conversation, options));
      EXPECT_EQ(count(published, marks::kCallsEnd), n - 1);
      EXPECT_EQ(count(published, marks::kEnd), n - 1);
      options.mend_tool_calls = true;
      const std::string mended = joined(render(which, conversation, options));
      EXPECT_EQ(count(mended, marks::kCallsBegin), 1);
      EXPECT_EQ(count(mended, marks::kCallsEnd), 1);
      EXPECT_EQ(count(mended, marks::kEnd), 1);
    }
  }
}

TEST(ChatTemplate, mended_is_the_published_text_where_nothing_is_wrong) {
  const Conversation plain = conversation(
      R"([{"role":"system","content":"s"},{"role":"user","content":"a"},{"role":"assistant","content":"b"},
          {"role":"user","content":"c"}])");
  for (const Template which : {Template::v3, Template::v3_0324, Template::r1, Template::v3_1})
    EXPECT_EQ(render(which, plain, {.mend_tool_calls = true}), render(which, plain, {}));
}

TEST(ChatTemplate, TOK_6_the_prompts_tail_says_whether_thinking_is_open) {
  EXPECT_TRUE(opens_thinking(render(Template::r1, asks("q"), {})));
  EXPECT_TRUE(opens_thinking(render(Template::v3_1, asks("q"), {.thinking = true})));
  EXPECT_FALSE(opens_thinking(render(Template::v3_1, asks("q"), {})));
  EXPECT_FALSE(opens_thinking(render(Template::v3, asks("<think>"), {})));
  EXPECT_FALSE(opens_thinking(render(Template::r1, asks("q"), {.add_generation_prompt = false})));
}

TEST(ChatTemplate, TOK_7_a_prefix_is_continued) {
  const Conversation prefix = conversation(
      R"([{"role":"user","content":"a"},{"role":"assistant","content":"An apple","prefix":true}])");
  for (const Template which : {Template::v3, Template::v3_0324, Template::v3_1}) {
    const Segments before = render(which, asks("a"), {});
    EXPECT_EQ(joined(render(which, prefix, {})), joined(before) + "An apple");
  }
}

TEST(ChatTemplate, tools_follow_the_system_prompt_where_asked) {
  const Conversation with = conversation(
      R"({"messages":[{"role":"system","content":"S"},{"role":"user","content":"q"}],
          "tools":[{"type":"function","function":{"name":"f","description":"d","parameters":{"a":[1,"é"]}}}]})");
  EXPECT_EQ(joined(render(Template::v3_1, with, {})),
            "<｜begin▁of▁sentence｜>S<｜User｜>q<｜Assistant｜></think>");
  const std::string text = joined(render(Template::v3_1, with, {.tools_in_system_prompt = true}));
  EXPECT_THAT(text,
              HasSubstr("S\n\n## Tools\nYou have access to the following tools:\n\n### f\nDescription: d\n\n"
                        "Parameters: {\"a\": [1, \"é\"]}\n\nIMPORTANT: "));
  EXPECT_THAT(text, HasSubstr("without separators or spaces<｜User｜>q"));
}

TEST(ChatTemplate, originals_are_recognised_however_line_ends_are_spelt) {
  const std::pair<const char*, Template> files[] = {{"deepseek-v3.jinja", Template::v3},
                                                    {"deepseek-v3-0324.jinja", Template::v3_0324},
                                                    {"deepseek-r1-distill.jinja", Template::r1},
                                                    {"deepseek-v3.1-terminus.jinja", Template::v3_1}};
  for (const auto& [file, which] : files) {
    const std::string text = read_text_file(kData / file);
    EXPECT_EQ(recognise_template(text), which) << file;
    std::string escaped;
    for (const char c : text) escaped += c == '\n' ? std::string("\\n") : std::string(1, c);
    EXPECT_EQ(recognise_template(escaped + "\n"), which) << file;
    EXPECT_EQ(recognise_template(text + "x"), std::nullopt);
  }
  EXPECT_EQ(recognise_template(""), std::nullopt);
}

TEST(ChatTemplate, the_directory_of_a_tokenizer_says_which) {
  EXPECT_EQ(template_of(std::filesystem::path(FATHOM_SOURCE_DIR) / "assets/tokenizer"), Template::v3);
  const test::ScratchDirectory directory;
  EXPECT_EQ(template_of(directory.path()), std::nullopt);
  Json config;
  config["chat_template"] = {
      {{"name", "rag"}, {"template", "x"}},
      {{"name", "default"}, {"template", read_text_file(kData / "deepseek-v3.1-terminus.jinja")}}};
  write_text_file(directory.path() / "tokenizer_config.json", config.dump());
  EXPECT_EQ(template_of(directory.path()), Template::v3_1);
  std::filesystem::copy(kData / "deepseek-r1-distill.jinja", directory.path() / "chat_template.jinja");
  EXPECT_EQ(template_of(directory.path()), Template::r1);
  write_text_file(directory.path() / "chat_template.jinja", "{{ messages }}");
  try {
    template_of(directory.path());
    FAIL();
  } catch (const ConfigError& error) {
    EXPECT_THAT(error.what(), HasSubstr("chat_template.jinja"));
    EXPECT_THAT(error.what(), HasSubstr("V3-0324, R1 and V3.1"));
  }
}

}  // namespace
}  // namespace fathom::chat
