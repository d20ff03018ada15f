// The choice of the next token from one row of logits. Plain floats: no LibTorch, no state but the
// parameters. Draws are counter-based: token number n of a request depends on (seed, n, logits) only,
// whatever else runs (INF-10).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "infer/engine_api.h"

namespace fathom::infer {

// Throws RequestError(invalid) naming the parameter, its value and its range.
void check_sampling_params(const SamplingParams& params, int64_t vocab_size);

class Sampler {
 public:
  Sampler(const SamplingParams& params, uint64_t seed);  // the seed to use; params.seed is not read

  struct Choice {
    int32_t token_id = 0;
    float logprob = 0;              // log softmax of the logits as given, in double, rounded once
    std::vector<TokenLogprob> top;  // params.logprobs most probable, ties to the lower id
  };
  // logits [V]; `prompt` and `output` are what stands before, for penalties; the draw's number is
  // output.size(). -inf excludes a token. Throws RequestError(numeric): a NaN, +inf, or nothing but -inf.
  Choice choose(std::span<const float> logits, std::span<const int32_t> prompt,
                std::span<const int32_t> output);

 private:
  struct Candidate {
    float logit;
    int32_t token_id;
    double weight;  // exp((logit - largest) / temperature)
  };
  std::span<const float> penalize(std::span<const float> logits, std::span<const int32_t> prompt,
                                  std::span<const int32_t> output);
  int32_t draw(std::span<const float> logits, uint64_t number);
  void keep_top_k();
  void keep_top_p();
  void keep_min_p();

  SamplingParams params_;
  uint64_t key_;
  std::vector<float> penalized_;  // working memory, kept between calls
  std::vector<Candidate> candidates_;
};

}  // namespace fathom::infer
