// Records, forms and plans of fine-tuning data.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <random>

#include "base/error.h"
#include "base/file.h"
#include "data/sft_formats.h"
#include "data/sft_plan.h"
#include "data/sft_records.h"
#include "support/scratch.h"

namespace fathom::data {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

template <typename Action>
std::string refusal(const Action& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return "accepted";
}

std::vector<SftRecord> records(const std::string& text) {
  const test::ScratchDirectory directory;
  write_text_file(directory.path() / "r.json", text);
  SftRecordReader reader(directory.path() / "r.json");
  std::vector<SftRecord> all;
  for (SftRecord record; reader.next(record);) all.push_back(record);
  return all;
}

TEST(SftRecords, lists_and_lines_with_their_line_numbers) {
  for (const char* text :
       {"[{\"a\": \"]},[\\\"\"},\n\n {\"b\":[1,{\"c\":2}]}\n]\n", "[\n{\"a\":1}\n,\n{\n\"b\":2\n}]",
        "\n {\"a\":1}\n\n{\"b\":2}", "{\"a\":1}\r\n{\"b\":2}\r\n"}) {
    const auto all = records(text);
    ASSERT_EQ(all.size(), 2u) << text;
    EXPECT_EQ(all[0].text.front(), '{');
    EXPECT_EQ(all[0].text.back(), '}');
    EXPECT_EQ(all[1].text.back(), '}');
    EXPECT_EQ(all[1].number, 1);
  }
  const auto list = records("[\n{\"a\":1}\n,\n{\n\"b\":2\n}]");
  EXPECT_EQ(list[0].line, 2);
  EXPECT_EQ(list[1].line, 4);
  EXPECT_EQ(records("\n {\"a\":1}\n\n{\"b\":2}")[1].line, 4);
  EXPECT_TRUE(records("").empty());
  EXPECT_TRUE(records(" [ ] ").empty());
}

TEST(SftRecords, a_list_that_is_none_is_refused_with_its_line) {
  EXPECT_THAT(refusal([] { records("[{\"a\":1},\n{\"b\":"); }),
              HasSubstr("line 2: the file ends inside item 1"));
  EXPECT_THAT(refusal([] { records("[{\"a\":1}\n"); }), HasSubstr("the file ends inside item 0"));
  EXPECT_THAT(refusal([] { records("[{\"a\":1}}]"); }), HasSubstr("expected a comma"));
  EXPECT_THAT(refusal([] { records("[{\"a\":1}]\nx"); }),
              HasSubstr("line 2: something stands behind the end"));
}

chat::Conversation read(const std::string& json, SftFormat format, const std::string& system = "") {
  return read_sft_record(parse_json(json, "t"), format, system, "f.json: line 7");
}

TEST(SftFormats, alpaca_keeps_the_input) {
  const auto c = read(R"({"instruction":"Add.","input":"1 2","output":"3"})", SftFormat::alpaca);
  ASSERT_EQ(c.messages.size(), 2u);
  EXPECT_EQ(c.messages[0].content, "Add.\n1 2");
  EXPECT_EQ(c.messages[1].content, "3");
  const auto rich = read(R"({"instruction":"i","input":"","output":"o","system":"s","history":[["q","a"]]})",
                         SftFormat::alpaca);
  ASSERT_EQ(rich.messages.size(), 5u);
  EXPECT_EQ(rich.messages[0].role, chat::Role::system);
  EXPECT_EQ(rich.messages[2].content, "a");
  EXPECT_EQ(rich.messages[3].content, "i");
  EXPECT_EQ(read(R"({"instruction":"i","output":"o"})", SftFormat::alpaca, "S").messages[0].content, "S");
  EXPECT_EQ(
      read(R"({"instruction":"i","output":"o","system":"s"})", SftFormat::alpaca, "S").messages[0].content,
      "s");
}

TEST(SftFormats, sharegpt_with_calls) {
  const auto c = read(R"({"conversations":[{"from":"system","value":"s"},{"from":"human","value":"q"},
      {"from":"function_call","value":"{\"name\":\"f\",\"arguments\":{\"a\":1}}"},
      {"from":"observation","value":"r"},{"from":"gpt","value":"a"}],"tools":"[{\"name\":\"f\"}]"})",
                      SftFormat::sharegpt);
  ASSERT_EQ(c.messages.size(), 5u);
  EXPECT_EQ(c.messages[2].tool_calls[0].arguments, "{\"a\": 1}");
  EXPECT_EQ(c.messages[3].role, chat::Role::tool);
  EXPECT_EQ(c.tools.size(), 1u);
}

TEST(SftFormats, the_form_is_told_by_the_keys) {
  const auto detect = [](const char* json) { return detect_sft_format(parse_json(json, "t"), "t"); };
  EXPECT_EQ(detect(R"({"messages":[]})"), SftFormat::messages);
  EXPECT_EQ(detect(R"({"conversations":[]})"), SftFormat::sharegpt);
  EXPECT_EQ(detect(R"({"instruction":""})"), SftFormat::alpaca);
  EXPECT_THAT(refusal([&] { detect(R"({"text":""})"); }), HasSubstr("neither Alpaca"));
}

