#include "train/metrics.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <string>

#include "base/file.h"

namespace fathom::train {
namespace {

constexpr int64_t kMostLoadRecords = 400;

int64_t count_or_zero(const SortedJson& record, const char* key) {
  const auto found = record.find(key);
  return found != record.end() && found->is_number_integer() ? found->get<int64_t>() : 0;
}

std::string to_line(const StepMetrics& m) {
  std::string line = fmt::format(
      R"({{"step":{},"loss":{},"mtp_loss":{},"balance_loss":{},"grad_norm":{},"lr":{},"tokens":{},)"
      R"("tokens_per_second":{},"max_violation":{},"skipped":{},"seconds":{})",
      m.step, json_number(m.loss), json_number(m.mtp_loss), json_number(m.balance_loss),
      json_number(m.grad_norm), json_number(m.lr), m.tokens, json_number(m.tokens_per_second),
      json_number(m.max_violation), m.skipped, json_number(m.seconds));
  if (!std::isnan(m.eval_loss))
    line += fmt::format(R"(,"eval_loss":{},"eval_perplexity":{})", json_number(m.eval_loss),
                        json_number(std::exp(m.eval_loss)));
  return line + '}';
}

std::string to_line(const ExpertLoad& record) {
  std::string line = fmt::format(R"({{"step":{},"layers":[)", record.step);
  for (size_t i = 0; i < record.layers.size(); ++i) {
    line += fmt::format(R"({}{{"layer":{},"load":[)", i > 0 ? "," : "", record.layers[i].layer);
    const std::vector<double>& load = record.layers[i].load;
    for (size_t e = 0; e < load.size(); ++e) {
      if (e > 0) line += ',';
      line += std::isfinite(load[e]) ? fmt::format("{:.4g}", load[e]) : "null";
    }
    line += "]}";
  }
  return line + "]}";
}

}  // namespace

fs::path metrics_path(const fs::path& output_dir) { return output_dir / "metrics.jsonl"; }
fs::path expert_load_path(const fs::path& output_dir) { return output_dir / "expert_load.jsonl"; }

MetricsFile::MetricsFile(const fs::path& output_dir, int64_t resume_step)
    : log_(metrics_path(output_dir), resume_step) {}

void MetricsFile::append(const StepMetrics& metrics) { log_.append(to_line(metrics)); }

ExpertLoadFile::ExpertLoadFile(const fs::path& output_dir, int64_t resume_step, int64_t total_steps)
    : log_(expert_load_path(output_dir), resume_step),
      total_steps_(total_steps),
      stride_(std::max<int64_t>(1, (total_steps + kMostLoadRecords - 1) / kMostLoadRecords)) {}

bool ExpertLoadFile::wants(int64_t step) const {
  return step == 1 || step == total_steps_ || step % stride_ == 0;
}

void ExpertLoadFile::append(const ExpertLoad& load) {
  if (wants(load.step)) log_.append(to_line(load));
}

std::vector<StepMetrics> read_metrics(const fs::path& output_dir) {
  std::vector<StepMetrics> history;
  read_step_log(metrics_path(output_dir), [&](int64_t step, const SortedJson& record) {
    StepMetrics m;
    m.step = step;
    m.loss = number_or_nan(record, "loss");
    m.mtp_loss = number_or_nan(record, "mtp_loss");
    m.balance_loss = number_or_nan(record, "balance_loss");
    m.grad_norm = number_or_nan(record, "grad_norm");
    m.lr = number_or_nan(record, "lr");
    m.tokens = count_or_zero(record, "tokens");
    m.tokens_per_second = number_or_nan(record, "tokens_per_second");
    m.max_violation = number_or_nan(record, "max_violation");
    m.skipped = count_or_zero(record, "skipped");
    m.seconds = number_or_nan(record, "seconds");
    m.eval_loss = number_or_nan(record, "eval_loss");
    history.push_back(m);
  });
  return history;
}

std::vector<ExpertLoad> read_expert_load(const fs::path& output_dir) {
  std::vector<ExpertLoad> history;
  read_step_log(expert_load_path(output_dir), [&](int64_t step, const SortedJson& record) {
    ExpertLoad entry;
    entry.step = step;
    const auto layers = record.find("layers");
    if (layers == record.end() || !layers->is_array()) return;
    for (const SortedJson& layer : *layers) {
      if (!layer.is_object() || !layer.contains("load") || !layer["load"].is_array()) continue;
      LayerLoad& target = entry.layers.emplace_back();
      target.layer = count_or_zero(layer, "layer");
      for (const SortedJson& value : layer["load"])
        target.load.push_back(value.is_number() ? value.get<double>() : kNotMeasured);
    }
    history.push_back(std::move(entry));
  });
  return history;
}

double max_violation(const std::vector<double>& load) {
  double sum = 0, largest = 0;
  for (const double x : load) {
    sum += x;
    largest = std::max(largest, x);
  }
  return sum > 0 ? largest * static_cast<double>(load.size()) / sum - 1 : 0;
}

}  // namespace fathom::train
