// The plain engine: one request after the other, each with its own latent cache. The reference for faster
// ones.
#pragma once

#include <deque>
#include <memory>

#include "infer/loaded_model.h"
#include "infer/sampler.h"
#include "infer/text_stream.h"

namespace fathom::infer {

class SimpleEngine : public Engine {
 public:
  // `max_tokens` 0: the model's window; more than it is a ConfigError.
  SimpleEngine(LoadedModel loaded, int64_t max_tokens);

  const EngineInfo& info() const override { return info_; }
  const tokenizer::Tokenizer* tokenizer() const override;
  int64_t submit(Request request) override;
  std::vector<TokenEvent> step() override;  // one token of the oldest request
  void cancel(int64_t request) override;
  bool is_idle() const override { return queue_.empty(); }

 private:
  struct Active {
    int64_t id;
    Request request;
    int64_t max_new_tokens;
    Sampler sampler;
    TextStream text;
    std::vector<int32_t> output;
    std::unique_ptr<model::LatentCache> cache;  // made at the request's first step
    bool is_cancelled = false;
  };
  void advance(Active& active, TokenEvent& event);
  at::Tensor next_logits(Active& active);  // [V] float
  int64_t output_limit(const Request& request) const;

  LoadedModel loaded_;
  EngineInfo info_;
  std::deque<Active> queue_;
  int64_t next_id_ = 0;
};

}  // namespace fathom::infer
