// A whole training run of seconds, driven through the binary: a tiny model with MLA, MoE, MTP and the balance
// bias, on tokens that can be learnt, in a directory of the test's own.
#pragma once

#include <fmt/format.h>
#include <grp.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/json.h"
#include "base/random.h"
#include "formats/indexed_dataset.h"
#include "support/process.h"
#include "support/scratch.h"

namespace fathom::test {

inline constexpr int32_t kTinyVocab = 64;

inline const char* tiny_config_json() {
  return R"({
  "architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3", "vocab_size": 64, "hidden_size": 32,
  "intermediate_size": 48, "moe_intermediate_size": 16, "num_hidden_layers": 2, "num_nextn_predict_layers": 1,
  "num_attention_heads": 2, "num_key_value_heads": 2, "q_lora_rank": 16, "kv_lora_rank": 8,
  "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 8, "n_routed_experts": 8, "n_shared_experts": 1,
  "num_experts_per_tok": 2, "n_group": 2, "topk_group": 1, "first_k_dense_replace": 1, "moe_layer_freq": 1,
  "topk_method": "noaux_tc", "scoring_func": "sigmoid", "norm_topk_prob": true, "routed_scaling_factor": 2.5,
  "rms_norm_eps": 1e-6, "rope_theta": 10000, "rope_scaling": null, "max_position_embeddings": 128,
  "hidden_act": "silu", "initializer_range": 0.05, "tie_word_embeddings": false, "attention_bias": false,
  "bos_token_id": 0, "eos_token_id": 1, "torch_dtype": "bfloat16"})";
}

// Documents in which each token mostly follows from the one before; eos (1) between them.
inline void write_tokens(const std::filesystem::path& prefix, int documents, uint64_t seed,
                         int32_t vocab = kTinyVocab) {
  formats::IndexedDatasetWriter writer(prefix, formats::TokenType::uint16);
  uint64_t draw = 0;
  for (int d = 0; d < documents; ++d) {
    std::vector<int32_t> tokens;
    auto token = static_cast<int32_t>(2 + uniform(seed, draw++) * (vocab - 2));
    const int length = 20 + static_cast<int>(uniform(seed, draw++) * 60);
    for (int i = 0; i < length; ++i) {
      tokens.push_back(token);
      const bool jumps = uniform(seed, draw++) < 0.1;
      token = jumps ? static_cast<int32_t>(2 + uniform(seed, draw++) * (vocab - 2))
                    : 2 + (token * 5 + 3) % (vocab - 2);
    }
    tokens.push_back(1);
    writer.add_sequence(tokens);
    writer.end_document();
  }
  writer.commit();
}

using Sets = std::vector<std::string>;

class TinyRun {
 public:
  TinyRun() {
    write_text_file(scratch_ / "model.json", tiny_config_json());
    write_tokens(scratch_ / "train", 200, 1);
    write_tokens(scratch_ / "valid", 8, 2);
    write_text_file(scratch_ / "run.yaml", R"(output_dir: out
seed: 7
model: model.json
data:
  train: [{path: train}]
  valid: [{path: valid}]
  seq_length: 32
train:
  steps: 30
  global_batch_size: 6
  micro_batch_size: 2
  precision: fp32
  lr: {schedule: cosine, peak: 1.0e-2, min: 1.0e-3, warmup_steps: 4}
  eval_every: 10
  threads: 2
checkpoint: {every: 4, keep: 3}
)");
  }

  const std::filesystem::path& directory() const { return scratch_.path(); }
  std::filesystem::path output(const std::string& name = "out") const { return scratch_ / name; }
  std::filesystem::path checkpoint(int64_t step, const std::string& name = "out") const {
    return output(name) / "checkpoints" / fmt::format("step_{:08}", step);
  }

  static std::vector<std::string> words(const std::vector<std::string>& arguments) {
    std::vector<std::string> words = {FATHOM_BINARY};
    words.insert(words.end(), arguments.begin(), arguments.end());
    return words;
  }
  ProcessEnd fathom(const std::vector<std::string>& arguments,
                    const std::function<bool()>& in_child = nullptr) const {
    return Process(directory(), words(arguments), with_patience(in_child)).wait();
  }
  static std::vector<std::string> pretrain_arguments(const Sets& sets) {
    std::vector<std::string> arguments = {"pretrain", "run.yaml"};
    for (const std::string& set : sets) arguments.insert(arguments.end(), {"--set", set});
    return arguments;
  }
  ProcessEnd pretrain(const Sets& sets = {}, const std::function<bool()>& in_child = nullptr) const {
    return fathom(pretrain_arguments(sets), in_child);
  }
  std::unique_ptr<Process> start(const Sets& sets) const {
    return std::make_unique<Process>(directory(), words(pretrain_arguments(sets)), with_patience(nullptr));
  }

 private:
  // Threads that wait for each other sleep instead of spinning: tests run beside others on the same cores.
  static std::function<bool()> with_patience(const std::function<bool()>& in_child) {
    return [in_child] { return ::setenv("OMP_WAIT_POLICY", "passive", 1) == 0 && (!in_child || in_child()); };
  }
  ScratchDirectory scratch_;
};

// Between fork and exec: somebody whom modes keep out (root is not kept out by them).
inline bool become_nobody() {
  return ::setgroups(0, nullptr) == 0 && ::setgid(65534) == 0 && ::setuid(65534) == 0;
}

inline testing::AssertionResult ends_well(const ProcessEnd& end) {
  if (end.exit_code == 0) return testing::AssertionSuccess();
  return testing::AssertionFailure() << "exit code " << end.exit_code << ", signal " << end.signal << "\n"
                                     << end.err;
}

inline std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    lines.push_back(text.substr(at, end - at));
    at = end + 1;
  }
  return lines;
}

inline std::vector<Json> metrics_of(const std::filesystem::path& output) {
  std::vector<Json> metrics;
  for (const std::string& line : lines_of(text_of(output / "metrics.jsonl")))
    metrics.push_back(Json::parse(line));
  return metrics;
}

// The file's lines without what the clock decides: equal texts are equal bits of every number.
inline std::vector<std::string> numbers_of(const std::filesystem::path& output) {
  std::vector<std::string> numbers;
  for (Json metrics : metrics_of(output)) {
    metrics.erase("seconds");
    metrics.erase("tokens_per_second");
    numbers.push_back(metrics.dump());
  }
  return numbers;
}

// Everything of a checkpoint that later losses depend on: weights, masters, moments.
inline std::map<std::string, std::string> tensor_files_of(const std::filesystem::path& checkpoint) {
  std::map<std::string, std::string> files;
  for (const auto& item : std::filesystem::recursive_directory_iterator(checkpoint))
    if (item.path().extension() == ".safetensors")
      files[std::filesystem::relative(item.path(), checkpoint).string()] = text_of(item.path());
  return files;
}

inline size_t size_of(const std::filesystem::path& path) {
  std::error_code ignored;
  const auto size = std::filesystem::file_size(path, ignored);
  return ignored ? 0 : static_cast<size_t>(size);
}

// Waits until the run has written `steps` lines of metrics since the call, or has ended.
inline void wait_for_step(Process& process, const std::filesystem::path& output, size_t step) {
  while (process.is_running() && lines_of(text_of(output / "metrics.jsonl")).size() < step) ::usleep(1000);
}

}  // namespace fathom::test
