// What generates text, seen from outside: requests in, token events out. Free of LibTorch, so that the server
// and the commands build without it; which engine stands behind it is load_engine's business.
//
//   auto engine = load_engine("out/demo/latest", {});
//   Result result = generate(*engine, {engine->encode("Once upon"), {.max_new_tokens = 20}});
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "base/file.h"

namespace fathom::tokenizer {
class Tokenizer;
}

namespace fathom::infer {

// How the next token is chosen. Filters act in this order, each on what the one before it left: penalties,
// temperature, top_k, top_p, min_p (the order of HF transformers).
struct SamplingParams {
  double temperature = 0;             // 0: greedy, ties to the lower id
  int64_t top_k = 0;                  // keep the k most probable; 0: all
  double top_p = 1;                   // (0, 1]: keep the fewest tokens whose probabilities reach this sum
  double min_p = 0;                   // [0, 1]: keep tokens of at least this share of the largest probability
  double repetition_penalty = 1;      // > 0, arXiv 1909.05858: over prompt and output
  double presence_penalty = 0;        // subtracted from the logits of tokens already in the output
  double frequency_penalty = 0;       // the same, times how often each is there
  std::optional<uint64_t> seed = {};  // none: drawn from the system
  std::optional<int64_t> max_new_tokens = {};  // none: what the window has left after the prompt
  std::vector<std::string> stop = {};          // texts that end the output; never part of it
  // Beside the model's end tokens; their text is never part of the output.
  std::vector<int32_t> stop_token_ids = {};
  bool ignore_eos = false;  // the model's end tokens do not end the output
  int64_t logprobs = 0;     // how many alternatives to report at each place
};

struct Request {
  std::vector<int32_t> prompt_ids;
  SamplingParams params;
};

enum class FinishReason {
  stop,    // an end token or a stop string
  length,  // max_new_tokens, or the window is full
  abort,   // cancelled
  error,   // this request failed; the others go on
};
std::string_view to_string(FinishReason reason);

// Why a request is refused or failed.
enum class RequestFault { invalid, context_length_exceeded, numeric, internal };

class RequestError : public Error {
 public:
  RequestError(RequestFault fault, const std::string& message) : Error(message), fault_(fault) {}
  RequestFault fault() const { return fault_; }

 private:
  RequestFault fault_;
};

struct TokenLogprob {
  int32_t token_id = 0;
  float logprob = 0;
};

// One step forward of one request. A request's last event has `finish`; its text flushes what was held back.
struct TokenEvent {
  int64_t request = 0;
  std::optional<int32_t> token_id;  // none: the request ended without a further token
  float logprob = 0;  // of token_id, under the model's own distribution (no temperature, no filter)
  std::vector<TokenLogprob> top;  // SamplingParams::logprobs most probable tokens, the same distribution
  std::string text;               // whole characters that became certain; may be empty
  std::optional<FinishReason> finish;
  RequestFault fault = RequestFault::invalid;  // with FinishReason::error
  std::string error;                           // with FinishReason::error: what happened
};

struct Result {
  std::vector<int32_t> prompt_ids;
  std::vector<int32_t> token_ids;  // an end token and the tokens of a stop string included
  std::vector<float> logprobs;     // per token id
  std::vector<std::vector<TokenLogprob>> top_logprobs;  // per token id, empty unless asked for
  std::string text;  // without special tokens and stop strings; empty without a tokenizer
  FinishReason finish_reason = FinishReason::stop;
};

struct EngineInfo {
  int64_t max_tokens = 0;  // the window: prompt and output together
  int64_t vocab_size = 0;
  std::vector<int32_t> eos_token_ids;  // of generation_config.json, else config.json, else the tokenizer
  std::string dtype;                   // "fp32" | "bf16"
  int64_t num_parameters = 0;
  uint64_t cache_bytes_per_token = 0;
};

class Engine {
 public:
  virtual ~Engine() = default;
  virtual const EngineInfo& info() const = 0;
  virtual const tokenizer::Tokenizer* tokenizer() const = 0;  // null: the directory holds none

  // Takes a request and returns its number. Throws RequestError: an empty prompt, an id outside the
  // vocabulary, a prompt (or prompt and max_new_tokens) longer than the window, parameters out of range, stop
  // strings without a tokenizer.
  virtual int64_t submit(Request request) = 0;
  // Does one piece of work and tells what came of it; empty when nothing is left to do. Never throws for a
  // fault of one request: that is its event.
  virtual std::vector<TokenEvent> step() = 0;
  // The request's next event is its last, with FinishReason::abort. Unknown numbers are ignored.
  virtual void cancel(int64_t request) = 0;
  virtual bool is_idle() const = 0;

  // Ids of a raw completion, as HF `tokenizer(text)`: with BOS where the tokenizer adds it, never twice
  // (TOK-3). `encode_special`: literal special-token text becomes its id. Throws UsageError without a
  // tokenizer, DataError.
  std::vector<int32_t> encode(std::string_view text, bool encode_special = false) const;
};

enum class EngineDtype { automatic, fp32, bf16 };

struct EngineOptions {
  EngineDtype dtype =
      EngineDtype::automatic;  // that of the file: float32 and float16 in fp32, all else in bf16
  int threads = 0;             // 0: the cores allowed to this process
  int64_t max_tokens = 0;      // a smaller window than max_position_embeddings; 0: the model's
};

// A checkpoint directory in the Hugging Face layout; the tokenizer.json in it is optional. MTP layers are
// left out. One thread at a time may use the engine. Throws FileError, ConfigError, CheckpointError.
std::unique_ptr<Engine> load_engine(const fs::path& checkpoint_dir, const EngineOptions& options);

// Runs one request to its end on an engine that has no other. `on_token` sees every event, and stops the
// request by returning false. Throws RequestError, also when the request fails on the way.
Result generate(Engine& engine, const Request& request,
                const std::function<bool(const TokenEvent&)>& on_token = nullptr);

}  // namespace fathom::infer
