// Training samples: prompts that a server would send, replies with loss.
#include "chat/training.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "support/byte_tokenizer.h"
#include "support/scratch.h"

namespace fathom::chat {
namespace {

using testing::ElementsAre;
using tokenizer::Tokenizer;

const Tokenizer& v3_tokenizer() {
  static const Tokenizer tokenizer =
      Tokenizer::load(std::filesystem::path(FATHOM_SOURCE_DIR) / "assets/tokenizer");
  return tokenizer;
}

Conversation conversation(const std::string& json) {
  return parse_conversation(parse_json(json, "test"), "test");
}

struct Result {
  std::vector<TrainingSample> samples;
  TrainingNotes notes;
};
Result sample(const Conversation& c, const TrainingOptions& options) {
  tokenizer::EncodeScratch scratch;
  Result result;
  result.samples = training_samples(c, options, v3_tokenizer(), scratch, result.notes);
  return result;
}

std::vector<int32_t> encode(const Segments& segments) {
  tokenizer::EncodeScratch scratch;
  std::vector<int32_t> ids;
  encode_segments(segments, v3_tokenizer(), scratch, ids);
  return ids;
}

// The text with what is trained in [brackets].
std::string marked(const TrainingSample& sample) {
  std::string text;
  for (size_t i = 0; i < sample.ids.size();) {
    size_t end = i;
    while (end < sample.ids.size() && sample.trained[end] == sample.trained[i]) ++end;
    const std::string piece = v3_tokenizer().decode(std::span(sample.ids).subspan(i, end - i), false);
    text += sample.trained[i] ? "[" + piece + "]" : piece;
    i = end;
  }
  return text;
}

const char* const kTwoTurns =
    R"([{"role":"system","content":"Be brief."},{"role":"user","content":"hi"},{"role":"assistant","content":"hello"},
        {"role":"user","content":"2+2?"},{"role":"assistant","content":"4"}])";

TEST(ChatTraining, replies_and_their_end_tokens_are_trained) {
  for (const Template which : {Template::v3, Template::v3_0324}) {
    const Result r = sample(conversation(kTwoTurns), {.which = which});
    ASSERT_EQ(r.samples.size(), 1u);
    EXPECT_EQ(marked(r.samples[0]),
              "<｜begin▁of▁sentence｜>Be brief.<｜User｜>hi<｜Assistant｜>[hello<｜end▁of▁sentence｜>]"
              "<｜User｜>2+2?<｜Assistant｜>[4<｜end▁of▁sentence｜>]");
    EXPECT_EQ(r.samples[0].num_trained, 4);
    EXPECT_EQ(r.notes.trained_replies, 2);
  }
}

TEST(ChatTraining, TOK_3_one_beginning_mark) {
  Conversation c = conversation(kTwoTurns);
  c.messages.pop_back();
  EXPECT_THAT(encode(render(Template::v3, c, {})),
              ElementsAre(0, 7153, 9708, 16, 128803, 6366, 128804, 33310, 1, 128803, 20, 13, 20, 33, 128804));
}

TEST(ChatTraining, the_last_reply_only_or_everything) {
  const Result last = sample(conversation(kTwoTurns), {.train_on = TrainOn::last});
  ASSERT_EQ(last.samples.size(), 1u);
  EXPECT_EQ(
      marked(last.samples[0]),
      "<｜begin▁of▁sentence｜>Be brief.<｜User｜>hi<｜Assistant｜>hello<｜end▁of▁sentence｜><｜User｜>2+2?"
      "<｜Assistant｜>[4<｜end▁of▁sentence｜>]");
  const Result all = sample(conversation(kTwoTurns), {.train_on = TrainOn::all});
  ASSERT_EQ(all.samples.size(), 1u);
  EXPECT_EQ(all.samples[0].ids, last.samples[0].ids);
  EXPECT_EQ(all.samples[0].num_trained, static_cast<int64_t>(all.samples[0].ids.size()) - 1);
  EXPECT_EQ(all.samples[0].trained[0], 0);
}

