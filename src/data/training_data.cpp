#include "data/training_data.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>

#include "base/error.h"
#include "base/parallel.h"
#include "data/builder.h"

namespace fathom::data {
namespace {

constexpr double kSurplus = 0.005;  // Megatron's mid_level_dataset_surplus
constexpr size_t kFingerprintEnds =
    65536;  // bytes of .bin at either end; the whole would take minutes at scale

uint32_t checked_seed(uint64_t seed) {
  if (seed > std::numeric_limits<uint32_t>::max())
    throw ConfigError("seed: {} is over 4294967295, the largest seed that Megatron's sample order takes",
                      seed);
  return static_cast<uint32_t>(seed);
}

void check_weights(const std::vector<config::DataSource>& sources) {
  for (const config::DataSource& source : sources)
    if (!std::isfinite(source.weight) || source.weight <= 0)
      throw ConfigError("data: the weight of {} is {}; it must be above 0 (leave the file out instead)",
                        source.path.string(), source.weight);
}

}  // namespace

TrainingData::TrainingData(const config::DataSection& section, Split split, int64_t num_samples,
                           uint64_t seed, int32_t eod_id, int64_t vocab_size, const IndexCache& cache)
    : section_(section),
      split_(split),
      seed_(checked_seed(seed)),
      eod_id_(eod_id),
      vocab_size_(vocab_size),
      cache_(cache) {
  if (eod_id < 0 && (section.reset_position_ids || section.reset_attention_mask || section.eod_mask_loss))
    throw ConfigError(
        "data: reset_position_ids, reset_attention_mask and eod_mask_loss need the id that ends documents, "
        "and it is unknown: give data.tokenizer or a model with eos_token_id");
  if (section.seq_length < 1) throw ConfigError("data.seq_length: {} is not above 0", section.seq_length);
  const bool own_valid = !section.valid.empty();
  const std::vector<config::DataSource>& sources =
      split == Split::valid && own_valid ? section.valid : section.train;
  if (!own_valid) cut_ = section.split;
  if (sources.empty() || (split != Split::train && !own_valid && cut_.empty()) ||
      (split == Split::test && own_valid))
    throw ConfigError("data: there is nothing to {} on: give data.{} or a data.split with a part for it",
                      split == Split::train ? "train" : "evaluate",
                      split == Split::train ? "train" : "valid");
  check_weights(sources);
  if (sources.size() > 32767)
    throw ConfigError("data: {} datasets; at most 32767 can be blended", sources.size());
  if (sources.size() == 1)
    build_single(sources[0], num_samples);
  else
    build_blend(sources, num_samples);
  compute_fingerprint();
}

GptDatasetOptions TrainingData::options_for(const formats::IndexedDataset& dataset,
                                            int64_t num_samples) const {
  GptDatasetOptions options{{0, dataset.num_sequences()}, num_samples, section_.seq_length, seed_};
  if (!cut_.empty()) options.range = split_ranges(cut_, dataset.num_sequences())[static_cast<size_t>(split_)];
  if (options.range.empty())
    throw DataError("{}: no sequence of its {} falls to {}{}", dataset.prefix().string(),
                    dataset.num_sequences(), split_name(split_),
                    cut_.empty() ? "" : " by data.split \"" + cut_ + "\"");
  return options;
}

void TrainingData::build_single(const config::DataSource& source, int64_t num_samples) {
  build_members({source}, {num_samples});
  weights_ = {1.0};
}

void TrainingData::build_members(const std::vector<config::DataSource>& sources,
                                 const std::vector<int64_t>& samples) {
  datasets_.resize(sources.size());
  parallel_tasks(static_cast<int64_t>(sources.size()), [&](int64_t task) {
    const auto d = static_cast<size_t>(task);
    const auto dataset = std::make_shared<const formats::IndexedDataset>(sources[d].path);
    datasets_[d] = std::make_unique<GptDataset>(dataset, options_for(*dataset, samples[d]), cache_);
  });
}

template <typename Make>
void TrainingData::find_or_make_blend(const char* kind, std::span<const double> weights, int64_t size,
                                      Make&& make) {
  std::string description = fmt::format("blend {}\nsamples {}\n", kind, size);
  for (const double weight : weights)
    description += fmt::format("{:016x}\n", std::bit_cast<uint64_t>(weight));
  const auto map = [&] {
    auto entry = cache_.find(description);
    const auto count = static_cast<size_t>(size);
    if (!entry || entry->arrays.size() != 2 || entry->arrays[0].size() != count * sizeof(int16_t) ||
        entry->arrays[1].size() != count * sizeof(int64_t))
      return false;
    blend_dataset_ = {reinterpret_cast<const int16_t*>(entry->arrays[0].data()), count};
    blend_sample_ = {reinterpret_cast<const int64_t*>(entry->arrays[1].data()), count};
    blend_entry_ = std::move(entry);
    return true;
  };
  if (map()) return;
  built_blend_ = make();
  blend_dataset_ = built_blend_.dataset;
  blend_sample_ = built_blend_.sample;
  if (!cache_) return;
  const std::span<const std::byte> arrays[] = {std::as_bytes(blend_dataset_), std::as_bytes(blend_sample_)};
  cache_.store(description, arrays);
  if (map()) built_blend_ = {};
}

void TrainingData::build_blend(const std::vector<config::DataSource>& sources, int64_t num_samples) {
  std::vector<double> weights;
  weights.reserve(sources.size());
  for (const config::DataSource& source : sources) weights.push_back(source.weight);
  weights = normalized(weights);
  std::vector<int64_t> built(sources.size(), 0);
  if (num_samples > 0) built = blend_sizes(weights, num_samples, kSurplus);
  build_members(sources, built);
  std::vector<int64_t> sizes;
  for (const auto& member : datasets_) sizes.push_back(member->size());
  if (num_samples <= 0) {
    weights_.assign(sizes.begin(), sizes.end());
    find_or_make_blend("to the last sample of each", weights_,
                       std::accumulate(sizes.begin(), sizes.end(), int64_t{0}),
                       [&] { return blend_exhaustive(sizes); });
    return;
  }
  int64_t total = 0;
  for (const int64_t size : blend_sizes(weights, num_samples, 0)) total += size;
  weights_ = normalized(weights);  // Megatron's blend normalises once more, which can move the last bit
  find_or_make_blend("by weight", weights_, total, [&] { return blend(weights_, total); });
  // The surplus makes this rare; Megatron gives up here, we build the member larger.
  std::vector<int64_t> drawn(sources.size(), 0);
  for (const int16_t d : blend_dataset_) {
    if (d < 0 || static_cast<size_t>(d) >= drawn.size())
      throw DataError("{}: it holds a blend that does not fit the datasets; delete it",
                      blend_entry_ ? blend_entry_->file.path().string() : "data");
    ++drawn[static_cast<size_t>(d)];
  }
  for (size_t d = 0; d < sources.size(); ++d) {
    if (drawn[d] <= sizes[d]) continue;
    const auto dataset = std::make_shared<const formats::IndexedDataset>(sources[d].path);
    datasets_[d] = std::make_unique<GptDataset>(dataset, options_for(*dataset, drawn[d]), cache_);
  }
}

int64_t TrainingData::size() const {
  return datasets_.size() == 1 ? datasets_[0]->size() : static_cast<int64_t>(blend_dataset_.size());
}

TrainingData::Origin TrainingData::origin(int64_t index) const {
  FATHOM_ASSERT(index >= 0 && index < size());
  if (datasets_.size() == 1) return {0, index};
  const Origin origin{blend_dataset_[static_cast<size_t>(index)], blend_sample_[static_cast<size_t>(index)]};
  const bool fits = origin.dataset >= 0 && origin.dataset < static_cast<int64_t>(datasets_.size()) &&
                    origin.sample >= 0 &&
                    origin.sample < datasets_[static_cast<size_t>(origin.dataset)]->size();
  if (!fits && blend_entry_)
    throw DataError("{}: it holds a blend that does not fit the datasets; delete it",
                    blend_entry_->file.path().string());
  FATHOM_ASSERT(fits);
  return origin;
}

Sample TrainingData::sample(int64_t index) const {
  const Origin from = origin(index);
  const auto length = static_cast<size_t>(section_.seq_length);
  Sample sample;
  sample.tokens.resize(length + 1);
  datasets_[static_cast<size_t>(from.dataset)]->read(from.sample, vocab_size_, sample.tokens.data());
  sample.loss_mask.assign(length, 1.0f);
  sample.position_ids.resize(length);
  if (section_.reset_attention_mask) sample.document_starts.push_back(0);
  int32_t start = 0;
  for (size_t i = 0; i < length; ++i) {
    sample.position_ids[i] = static_cast<int32_t>(i) - start;
    if (sample.tokens[i] != eod_id_) continue;
    if (section_.eod_mask_loss) sample.loss_mask[i] = 0;
    if (section_.reset_position_ids) start = static_cast<int32_t>(i) + 1;
    // Also after the last input: an MTP label that stands there belongs to the next document.
    if (section_.reset_attention_mask) sample.document_starts.push_back(static_cast<int32_t>(i) + 1);
  }
  return sample;
}

void TrainingData::compute_fingerprint() {
  std::vector<uint64_t> facts{static_cast<uint64_t>(section_.seq_length), seed_,
                              static_cast<uint64_t>(split_), static_cast<uint64_t>(datasets_.size())};
  facts.push_back(XXH64(cut_.data(), cut_.size(), 0));
  for (const double weight : weights_) facts.push_back(std::bit_cast<uint64_t>(weight));
  for (const auto& member : datasets_) {
    const formats::IndexedDataset& dataset = member->dataset();
    facts.push_back(dataset.index_hash());
    facts.push_back(dataset.bin_hash(kFingerprintEnds));
    facts.push_back(static_cast<uint64_t>(member->num_epochs()));
    facts.push_back(member->has_separate_last_epoch());
  }
  fingerprint_ = fmt::format("{:016x}", XXH64(facts.data(), facts.size() * sizeof(uint64_t), 0));
}

int32_t document_end_id(const config::Recipe& recipe) {
  if (!recipe.data.train.empty())
    if (const auto metadata = read_dataset_metadata(recipe.data.train[0].path);
        metadata && metadata->eod_id >= 0)
      return metadata->eod_id;
  return recipe.model.eos_token_ids.empty() ? -1 : static_cast<int32_t>(recipe.model.eos_token_ids[0]);
}

std::unique_ptr<TrainingData> open_run_data(const config::Recipe& recipe, Split split, int64_t num_samples,
                                            const IndexCache& cache) {
  const uint64_t seed = split == Split::train ? recipe.seed : kHeldOutSeed;
  return std::make_unique<TrainingData>(recipe.data, split, num_samples, seed, document_end_id(recipe),
                                        recipe.model.vocab_size, cache);
}

}  // namespace fathom::data
