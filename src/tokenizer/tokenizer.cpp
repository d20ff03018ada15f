#include "tokenizer/tokenizer.h"

#include <algorithm>

#include "base/error.h"
#include "tokenizer/lossy.h"
#include "tokenizer/tokenizer_data.h"
#include "tokenizer/utf8.h"

namespace fathom::tokenizer {

struct EncodeScratch::State {
  std::shared_ptr<const TokenizerData> owner;  // whose words the cache holds
  size_t bytes_seen = 0;
  Bpe::Scratch bpe;
  PreTokenizer::Scratch pre_tokenizer;
  std::vector<AddedTokens::Segment> segments;
};

namespace {

// The caller's vector, held on this thread's stack: its header may share a cache line with one that another thread
// grows (ids of neighbouring documents), and each push would then take the line from the other core.
struct Borrowed {
  explicit Borrowed(std::vector<int32_t>& vector) : owner(vector), ids(std::move(vector)) {}
  ~Borrowed() { owner = std::move(ids); }
  Borrowed(const Borrowed&) = delete;
  Borrowed& operator=(const Borrowed&) = delete;
  std::vector<int32_t>& owner;
  std::vector<int32_t> ids;
};

}  // namespace

EncodeScratch::EncodeScratch() : state_(std::make_unique<State>()) {}
EncodeScratch::~EncodeScratch() = default;
EncodeScratch::EncodeScratch(EncodeScratch&&) noexcept = default;
EncodeScratch& EncodeScratch::operator=(EncodeScratch&&) noexcept = default;

std::vector<int32_t> Tokenizer::encode(std::string_view text, SpecialTokens special, bool add_special) const {
  EncodeScratch scratch;
  std::vector<int32_t> ids;
  encode_into(text, scratch, ids, special, add_special);
  return ids;
}

void Tokenizer::encode_into(std::string_view text, EncodeScratch& scratch, std::vector<int32_t>& caller_ids,
                            SpecialTokens special, bool add_special) const {
  constexpr size_t kCacheFrom = 1 << 16;  // bytes; below this the cache (2 MB) costs more than it saves
  const TokenizerData& data = *data_;
  EncodeScratch::State& state = *scratch.state_;
  if (text.size() > UINT32_MAX)
    throw DataError("a text of {} bytes is too long to tokenize at once: cut it below 4 GiB", text.size());
  const size_t invalid = find_invalid_utf8(text);
  if (invalid != std::string_view::npos)
    throw DataError("the text is not UTF-8 at byte {} (0x{:02X}): convert it to UTF-8, or leave it out",
                    invalid, static_cast<unsigned char>(text[invalid]));
  if (add_special && !data.has_template && !data.bos_id)
    throw ConfigError(
        "{}: cannot add BOS: there is no template in post_processor, and no bos_token in a "
        "tokenizer_config.json beside it",
        data.path.string());
  if (state.owner != data_) {
    state = EncodeScratch::State();
    state.owner = data_;
  }
  state.bytes_seen += text.size();
  if (state.bytes_seen >= kCacheFrom) state.bpe.enable_cache();

  Borrowed borrowed(caller_ids);
  std::vector<int32_t>& out = borrowed.ids;
  const size_t begin = out.size();
  data.added.split(text, special == SpecialTokens::encode, state.segments);
  for (const AddedTokens::Segment& segment : state.segments) {
    if (segment.id >= 0) {
      out.push_back(segment.id);
      continue;
    }
    data.pre_tokenizer.split(text.substr(segment.begin, segment.end - segment.begin), state.pre_tokenizer,
                             [&](std::string_view piece) { data.bpe.encode(piece, state.bpe, out); });
  }
  if (!add_special) return;
  std::vector<int32_t> prefix = data.prefix, suffix = data.suffix;
  if (!data.has_template) {
    prefix = {*data.bos_id};
    if (data.add_eos_token && data.eos_id) suffix = {*data.eos_id};
  }
  const auto first = out.begin() + static_cast<ptrdiff_t>(begin);
  const bool is_there = static_cast<size_t>(out.end() - first) >= prefix.size() &&
                        std::equal(prefix.begin(), prefix.end(), first);
  if (!is_there) out.insert(first, prefix.begin(), prefix.end());
  out.insert(out.end(), suffix.begin(), suffix.end());
}

std::string_view Tokenizer::token_bytes(int32_t id) const {
  if (const AddedToken* token = data_->added_token(id)) return token->content;
  return data_->bpe.has_id(id) ? data_->bpe.bytes(id) : std::string_view();
}

std::string Tokenizer::decode(std::span<const int32_t> ids, bool skip_special_tokens) const {
  DecodeStream stream(*this, skip_special_tokens);
  std::string text;
  for (const int32_t id : ids) text += stream.push(id);
  return text + stream.finish();
}

int32_t Tokenizer::vocab_size() const { return data_->vocab_size; }

std::optional<int32_t> Tokenizer::token_to_id(std::string_view token) const {
  int32_t id = data_->added_ids.find(token);
  if (id < 0) id = data_->bpe.find(token);
  return id < 0 ? std::nullopt : std::optional(id);
}

bool Tokenizer::is_special(int32_t id) const {
  const AddedToken* token = data_->added_token(id);
  return token != nullptr && token->special;
}

bool Tokenizer::is_control(int32_t id) const {
  const AddedToken* token = data_->added_token(id);
  return token != nullptr && token->is_control();
}

std::optional<int32_t> Tokenizer::bos_id() const { return data_->bos_id; }
std::optional<int32_t> Tokenizer::eos_id() const { return data_->eos_id; }

bool Tokenizer::adds_bos() const {
  return data_->has_template ? !data_->prefix.empty() : data_->add_bos_token && data_->bos_id.has_value();
}

const std::filesystem::path& Tokenizer::path() const { return data_->path; }

std::string DecodeStream::push(int32_t id) {
  if (id < 0) throw DataError("{} is not a token id", id);
  std::string text;
  if (skip_special_tokens_ && tokenizer_.is_special(id)) return text;
  held_ += tokenizer_.token_bytes(id);
  held_.erase(0, append_lossy(text, held_, false));
  return text;
}

std::string DecodeStream::finish() {
  std::string text;
  append_lossy(text, held_, true);
  held_.clear();
  return text;
}

}  // namespace fathom::tokenizer
