// add_checksums: every stored byte once.
#define XXH_INLINE_ALL
#include <xxhash.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <numeric>
#include <unordered_map>

#include "base/error.h"
#include "base/json.h"
#include "base/parallel.h"
#include "base/progress.h"
#include "base/stop_signal.h"
#include "checkpoint/inspect.h"
#include "formats/checkpoint_manifest.h"
#include "formats/sharded_safetensors.h"

namespace fathom::checkpoint {
namespace {

constexpr size_t kBlockBytes = 4 << 20;

std::string hex(uint64_t hash) { return fmt::format("{:016x}", hash); }

std::string hash_of(std::span<const std::byte> bytes, Progress& progress) {
  const std::unique_ptr<XXH3_state_t, XXH_errorcode (*)(XXH3_state_t*)> state(XXH3_createState(),
                                                                              XXH3_freeState);
  XXH3_64bits_reset(state.get());
  for (size_t begin = 0; begin < bytes.size(); begin += kBlockBytes) {
    if (stop_requested()) throw Error("stopped by a signal before every tensor was read");
    const auto block = bytes.subspan(begin, std::min(kBlockBytes, bytes.size() - begin));
    XXH3_64bits_update(state.get(), block.data(), block.size());
    progress.advance(block.size());
  }
  return hex(XXH3_64bits_digest(state.get()));
}

// The largest first, so that no thread has to itself what is left over at the end.
std::vector<InspectedTensor*> by_size(std::vector<InspectedTensor>& tensors) {
  std::vector<InspectedTensor*> order;
  order.reserve(tensors.size());
  for (InspectedTensor& tensor : tensors) order.push_back(&tensor);
  std::stable_sort(order.begin(), order.end(),
                   [](const auto* a, const auto* b) { return a->bytes > b->bytes; });
  return order;
}

}  // namespace

void add_checksums(Inspection& inspection) {
  if (inspection.kind == "config")
    throw UsageError("{} stores no tensors to sum up", inspection.path.string());
  const formats::ShardedReader reader(inspection.path);
  const std::vector<InspectedTensor*> tensors = by_size(inspection.tensors);
  Progress progress("checksums", inspection.total_bytes(), "B");
  std::atomic<size_t> next{0};
  parallel_tasks(num_threads(), [&](int64_t) {
    for (size_t i; (i = next.fetch_add(1)) < tensors.size();)
      tensors[i]->xxh3 = hash_of(reader.at(tensors[i]->name).bytes(), progress);
  });
  progress.finish();

  std::vector<std::string> lines;
  std::unordered_map<std::string, const InspectedTensor*> by_name;
  for (const InspectedTensor& tensor : inspection.tensors) {
    lines.push_back(
        fmt::format("{} {} {} {}\n", tensor.name, tensor.dtype, Json(tensor.shape).dump(), tensor.xxh3));
    by_name[tensor.name] = &tensor;
  }
  std::sort(lines.begin(), lines.end());
  const std::string text = std::accumulate(lines.begin(), lines.end(), std::string());
  inspection.checksum = hex(XXH3_64bits(text.data(), text.size()));

  for (MtpCopy& copy : inspection.mtp_copies)
    if (const auto source = by_name.find(copy.source); copy.is_stored && source != by_name.end())
      copy.is_equal = by_name.at(copy.name)->xxh3 == source->second->xxh3;
  if (inspection.has_manifest && inspection.manifest_fault.empty())
    inspection.manifest_fault = formats::find_fault(inspection.path, formats::Verify::checksums).value_or("");
}

}  // namespace fathom::checkpoint
