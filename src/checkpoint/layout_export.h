// Writing the other layouts of layout_rules.h, into the files that their own tools write.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "checkpoint/layout_rules.h"
#include "checkpoint/saved_tensor.h"

namespace fathom::checkpoint {

// What our files say about themselves in their metadata, since tensors cannot.
inline constexpr const char* kMtpHalvesKey = "fathom.mtp_halves";
inline constexpr const char* kSwappedHalves = "hidden,embedding";
inline constexpr const char* kFc1RowsKey = "fathom.fc1_rows";
inline constexpr const char* kInterleavedRows = "interleaved";

// What a rule's tensors become in place of their values, in another form; nullopt: nothing special.
using EncodeRule = std::function<std::optional<std::vector<SavedTensor>>(const LayoutRule& rule,
                                                                         std::vector<TensorView>& hf)>;

// `view` gives the HF tensors of `model`. `dtype` unset: as they are stored, fp8 as bf16. Float32 always: the router's
// correction bias; the norms in the training layouts (mindformers-train*, mcore with dev's names); the router in
// mindformers-train*. Throws CheckpointError: the layout cannot hold this model.
std::vector<SavedFile> layout_files(const config::ModelConfig& model, const LayoutOptions& options,
                                    std::optional<formats::Dtype> dtype,
                                    const std::function<TensorView(const config::TensorSpec&)>& view,
                                    const EncodeRule& encode = {});

}  // namespace fathom::checkpoint
