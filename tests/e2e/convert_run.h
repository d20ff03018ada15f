// WT-10: a checkpoint of any size is converted by the binary in bounded memory, killed half-way and started again.
#pragma once

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <csignal>
#include <cstdlib>
#include <map>
#include <string>

#include "formats/checkpoint_manifest.h"
#include "support/process.h"
#include "support/scratch.h"
#include "support/synthetic_checkpoint.h"

namespace fathom::test {

// RLIMIT_DATA counts what a process may write to privately: the heap, anonymous maps, stacks of threads, data of
// libraries. Mapped files that are only read do not count, as they do for RLIMIT_AS (which 12 GB of source would exceed by
// themselves) and, once read, for a cgroup's limit; so it is the limit on memory of the program's own that a user's
// `ulimit -d` sets. An allocation beyond it fails and the conversion with it.
inline bool within_2_gib() {
  constexpr rlimit limit{uint64_t{2} << 30, uint64_t{2} << 30};
  return ::setrlimit(RLIMIT_DATA, &limit) == 0;
}

// A model of the family, with ragged blocks, of about `bytes` as stored.
inline config::ModelConfig sized_model(uint64_t bytes, bool is_fp8) {
  Json json = read_json_file(std::filesystem::path(FATHOM_SOURCE_DIR) / "configs/models/tiny.json");
  const bool is_large = bytes > 1'000'000'000;
  const int64_t hidden = is_large ? 2000 : 200, width = is_large ? 1400 : 140, layers = 8;
  json["vocab_size"] = 40;
  json["hidden_size"] = hidden;
  json["moe_intermediate_size"] = width;
  json["num_hidden_layers"] = layers + 1;
  json["first_k_dense_replace"] = 1;
  json["num_nextn_predict_layers"] = 0;
  json["n_group"] = json["topk_group"] = 1;
  const double per_expert = static_cast<double>(3 * hidden * width * (is_fp8 ? 1 : 2) * layers);
  json["n_routed_experts"] = std::max(8.0, std::round(static_cast<double>(bytes) / per_expert));
  json["n_routed_experts"] = json["n_routed_experts"].get<int64_t>();
  if (is_fp8)
    json["quantization_config"] = {{"activation_scheme", "dynamic"},
                                   {"fmt", "e4m3"},
                                   {"quant_method", "fp8"},
                                   {"weight_block_size", {128, 128}}};
  return config::parse_model_config(json, "sized");
}

using Checksums = std::map<std::string, std::string>;  // of each file of a directory

inline Checksums checksums_of(const std::filesystem::path& directory) {
  Checksums sums;
  for (const auto& entry : std::filesystem::directory_iterator(directory))
    if (entry.is_regular_file()) sums[entry.path().filename()] = formats::checksum_file(entry.path()).xxh3;
  return sums;
}

inline size_t finished_files(const std::filesystem::path& directory) {
  std::error_code not_there_yet;
  size_t count = 0;
  for (const auto& entry : std::filesystem::directory_iterator(directory, not_there_yet))
    count += entry.path().extension() == ".safetensors";
  return count;
}

// Converts `bytes` of source undisturbed and then killed when half the files stand, under the limit both times; the files must
// be the same. Where the disk is too small for it, the test is skipped with the numbers.
inline void convert_killed_half_way(uint64_t bytes, bool from_fp8) {
  const ScratchDirectory scratch;
  const uint64_t needed = from_fp8 ? 3 * bytes + bytes / 10 : bytes + bytes * 6 / 10,
                 free = free_disk_bytes(scratch.path());
  if (free < needed)
    GTEST_SKIP() << fmt::format("SKIP_DISK: {:.1f} GB are needed at {}, {:.1f} GB are free",
                                double(needed) * 1e-9, scratch.path().string(), double(free) * 1e-9);
  const std::filesystem::path source = scratch / "source", target = scratch / "target";
  const uint64_t written = write_synthetic_checkpoint(sized_model(bytes, from_fp8), source);
  EXPECT_NEAR(double(written), double(bytes), 0.2 * double(bytes));
  const std::string shard = fmt::format("{}kB", bytes * (from_fp8 ? 2 : 1) / 40 / 1000);
  const std::vector<std::string> words = {FATHOM_BINARY,      "convert", source.string(),
                                          target.string(),    "--dtype", from_fp8 ? "bf16" : "fp8",
                                          "--max-shard-size", shard};
  const auto logs = [&](const char* name) {
    make_directories(scratch / name);
    return scratch / name;
  };
  ProcessEnd end = Process(logs("first"), words, within_2_gib).wait();
  ASSERT_EQ(end.exit_code, 0) << end.err;
  const Checksums expected = checksums_of(target);
  const size_t files = finished_files(target);
  ASSERT_GE(files, 8u);
  std::filesystem::remove_all(target);

  Process killed(logs("killed"), words, within_2_gib);
  while (killed.is_running() && finished_files(target) < files / 2) ::usleep(300);
  killed.send(SIGKILL);
  end = killed.wait();
  ASSERT_EQ(end.signal, SIGKILL) << end.err;
  EXPECT_FALSE(std::filesystem::exists(target / "config.json"));
  const size_t done = finished_files(target);
  EXPECT_GE(done, files / 2);
  EXPECT_LT(done, files);

  end = Process(logs("again"), words, within_2_gib).wait();
  ASSERT_EQ(end.exit_code, 0) << end.err;
  EXPECT_NE(end.err.find("goes on after"), std::string::npos) << end.err;
  EXPECT_EQ(checksums_of(target), expected);
}

}  // namespace fathom::test
