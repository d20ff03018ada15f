#include "data/training_data.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <numeric>
#include <set>

#include "base/error.h"
#include "base/json.h"
#include "data/numpy_random.h"
#include "support/scratch.h"

namespace fathom::data {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

const std::filesystem::path kFixtures = FATHOM_SOURCE_DIR "/tests/data/fixtures";
constexpr int64_t kVocab = 70000;

const Json& oracle() {
  static const Json json = read_json_file(kFixtures / "megatron_order.json");
  return json;
}

config::DataSection section(const std::vector<config::DataSource>& train, int64_t seq_length) {
  config::DataSection data;
  data.train = train;
  data.seq_length = seq_length;
  return data;
}

TEST(NumpyRandom, shuffles_as_numpy) {
  NumpyRandomState random(1234);
  for (const Json& expected : oracle()["shuffles"]) {
    std::vector<uint32_t> values(expected.size());
    std::iota(values.begin(), values.end(), 0u);
    random.shuffle(std::span(values));
    EXPECT_EQ(values, expected.get<std::vector<uint32_t>>());
  }
}

TEST(NumpyRandom, sums_as_numpy) {
  const auto values = oracle()["sum_values"].get<std::vector<double>>();
  for (const auto& [count, sum] : oracle()["sums"].items())
    EXPECT_EQ(numpy_sum(std::span(values).first(std::stoul(count))), sum.get<double>()) << count;
}

TEST(NumpyRandom, intervals_over_32_bits_stay_inside) {
  NumpyRandomState random(0);
  uint64_t largest = 0;
  for (int i = 0; i < 1000; ++i) largest = std::max(largest, random.interval(1ull << 40));
  EXPECT_LE(largest, 1ull << 40);
  EXPECT_GT(largest, 1ull << 39);
  EXPECT_EQ(random.interval(0), 0u);
}

TEST(TrainingData, draws_every_sample_as_megatron) {
  int compared = 0;
  for (const Json& c : oracle()["cases"]) {
    SCOPED_TRACE(c["name"].get<std::string>());
    std::vector<config::DataSource> sources;
    for (size_t i = 0; i < c["sources"].size(); ++i)
      sources.push_back({kFixtures / c["sources"][i].get<std::string>(),
                         c.contains("weights") ? c["weights"][i].get<double>() : 1.0});
    auto data = section(sources, c["seq_length"]);
    data.split = c["split"];
    data.reset_position_ids = data.reset_attention_mask = data.eod_mask_loss = c.contains("flags");
    for (size_t split = 0; split < 3; ++split) {
      const Json& expected = c["splits"][split];
      if (expected.is_null()) continue;
      const int64_t wanted = c["samples"][split].is_null() ? 0 : c["samples"][split].get<int64_t>();
      const TrainingData training(data, static_cast<Split>(split), wanted, c["seed"], oracle()["eod"],
                                  kVocab);
      ASSERT_EQ(training.size(), static_cast<int64_t>(expected["tokens"].size()));
      for (int64_t i = training.size() - 1; i >= 0; --i) {  // any order
        const auto at = static_cast<size_t>(i);
        const Sample sample = training.sample(i);
        ASSERT_EQ(sample.tokens, expected["tokens"][at].get<std::vector<int32_t>>()) << "sample " << i;
        if (expected.contains("dataset")) {
          EXPECT_EQ(training.origin(i).dataset, expected["dataset"][at]);
        }
        ++compared;
        if (!c.contains("flags")) {
          EXPECT_TRUE(sample.document_starts.empty());
          EXPECT_EQ(sample.position_ids.back(), data.seq_length - 1);
          continue;
        }
        EXPECT_EQ(sample.loss_mask, expected["loss_mask"][at].get<std::vector<float>>());
        EXPECT_EQ(sample.position_ids, expected["position_ids"][at].get<std::vector<int32_t>>());
        std::vector<int32_t> visible(static_cast<size_t>(data.seq_length));
        for (const int32_t start : sample.document_starts)
          std::fill(visible.begin() + start, visible.end(), start);
        EXPECT_EQ(visible, expected["first_visible"][at].get<std::vector<int32_t>>());
      }
    }
  }
  EXPECT_GT(compared, 400);
}

// 64-bit FNV-1a over int32 values, low byte first, as the fixture's script computes it.
class Digest {
 public:
  template <typename Values>
  void add(const Values& values) {
    for (const auto value : values)
      for (int shift = 0; shift < 32; shift += 8)
        hash_ =
            (hash_ ^ (static_cast<uint32_t>(static_cast<int32_t>(value)) >> shift & 255)) * 0x100000001b3u;
  }
  std::string text() const { return fmt::format("{:016x}", hash_); }

