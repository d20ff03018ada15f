#include "infer/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <set>

#include "base/random.h"

namespace fathom::infer {
namespace {

[[noreturn]] void refuse(const char* name, double value, const char* range) {
  throw RequestError(RequestFault::invalid, fmt::format("{} is {}: it must be {}", name, value, range));
}

struct RowFacts {
  int32_t largest = 0;  // lowest id of the largest logit
  double log_sum_exp = 0;
};

RowFacts scan(std::span<const float> logits) {
  RowFacts facts;
  float largest = -std::numeric_limits<float>::infinity();
  for (size_t i = 0; i < logits.size(); ++i) {
    if (std::isnan(logits[i]) || logits[i] == std::numeric_limits<float>::infinity())
      throw RequestError(
          RequestFault::numeric,
          fmt::format("the model's logit of token {} is {}: its weights or its precision are at fault", i,
                      logits[i]));
    if (logits[i] > largest) {
      largest = logits[i];
      facts.largest = static_cast<int32_t>(i);
    }
  }
  if (!std::isfinite(largest))
    throw RequestError(RequestFault::numeric, "every logit is -inf: no token is left to choose from");
  double sum = 0;
  for (const float logit : logits) sum += std::exp(static_cast<double>(logit) - largest);
  facts.log_sum_exp = largest + std::log(sum);
  return facts;
}

// Most probable first, ties to the lower id.
bool before(float logit_a, int32_t id_a, float logit_b, int32_t id_b) {
  return logit_a != logit_b ? logit_a > logit_b : id_a < id_b;
}

std::vector<TokenLogprob> most_probable(std::span<const float> logits, double log_sum_exp, int64_t count) {
  std::vector<int32_t> ids(logits.size());
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int32_t>(i);
  const auto end = ids.begin() + std::min<int64_t>(count, static_cast<int64_t>(ids.size()));
  std::partial_sort(ids.begin(), end, ids.end(), [&](int32_t a, int32_t b) {
    return before(logits[static_cast<size_t>(a)], a, logits[static_cast<size_t>(b)], b);
  });
  std::vector<TokenLogprob> top;
  for (auto id = ids.begin(); id != end; ++id)
    top.push_back({*id, static_cast<float>(logits[static_cast<size_t>(*id)] - log_sum_exp)});
  return top;
}

}  // namespace

void check_sampling_params(const SamplingParams& p, int64_t vocab_size) {
  // Negated comparisons, so that NaN is refused too.
  if (!(p.temperature >= 0 && std::isfinite(p.temperature)))
    refuse("temperature", p.temperature, "at least 0");
  if (p.top_k < 0) refuse("top_k", static_cast<double>(p.top_k), "at least 0 (0: all tokens)");
  if (!(p.top_p > 0 && p.top_p <= 1)) refuse("top_p", p.top_p, "above 0 and at most 1");
  if (!(p.min_p >= 0 && p.min_p <= 1)) refuse("min_p", p.min_p, "from 0 to 1");
  if (!(p.repetition_penalty > 0 && std::isfinite(p.repetition_penalty)))
    refuse("repetition_penalty", p.repetition_penalty, "above 0");
  if (!std::isfinite(p.presence_penalty)) refuse("presence_penalty", p.presence_penalty, "a finite number");
  if (!std::isfinite(p.frequency_penalty))
    refuse("frequency_penalty", p.frequency_penalty, "a finite number");
  if (p.logprobs < 0) refuse("logprobs", static_cast<double>(p.logprobs), "at least 0");
  if (p.max_new_tokens && *p.max_new_tokens < 0)
    refuse("max_new_tokens", static_cast<double>(*p.max_new_tokens), "at least 0");
  for (const int32_t id : p.stop_token_ids)
    if (id < 0 || id >= vocab_size)
      throw RequestError(
          RequestFault::invalid,
          fmt::format("stop_token_ids holds {}: the vocabulary ends at {}", id, vocab_size - 1));
}

Sampler::Sampler(const SamplingParams& params, uint64_t seed)
    : params_(params), key_(stream_key(seed, "sampling")) {}

Sampler::Choice Sampler::choose(std::span<const float> logits, std::span<const int32_t> prompt,
                                std::span<const int32_t> output) {
  const RowFacts facts = scan(logits);
  const std::span<const float> judged = penalize(logits, prompt, output);
  Choice choice;
  choice.token_id =
      params_.temperature > 0 ? draw(judged, output.size())
      : judged.data() == logits.data()
          ? facts.largest
          : static_cast<int32_t>(std::max_element(judged.begin(), judged.end()) - judged.begin());
  choice.logprob = static_cast<float>(logits[static_cast<size_t>(choice.token_id)] - facts.log_sum_exp);
  if (params_.logprobs > 0) choice.top = most_probable(logits, facts.log_sum_exp, params_.logprobs);
  return choice;
}

std::span<const float> Sampler::penalize(std::span<const float> logits, std::span<const int32_t> prompt,
                                         std::span<const int32_t> output) {
  const bool has_repetition = params_.repetition_penalty != 1;
  if (!has_repetition && params_.presence_penalty == 0 && params_.frequency_penalty == 0) return logits;
  penalized_.assign(logits.begin(), logits.end());
  if (has_repetition) {
    std::set<int32_t> seen(prompt.begin(), prompt.end());
    seen.insert(output.begin(), output.end());
    for (const int32_t id : seen) {
      float& logit = penalized_[static_cast<size_t>(id)];
      logit = static_cast<float>(logit < 0 ? logit * params_.repetition_penalty
                                           : logit / params_.repetition_penalty);
    }
  }
  std::map<int32_t, int64_t> counts;
  for (const int32_t id : output) ++counts[id];
  for (const auto& [id, count] : counts)
    penalized_[static_cast<size_t>(id)] -=
        static_cast<float>(params_.presence_penalty + params_.frequency_penalty * static_cast<double>(count));
  return penalized_;
}

int32_t Sampler::draw(std::span<const float> logits, uint64_t number) {
  const float largest = *std::max_element(logits.begin(), logits.end());
  candidates_.clear();
  for (size_t i = 0; i < logits.size(); ++i) {
    // The difference first: a tiny temperature then gives 0 or 1, never inf - inf.
    const double weight = std::exp((static_cast<double>(logits[i]) - largest) / params_.temperature);
    if (weight > 0) candidates_.push_back({logits[i], static_cast<int32_t>(i), weight});
  }
  // Penalties beyond a float's range leave no weight to compare: the largest wins.
  if (candidates_.empty())
    return static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
  if (params_.top_k > 0 && params_.top_k < static_cast<int64_t>(candidates_.size())) keep_top_k();
  if (params_.top_p < 1) keep_top_p();
  if (params_.min_p > 0) keep_min_p();
  double total = 0;
  for (const Candidate& candidate : candidates_) total += candidate.weight;
  double left = uniform(key_, number) * total;
  for (const Candidate& candidate : candidates_) {
    left -= candidate.weight;
    if (left < 0) return candidate.token_id;
  }
  return candidates_.back().token_id;  // rounding of the sums
}

void Sampler::keep_top_k() {
  const auto end = candidates_.begin() + params_.top_k;
  std::nth_element(candidates_.begin(), end - 1, candidates_.end(),
                   [](const Candidate& a, const Candidate& b) {
                     return before(a.logit, a.token_id, b.logit, b.token_id);
                   });
  candidates_.erase(end, candidates_.end());
  // nth_element leaves no promised order; the draw must not depend on the library
  std::sort(candidates_.begin(), candidates_.end(),
            [](const Candidate& a, const Candidate& b) { return a.token_id < b.token_id; });
}

void Sampler::keep_top_p() {
  double total = 0;
  for (const Candidate& candidate : candidates_) total += candidate.weight;
  // Those below this weight hold less than 1 - top_p together, so none of them is needed: they need no
  // sorting.
  const double negligible = (1 - params_.top_p) * total / static_cast<double>(candidates_.size());
  std::erase_if(candidates_, [&](const Candidate& candidate) { return candidate.weight < negligible; });
  std::sort(candidates_.begin(), candidates_.end(), [](const Candidate& a, const Candidate& b) {
    return before(a.logit, a.token_id, b.logit, b.token_id);
  });
  double sum = 0;
  size_t kept = 0;
  while (kept < candidates_.size() && (kept == 0 || sum < params_.top_p * total))
    sum += candidates_[kept++].weight;
  candidates_.resize(kept);
}

void Sampler::keep_min_p() {
  // The largest weight is exp(0) = 1, and no filter before this one removes it.
  std::erase_if(candidates_, [&](const Candidate& candidate) { return candidate.weight < params_.min_p; });
}

}  // namespace fathom::infer
