#include "infer/simple_engine.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/tensor.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <random>

namespace fathom::infer {
namespace {

uint64_t system_seed() {
  std::random_device device;
  return static_cast<uint64_t>(device()) << 32 | device();
}

bool contains(const std::vector<int32_t>& ids, int32_t id) {
  return std::find(ids.begin(), ids.end(), id) != ids.end();
}

}  // namespace

SimpleEngine::SimpleEngine(LoadedModel loaded, int64_t max_tokens) : loaded_(std::move(loaded)) {
  const config::ModelConfig& config = loaded_.config;
  if (max_tokens < 0 || max_tokens > config.max_position_embeddings)
    throw ConfigError("a window of {} tokens was asked for: the model's max_position_embeddings is {}",
                      max_tokens, config.max_position_embeddings);
  info_.max_tokens = max_tokens > 0 ? max_tokens : config.max_position_embeddings;
  info_.vocab_size = config.vocab_size;
  info_.eos_token_ids = loaded_.eos_token_ids;
  info_.dtype = loaded_.precision == config::Precision::fp32 ? "fp32" : "bf16";
  info_.num_parameters = loaded_.num_parameters;
  info_.cache_bytes_per_token = loaded_.model->make_cache(1).bytes();
}

const tokenizer::Tokenizer* SimpleEngine::tokenizer() const {
  return loaded_.tokenizer ? &*loaded_.tokenizer : nullptr;
}

int64_t SimpleEngine::output_limit(const Request& request) const {
  const auto prompt = static_cast<int64_t>(request.prompt_ids.size());
  const int64_t left = info_.max_tokens - prompt;
  if (left < 0)
    throw RequestError(RequestFault::context_length_exceeded,
                       fmt::format("the prompt has {} tokens and the window is {}: shorten the prompt",
                                   prompt, info_.max_tokens));
  const int64_t limit = request.params.max_new_tokens.value_or(left);
  if (limit > left)
    throw RequestError(
        RequestFault::context_length_exceeded,
        fmt::format("{} prompt tokens and max_new_tokens {} are {} together, and the window is {}: ask "
                    "for at most {}, or give no limit to use what is left",
                    prompt, limit, prompt + limit, info_.max_tokens, left));
  return limit;
}

int64_t SimpleEngine::submit(Request request) {
  if (request.prompt_ids.empty())
    throw RequestError(RequestFault::invalid,
                       "the prompt is empty: the model needs at least one token to go on from");
  for (size_t i = 0; i < request.prompt_ids.size(); ++i)
    if (request.prompt_ids[i] < 0 || request.prompt_ids[i] >= info_.vocab_size)
      throw RequestError(RequestFault::invalid,
                         fmt::format("prompt token {} is {}: the vocabulary ends at {}", i,
                                     request.prompt_ids[i], info_.vocab_size - 1));
  check_sampling_params(request.params, info_.vocab_size);
  const int64_t limit = output_limit(request);
  Sampler sampler(request.params, request.params.seed ? *request.params.seed : system_seed());
  TextStream text(tokenizer(), request.params.stop);
  queue_.push_back({next_id_, std::move(request), limit, std::move(sampler), std::move(text), {}, nullptr});
  return next_id_++;
}

void SimpleEngine::cancel(int64_t request) {
  for (Active& active : queue_)
    if (active.id == request) active.is_cancelled = true;
}

std::vector<TokenEvent> SimpleEngine::step() {
  if (queue_.empty()) return {};
  Active& active = queue_.front();
  TokenEvent event;
  event.request = active.id;
  const auto fail = [&](RequestFault fault, const std::string& message) {
    event = {};
    event.request = active.id;
    event.finish = FinishReason::error;
    event.fault = fault;
    event.error = message;
  };
  try {
    advance(active, event);
  } catch (const RequestError& e) {
    fail(e.fault(), e.what());
  } catch (const c10::Error& e) {
    fail(RequestFault::internal, e.what_without_backtrace());
  } catch (const std::exception& e) {
    fail(RequestFault::internal, e.what());
  }
  if (event.finish) queue_.pop_front();
  return {event};
}

void SimpleEngine::advance(Active& active, TokenEvent& event) {
  const SamplingParams& params = active.request.params;
  const auto length = [&] { return static_cast<int64_t>(active.output.size()); };
  if (active.is_cancelled) {
    event.finish = FinishReason::abort;
  } else if (length() >= active.max_new_tokens) {  // only when nothing was asked for
    event.finish = FinishReason::length;
  } else {
    const at::Tensor logits = next_logits(active);
    const Sampler::Choice choice =
        active.sampler.choose({logits.const_data_ptr<float>(), static_cast<size_t>(logits.numel())},
                              active.request.prompt_ids, active.output);
    active.output.push_back(choice.token_id);
    event.token_id = choice.token_id;
    event.logprob = choice.logprob;
    event.top = choice.top;
    if (contains(params.stop_token_ids, choice.token_id) ||
        (!params.ignore_eos && contains(info_.eos_token_ids, choice.token_id))) {
      event.finish = FinishReason::stop;
    } else {
      event.text = active.text.push(choice.token_id);
      if (active.text.is_stopped())
        event.finish = FinishReason::stop;
      else if (length() >= active.max_new_tokens)
        event.finish = FinishReason::length;
    }
  }
  if (event.finish) event.text += active.text.finish();
}

at::Tensor SimpleEngine::next_logits(Active& active) {
  model::DeepseekModel& model = *loaded_.model;
  at::Tensor hidden;
  if (!active.cache) {
    const std::vector<int32_t>& prompt = active.request.prompt_ids;
    // The last output token is never fed back, so it needs no place.
    active.cache = std::make_unique<model::LatentCache>(
        model.make_cache(static_cast<int64_t>(prompt.size()) + active.max_new_tokens - 1));
    const at::Tensor tokens =
        at::tensor(c10::ArrayRef<int64_t>(std::vector<int64_t>(prompt.begin(), prompt.end())));
    hidden = model.prefill(tokens, *active.cache);
    hidden = hidden.narrow(0, hidden.size(0) - 1, 1);
  } else {
    hidden = model.decode(active.output.back(), *active.cache);
  }
  return model.logits(hidden).squeeze(0).contiguous();
}

std::unique_ptr<Engine> load_engine(const fs::path& checkpoint_dir, const EngineOptions& options) {
  return std::make_unique<SimpleEngine>(load_model(checkpoint_dir, options.dtype, options.threads),
                                        options.max_tokens);
}

}  // namespace fathom::infer
