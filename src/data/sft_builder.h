// `fathom data sft`: instruction data -> rows of token ids with a loss mask.
//
// Two passes. The first reads the files record by record, renders and encodes batches of them on all threads, and keeps
// the samples in an unnamed place beside the output; the second mixes, packs and writes them. The result does not
// depend on the number of threads. Memory: a batch of records, and 40 bytes a sample.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "chat/training.h"
#include "data/sft_formats.h"

namespace fathom::data {

struct SftInput {
  std::filesystem::path path;
  double weight = 0;  // > 0: its share of the samples, beside those of the others. All have one or none
};

enum class OnLong { drop, truncate, error };  // a sample of more than seq_length + 1 tokens
enum class SftContainer { bin, mindrecord };

struct SftOptions {
  std::filesystem::path tokenizer;
  std::vector<SftInput> inputs;
  std::optional<SftFormat> format;              // none: each file's by its first record
  std::optional<chat::Template> chat_template;  // none: the tokenizer's own
  chat::TrainingOptions training;               // all but `which`
  std::string system;                           // for conversations without a system message
  int64_t seq_length = 0;
  bool pack = false;
  OnLong on_long = OnLong::drop;
  bool skip_bad = false;  // leave out records with errors and count them; else stop at the first
  int64_t num_samples =
      0;                 // with weights: so many, repeating files; 0: as many as there are without repeating
  uint32_t seed = 1234;  // of the mix
  std::filesystem::path
      output;  // prefix, or the MindRecord file (".mindrecord" is put behind where it is not)
  SftContainer container = SftContainer::bin;
  int64_t shards = 1;  // MindRecord files
};

struct SftFileReport {
  std::string path;
  SftFormat format = SftFormat::messages;
  int64_t conversations = 0, samples = 0;  // read, kept
  int64_t written = 0;                     // samples in the output
};

struct SftReport {
  std::vector<SftFileReport> files;
  chat::Template chat_template = chat::Template::v3;
  std::string output;
  int64_t conversations = 0;
  int64_t bad_records = 0;     // with skip_bad
  int64_t without_target = 0;  // nothing would be trained
  int64_t too_long_dropped = 0, truncated = 0;
  int64_t truncated_without_target = 0;  // of those cut, nothing to train was left: dropped
  std::vector<std::string> examples;     // of records left out, ten at most, with file and line
  chat::TrainingNotes notes;
  int64_t samples = 0, rows = 0, tokens = 0, trained_tokens = 0;  // written
  int64_t longest_row = 0;
  double seconds = 0;
};

// Throws UsageError, ConfigError (tokenizer, template), DataError (file, line, key path; nothing to write), FileError.
SftReport build_sft(const SftOptions& options);

}  // namespace fathom::data
