// The engine's contract on a tiny checkpoint: windows, ends, streams, cancelling, faults of one request.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <set>

#include "base/json.h"
#include "infer/engine_api.h"
#include "support/byte_tokenizer.h"
#include "support/scratch.h"
#include "tokenizer/utf8.h"

namespace fathom::infer {
namespace {

// The golden V3-shaped model (window 96, 320 ids) with a tokenizer of bytes.
class EngineTest : public testing::Test {
 protected:
  EngineTest() {
    const fs::path golden = fs::path(FATHOM_SOURCE_DIR) / "tests" / "golden" / "v3";
    fs::copy_file(golden / "config.json", scratch_ / "config.json");
    fs::create_symlink(golden / "model.safetensors", scratch_ / "model.safetensors");
    test::write_byte_tokenizer(scratch_.path());
  }
  std::unique_ptr<Engine> load(EngineOptions options = {}) {
    options.threads = 1;
    return load_engine(scratch_.path(), options);
  }
  static Result run(Engine& engine, SamplingParams params,
                    const std::vector<int32_t>& prompt = {0, 74, 103, 77}) {
    params.ignore_eos = true;
    return generate(engine, {prompt, std::move(params)});
  }
  static RequestError refusal(Engine& engine, const Request& request) {
    try {
      engine.submit(request);
    } catch (const RequestError& e) {
      return e;
    }
    return {RequestFault::internal, "accepted"};
  }
  test::ScratchDirectory scratch_;
};

TEST_F(EngineTest, API_5_the_window) {
  const auto engine = load();
  EXPECT_EQ(engine->info().max_tokens, 96);
  const std::vector<int32_t> ninety(90, 40), full(96, 40), long_one(120, 40);
  const Result rest = run(*engine, {}, ninety);
  EXPECT_EQ(rest.token_ids.size(), 6u);
  EXPECT_EQ(rest.finish_reason, FinishReason::length);
  EXPECT_EQ(run(*engine, {.max_new_tokens = 6}, ninety).token_ids, rest.token_ids);

  const Result none = run(*engine, {}, full);
  EXPECT_TRUE(none.token_ids.empty());
  EXPECT_EQ(none.finish_reason, FinishReason::length);
  EXPECT_TRUE(run(*engine, {.max_new_tokens = 0}, ninety).token_ids.empty());

  const RequestError too_long = refusal(*engine, {long_one, {}});
  EXPECT_EQ(too_long.fault(), RequestFault::context_length_exceeded);
  EXPECT_NE(std::string(too_long.what()).find("120"), std::string::npos);
  EXPECT_NE(std::string(too_long.what()).find("96"), std::string::npos);
  const RequestError too_much = refusal(*engine, {ninety, {.max_new_tokens = 7}});
  EXPECT_EQ(too_much.fault(), RequestFault::context_length_exceeded);
  EXPECT_NE(std::string(too_much.what()).find("at most 6"), std::string::npos);

  EXPECT_EQ(load({.max_tokens = 20})->info().max_tokens, 20);
  EXPECT_THROW(load({.max_tokens = 97}), ConfigError);
}

TEST_F(EngineTest, requests_that_make_no_sense_are_refused) {
  const auto engine = load();
  EXPECT_EQ(refusal(*engine, {{}, {}}).fault(), RequestFault::invalid);
  EXPECT_NE(std::string(refusal(*engine, {{5, 320}, {}}).what()).find("prompt token 1 is 320"),
            std::string::npos);
  EXPECT_EQ(refusal(*engine, {{-1}, {}}).fault(), RequestFault::invalid);
  EXPECT_EQ(refusal(*engine, {{5}, {.top_p = 2}}).fault(), RequestFault::invalid);
  EXPECT_EQ(refusal(*engine, {{5}, {.stop = {""}}}).fault(), RequestFault::invalid);
  EXPECT_TRUE(engine->is_idle()) << "a refused request leaves nothing behind";
  EXPECT_TRUE(engine->step().empty());
}

TEST_F(EngineTest, INF_10_sampling_parameters_arrive) {
  const auto engine = load();
  const auto tokens = [&](const SamplingParams& params) { return run(*engine, params).token_ids; };
  const std::vector<int32_t> greedy = tokens({.max_new_tokens = 8});
  std::set<std::vector<int32_t>> cold, hot;
  for (int i = 0; i < 20; ++i) {
    cold.insert(tokens({.max_new_tokens = 8}));
    hot.insert(tokens({.temperature = 1.5, .max_new_tokens = 8}));
  }
  EXPECT_EQ(cold.size(), 1u);
  EXPECT_GT(hot.size(), 1u) << "without a seed each request draws anew";
  EXPECT_EQ(tokens({.temperature = 1.5, .seed = 5, .max_new_tokens = 8}),
            tokens({.temperature = 1.5, .seed = 5, .max_new_tokens = 8}));
  EXPECT_NE(tokens({.temperature = 1.5, .seed = 5, .max_new_tokens = 8}),
            tokens({.temperature = 1.5, .seed = 6, .max_new_tokens = 8}));
  // Far below one token's share, even of this flat distribution.
  EXPECT_EQ(tokens({.temperature = 1.5, .top_p = 0.001, .max_new_tokens = 8}), greedy);
  EXPECT_EQ(tokens({.temperature = 1.5, .top_k = 1, .max_new_tokens = 8}), greedy);
}

TEST_F(EngineTest, INF_7_requests_do_not_touch_each_other) {
  const auto engine = load();
  const SamplingParams hot = {.temperature = 1, .seed = 9, .max_new_tokens = 10, .ignore_eos = true};
  const Result alone = generate(*engine, {{0, 50, 60}, hot});
  const int64_t a = engine->submit({{0, 90}, {.max_new_tokens = 5, .ignore_eos = true}});
  const int64_t b = engine->submit({{0, 50, 60}, hot});
  const int64_t c = engine->submit({{0, 70}, {.max_new_tokens = 50}});
  engine->cancel(c);
  std::vector<int32_t> tokens_b;
  std::map<int64_t, FinishReason> ends;
  while (!engine->is_idle())
    for (const TokenEvent& event : engine->step()) {
      if (event.request == b && event.token_id) tokens_b.push_back(*event.token_id);
      if (event.finish) {
        EXPECT_TRUE(ends.emplace(event.request, *event.finish).second);
      }
    }
  EXPECT_EQ(tokens_b, alone.token_ids);
  EXPECT_EQ(ends, (std::map<int64_t, FinishReason>{
                      {a, FinishReason::length}, {b, FinishReason::length}, {c, FinishReason::abort}}));
}

TEST_F(EngineTest, API_1_stop_string_and_stream) {
  const auto engine = load();
  // What is generated freely names the stop string; seeds that give too little text are passed over.
  int tried = 0;
  for (uint64_t seed = 0; seed < 30; ++seed) {
    SamplingParams params = {.temperature = 1, .seed = seed, .max_new_tokens = 40};
    const Result free = run(*engine, params);
    EXPECT_EQ(tokenizer::find_invalid_utf8(free.text), std::string_view::npos);
    if (free.text.size() < 12) continue;
    size_t begin = 5, end = 9;
    const auto is_inside = [&](size_t at) {
      return (static_cast<unsigned char>(free.text[at]) & 0xC0) == 0x80;
    };
    while (is_inside(begin)) --begin;
    while (end < free.text.size() && is_inside(end)) ++end;
    const std::string stop = free.text.substr(begin, end - begin);
    params.stop = {stop};
    params.ignore_eos = true;
    std::string streamed;
    const Result stopped = generate(*engine, {{0, 74, 103, 77}, params}, [&](const TokenEvent& event) {
      streamed += event.text;
      return true;
    });
    EXPECT_EQ(stopped.text, free.text.substr(0, free.text.find(stop)));
    EXPECT_EQ(streamed, stopped.text);
    EXPECT_EQ(stopped.finish_reason, FinishReason::stop);
    EXPECT_LT(stopped.token_ids.size(), free.token_ids.size());
    EXPECT_TRUE(std::equal(stopped.token_ids.begin(), stopped.token_ids.end(), free.token_ids.begin()));
    ++tried;
  }
  EXPECT_GE(tried, 5);
}

TEST_F(EngineTest, end_tokens) {
  const auto engine = load();
  EXPECT_EQ(engine->info().eos_token_ids, std::vector<int32_t>{1});
  const Result free = run(*engine, {.max_new_tokens = 12});
  const int32_t third = free.token_ids[2];
  const auto first =
      std::find(free.token_ids.begin(), free.token_ids.end(), third) - free.token_ids.begin() + 1;
  const std::vector<int32_t> expected(free.token_ids.begin(), free.token_ids.begin() + first);

  const Result by_id = run(*engine, {.max_new_tokens = 12, .stop_token_ids = {third}});
  EXPECT_EQ(by_id.token_ids, expected);
  EXPECT_EQ(by_id.finish_reason, FinishReason::stop);
  EXPECT_EQ(by_id.logprobs.size(), expected.size());

  // generation_config.json has the word over config.json, as in HF generate
  write_text_file(scratch_ / "generation_config.json", Json({{"eos_token_id", {7, third}}}).dump());
  const auto other = load();
  EXPECT_EQ(other->info().eos_token_ids, (std::vector<int32_t>{7, third}));
  const Request request = {{0, 74, 103, 77}, {.max_new_tokens = 12}};
  EXPECT_EQ(generate(*other, request).token_ids, expected);
  EXPECT_EQ(run(*other, {.max_new_tokens = 12}).token_ids, free.token_ids) << "ignore_eos";

  write_text_file(scratch_ / "generation_config.json", Json({{"eos_token_id", "one"}}).dump());
  EXPECT_THROW(load(), ConfigError);
}

TEST_F(EngineTest, a_stream_can_be_left) {
  const auto engine = load();
  int seen = 0;
  const Result result = generate(*engine, {{0, 74}, {.max_new_tokens = 50, .ignore_eos = true}},
                                 [&](const TokenEvent&) { return ++seen < 3; });
  EXPECT_EQ(result.finish_reason, FinishReason::abort);
  EXPECT_EQ(result.token_ids.size(), 3u);
  EXPECT_TRUE(engine->is_idle());
}

TEST_F(EngineTest, TOK_3_one_bos) {
  const auto engine = load();
  const int32_t h = 'h' + 2, i = 'i' + 2;
  EXPECT_EQ(engine->encode("hi"), (std::vector<int32_t>{0, h, i}));
  EXPECT_EQ(engine->encode("<bos>hi", true), (std::vector<int32_t>{0, h, i}));
  EXPECT_EQ(engine->encode(""), std::vector<int32_t>{0});
  const std::vector<int32_t> as_text = engine->encode("<bos>hi");
  EXPECT_EQ(std::count(as_text.begin(), as_text.end(), 0), 1);
  EXPECT_EQ(as_text.size(), 8u);
}

TEST_F(EngineTest, works_without_a_tokenizer) {
  const auto with = load();
  fs::remove(scratch_ / "tokenizer.json");
  const auto engine = load();
  EXPECT_EQ(engine->tokenizer(), nullptr);
  EXPECT_THROW(engine->encode("hi"), UsageError);
  const Result result = run(*engine, {.max_new_tokens = 5});
  EXPECT_EQ(result.text, "");
  EXPECT_EQ(result.token_ids, run(*with, {.max_new_tokens = 5}).token_ids);
  EXPECT_EQ(refusal(*engine, {{5}, {.stop = {"x"}}}).fault(), RequestFault::invalid);
}

TEST_F(EngineTest, dtype_is_that_of_the_file_unless_told) {
  EXPECT_EQ(load()->info().dtype, "fp32");
  const auto bf16 = load({.dtype = EngineDtype::bf16});
  EXPECT_EQ(bf16->info().dtype, "bf16");
  EXPECT_EQ(bf16->info().cache_bytes_per_token, 3u * (32 + 8) * 2) << "MEM-2: latent and rotary key only";
  EXPECT_EQ(run(*bf16, {.max_new_tokens = 5}).token_ids.size(), 5u);
}

TEST_F(EngineTest, directories_that_hold_no_checkpoint) {
  EXPECT_THROW(load_engine(scratch_ / "missing", {}), FileError);
  EXPECT_THROW(load_engine(scratch_ / "config.json", {}), FileError);
  fs::remove(scratch_ / "model.safetensors");
  EXPECT_THROW(load(), CheckpointError);
}

}  // namespace
}  // namespace fathom::infer
