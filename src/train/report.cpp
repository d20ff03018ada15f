#include "train/report.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <iterator>
#include <string_view>

#include "base/file.h"
#include "base/json.h"
#include "base/progress.h"
#include "train/curve.h"
#include "train/report_page.h"

namespace fathom::train {
namespace {

constexpr int64_t kMostCurvePoints = 1500, kMostMeanPoints = 500;
constexpr int64_t kMostBadSteps = 200;
constexpr size_t kMostLoadSteps = 160;
constexpr size_t kMostLoadBytes = 3'000'000;

using Field = double StepMetrics::*;

std::string html_text(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '&')
      out += "&amp;";
    else if (c == '<')
      out += "&lt;";
    else if (c == '>')
      out += "&gt;";
    else
      out += c;
  }
  return out;
}

// A text as a JSON string that can stand in a script element: no '<' may remain, or "</script>" would end it.
// Bytes that are not UTF-8 are replaced.
std::string script_string(std::string_view text) {
  std::string quoted = Json(text).dump(-1, ' ', false, Json::error_handler_t::replace), out;
  for (const char c : quoted) {
    if (c == '<')
      out += "\\u003c";
    else
      out += c;
  }
  return out;
}

template <typename Range, typename Format>
std::string json_list(const Range& range, const Format& format) {
  std::string out = "[";
  for (const auto& item : range) {
    if (out.size() > 1) out += ',';
    out += format(item);
  }
  return out + ']';
}

std::string curve_json(const Curve& curve) {
  return fmt::format("[{},{}]", json_list(curve.steps, [](int64_t s) { return fmt::format("{}", s); }),
                     json_list(curve.values, [](double v) { return fmt::format("{:.6g}", v); }));
}

Curve curve_of(const std::vector<StepMetrics>& metrics, Field field) {
  Curve curve;
  for (const StepMetrics& m : metrics) curve.add(m.step, m.*field);
  return curve;
}

std::string curves_json(const std::vector<StepMetrics>& metrics) {
  struct Plot {
    const char* name;
    Field field;
    bool is_smoothed;
  };
  const Plot plots[] = {{"loss", &StepMetrics::loss, true},
                        {"mtp_loss", &StepMetrics::mtp_loss, true},
                        {"eval_loss", &StepMetrics::eval_loss, false},
                        {"balance_loss", &StepMetrics::balance_loss, true},
                        {"grad_norm", &StepMetrics::grad_norm, true},
                        {"lr", &StepMetrics::lr, false},
                        {"tokens_per_second", &StepMetrics::tokens_per_second, true},
                        {"max_violation", &StepMetrics::max_violation, true}};
  return json_list(plots, [&](const Plot& plot) {
    const Curve curve = curve_of(metrics, plot.field);
    std::string out = fmt::format("\n{{\"name\":\"{}\",\"raw\":{}", plot.name,
                                  curve_json(downsample(curve, kMostCurvePoints)));
    // The mean of a fiftieth of the run; where that is under three steps there is nothing to smooth.
    const auto window = static_cast<int64_t>(curve.size() / 50);
    if (plot.is_smoothed && window >= 3)
      out += fmt::format(",\"smooth\":{}", curve_json(smooth(curve, window, kMostMeanPoints)));
    return out + '}';
  });
}

std::string base64(const std::string& bytes) {
  static constexpr char kDigits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  for (size_t i = 0; i < bytes.size(); i += 3) {
    uint32_t group = 0;
    for (size_t k = 0; k < 3; ++k)
      group = group << 8 | (i + k < bytes.size() ? static_cast<uint8_t>(bytes[i + k]) : 0u);
    for (size_t k = 0; k < 4; ++k) out += i + k > bytes.size() ? '=' : kDigits[group >> (18 - 6 * k) & 63];
  }
  return out;
}

// One byte a load: 254 load / (1 + load), so that balance is 127 and any load has a code; 255 is not
// measured.
char load_code(double load) {
  if (std::isnan(load)) return static_cast<char>(255);
  const double share = std::isinf(load) ? 1 : std::max(load, 0.0) / (1 + std::max(load, 0.0));
  return static_cast<char>(std::lround(254 * share));
}

bool same_shape(const ExpertLoad& a, const ExpertLoad& b) {
  return std::equal(a.layers.begin(), a.layers.end(), b.layers.begin(), b.layers.end(),
                    [](const LayerLoad& x, const LayerLoad& y) {
                      return x.layer == y.layer && x.load.size() == y.load.size();
                    });
}

