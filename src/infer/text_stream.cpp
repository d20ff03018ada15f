#include "infer/text_stream.h"

#include "infer/engine_api.h"

namespace fathom::infer {

TextStream::TextStream(const tokenizer::Tokenizer* tokenizer, const std::vector<std::string>& stop)
    : stop_(stop) {
  if (tokenizer)
    decode_.emplace(*tokenizer, /*skip_special_tokens=*/true);
  else if (!stop.empty())
    throw RequestError(RequestFault::invalid,
                       "stop strings need the text, and the checkpoint directory holds no tokenizer.json: "
                       "put one there, or use stop token ids");
}

std::string TextStream::push(int32_t token_id) { return decode_ ? stop_.push(decode_->push(token_id)) : ""; }

std::string TextStream::finish() {
  if (!decode_) return {};
  std::string text = stop_.push(decode_->finish());
  return text + stop_.finish();
}

}  // namespace fathom::infer
