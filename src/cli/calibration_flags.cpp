#include "cli/calibration_flags.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "base/error.h"
#include "base/file.h"
#include "base/stop_signal.h"
#include "checkpoint/mindformers_w8a8.h"
#include "config/model_config.h"
#include "eval/windows.h"
#include "infer/loaded_model.h"
#include "ops/runtime.h"
#include "quantize/calibrated.h"
#include "quantize/layer_stream.h"
#include "tokenizer/tokenizer.h"

namespace fathom::cli {
namespace {

constexpr int64_t kDefaultLength = 2048;

int64_t length_or_default(int64_t length, const config::ModelConfig& model) {
  return length > 0 ? length : std::min(kDefaultLength, model.max_position_embeddings);
}

// `input` is the prefix of a .bin/.idx dataset, or a text for the checkpoint's own tokenizer.
eval::Windows open_windows(const std::filesystem::path& checkpoint, const config::ModelConfig& model,
                           const std::string& input, int64_t length, const char* flag) {
  if (fs::exists(input + ".idx")) return eval::windows_of_dataset(model, input, length);
  if (!tokenizer::Tokenizer::is_in(checkpoint))
    throw UsageError(
        "{} holds no tokenizer.json, so {} cannot be read as text: put one there, or give the prefix of "
        "a .bin/.idx dataset",
        checkpoint.string(), flag);
  const tokenizer::Tokenizer tokenizer = tokenizer::Tokenizer::load(checkpoint);
  return eval::windows_of_tokens(
      model, tokenizer.encode(read_text_file(input), tokenizer::SpecialTokens::text, tokenizer.adds_bos()),
      length);
}

// `count` of them, evenly spread over the text.
std::vector<model::Window> choose(const eval::Windows& windows, int64_t count) {
  count = std::min(count, windows.count);
  std::vector<model::Window> chosen;
  for (int64_t i = 0; i < count; ++i) chosen.push_back(windows.at(i * windows.count / count));
  return chosen;
}

}  // namespace

void CalibrationFlags::add_to(CLI::App& command) {
  const std::string group = "Calibration";
  command
      .add_option(
          "--calibration", calibration,
          "a text, or the prefix of a .bin/.idx dataset, that shows what the matrices' inputs look like")
      ->group(group);
  command
      .add_option("--method", method,
                  "gptq (the default with --calibration, without --smoothquant) or rtn: round to nearest")
      ->check(CLI::IsMember({"gptq", "rtn"}))
      ->group(group);
  command.add_option("--calibration-samples", samples, "windows taken, evenly spread over the text (128)")
      ->check(CLI::PositiveNumber)
      ->group(group);
  command
      .add_option("--calibration-length", length, "tokens of a window (default: the model's, at most 2048)")
      ->check(CLI::PositiveNumber)
      ->group(group);
  command
      .add_option(
          "--smoothquant", smoothquant,
          "fold part of the inputs' range into the weights; how much: alpha, 0.5 where no number is given")
      ->expected(0, 1)
      ->default_str("0.5")
      ->check(CLI::Range(0.0, 1.0))
      ->group(group);
  command
      .add_option("--min-expert-tokens", min_expert_tokens,
                  "gptq: experts that fewer tokens reach are rounded to nearest, and named (128)")
      ->check(CLI::NonNegativeNumber)
      ->group(group);
  command.add_option("--gptq-damping", damping, "of the mean of the Hessian's diagonal (0.01)")
      ->check(CLI::PositiveNumber)
      ->group(group);
  command.add_flag("--gptq-act-order", act_order, "columns with the largest inputs first")->group(group);
  command
      .add_option("--eval-text", eval_text,
                  "a text or dataset that calibration does not see: perplexity on it before and after")
      ->group(group);
  command
      .add_option("--eval-length", eval_length, "tokens of its windows (default: the model's, at most 2048)")
      ->check(CLI::PositiveNumber)
      ->group(group);
  command.add_option("--threads", threads, "0: the cores this process may use")->check(CLI::Range(0, 4096));
}

void CalibrationFlags::check(const checkpoint::QuantizeOptions& options) const {
  if (!calibrates() && smoothquant) throw UsageError("--smoothquant needs a text: --calibration FILE");
  if (!calibrates() && method == "gptq") throw UsageError("--method gptq needs a text: --calibration FILE");
  const bool is_mindformers = options.scheme == checkpoint::kW8A8Scheme;
  if (is_mindformers && !calibrates())
    throw UsageError("--scheme {} needs a text to find the range of attention's inputs: --calibration FILE",
                     options.scheme);
  if (is_mindformers && (method == "gptq" || smoothquant))
    throw UsageError("--scheme {} rounds to nearest and suppresses outliers by itself: leave {} out",
                     options.scheme, smoothquant ? "--smoothquant" : "--method gptq");
  if (is_mindformers && !eval_text.empty())
    throw UsageError(
        "--eval-text reads HF checkpoints: convert DST to one (fathom convert DST HF) and give it to fathom "
        "eval");
  if (calibrates() && method == "rtn" && !smoothquant && !is_mindformers)
    throw UsageError("--calibration changes nothing under --method rtn without --smoothquant");
  if (calibrates() && options.scheme == "fp8")
    throw UsageError("--calibration goes with int8 and int4: fp8 blocks are scaled by their largest value");
}

quantize::CalibratedReport run_quantize(const std::filesystem::path& source,
                                        const std::filesystem::path& directory,
                                        const checkpoint::QuantizeOptions& options,
                                        const CalibrationFlags& flags) {
  ops::initialize_runtime(flags.threads);
  if (!flags.calibrates()) return {checkpoint::quantize_checkpoint(source, directory, options), {}};
  const config::ModelConfig model = config::read_model_config(source);
  const std::vector<model::Window> windows = choose(
      open_windows(source, model, flags.calibration, length_or_default(flags.length, model), "--calibration"),
      flags.samples);
  quantize::CalibrationOptions calibration;
  calibration.method = flags.method == "rtn" || options.scheme == checkpoint::kW8A8Scheme ||
                               (flags.method.empty() && flags.smoothquant)
                           ? quantize::Method::round_to_nearest
                           : quantize::Method::gptq;
  calibration.gptq = {flags.damping, flags.act_order};
  calibration.smoothing = flags.smoothquant;
  calibration.min_expert_tokens = flags.min_expert_tokens;
  return quantize::quantize_calibrated(source, directory, windows, infer::precision_of_file(source), options,
                                       std::move(calibration));
}

HeldOutText::HeldOutText(const std::filesystem::path& source, const CalibrationFlags& flags) {
  const config::ModelConfig model = config::read_model_config(source);
  windows_ = open_windows(source, model, flags.eval_text, length_or_default(flags.eval_length, model),
                          "--eval-text");
}

eval::Perplexity HeldOutText::perplexity(const std::filesystem::path& checkpoint) const {
  config::ModelConfig model = config::read_model_config(checkpoint);
  model.num_nextn_predict_layers = 0;
  std::vector<model::Window> all;
  for (int64_t i = 0; i < windows_.count; ++i) all.push_back(windows_.at(i));
  quantize::LayerStream stream(checkpoint, model, infer::precision_of_file(checkpoint), all);
  stream.run();
  const quantize::Block head = stream.load_head();
  const eval::Perplexity found =
      eval::perplexity_of_states(head.registry->parameters().front(), windows_.count, windows_.at,
                                 [&](int64_t i, const model::MicroBatch&) { return stream.state(i); });
  if (stop_requested()) throw Error("stopped in the evaluation of {}", checkpoint.string());
  return found;
}

}  // namespace fathom::cli
