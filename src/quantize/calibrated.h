// A quantised checkpoint whose codes come from calibration: the pass over the texts first, then the files.
#pragma once

#include <filesystem>
#include <vector>

#include "checkpoint/quantize.h"
#include "config/recipe.h"
#include "model/micro_batch.h"
#include "quantize/calibrate.h"

namespace fathom::quantize {

// What calibration has found lies here, inside the directory that is being written, until that is complete.
inline constexpr const char* kCalibrationFolder = "calibration";

struct CalibratedReport {
  checkpoint::QuantizeReport files;
  std::vector<LayerReport> layers;
};

// As checkpoint::quantize_checkpoint, with `windows` as calibration texts; sets `calibration.grid_of` and of `files`
// transform, encode and calibration. `precision` (fp32 or bf16) is the arithmetic of the forward pass. A call that was
// stopped goes on in the layer or the file where it was. Under mindformers-w8a8 the text also gives attention's inputs
// their static scales and shifts. Throws UsageError: nothing here that calibration could change;
// as calibrate and quantize_checkpoint do.
CalibratedReport quantize_calibrated(const std::filesystem::path& source,
                                     const std::filesystem::path& directory,
                                     const std::vector<model::Window>& windows, config::Precision precision,
                                     checkpoint::QuantizeOptions files, CalibrationOptions calibration);

}  // namespace fathom::quantize
