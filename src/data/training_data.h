// The training dataset: one or several weighted indexed datasets as a list of samples that any rank reads by
// number. The run's data position is one integer, the number of samples consumed; with the same fingerprint()
// it means the same samples, so a run stops and resumes at any of them, at any number of ranks. Thread-safe.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "config/recipe.h"
#include "data/blend.h"
#include "data/gpt_dataset.h"
#include "data/index_cache.h"
#include "data/split.h"

namespace fathom::data {

struct Sample {
  std::vector<int32_t> tokens;        // [seq_length + 1]: inputs are the first seq_length, labels the last
  std::vector<float> loss_mask;       // [seq_length], per label: 0 where the input is eod and eod_mask_loss
  std::vector<int32_t> position_ids;  // [seq_length]: restart after each eod with reset_position_ids
  std::vector<int32_t>
      document_starts;  // with reset_attention_mask: 0 and each place after an eod, seq_length included; else empty
};

// The seed of held-out data: their windows are the same in runs of any seed, and in `fathom eval`.
inline constexpr uint64_t kHeldOutSeed = 0;

class TrainingData {
 public:
  // `num_samples` > 0: over as many epochs as that takes. 0: one epoch, each sample once (evaluation).
  // Split::valid takes section.valid, or without it the second part of section.split over section.train;
  // Split::train takes section.train, cut by section.split only where section.valid is empty. `eod_id` -1:
  // unknown; then the three eod options must be off. Throws FileError, DataError (damaged or too short data),
  // ConfigError (no data for this split, weights, seed over 32 bits, eod options without an eod id).
  // With `cache` the indices are mapped from its files, or stored there; without, nothing is written.
  TrainingData(const config::DataSection& section, Split split, int64_t num_samples, uint64_t seed,
               int32_t eod_id, int64_t vocab_size, const IndexCache& cache = {});

  int64_t size() const;  // >= num_samples
  // Throws DataError: an id outside the vocabulary (file, document, byte).
  Sample sample(int64_t index) const;
  // Which member dataset sample `index` comes from, and its number there.
  struct Origin {
    int64_t dataset = 0;
    int64_t sample = 0;
  };
  Origin origin(int64_t index) const;
  const std::vector<std::unique_ptr<GptDataset>>& datasets() const { return datasets_; }

  // Hash of what decides the order and content of samples: index files, sizes, weights, split, epochs,
  // seq_length, seed. Paths do not count. Asking for more samples keeps it while the epochs and their
  // shuffling stay.
  const std::string& fingerprint() const { return fingerprint_; }

 private:
  void build_single(const config::DataSource& source, int64_t num_samples);
  void build_blend(const std::vector<config::DataSource>& sources, int64_t num_samples);
  void build_members(const std::vector<config::DataSource>& sources, const std::vector<int64_t>& samples);
  // `make` draws the blend that `weights` and `kind` describe, where the cache has none of `size` samples.
  template <typename Make>
  void find_or_make_blend(const char* kind, std::span<const double> weights, int64_t size, Make&& make);
  GptDatasetOptions options_for(const formats::IndexedDataset& dataset, int64_t num_samples) const;
  void compute_fingerprint();

  config::DataSection section_;
  Split split_;
  std::string cut_;  // Megatron split string, empty: every sequence
  uint32_t seed_;
  int32_t eod_id_;
  int64_t vocab_size_;
  std::vector<std::unique_ptr<GptDataset>> datasets_;
  std::vector<double> weights_;
  IndexCache cache_;
  BlendIndex built_blend_;                        // empty where the arrays are mapped
  std::optional<IndexCache::Entry> blend_entry_;  // the mapped ones
  std::span<const int16_t> blend_dataset_;        // empty with one dataset
  std::span<const int64_t> blend_sample_;
  std::string fingerprint_;
};

// The id that ends documents in a run: the first training dataset's .meta.json says it, else the model's first
// eos id; -1: unknown.
int32_t document_end_id(const config::Recipe& recipe);

// What a run of `recipe` reads: its seed (held-out data have their own), end id, vocabulary.
std::unique_ptr<TrainingData> open_run_data(const config::Recipe& recipe, Split split, int64_t num_samples,
                                            const IndexCache& cache);
inline IndexCache run_cache(const config::Recipe& recipe, bool may_write = true) {
  return IndexCache(recipe.output_dir / "cache", may_write);
}

}  // namespace fathom::data