TEST(SftFormats, malformed_records_are_refused_with_line_and_key_path) {
  const std::tuple<const char*, SftFormat, const char*> cases[] = {
      {R"({"instruction":"i","outptu":"o"})", SftFormat::alpaca, "output: missing (\"outptu\" is there)"},
      {R"({"instruction":3,"output":"o"})", SftFormat::alpaca, "instruction: expected a string, got number"},
      {R"({"instruction":"i","output":"o","history":[["q"]]})", SftFormat::alpaca, "history[0]: expected"},
      {R"({"conversations":[{"from":"humna","value":"q"}]})", SftFormat::sharegpt,
       "conversations[0].from: unknown speaker"},
      {R"({"conversations":[{"from":"human"}]})", SftFormat::sharegpt, "conversations[0].value: missing"},
      {R"({"conversations":[{"from":"function_call","value":"{"}]})", SftFormat::sharegpt,
       "conversations[0].value: not valid JSON"},
      {R"({"conversations":[]})", SftFormat::sharegpt, "conversations: there is no message"},
      {R"([1])", SftFormat::messages, "expected an object in messages form"}};
  for (const auto& [json, format, message] : cases) {
    const std::string said = refusal([&, j = json, f = format] { read(j, f); });
    EXPECT_THAT(said, HasSubstr(message)) << json;
    EXPECT_THAT(said, HasSubstr("f.json: line 7: ")) << json;
  }
}

TEST(SftPlan, without_weights_everything_in_order) {
  const std::vector<int64_t> sizes = {2, 0, 3};
  EXPECT_THAT(mix_samples(sizes, {}, 0, 1), ElementsAre(0, 1, 2, 3, 4));
}

TEST(SftPlan, shares_are_the_weights_and_nothing_comes_twice) {
  const std::vector<int64_t> sizes = {1000, 200, 50};
  const std::vector<double> weights = {0.7, 0.2, 0.1};
  const auto order = mix_samples(sizes, weights, 0, 5);
  EXPECT_NEAR(static_cast<double>(order.size()), 500, 2);
  std::vector<int64_t> counts(3, 0), sorted = order;
  for (size_t i = 0; i < order.size(); ++i) {
    ++counts[order[i] < 1000 ? 0 : order[i] < 1200 ? 1 : 2];
    for (size_t f = 0; f < 3; ++f)
      EXPECT_NEAR(static_cast<double>(counts[f]), weights[f] * static_cast<double>(i + 1), 1.001);
  }
  std::sort(sorted.begin(), sorted.end());
  EXPECT_EQ(std::adjacent_find(sorted.begin(), sorted.end()), sorted.end());
  EXPECT_EQ(order, mix_samples(sizes, weights, 0, 5));
  EXPECT_NE(order, mix_samples(sizes, weights, 0, 6));
}

TEST(SftPlan, more_samples_repeat_a_file_evenly) {
  const std::vector<int64_t> sizes = {10, 3};
  const std::vector<double> weights = {1, 1};
  const auto order = mix_samples(sizes, weights, 60, 5);
  ASSERT_EQ(order.size(), 60u);
  for (int64_t s = 0; s < 13; ++s) EXPECT_EQ(std::count(order.begin(), order.end(), s), s < 10 ? 3 : 10) << s;
}

TEST(SftPlan, rows_are_full_and_hold_each_sample_once) {
  std::mt19937 random(3);
  for (const int64_t capacity : {1, 7, 100}) {
    std::vector<int32_t> lengths(500);
    for (int32_t& length : lengths)
      length = 1 + static_cast<int32_t>(random() % static_cast<uint32_t>(capacity));
    const PackingPlan plan = pack_samples(lengths, capacity);
    std::vector<int64_t> sorted = plan.order, all(lengths.size());
    std::iota(all.begin(), all.end(), int64_t{0});
    std::sort(sorted.begin(), sorted.end());
    EXPECT_EQ(sorted, all);
    int64_t tokens = 0, before = -1;
    for (int64_t r = 0; r < plan.rows(); ++r) {
      int64_t used = 0;
      for (int64_t i = plan.begins[static_cast<size_t>(r)]; i < plan.begins[static_cast<size_t>(r) + 1]; ++i)
        used += lengths[static_cast<size_t>(plan.order[static_cast<size_t>(i)])];
      EXPECT_GE(used, 1);
      EXPECT_LE(used, capacity);
      const int64_t first = plan.order[static_cast<size_t>(plan.begins[static_cast<size_t>(r)])];
      EXPECT_GT(first, before);
      before = first;
      tokens += used;
    }
    EXPECT_LT(static_cast<double>(plan.rows()),
              1.03 * static_cast<double>(tokens) / static_cast<double>(capacity) + 1);
  }
  EXPECT_EQ(pack_samples({}, 5).rows(), 0);
  EXPECT_EQ(one_a_row(3).rows(), 3);
}

}  // namespace
}  // namespace fathom::data
