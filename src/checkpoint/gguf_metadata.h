// What a GGUF of architecture deepseek2 says about model and tokenizer, under the keys of llama.cpp (as of
// llama-cpp-python 0.3.36: conversion/deepseek.py writes, src/models/deepseek2.cpp reads them).
#pragma once

#include <filesystem>
#include <string>

#include "config/model_config.h"
#include "formats/gguf.h"

namespace fathom::checkpoint {

// deepseek2.*. Without MTP layers, which llama.cpp's converter leaves out too. Throws ConfigError naming the key of a
// model that llama.cpp cannot run; says what it computes a little differently.
void add_gguf_model(const config::ModelConfig& model, const std::string& where,
                    formats::GgufMetadata& metadata);

// tokenizer.*, from the tokenizer and chat template in `directory`; ids that it does not name are padding. Without one
// the file says no_vocab, so that programs work with token ids only (a warning says so). Throws ConfigError: more tokens
// than the model has, text is cut in a way that llama.cpp does not know; FileError.
void add_gguf_tokenizer(const config::ModelConfig& model, const std::filesystem::path& directory,
                        formats::GgufMetadata& metadata);

}  // namespace fathom::checkpoint
