#include "quantize/calibration_store.h"

#include <cstdio>
#include <cstring>
#include <span>
#include <system_error>

#include "base/error.h"
#include "base/file.h"
#include "base/log.h"

namespace fathom::quantize {
namespace {

constexpr const char* kPlanName = "plan.json";

template <typename T>
std::span<const std::byte> bytes_of(const std::vector<T>& values) {
  return std::as_bytes(std::span(values));
}

template <typename T>
std::vector<T> values_of(std::span<const std::byte> bytes) {
  std::vector<T> values(bytes.size() / sizeof(T));
  if (!values.empty()) std::memcpy(values.data(), bytes.data(), values.size() * sizeof(T));
  return values;
}

// Declared first, written second: the tensors of a layer's file.
struct Contents {
  std::vector<formats::TensorDeclaration> declarations;
  std::vector<std::span<const std::byte>> bytes;
  void add(std::string name, formats::Dtype dtype, std::vector<int64_t> shape,
           std::span<const std::byte> data) {
    declarations.push_back({std::move(name), dtype, std::move(shape)});
    bytes.push_back(data);
  }
  void add(std::string name, const std::vector<float>& values) {
    add(std::move(name), formats::Dtype::F32, {static_cast<int64_t>(values.size())}, bytes_of(values));
  }
};

}  // namespace

CalibrationStore::CalibrationStore(std::filesystem::path directory, const Json& plan)
    : directory_(std::move(directory)) {
  const fs::path plan_path = directory_ / kPlanName;
  if (fs::exists(plan_path)) {
    if (read_json_file(plan_path) != plan) {
      log::info(
          "{}: an unfinished calibration lies here, but the source, the text or the options changed since: "
          "it "
          "starts anew",
          directory_.string());
      remove();
    }
  }
  make_directories(directory_);
  if (!fs::exists(plan_path)) write_text_file(plan_path, plan.dump(2) + "\n");
  for (const auto& entry : fs::directory_iterator(directory_)) {
    const std::string name = entry.path().filename().string();
    long long layer = -1;
    int end = 0;
    if (std::sscanf(name.c_str(), "layer_%lld.safetensors%n", &layer, &end) == 1 &&
        end == static_cast<int>(name.size()))
      files_.emplace(layer, formats::SafetensorsFile(entry.path()));
  }
}

std::filesystem::path CalibrationStore::path(int64_t layer) const {
  return directory_ / fmt::format("layer_{:05}.safetensors", layer);
}

void CalibrationStore::write(const LayerResult& result) {
  Contents contents;
  for (const auto& [name, matrix] : result.matrices) {
    const int64_t out = matrix.shape[0];
    contents.add(name + ".codes", formats::Dtype::I8, matrix.shape, bytes_of(matrix.codes.codes));
    contents.add(name + ".scales", formats::Dtype::F32,
                 {out, out > 0 ? static_cast<int64_t>(matrix.codes.scales.size()) / out : 0},
                 bytes_of(matrix.codes.scales));
  }
  for (const auto& [name, scales] : result.smoothing) contents.add(name + ".smoothing", scales);
  for (const auto& [name, range] : result.input_ranges) {
    contents.add(name + ".input_minimum", range.first);
    contents.add(name + ".input_maximum", range.second);
  }
  const LayerReport& report = result.report;
  const Json json = {{"layer", report.layer},
                     {"output_error", report.output_error},
                     {"expert_tokens", report.expert_tokens},
                     {"starved_experts", report.starved_experts}};
  formats::SafetensorsWriter writer(path(report.layer), contents.declarations, {{"report", json.dump()}});
  for (size_t i = 0; i < contents.bytes.size(); ++i)
    writer.write(contents.declarations[i].name, contents.bytes[i]);
  writer.commit();
  files_.insert_or_assign(report.layer, formats::SafetensorsFile(path(report.layer)));
}

LayerReport CalibrationStore::report(int64_t layer) const {
  const formats::SafetensorsFile& file = files_.at(layer);
  const Json json = parse_json(file.metadata().at("report"), file.path().string());
  return {json.at("layer").get<int64_t>(), json.at("output_error").get<double>(),
          json.at("expert_tokens").get<std::vector<int64_t>>(),
          json.at("starved_experts").get<std::vector<int64_t>>()};
}

std::optional<CodedMatrix> CalibrationStore::matrix(int64_t layer, const std::string& name) const {
  const auto file = files_.find(layer);
  if (file == files_.end()) return std::nullopt;
  const formats::TensorEntry* codes = file->second.find(name + ".codes");
  if (!codes) return std::nullopt;
  return CodedMatrix{codes->shape,
                     {values_of<int8_t>(file->second.bytes(*codes)),
                      values_of<float>(file->second.bytes(name + ".scales"))}};
}

std::optional<std::vector<float>> CalibrationStore::floats(int64_t layer, const std::string& name) const {
  const auto file = files_.find(layer);
  if (file == files_.end() || !file->second.find(name)) return std::nullopt;
  return values_of<float>(file->second.bytes(name));
}

std::vector<float> CalibrationStore::smoothing(int64_t layer, const std::string& norm) const {
  return floats(layer, norm + ".smoothing").value_or(std::vector<float>());
}

std::optional<std::pair<std::vector<float>, std::vector<float>>> CalibrationStore::input_range(
    int64_t layer, const std::string& matrix) const {
  std::optional<std::vector<float>> low = floats(layer, matrix + ".input_minimum"),
                                    high = floats(layer, matrix + ".input_maximum");
  if (!low || !high) return std::nullopt;
  return std::pair{std::move(*low), std::move(*high)};
}

void CalibrationStore::remove() {
  files_.clear();
  std::error_code error;
  fs::remove_all(directory_, error);
  if (error) throw FileError("cannot remove {}: {}", directory_.string(), error.message());
}

}  // namespace fathom::quantize
