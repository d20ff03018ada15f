// What calibration has found, on disk: one file a layer, so that neither the results of a large model nor a stop in the
// middle are a matter of memory. The files are an internal matter of one quantisation; they are removed at its end.
//
//   DIR/plan.json                    what the results are a function of
//   DIR/layer_00003.safetensors      <matrix>.codes I8 [out, in], <matrix>.scales F32 [out, groups];
//                                    <norm>.smoothing F32 [in]; <matrix>.input_minimum, .input_maximum F32 [in];
//                                    metadata: the layer's report
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/json.h"
#include "formats/safetensors.h"
#include "quantize/gptq.h"

namespace fathom::quantize {

struct LayerReport {
  int64_t layer = 0;
  // |y' - y| / |y| over the outputs of the block, with quantised weights and with the source's on the same inputs.
  double output_error = 0;
  std::vector<int64_t> expert_tokens;    // tokens that each routed expert received; empty in a dense layer
  std::vector<int64_t> starved_experts;  // too few: rounded to nearest
};

struct CodedMatrix {
  std::vector<int64_t> shape;  // [out, in]
  checkpoint::IntCodes codes;
};

struct LayerResult {
  LayerReport report;
  std::map<std::string, CodedMatrix> matrices;  // by HF name
  std::map<std::string, std::vector<float>>
      smoothing;  // by the norm's HF name: what its channels are divided by
  std::map<std::string, std::pair<std::vector<float>, std::vector<float>>>
      input_ranges;  // of the matrices outside experts
};

class CalibrationStore {
 public:
  // Goes on with what lies in `directory` if it was made for `plan`; else it starts anew, with a message.
  CalibrationStore(std::filesystem::path directory, const Json& plan);

  bool has(int64_t layer) const { return files_.contains(layer); }
  void write(const LayerResult& result);  // the file appears whole; throws FileError
  LayerReport report(int64_t layer) const;
  std::optional<CodedMatrix> matrix(int64_t layer, const std::string& name) const;
  std::vector<float> smoothing(int64_t layer, const std::string& norm) const;  // empty: none
  std::optional<std::pair<std::vector<float>, std::vector<float>>> input_range(
      int64_t layer, const std::string& matrix) const;
  void remove();  // all of it

 private:
  std::filesystem::path path(int64_t layer) const;
  std::optional<std::vector<float>> floats(int64_t layer, const std::string& name) const;
  std::filesystem::path directory_;
  std::map<int64_t, formats::SafetensorsFile> files_;
};

}  // namespace fathom::quantize
