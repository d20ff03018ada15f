#include "data/sft_dataset.h"

#include <algorithm>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "base/error.h"
#include "base/json.h"

namespace fathom::data {
namespace {

Json metadata_of(const std::filesystem::path& prefix) {
  const std::filesystem::path file = prefix.string() + ".meta.json";
  return std::filesystem::exists(file) ? read_json_file(file) : Json();
}

}  // namespace

std::filesystem::path loss_mask_prefix(const std::filesystem::path& prefix) {
  return formats::dataset_prefix(prefix).string() + "_loss_mask";
}

bool SftDataset::is_one(const std::filesystem::path& path) {
  const Json metadata = metadata_of(formats::dataset_prefix(path));
  return metadata.is_object() && metadata.value("kind", Json()) == "sft";
}

SftDataset::SftDataset(const std::filesystem::path& path) : tokens_(path), mask_(loss_mask_prefix(path)) {
  const std::string name = tokens_.prefix().string();
  const Json metadata = metadata_of(tokens_.prefix());
  if (!metadata.is_object() || metadata.value("kind", Json()) != "sft")
    throw ConfigError("{}.meta.json: it does not say kind \"sft\": make the data with fathom data sft", name);
  try {
    seq_length_ = metadata.at("seq_length").get<int64_t>();
    pad_id_ = metadata.at("pad_id").get<int32_t>();
  } catch (const nlohmann::json::exception& error) {
    throw ConfigError("{}.meta.json: not what fathom data sft writes: {}", name, error.what());
  }
  if (seq_length_ < 1)
    throw ConfigError("{}.meta.json: seq_length {}: it must be positive", name, seq_length_);
  const bool same_shape = mask_.num_documents() == tokens_.num_documents() &&
                          std::ranges::equal(mask_.lengths_bytes(), tokens_.lengths_bytes());
  if (mask_.type() != formats::TokenType::uint8 || !same_shape)
    throw DataError("{}: it is no loss mask of {}: {} sequences against {}, or other lengths; make both anew",
                    mask_.bin_path(), name, mask_.num_sequences(), tokens_.num_sequences());
  for (int64_t d = 0; d <= size(); ++d)
    if (mask_.document_begin(d) != tokens_.document_begin(d))
      throw DataError("{}: row {} holds other sequences than in {}; make both anew", mask_.bin_path(), d,
                      name);
}

SftDataset::Row SftDataset::row(int64_t index) const {
  FATHOM_ASSERT(index >= 0 && index < size());
  Row row;
  for (int64_t s = tokens_.document_begin(index); s < tokens_.document_begin(index + 1); ++s) {
    const size_t begin = row.ids.size();
    const int32_t length = tokens_.sequence_length(s);
    if (length == 0) continue;
    row.begins.push_back(static_cast<int32_t>(begin));
    row.ids.resize(begin + static_cast<size_t>(length));
    tokens_.read(s, 0, length, row.ids.data() + begin);
    for (const std::byte value : mask_.sequence_bytes(s)) {
      const auto trained = static_cast<uint8_t>(value);
      if (trained > 1 || (trained == 1 && row.trained.size() == begin))
        throw DataError("{}: byte {}: sequence {}, token {}: mask {} {}", mask_.bin_path(),
                        mask_.sequence_pointer(s) + static_cast<int64_t>(row.trained.size() - begin), s,
                        row.trained.size() - begin, trained,
                        trained > 1 ? "is neither 0 nor 1" : "trains a first token, which nothing predicts");
      row.trained.push_back(trained);
    }
  }
  return row;
}

Sample SftDataset::sample(int64_t index, int64_t seq_length, int64_t vocab_size) const {
  Row row = this->row(index);
  const auto length = static_cast<size_t>(seq_length);
  if (row.ids.size() > length + 1)
    throw DataError("{}: row {} has {} tokens, more than data.seq_length {} + 1: it was made for {}",
                    tokens_.bin_path(), index, row.ids.size(), seq_length, seq_length_);
  for (size_t i = 0; i < row.ids.size(); ++i)
    if (row.ids[i] < 0 || row.ids[i] >= vocab_size)
      throw DataError(
          "{}: row {}, token {}: id {} is outside the model's vocabulary of {}: it was made with another "
          "tokenizer",
          tokens_.bin_path(), index, i, row.ids[i], vocab_size);
  Sample sample;
  sample.loss_mask.assign(length, 0.0f);
  for (size_t i = 1; i < row.ids.size(); ++i) sample.loss_mask[i - 1] = row.trained[i];
  sample.document_starts = std::move(row.begins);
  if (row.ids.size() <= length) sample.document_starts.push_back(static_cast<int32_t>(row.ids.size()));
  sample.tokens = std::move(row.ids);
  sample.tokens.resize(length + 1, pad_id_);
  sample.position_ids.resize(length);
  size_t next = 0;
  int32_t start = 0;
  for (size_t i = 0; i < length; ++i) {
    if (next < sample.document_starts.size() && sample.document_starts[next] == static_cast<int32_t>(i))
      start = sample.document_starts[next++];
    sample.position_ids[i] = static_cast<int32_t>(i) - start;
  }
  return sample;
}

std::string SftDataset::fingerprint() const {
  constexpr size_t kEnds = 1 << 20;
  const uint64_t facts[] = {tokens_.index_hash(), tokens_.bin_hash(kEnds), mask_.index_hash(),
                            mask_.bin_hash(kEnds), static_cast<uint64_t>(seq_length_)};
  return fmt::format("{:016x}", XXH64(facts, sizeof facts, 0));
}

}  // namespace fathom::data
