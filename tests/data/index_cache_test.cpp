#include "data/index_cache.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <fstream>
#include <numeric>

#include "base/error.h"
#include "base/memory.h"
#include "data/training_data.h"
#include "formats/indexed_dataset.h"
#include "support/scratch.h"

namespace fathom::data {
namespace {

const std::filesystem::path kFixtures = FATHOM_SOURCE_DIR "/tests/data/fixtures";

std::vector<std::filesystem::path> files_of(const std::filesystem::path& directory) {
  std::vector<std::filesystem::path> files;
  if (std::filesystem::exists(directory))
    for (const auto& entry : std::filesystem::directory_iterator(directory)) files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  return files;
}

void write_raw(const std::filesystem::path& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

TEST(IndexCache, gives_back_what_was_stored_and_only_that) {
  const test::ScratchDirectory scratch;
  const IndexCache cache(scratch / "made" / "here");
  EXPECT_FALSE(cache.find("a"));
  std::vector<int32_t> values(100);
  std::iota(values.begin(), values.end(), 7);
  const std::vector<char> odd(3, 'x');
  const std::span<const std::byte> arrays[] = {
      std::as_bytes(std::span(values)), {}, std::as_bytes(std::span(odd))};
  cache.store("a", arrays);
  const auto entry = cache.find("a");
  ASSERT_TRUE(entry);
  ASSERT_EQ(entry->arrays.size(), 3u);
  for (size_t i = 0; i < 3; ++i) {
    ASSERT_EQ(entry->arrays[i].size(), arrays[i].size());
    EXPECT_EQ(reinterpret_cast<uintptr_t>(entry->arrays[i].data()) % 64, 0u);
    EXPECT_TRUE(std::equal(arrays[i].begin(), arrays[i].end(), entry->arrays[i].begin()));
  }
  EXPECT_FALSE(cache.find("b"));
  EXPECT_EQ(files_of(scratch / "made" / "here").size(), 1u) << "no temporary file is left";
  // A file under the name of another description, as a collision of hashes would have it.
  std::filesystem::rename(cache.path_of("a"), cache.path_of("b"));
  EXPECT_FALSE(cache.find("b"));
  EXPECT_FALSE(IndexCache().find("a"));
}

TEST(IndexCache, every_damage_is_found) {
  const test::ScratchDirectory scratch;
  const IndexCache cache(scratch.path());
  const std::vector<int32_t> values(20, 5);
  const std::span<const std::byte> arrays[] = {std::as_bytes(std::span(values)),
                                               std::as_bytes(std::span(values))};
  cache.store("what it is of", arrays);
  const auto path = cache.path_of("what it is of");
  const std::string whole = read_text_file(path);
  ASSERT_TRUE(cache.find("what it is of"));
  for (size_t size = 0; size < whole.size(); ++size) {
    write_raw(path, whole.substr(0, size));
    ASSERT_FALSE(cache.find("what it is of")) << "cut to " << size;
  }
  for (size_t at = 0; at < whole.size(); ++at) {
    std::string damaged = whole;
    damaged[at] = static_cast<char>(damaged[at] ^ 0x81);
    write_raw(path, damaged);
    ASSERT_FALSE(cache.find("what it is of")) << "byte " << at;
  }
  write_raw(path, whole + "x");
  EXPECT_FALSE(cache.find("what it is of"));
}

config::DataSection blend() {
  config::DataSection data;
  data.train = {{kFixtures / "a", 0.6}, {kFixtures / "b", 0.4}};
  data.seq_length = 8;
  return data;
}

TEST(IndexCache, DATA_8_a_second_start_maps_and_writes_nothing) {
  const test::ScratchDirectory scratch;
  const IndexCache cache(scratch / "cache");
  const auto open = [&](uint64_t seed) {
    return TrainingData(blend(), Split::train, 60, seed, -1, 70000, cache);
  };
  const TrainingData first = open(1);
  const auto files = files_of(scratch / "cache");
  EXPECT_EQ(files.size(), 3u) << "two datasets and the blend";
  std::vector<std::filesystem::file_time_type> times;
  for (const auto& file : files) times.push_back(std::filesystem::last_write_time(file));
  for (int rank = 0; rank < 4; ++rank) {
    const TrainingData again = open(1);
    for (const auto& member : again.datasets()) EXPECT_TRUE(member->is_from_cache());
    EXPECT_EQ(again.fingerprint(), first.fingerprint());
    for (int64_t i = 0; i < 60; ++i) EXPECT_EQ(again.sample(i).tokens, first.sample(i).tokens);
  }
  EXPECT_EQ(files_of(scratch / "cache"), files);
  for (size_t i = 0; i < files.size(); ++i) EXPECT_EQ(std::filesystem::last_write_time(files[i]), times[i]);
  const TrainingData other = open(2);
  EXPECT_FALSE(other.datasets()[0]->is_from_cache());
  EXPECT_EQ(files_of(scratch / "cache").size(), 5u) << "the blend does not depend on the seed";
}

TEST(IndexCache, a_changed_dataset_of_the_same_name_is_not_confused) {
  const test::ScratchDirectory scratch;
  const IndexCache cache(scratch / "cache");
  config::DataSection data;
  data.train = {{scratch / "d", 1.0}};
  data.seq_length = 2;
  const auto write = [&](std::vector<std::vector<int32_t>> sequences) {
    formats::IndexedDatasetWriter writer(scratch / "d", formats::TokenType::int32);
    for (const auto& sequence : sequences) writer.add_sequence(sequence);
    writer.end_document();
    writer.commit();
  };
  const auto tokens = [&](const IndexCache& used) {
    std::vector<std::vector<int32_t>> all;
    const TrainingData training(data, Split::train, 0, 3, -1, 100, used);
    for (int64_t i = 0; i < training.size(); ++i) all.push_back(training.sample(i).tokens);
    return all;
  };
  write({{1, 2, 3, 4}, {5, 6}, {7, 8, 9}});  // the same number of sequences and tokens
  EXPECT_EQ(tokens(cache), tokens({}));
  write({{1, 2}, {3, 4, 5, 6}, {7, 8, 9}});
  EXPECT_EQ(tokens(cache), tokens({}));
  EXPECT_EQ(files_of(scratch / "cache").size(), 2u);
}

TEST(IndexCache, a_damaged_entry_is_replaced) {
  const test::ScratchDirectory scratch;
  const IndexCache cache(scratch.path());
  const auto open = [&] { return TrainingData(blend(), Split::train, 60, 1, -1, 70000, cache); };
  const TrainingData first = open();
  for (const auto& file : files_of(scratch.path())) {
    std::string bytes = read_text_file(file);
    bytes[bytes.size() / 2] ^= 1;
    // As another process would: the mapped file stays as it is.
    write_raw(file.string() + ".new", bytes);
    std::filesystem::rename(file.string() + ".new", file);
  }
  const TrainingData second = open();
  EXPECT_TRUE(second.datasets()[0]->is_from_cache() == false);
  const TrainingData third = open();
  EXPECT_TRUE(third.datasets()[0]->is_from_cache());
  for (int64_t i = 0; i < 60; ++i) {
    EXPECT_EQ(second.sample(i).tokens, first.sample(i).tokens);
    EXPECT_EQ(third.sample(i).tokens, first.sample(i).tokens);
  }
}

TEST(IndexCache, an_entry_that_lies_with_a_good_checksum_reads_nothing_outside) {
  const test::ScratchDirectory scratch;
  const auto dataset = std::make_shared<const formats::IndexedDataset>(kFixtures / "a");
  const GptDatasetOptions options{{0, dataset->num_sequences()}, 0, 8, 1};
  const IndexCache cache(scratch.path());
  const GptDataset honest(dataset, options, cache);
  const auto file = files_of(scratch.path()).at(0);
  const MappedFile mapped(file);
  const auto size = [&](int i) {
    uint64_t bytes;
    std::memcpy(&bytes, mapped.data() + 24 + 8 * i, 8);
    return bytes;
  };
  uint64_t described;
  std::memcpy(&described, mapped.data() + 16, 8);
  const std::string description(mapped.text().substr(24 + 24, described));
  for (int array = 0; array < 3; ++array) {
    for (const int value : {0x7f, 0xff, 0x80}) {
      std::vector<std::vector<std::byte>> contents{
          std::vector<std::byte>(size(0)), std::vector<std::byte>(size(1)), std::vector<std::byte>(size(2))};
      std::memcpy(contents[0].data(), honest.document_index().data(), size(0));
      std::memcpy(contents[1].data(), honest.sample_index().data(), size(1));
      std::memcpy(contents[2].data(), honest.shuffle_index().data(), size(2));
      std::fill(contents[static_cast<size_t>(array)].begin(), contents[static_cast<size_t>(array)].end(),
                static_cast<std::byte>(value));
      const std::span<const std::byte> arrays[] = {contents[0], contents[1], contents[2]};
      cache.store(description, arrays);
      const GptDataset lied_to(dataset, options, cache);
      ASSERT_TRUE(lied_to.is_from_cache());
      int32_t out[9];
      EXPECT_THROW(lied_to.read(0, 70000, out), DataError) << array << " " << value;
    }
  }
}

TEST(IndexCache, a_directory_that_cannot_be_written_does_not_matter) {
  const test::ScratchDirectory scratch;
  write_raw(scratch / "file", "in the way");
  const IndexCache cache(scratch / "file" / "cache");
  const TrainingData training(blend(), Split::train, 60, 1, -1, 70000, cache);
  EXPECT_EQ(training.sample(5).tokens,
            TrainingData(blend(), Split::train, 60, 1, -1, 70000).sample(5).tokens);
  if (::geteuid() == 0) return;  // root writes everywhere
  std::filesystem::create_directory(scratch / "locked");
  std::filesystem::permissions(scratch / "locked",
                               std::filesystem::perms::owner_read | std::filesystem::perms::owner_exec);
  EXPECT_NO_THROW(TrainingData(blend(), Split::train, 60, 1, -1, 70000, IndexCache(scratch / "locked")));
  std::filesystem::permissions(scratch / "locked", std::filesystem::perms::owner_all);
}

}  // namespace
}  // namespace fathom::data
