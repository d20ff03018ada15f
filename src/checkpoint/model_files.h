// What stands beside the tensors in an HF checkpoint directory.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "checkpoint/saved_tensor.h"
#include "config/model_config.h"

namespace fathom::checkpoint {

void check_tokenizer(const std::filesystem::path& tokenizer);  // throws FileError: no tokenizer lies there

// Everything but the tensors: config.json (dtype set to `dtype`, no quantization_config; for F8_E4M3 bfloat16, and the
// model's quantization_config),
// generation_config.json (token ids), the index where there is more than one file, and the tokenizer's files
// copied from `tokenizer` (a directory, or a tokenizer.json or tiktoken.model whose neighbours come along; empty: none).
// Returns the names of the files written. Throws FileError.
std::vector<std::string> write_model_files(const std::filesystem::path& directory,
                                           const config::ModelConfig& model, formats::Dtype dtype,
                                           const std::vector<SavedFile>& weight_files,
                                           const std::filesystem::path& tokenizer = {});

// The index of these files. Throws FileError.
void write_index(const std::filesystem::path& directory, const std::vector<SavedFile>& weight_files);
void write_parameter_map(const std::filesystem::path& directory,
                         const std::vector<SavedFile>& weight_files);  // MindSpore's
// Copies what stands beside the tensors of a checkpoint but its config.json and index: generation config, tokenizer, chat
// template, Python files of the model. Throws FileError.
void copy_companions(const std::filesystem::path& from, const std::filesystem::path& to);

}  // namespace fathom::checkpoint