 private:
  uint64_t hash_ = 0xcbf29ce484222325u;
};

std::vector<config::DataSource> sources_of(const Json& blend) {
  std::vector<config::DataSource> sources;
  for (size_t i = 0; i < blend["sources"].size(); ++i)
    sources.push_back({kFixtures / blend["sources"][i].get<std::string>(),
                       blend.contains("weights") ? blend["weights"][i].get<double>() : 1.0});
  return sources;
}

// Seeds, lengths, epochs, splits, blends and masks in many combinations; each twice, without a cache and from
// one.
TEST(TrainingData, draws_a_matrix_of_configurations_as_megatron) {
  const test::ScratchDirectory scratch;
  const IndexCache cache(scratch / "cache");
  const Json matrix = read_json_file(kFixtures / "megatron_matrix.json");
  EXPECT_GT(matrix["cases"].size(), 300u);
  int64_t compared = 0;
  for (const Json& c : matrix["cases"]) {
    SCOPED_TRACE(c.dump());
    auto data = section({}, c["seq_length"]);
    if (c.contains("per_split")) {
      data.train = sources_of(c["per_split"][0]);
      data.valid = sources_of(c["per_split"][1]);
    } else {
      data.train = sources_of(c);
      data.split = c["split"];
    }
    const bool flags = c.contains("flags");
    if (flags) {
      data.reset_position_ids = c["flags"][0];
      data.reset_attention_mask = c["flags"][1];
      data.eod_mask_loss = c["flags"][2];
    }
    for (size_t split = 0; split < 3; ++split) {
      const Json& expected = c["splits"][split];
      if (expected.is_null() || expected["size"] == 0) continue;
      const int64_t wanted = c["samples"][split].is_null() ? 0 : c["samples"][split].get<int64_t>();
      if (wanted == 0 && !c["samples"][split].is_null()) continue;
      for (const IndexCache& used : {IndexCache(), cache, cache}) {
        const TrainingData training(data, static_cast<Split>(split), wanted, c["seed"], oracle()["eod"],
                                    kVocab, used);
        ASSERT_EQ(training.size(), expected["size"]);
        Digest tokens, origin, loss_mask, position_ids, first_visible;
        for (int64_t i = 0; i < training.size(); ++i) {
          const Sample sample = training.sample(i);
          tokens.add(sample.tokens);
          origin.add(std::vector<int64_t>{training.origin(i).dataset});
          loss_mask.add(sample.loss_mask);
          position_ids.add(sample.position_ids);
          std::vector<int32_t> visible(static_cast<size_t>(data.seq_length));
          for (const int32_t start : sample.document_starts)
            std::fill(visible.begin() + start, visible.end(), start);
          first_visible.add(visible);
          ++compared;
        }
        EXPECT_EQ(tokens.text(), expected["tokens"]);
        EXPECT_EQ(origin.text(), expected["dataset"]);
        if (!flags) continue;
        EXPECT_EQ(loss_mask.text(), expected["loss_mask"]);
        EXPECT_EQ(position_ids.text(), expected["position_ids"]);
        EXPECT_EQ(first_visible.text(), expected["first_visible"]);
      }
    }
  }
  EXPECT_GT(compared, 20000);
}

// n one-token sequences 2, 3, ...: with seq_length 1, sample i's first token names its place in the data.
std::filesystem::path counting_dataset(const std::filesystem::path& prefix, int32_t count,
                                       int32_t first = 2) {
  formats::IndexedDatasetWriter writer(prefix, formats::TokenType::int32);
  for (int32_t i = 0; i < count; ++i) {
    const int32_t token[] = {first + i};
    writer.add_sequence(token);
    writer.end_document();
  }
  writer.commit();
  return prefix;
}

TEST(TrainingData, DATA_7_each_sample_once_an_epoch_over_any_ranks) {
  const test::ScratchDirectory scratch;
  const auto data = section({{counting_dataset(scratch / "d", 1001), 1.0}}, 1);
  const TrainingData training(data, Split::train, 1000, 1234, -1, kVocab);
  ASSERT_EQ(training.size(), 1000);
  // dp ranks and accumulation steps read disjoint numbers; the order of numbers is the global batch's.
  const auto ids_of = [&](int dp, int accumulation) {
    std::vector<int32_t> order;
    for (int64_t step = 0; step < 1000; step += 8)
      for (int rank = 0; rank < dp; ++rank)
        for (int micro = 0; micro < accumulation; ++micro)
          for (int in_micro = 0; in_micro < 8 / dp / accumulation; ++in_micro)
            order.push_back(
                training.sample(step + (rank * accumulation + micro) * (8 / dp / accumulation) + in_micro)
                    .tokens[0]);
    return order;
  };
  const auto order = ids_of(4, 2);
  EXPECT_EQ(std::set<int32_t>(order.begin(), order.end()).size(), 1000u);
  EXPECT_EQ(order, ids_of(2, 2));
  EXPECT_FALSE(std::is_sorted(order.begin(), order.end()));
}

TEST(TrainingData, whole_epochs_come_before_a_short_last_one) {
  const test::ScratchDirectory scratch;
  const auto data = section({{counting_dataset(scratch / "d", 101), 1.0}}, 1);
  const TrainingData training(data, Split::train, 230, 3, -1, kVocab);
  EXPECT_EQ(training.datasets()[0]->num_epochs(), 3);
  EXPECT_TRUE(training.datasets()[0]->has_separate_last_epoch());
  std::map<int32_t, int> seen;
  for (int64_t i = 0; i < 201; ++i) ++seen[training.sample(i).tokens[0]];
  EXPECT_EQ(seen.size(), 101u);
  for (const auto& [token, times] : seen) EXPECT_LE(times, 2) << token;
}

TEST(TrainingData, DATA_8_blend_weights_hold_within_one_sample) {
  const test::ScratchDirectory scratch;
  const auto data =
      section({{counting_dataset(scratch / "a", 800), 0.7}, {counting_dataset(scratch / "b", 900), 0.3}}, 1);
  const auto files = [&] { return std::distance(std::filesystem::directory_iterator(scratch.path()), {}); };
  const auto before = files();
  const TrainingData training(data, Split::train, 10000, 1, -1, kVocab);
  int64_t first = 0;
  for (int64_t i = 0; i < 10000; ++i) {
    first += training.origin(i).dataset == 0;
    ASSERT_NEAR(static_cast<double>(first), 0.7 * static_cast<double>(i + 1), 1.0) << i;
  }
  EXPECT_EQ(files(), before) << "opening a dataset writes no cache";
}

TEST(TrainingData, a_run_resumes_at_any_sample) {
  const auto data = section({{kFixtures / "a", 0.6}, {kFixtures / "b", 0.4}}, 8);
  const TrainingData whole(data, Split::train, 50, 1234, -1, kVocab),
      again(data, Split::train, 50, 1234, -1, kVocab);
  EXPECT_EQ(whole.fingerprint(), again.fingerprint());
  for (int64_t i = 17; i < 50; ++i) EXPECT_EQ(whole.sample(i).tokens, again.sample(i).tokens);
}

TEST(TrainingData, the_fingerprint_changes_with_what_decides_the_order) {
  const test::ScratchDirectory scratch;
  const auto a = counting_dataset(scratch / "a", 500), same = counting_dataset(scratch / "same", 500),
             other = counting_dataset(scratch / "other", 500, 3);
  const auto print = [](config::DataSection data, int64_t samples, uint64_t seed) {
    return TrainingData(data, Split::train, samples, seed, -1, kVocab).fingerprint();
  };
  const std::string base = print(section({{a, 1}}, 2), 100, 1);
  EXPECT_EQ(base, print(section({{same, 1}}, 2), 100, 1)) << "paths do not count";
  EXPECT_EQ(base, print(section({{a, 1}}, 2), 120, 1)) << "more samples of the same epoch keep the order";
  std::set<std::string> all{base,
                            print(section({{a, 1}}, 2), 100, 2),
                            print(section({{a, 1}}, 4), 100, 1),
                            print(section({{a, 1}}, 2), 1000, 1),
                            print(section({{other, 1}}, 2), 100, 1),
                            print(section({{a, 1}, {other, 1}}, 2), 100, 1),
                            print(section({{other, 1}, {a, 1}}, 2), 100, 1),
                            print(section({{a, 2}, {other, 1}}, 2), 100, 1)};
  EXPECT_EQ(all.size(), 8u);
}

TEST(TrainingData, ids_outside_the_vocabulary_are_named) {
  const test::ScratchDirectory scratch;
  formats::IndexedDatasetWriter writer(scratch / "d", formats::TokenType::int32);
  const int32_t good[] = {1, 2, 3}, bad[] = {4, 500};
  writer.add_sequence(good);
  writer.end_document();
  writer.end_document();
  writer.add_sequence(bad);
  writer.end_document();
  writer.commit();
  const TrainingData training(section({{scratch / "d", 1.0}}, 4), Split::train, 0, 1, -1, 500);
  try {
    training.sample(0);
    FAIL();
  } catch (const DataError& e) {
    EXPECT_THAT(e.what(), HasSubstr("d.bin: document 2, sequence 1, token 1 (byte 16): id 500"));
  }
}

TEST(TrainingData, valid_data_come_from_their_own_files_or_the_split) {
  auto data = section({{kFixtures / "a", 1.0}}, 8);
  EXPECT_THROW(TrainingData(data, Split::valid, 0, 1, -1, kVocab), ConfigError);
  data.split = "75,25";
  const auto of_split = TrainingData(data, Split::valid, 0, 1, -1, kVocab).datasets()[0]->tokens_per_epoch();
  data.valid = {{kFixtures / "b", 1.0}};
  EXPECT_EQ(TrainingData(data, Split::valid, 0, 1, -1, kVocab).datasets()[0]->tokens_per_epoch(), 119);
  EXPECT_NE(of_split, 119);
  EXPECT_EQ(TrainingData(data, Split::train, 0, 1, -1, kVocab).datasets()[0]->tokens_per_epoch(), 196)
      << "with files of its own for validation, training has all of its data";
}

TEST(TrainingData, contradictions_are_refused) {
  auto data = section({{kFixtures / "a", 1.0}}, 8);
  EXPECT_THROW(TrainingData(data, Split::train, 5, 1ull << 32, -1, kVocab), ConfigError);
  EXPECT_THROW(TrainingData(section({}, 8), Split::train, 5, 1, -1, kVocab), ConfigError);
  EXPECT_THROW(TrainingData(section({{kFixtures / "a", 0.0}}, 8), Split::train, 5, 1, -1, kVocab),
               ConfigError);
  EXPECT_THROW(TrainingData(section({{kFixtures / "a", 1.0}}, 1000), Split::train, 0, 1, -1, kVocab),
               DataError);
  EXPECT_THROW(TrainingData(section({{FATHOM_SOURCE_DIR "/tests/formats/data/empty", 1.0}}, 8), Split::train,
                            5, 1, -1, kVocab),
               DataError);
  data.eod_mask_loss = true;
  EXPECT_THROW(TrainingData(data, Split::train, 5, 1, -1, kVocab), ConfigError);
}

TEST(Split, is_parsed_as_megatron_does_and_nonsense_is_refused) {
  const auto ranges = split_ranges("98, 1,1", 1000);
  EXPECT_EQ(ranges[0].end, 980);
  EXPECT_EQ(ranges[1].size(), 10);
  EXPECT_EQ(ranges[2].end, 1000);
  EXPECT_TRUE(split_ranges("1", 10)[1].empty());
  for (const char* bad : {"", "a", "1,-1", "1;2", "1,,2", "0,0", "1,2,3,4", "nan", "inf,1", "1,"})
    EXPECT_THROW(split_ranges(bad, 10), ConfigError) << bad;
}

}  // namespace
}  // namespace fathom::data