TEST(ChatTraining, weight_0_and_empty_replies_are_not_trained) {
  const Result r =
      sample(conversation(R"([{"role":"user","content":"a"},{"role":"assistant","content":"b","weight":0},
      {"role":"user","content":"c"},{"role":"assistant","content":""},
      {"role":"user","content":"e"},{"role":"assistant","content":"f"},{"role":"user","content":"g"}])"),
             {});
  ASSERT_EQ(r.samples.size(), 1u);
  EXPECT_EQ(
      marked(r.samples[0]),
      "<｜begin▁of▁sentence｜><｜User｜>a<｜Assistant｜>b<｜end▁of▁sentence｜><｜User｜>c<｜Assistant｜>"
      "<｜end▁of▁sentence｜><｜User｜>e<｜Assistant｜>[f<｜end▁of▁sentence｜>]");
  EXPECT_EQ(r.notes.empty_replies, 1);
  EXPECT_EQ(r.notes.dropped_messages, 1);
  EXPECT_TRUE(sample(conversation(R"([{"role":"user","content":"a"}])"), {}).samples.empty());
}

// Prompts of r1 and thinking v3.1 drop past reasoning: one sample a turn, each behind its own prompt.
TEST(ChatTraining, DATA_6_reasoning_of_each_turn_is_trained_behind_the_prompt_it_will_meet) {
  const Conversation c = conversation(
      R"([{"role":"user","content":"a"},{"role":"assistant","content":"b","reasoning_content":"R1"},
          {"role":"user","content":"c"},{"role":"assistant","content":"<think>\nR2\n</think>\n\nd"}])");
  const Result r1 = sample(c, {.which = Template::r1});
  ASSERT_EQ(r1.samples.size(), 2u);
  EXPECT_EQ(
      marked(r1.samples[0]),
      "<｜begin▁of▁sentence｜><｜User｜>a<｜Assistant｜><think>\n[R1\n</think>\n\nb<｜end▁of▁sentence｜>]");
  EXPECT_EQ(marked(r1.samples[1]),
            "<｜begin▁of▁sentence｜><｜User｜>a<｜Assistant｜>b<｜end▁of▁sentence｜><｜User｜>c<"
            "｜Assistant｜><think>\n"
            "[R2\n</think>\n\nd<｜end▁of▁sentence｜>]");
  EXPECT_EQ(r1.notes.split_conversations, 1);
  EXPECT_EQ(r1.notes.dropped_reasoning, 0);
  const Result v31 = sample(c, {.which = Template::v3_1});
  ASSERT_EQ(v31.samples.size(), 2u);
  EXPECT_EQ(marked(v31.samples[1]),
            "<｜begin▁of▁sentence｜><｜User｜>a<｜Assistant｜></"
            "think>b<｜end▁of▁sentence｜><｜User｜>c<｜Assistant｜><think>"
            "[R2</think>d<｜end▁of▁sentence｜>]");
  const Result off = sample(c, {.which = Template::v3_1, .thinking = Thinking::off});
  EXPECT_EQ(off.notes.dropped_reasoning, 2);
  EXPECT_EQ(marked(off.samples.back()).find("R2"), std::string::npos);
}

TEST(ChatTraining, DATA_6_plain_answers_behind_a_thinking_prompt_are_counted) {
  const Result r =
      sample(conversation(R"([{"role":"user","content":"a"},{"role":"assistant","content":"b"}])"),
             {.which = Template::r1});
  ASSERT_EQ(r.samples.size(), 1u);
  EXPECT_EQ(
      marked(r.samples[0]),
      "<｜begin▁of▁sentence｜><｜User｜>a<｜Assistant｜><think>\n[\n</think>\n\nb<｜end▁of▁sentence｜>]");
  EXPECT_EQ(r.notes.replies_without_reasoning, 1);
}

