#include "weights/train_state.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <cstdlib>
#include <cstring>
#include <fstream>

#include "base/error.h"
#include "base/file.h"
#include "support/scratch.h"
#include "support/tiny_registry.h"
#include "weights/save_weights.h"

namespace fathom::weights {
namespace {

using config::Precision;
using test::ScratchDirectory;
using testing::HasSubstr;
using testing::ThrowsMessage;

void save_all(ParameterRegistry& registry, const fs::path& directory,
              uint64_t max_file_bytes = checkpoint::kDefaultShardBytes) {
  make_directories(directory / kTrainStateFolder);
  save_weights(registry, directory, {}, max_file_bytes);
  for (const checkpoint::SavedFile& file : plan_train_state(registry, 0, max_file_bytes))
    checkpoint::write_saved_file(directory, file);
}

struct Case {
  Precision precision;
  at::ScalarType state;
  bool has_master_files;
};

TEST(TrainState, round_trip_keeps_every_bit) {
  for (const Case& c :
       {Case{Precision::fp32, at::kFloat, false}, Case{Precision::bf16, at::kFloat, true},
        Case{Precision::bf16, at::kBFloat16, true}, Case{Precision::bf16_pure, at::kBFloat16, false},
        Case{Precision::fp64, at::kDouble, true}}) {
    const auto registry = test::tiny_registry(test::tiny_model(), c.precision);
    test::add_moments(*registry, c.state);
    test::fill_registry(*registry, 11);
    const std::string bits = test::bits_of(*registry);
    for (const uint64_t max_file_bytes : {checkpoint::kDefaultShardBytes, uint64_t{5000}}) {
      const ScratchDirectory scratch;
      save_all(*registry, scratch.path(), max_file_bytes);
      test::poison_registry(*registry);
      EXPECT_NE(test::bits_of(*registry), bits);
      const LoadedState loaded = load_state(*registry, scratch.path());
      EXPECT_TRUE(loaded.has_masters);
      EXPECT_TRUE(loaded.has_moments);
      EXPECT_EQ(test::bits_of(*registry), bits) << static_cast<int>(c.precision);
      bool has_master_files = false;
      for (const checkpoint::SavedFile& file : plan_train_state(*registry))
        for (const checkpoint::SavedTensor& tensor : file.tensors)
          has_master_files |= tensor.declaration.name.starts_with("master.");
      EXPECT_EQ(has_master_files, c.has_master_files);
    }
  }
}

TEST(TrainState, slices_say_their_global_shape_and_offset) {
  const auto registry = test::tiny_registry(test::tiny_model(), Precision::bf16);
  test::add_moments(*registry, at::kFloat);
  test::fill_registry(*registry, 1);
  const ScratchDirectory scratch;
  save_all(*registry, scratch.path());
  const formats::SafetensorsFile file(scratch / "train_state/rank_00000_00001.safetensors");
  for (const char* kind : {"master.", "exp_avg.", "exp_avg_sq."})
    EXPECT_EQ(file.at(std::string(kind) + "model.layers.1.mlp.experts.2.down_proj.weight").shape,
              (std::vector<int64_t>{24, 9}));
  EXPECT_EQ(file.find("master.model.layers.1.mlp.gate.e_score_correction_bias"), nullptr);
  const Json slice = Json::parse(file.metadata().at("slice.model.layers.1.mlp.experts.2.down_proj.weight"));
  EXPECT_EQ(slice, (Json{{"shape", {24, 9}}, {"offset", {0, 0}}}));
}

TEST(TrainState, without_it_masters_come_from_the_hf_files_and_moments_stay) {
  const auto registry = test::tiny_registry(test::tiny_model(), Precision::bf16);
  test::add_moments(*registry, at::kFloat);
  test::fill_registry(*registry, 4);
  const ScratchDirectory scratch;
  save_weights(*registry, scratch.path());
  const auto other = test::tiny_registry(test::tiny_model(), Precision::bf16);
  test::add_moments(*other, at::kFloat);
  const LoadedState loaded = load_state(*other, scratch.path());
  EXPECT_FALSE(loaded.has_masters);
  EXPECT_FALSE(loaded.has_moments);
  const auto [saved, saved_piece] = registry->find("lm_head.weight");
  const auto [read, read_piece] = other->find("lm_head.weight");
  EXPECT_TRUE(saved->value.equal(read->value));
  EXPECT_TRUE(read->low_bits.eq(0).all().item<bool>());
  EXPECT_TRUE(read->exp_avg.eq(0).all().item<bool>());
}

TEST(TrainState, another_precision_starts_from_the_exact_masters) {
  const auto registry = test::tiny_registry(test::tiny_model(), Precision::bf16);
  test::fill_registry(*registry, 6);
  const ScratchDirectory scratch;
  save_all(*registry, scratch.path());
  const auto floats = test::tiny_registry(test::tiny_model(), Precision::fp32);
  load_state(*floats, scratch.path());
  const std::string name = "model.layers.2.mlp.experts.3.up_proj.weight";
  const auto [from, from_piece] = registry->find(name);
  const auto [to, to_piece] = floats->find(name);
  std::vector<float> masters(static_cast<size_t>(from_piece->numel()));
  registry->get_master(*from, *from_piece, masters.data());
  EXPECT_EQ(
      std::memcmp(masters.data(), to->piece_of(to->value, *to_piece).const_data_ptr(), masters.size() * 4),
      0);
}

TEST(TrainState, faults_name_file_and_tensor) {
  const auto registry = test::tiny_registry(test::tiny_model(), Precision::bf16);
  test::fill_registry(*registry, 6);
  const ScratchDirectory scratch;
  save_all(*registry, scratch.path());
  const auto wider = test::tiny_registry(test::tiny_model(32), Precision::bf16);
  EXPECT_THAT([&] { load_state(*wider, scratch.path()); },
              ThrowsMessage<CheckpointError>(
                  testing::AllOf(HasSubstr("rank_00000_00001.safetensors"), HasSubstr("of another model"))));
  fs::resize_file(scratch / "train_state/rank_00000_00001.safetensors", 1000);
  EXPECT_THAT([&] { load_state(*registry, scratch.path()); },
              ThrowsMessage<CheckpointError>(HasSubstr("rank_00000_00001.safetensors")));
  fs::remove(scratch / "train_state/rank_00000_00001.safetensors");
  fs::remove(scratch / "model.safetensors");
  EXPECT_THROW(load_state(*registry, scratch.path()), CheckpointError);
}

Sharding shards(int64_t place, int64_t size) { return {{place, size}, {place, size}, true, true}; }

// Each of `size` ranks with its share of the state.
std::vector<std::unique_ptr<ParameterRegistry>> sharded_registries(int64_t size, const Case& c,
                                                                   uint64_t seed) {
  std::vector<std::unique_ptr<ParameterRegistry>> registries;
  for (int64_t place = 0; place < size; ++place) {
    registries.push_back(test::tiny_registry(test::tiny_model(), c.precision, shards(place, size)));
    test::add_moments(*registries.back(), c.state);
    test::fill_registry(*registries.back(), seed);
  }
  return registries;
}

// CK-3: what any number of ranks saved, any other number loads, with every bit.
TEST(TrainState, CK_3_shares_of_any_number_of_ranks_load_into_any_other) {
  for (const Case& c :
       {Case{Precision::bf16, at::kFloat, true}, Case{Precision::bf16_pure, at::kBFloat16, false},
        Case{Precision::fp64, at::kDouble, true}}) {
    for (const int64_t saved : {1, 2, 3, 5}) {
      const auto savers = sharded_registries(saved, c, 11);
      const ScratchDirectory scratch;
      save_weights(*savers.front(), scratch.path());
      make_directories(scratch / kTrainStateFolder);
      for (size_t rank = 0; rank < savers.size(); ++rank)
        for (const checkpoint::SavedFile& file : plan_train_state(
                 *savers[rank], static_cast<int>(rank), saved == 3 ? 5000 : checkpoint::kDefaultShardBytes))
          checkpoint::write_saved_file(scratch.path(), file);
      for (const int64_t loaded : {1, 2, 4}) {
        const auto expected = sharded_registries(loaded, c, 11), loaders = sharded_registries(loaded, c, 12);
        for (size_t rank = 0; rank < loaders.size(); ++rank) {
          test::poison_registry(*loaders[rank]);
          const LoadedState state = load_state(*loaders[rank], scratch.path());
          EXPECT_TRUE(state.has_masters && state.has_moments);
          EXPECT_TRUE(test::bits_of(*loaders[rank]) == test::bits_of(*expected[rank]))
              << saved << " to " << loaded << ", rank " << rank;
        }
      }
      // A part that is missing is noticed; nobody takes old moments for loaded ones.
      if (saved == 1) continue;
      for (const auto& item : fs::directory_iterator(scratch / kTrainStateFolder))
        if (item.path().filename().string().starts_with("rank_00001")) fs::remove(item.path());
      const LoadedState state = load_state(*sharded_registries(1, c, 12).front(), scratch.path());
      EXPECT_FALSE(state.has_moments);
      EXPECT_EQ(state.has_masters, !c.has_master_files);
    }
  }
}

TEST(TrainState, shares_are_all_of_it_once_and_save_memory) {
  const Case c{Precision::bf16, at::kFloat, true};
  const int64_t whole = sharded_registries(1, c, 1).front()->held_bytes().state;
  int64_t sum = 0, elements = 0;
  for (const auto& registry : sharded_registries(4, c, 1)) {
    registry->allocate_grads();
    const ParameterRegistry::HeldBytes held = registry->held_bytes();
    sum += held.state;
    EXPECT_LT(held.state, whole / 3);  // small parameters are not cut
    EXPECT_LT(held.gradients,
              2 * held.weights / 3);  // float where weights are bfloat16: a quarter of twice as much
    for (const checkpoint::SavedFile& file : plan_train_state(*registry))
      for (const checkpoint::SavedTensor& tensor : file.tensors)
        if (tensor.declaration.name.starts_with("exp_avg.")) elements += tensor.numel();
  }
  EXPECT_EQ(sum, whole);
  EXPECT_EQ(elements * 10, whole);  // low bits and two moments: 2 + 4 + 4 bytes
}

TEST(TrainState, slices_that_cannot_be_are_refused) {
  const auto registry = test::tiny_registry(test::tiny_model(), Precision::fp32);
  test::add_moments(*registry, at::kFloat);
  test::fill_registry(*registry, 6);
  const std::string name = "model.embed_tokens.weight";  // [37, 24]
  for (const char* slice :
       {R"({"shape": [37, 24], "offset": [0, 0], "part": [37, 24], "begin": 880})",
        R"({"shape": [37, 24], "offset": [0, 0], "part": [37, 24], "begin": -1})",
        R"({"shape": [37, 24], "offset": [1, 0], "part": [37, 24], "begin": 0})",
        R"({"shape": [37, 24], "offset": [0], "part": [37], "begin": 0})",
        R"({"shape": [37, 24], "offset": [0, 0], "part": [9223372036854775807, 24], "begin": 0})",
        R"({"shape": [37, 24], "offset": [0, 0], "part": "all", "begin": 0})"}) {
    const ScratchDirectory scratch;
    save_weights(*registry, scratch.path());
    make_directories(scratch / kTrainStateFolder);
    formats::SafetensorsWriter writer(scratch / "train_state/rank_00000_00001.safetensors",
                                      {{"exp_avg." + name, formats::Dtype::F32, {10}}},
                                      {{"slice." + name, slice}});
    writer.write("exp_avg." + name, std::vector<std::byte>(40));
    writer.commit();
    EXPECT_THAT([&] { load_state(*registry, scratch.path()); },
                ThrowsMessage<CheckpointError>(
                    testing::AllOf(HasSubstr("rank_00000_00001.safetensors"), HasSubstr(name))))
        << slice;
  }
}

uint64_t data_segment_bytes() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);)
    if (line.starts_with("VmData:")) return std::stoull(line.substr(7)) * 1024;
  return 0;
}

