#include "infer/engine_api.h"

#include "tokenizer/tokenizer.h"

namespace fathom::infer {

std::string_view to_string(FinishReason reason) {
  switch (reason) {
    case FinishReason::stop:
      return "stop";
    case FinishReason::length:
      return "length";
    case FinishReason::abort:
      return "abort";
    case FinishReason::error:
      return "error";
  }
  return "error";
}

std::vector<int32_t> Engine::encode(std::string_view text, bool encode_special) const {
  if (!tokenizer())
    throw UsageError("the checkpoint directory holds no tokenizer.json: put one there, or give token ids");
  const auto special = encode_special ? tokenizer::SpecialTokens::encode : tokenizer::SpecialTokens::text;
  return tokenizer()->encode(text, special, tokenizer()->adds_bos());
}

Result generate(Engine& engine, const Request& request,
                const std::function<bool(const TokenEvent&)>& on_token) {
  Result result;
  result.prompt_ids = request.prompt_ids;
  const int64_t id = engine.submit(request);
  for (;;) {
    const std::vector<TokenEvent> events = engine.step();
    FATHOM_ASSERT(!events.empty());
    for (const TokenEvent& event : events) {
      if (event.request != id) continue;
      if (event.token_id) {
        result.token_ids.push_back(*event.token_id);
        result.logprobs.push_back(event.logprob);
        if (request.params.logprobs > 0) result.top_logprobs.push_back(event.top);
      }
      result.text += event.text;
      if (event.finish == FinishReason::error) throw RequestError(event.fault, event.error);
      const bool go_on = !on_token || on_token(event);
      if (event.finish) {
        result.finish_reason = *event.finish;
        return result;
      }
      if (!go_on) engine.cancel(id);
    }
  }
}

}  // namespace fathom::infer