TEST(ChatTraining, DATA_5_the_prompt_part_is_what_a_server_sends) {
  const char* const conversations[] = {
      kTwoTurns,
      R"([{"role":"user","content":"a"},{"role":"assistant","content":"b","reasoning_content":"r"},
          {"role":"user","content":"c"},{"role":"assistant","content":"d","reasoning_content":"s"}])",
      R"([{"role":"user","content":"w?"},{"role":"assistant","content":null,"tool_calls":[
            {"function":{"name":"f","arguments":"{}"}},{"function":{"name":"f","arguments":"{}"}}]},
          {"role":"tool","content":"1"},{"role":"tool","content":"2"},{"role":"assistant","content":"ok"},
          {"role":"user","content":"and?"},{"role":"assistant","content":"yes"}])",
      R"([{"role":"user","content":"w?"},{"role":"assistant","content":"let me see","tool_calls":[
            {"function":{"name":"f","arguments":"{}"}}]},
          {"role":"tool","content":"1"},{"role":"assistant","content":"ok"}])",
      R"({"messages":[{"role":"system","content":"s"},{"role":"user","content":"a"},{"role":"assistant","content":"b"}],
          "tools":[{"function":{"name":"f","parameters":{}}}]})"};
  int checked = 0;
  for (const char* json : conversations)
    for (const Template which : {Template::v3, Template::v3_0324, Template::r1, Template::v3_1})
      for (const bool mend : {false, true})
        for (const bool tools : {false, true})
          for (const Thinking thinking : {Thinking::automatic, Thinking::on, Thinking::off}) {
            const Conversation c = conversation(json);
            const Result r = sample(c, {which, TrainOn::last, thinking, mend, tools});
            ASSERT_EQ(r.samples.size(), 1u);
            const TrainingSample& got = r.samples[0];
            Conversation before = c;
            before.messages.pop_back();
            RenderOptions options{true, false, mend, tools};
            options.thinking = thinking == Thinking::automatic ? c.messages.back().reasoning.has_value()
                                                               : thinking == Thinking::on;
            const auto prompt = encode(render(which, before, options));
            const size_t length = got.ids.size() - static_cast<size_t>(got.num_trained);
            EXPECT_EQ(
                std::vector<int32_t>(got.ids.begin(), got.ids.begin() + static_cast<std::ptrdiff_t>(length)),
                prompt);
            EXPECT_EQ(got.ids.back(), 1);
            EXPECT_EQ(got.trained.back(), 1);
            ++checked;
          }
  EXPECT_EQ(checked, 5 * 4 * 2 * 2 * 3);
}

// V3 writes no end behind one call; trained replies have it all the same, or the model would never stop.
TEST(ChatTraining, DATA_1_a_tool_call_is_trained_with_its_end) {
  const Conversation c = conversation(
      R"([{"role":"user","content":"w?"},{"role":"assistant","content":null,"tool_calls":[{"function":{"name":"f","arguments":"{}"}}]},
          {"role":"tool","content":"1"},{"role":"assistant","content":"ok"}])");
  const Result r = sample(c, {.which = Template::v3});
  ASSERT_EQ(r.samples.size(), 2u);  // the published prompt of the second turn lacks the first one's end
  EXPECT_THAT(marked(r.samples[0]),
              testing::EndsWith("<｜tool▁call▁end｜><｜tool▁calls▁end｜><｜end▁of▁sentence｜>]"));
  const Result mended = sample(c, {.which = Template::v3, .mend_tool_calls = true});
  ASSERT_EQ(mended.samples.size(), 1u);
  EXPECT_EQ(mended.notes.trained_replies, 2);
}

TEST(ChatTraining, marks_in_a_text_stay_text) {
  const Result r = sample(conversation(R"([{"role":"user","content":"<｜end▁of▁sentence｜><｜Assistant｜>"},
      {"role":"assistant","content":"<｜User｜>"}])"),
                          {});
  ASSERT_EQ(r.samples.size(), 1u);
  EXPECT_EQ(std::count(r.samples[0].ids.begin(), r.samples[0].ids.end(), 1), 1);
  EXPECT_EQ(std::count(r.samples[0].ids.begin(), r.samples[0].ids.end(), 128803), 1);
  EXPECT_EQ(std::count(r.samples[0].ids.begin(), r.samples[0].ids.end(), 128804), 1);
}

TEST(ChatTraining, a_tokenizer_without_the_marks_is_refused) {
  const test::ScratchDirectory directory;
  test::write_byte_tokenizer(directory.path());
  const Tokenizer bytes = Tokenizer::load(directory.path());
  tokenizer::EncodeScratch scratch;
  std::vector<int32_t> ids;
  EXPECT_THROW(encode_segments(render(Template::v3, conversation(kTwoTurns), {}), bytes, scratch, ids),
               ConfigError);
}

}  // namespace
}  // namespace fathom::chat
