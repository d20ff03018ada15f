#include "eval/dump_logits.h"

#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <span>

#include "formats/safetensors.h"

namespace fathom::eval {
namespace {

constexpr int64_t kRowsAtOnce = 64;  // at a vocabulary of 129,280: 33 MB

std::span<const std::byte> bytes_of(const at::Tensor& contiguous) {
  return {static_cast<const std::byte*>(contiguous.const_data_ptr()), contiguous.nbytes()};
}

}  // namespace

void dump_logits(model::DeepseekModel& model, const model::Window& window,
                 const std::filesystem::path& path) {
  const at::NoGradGuard no_grad;
  const model::MicroBatch batch = model::make_micro_batch({window}, 0);
  const int64_t S = batch.seq_length, V = model.registry().model().vocab_size;
  formats::SafetensorsWriter writer(
      path, {{"tokens", formats::Dtype::I64, {1, S}}, {"logits", formats::Dtype::F32, {1, S, V}}});
  writer.write("tokens", bytes_of(batch.tokens.cpu().contiguous()));
  const at::Tensor hidden = model.hidden(batch);
  for (int64_t begin = 0; begin < S; begin += kRowsAtOnce) {
    const int64_t rows = std::min(kRowsAtOnce, S - begin);
    const at::Tensor logits =
        model.logits(hidden.narrow(0, begin, rows)).to(at::kCPU, at::kFloat).contiguous();
    writer.write_slice("logits", static_cast<uint64_t>(begin * V) * sizeof(float), bytes_of(logits));
  }
  writer.commit();
}

}  // namespace fathom::eval