// The state is 67 MB; while it loads, this process may not take 24 MB more.
TEST(TrainState, CK_5_load_makes_no_second_copy) {
  const auto registry = test::tiny_registry(test::tiny_model(512, 5000), Precision::bf16);
  test::add_moments(*registry, at::kFloat);
  test::fill_registry(*registry, 8);
  const ScratchDirectory scratch;
  save_all(*registry, scratch.path());
  uint64_t state_bytes = 0;
  for (const at::Tensor& tensor : test::all_tensors(*registry)) state_bytes += tensor.nbytes();
  ASSERT_GT(state_bytes, 60'000'000U);
  load_state(*registry, scratch.path());  // threads and their stacks are there from here on
  rlimit before;
  ASSERT_EQ(getrlimit(RLIMIT_DATA, &before), 0);
  rlimit limit = before;
  limit.rlim_cur = data_segment_bytes() + 24'000'000;
  ASSERT_EQ(setrlimit(RLIMIT_DATA, &limit), 0);
  EXPECT_EQ(std::malloc(state_bytes), nullptr);  // the limit works
  EXPECT_NO_THROW(load_state(*registry, scratch.path()));
  ASSERT_EQ(setrlimit(RLIMIT_DATA, &before), 0);
}

}  // namespace
}  // namespace fathom::weights