// {"layers": [...], "experts": E, "steps": [...], "codes": base64 of [steps][layers][E]}, or null without
// loads.
std::string loads_json(const std::vector<ExpertLoad>& loads) {
  if (loads.empty() || loads.back().layers.empty()) return "null";
  const ExpertLoad& last = loads.back();
  const size_t experts = last.layers[0].load.size();
  for (const LayerLoad& layer : last.layers)
    if (layer.load.size() != experts || experts == 0) return "null";
  std::vector<const ExpertLoad*> usable;
  for (const ExpertLoad& load : loads)
    if (same_shape(load, last)) usable.push_back(&load);
  const size_t bytes_a_step = last.layers.size() * experts;
  const size_t count =
      std::min({usable.size(), kMostLoadSteps, std::max<size_t>(1, kMostLoadBytes / bytes_a_step)});
  std::string codes;
  std::vector<int64_t> steps;
  for (size_t i = 1; i <= count; ++i) {  // the last one always
    const ExpertLoad& load = *usable[i * usable.size() / count - 1];
    steps.push_back(load.step);
    for (const LayerLoad& layer : load.layers)
      std::transform(layer.load.begin(), layer.load.end(), std::back_inserter(codes), load_code);
  }
  const auto number = [](int64_t x) { return fmt::format("{}", x); };
  return fmt::format("{{\"layers\":{},\"experts\":{},\"steps\":{},\"codes\":\"{}\"}}",
                     json_list(last.layers, [](const LayerLoad& l) { return fmt::format("{}", l.layer); }),
                     experts, json_list(steps, number), base64(codes));
}

std::string loss_text(double loss) {
  if (std::isnan(loss)) return "";
  return std::abs(loss) < 1e4 ? fmt::format("{:.4f}", loss) : fmt::format("{:.3g}", loss);
}

using Rows = std::vector<std::pair<std::string, std::string>>;

// The figures in large type.
Rows headline(const RunFacts& facts, const std::vector<StepMetrics>& metrics) {
  double tokens = 0, seconds = 0;
  double loss = kNotMeasured, mtp_loss = kNotMeasured, eval_loss = kNotMeasured, violation = kNotMeasured;
  const auto take = [](double& target, double value) {
    if (std::isfinite(value)) target = value;
  };
  for (const StepMetrics& m : metrics) {
    tokens += static_cast<double>(m.tokens);
    if (std::isfinite(m.seconds)) seconds += m.seconds;
    take(loss, m.loss);
    take(mtp_loss, m.mtp_loss);
    take(eval_loss, m.eval_loss);
    take(violation, m.max_violation);
  }
  const int64_t step = metrics.empty() ? 0 : metrics.back().step;
  return {{facts.is_finished ? "Final loss" : "Loss", loss_text(loss)},
          {"Held-out loss", loss_text(eval_loss)},
          {"MTP loss", loss_text(mtp_loss)},
          {"Steps", facts.total_steps > step
                        ? fmt::format("{} / {}", format_integer(step), format_integer(facts.total_steps))
                        : format_integer(step)},
          {"Tokens", format_count(tokens)},
          {"Time in steps", format_duration(seconds)},
          {"Tokens/s", seconds > 0 ? format_integer(std::llround(std::min(tokens / seconds, 1e15))) : ""},
          {"MaxVio", std::isnan(violation) ? "" : fmt::format("{:.3g}", violation)}};
}

Rows fact_rows(const RunFacts& facts, const std::vector<StepMetrics>& metrics) {
  Rows rows = {
      {"Parameters",
       facts.total_parameters > 0 ? format_count(static_cast<double>(facts.total_parameters)) : ""},
      {"Active a token",
       facts.active_parameters > 0 ? format_count(static_cast<double>(facts.active_parameters)) : ""},
      {"Precision", facts.precision},
      {"Skipped steps",
       !metrics.empty() && metrics.back().skipped > 0 ? fmt::format("{}", metrics.back().skipped) : ""}};
  rows.insert(rows.end(), facts.more.begin(), facts.more.end());
  return rows;
}

std::string rows_json(const Rows& rows) {
  Rows shown;
  std::copy_if(rows.begin(), rows.end(), std::back_inserter(shown),
               [](const auto& row) { return !row.second.empty(); });
  return json_list(shown, [](const auto& row) {
    return fmt::format("[{},{}]", script_string(row.first), script_string(row.second));
  });
}

}  // namespace

std::string render_report(const RunFacts& facts, const std::vector<StepMetrics>& metrics,
                          const std::vector<ExpertLoad>& loads) {
  const std::string name = facts.model_name.empty() ? "Training run" : facts.model_name;
  std::vector<int64_t> bad_steps;  // no number as loss: a gap in the curve that should not go unseen
  for (const StepMetrics& m : metrics)
    if (!std::isfinite(m.loss) && static_cast<int64_t>(bad_steps.size()) < kMostBadSteps)
      bad_steps.push_back(m.step);
  std::string page;
  page += kPageHead;
  page += html_text(name) + " - Fathom run";
  page += kPageStyle;
  page += kPageBody;
  page += fmt::format(
      "{{\"name\":{},\"finished\":{},\"step\":{},\"total_steps\":{},\n\"headline\":{},\n\"facts\":{},\n"
      "\"bad_steps\":{},\n\"curves\":{},\n\"loads\":{}}}",
      script_string(name), facts.is_finished, metrics.empty() ? 0 : metrics.back().step, facts.total_steps,
      rows_json(headline(facts, metrics)), rows_json(fact_rows(facts, metrics)),
      json_list(bad_steps, [](int64_t s) { return fmt::format("{}", s); }), curves_json(metrics),
      loads_json(loads));
  page += kPageScript;
  return page;
}

void write_report(const fs::path& output_dir, const RunFacts& facts) {
  write_text_file(output_dir / "report.html",
                  render_report(facts, read_metrics(output_dir), read_expert_load(output_dir)));
}

}  // namespace fathom::train
