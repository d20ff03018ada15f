#include "checkpoint/gguf_export.h"

#include <algorithm>
#include <atomic>
#include <map>
#include <span>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "base/parallel.h"
#include "base/progress.h"
#include "checkpoint/gguf_metadata.h"
#include "checkpoint/gguf_tensors.h"
#include "formats/gguf.h"
#include "kernels/ggml_blocks.h"

namespace fathom::checkpoint {
namespace {

using formats::Dtype;
using formats::GgmlType;

constexpr int64_t kChunkElements = 1 << 18;  // whole blocks
constexpr uint64_t kSpareBytes = 16 << 20;
constexpr uint64_t kQuantizationVersion = 2;  // of ggml's block formats

struct Kind {
  const char* name;  // as --dtype says it
  GgmlType type;
  uint64_t file_type;  // general.file_type
};
constexpr Kind kKinds[] = {{"fp32", GgmlType::F32, 0},
                           {"fp16", GgmlType::F16, 1},
                           {"q4_0", GgmlType::Q4_0, 2},
                           {"q8_0", GgmlType::Q8_0, 7},
                           {"bf16", GgmlType::BF16, 32}};

const Kind& kind_of(const std::string& dtype, const config::ModelConfig& model) {
  const std::string name = !dtype.empty()             ? dtype
                           : model.dtype == "float32" ? "fp32"
                           : model.dtype == "float16" ? "fp16"
                                                      : "bf16";
  for (const Kind& kind : kKinds)
    if (kind.name == name) return kind;
  throw UsageError("--dtype {}: with --format gguf use fp32, fp16, bf16, q8_0 or q4_0", name);
}

bool is_quantized(GgmlType type) { return formats::ggml_type_info(type).block_elements > 1; }

GgmlType type_of(const GgufView& tensor, GgmlType wanted) {
  if (tensor.is_exact) return GgmlType::F32;
  // llama.cpp gives the head of a 4-bit model more bits, too (Q6_K).
  if (wanted == GgmlType::Q4_0 && tensor.view.name == "output.weight") wanted = GgmlType::Q8_0;
  const bool fits = tensor.view.shape.back() % formats::ggml_type_info(wanted).block_elements == 0;
  return fits ? wanted : GgmlType::F16;
}

// Elements [begin, begin + count) in `type`.
void read_as(const TensorView& view, GgmlType type, int64_t begin, int64_t count, std::vector<float>& floats,
             std::byte* out) {
  switch (type) {
    case GgmlType::F32:
      return view.read(begin, count, Dtype::F32, out);
    case GgmlType::F16:
      return view.read(begin, count, Dtype::F16, out);
    case GgmlType::BF16:
      return view.read(begin, count, Dtype::BF16, out);
    default:
      break;
  }
  floats.resize(std::max(floats.size(), static_cast<size_t>(count)));
  view.read(begin, count, Dtype::F32, reinterpret_cast<std::byte*>(floats.data()));
  auto* blocks = reinterpret_cast<uint8_t*>(out);
  const bool is_good = type == GgmlType::Q8_0 ? kernels::quantize_q8_0(floats.data(), count, blocks)
                                              : kernels::quantize_q4_0(floats.data(), count, blocks);
  if (!is_good)
    throw CheckpointError("{}: tensor {}: elements {} to {} hold NaN, infinity or what is too large for {}",
                          view.file, view.name, begin, begin + count, formats::ggml_type_info(type).name);
}

struct Chunk {
  size_t tensor;
  int64_t begin, count;
};

void write_tensors(const fs::path& file, const std::vector<GgufView>& tensors, formats::GgufWriter& writer,
                   const std::function<bool()>& is_stopped, Progress& progress) {
  std::vector<Chunk> chunks;
  for (size_t i = 0; i < tensors.size(); ++i)
    for (int64_t begin = 0, numel = tensors[i].view.numel(); begin < numel; begin += kChunkElements)
      chunks.push_back({i, begin, std::min(kChunkElements, numel - begin)});
  std::atomic<size_t> next{0};
  parallel_tasks(num_threads(), [&](int64_t) {
    std::vector<std::byte> buffer;
    std::vector<float> floats;
    try {
      for (size_t i; (i = next.fetch_add(1)) < chunks.size();) {
        if (is_stopped())
          throw Error("{}: stopped by a signal; nothing was written, and the same command starts anew",
                      file.string());
        const Chunk& chunk = chunks[i];
        const GgmlType type = writer.tensors()[chunk.tensor].type;
        const formats::GgmlTypeInfo& info = formats::ggml_type_info(type);
        const auto at = [&](int64_t element) {
          return static_cast<size_t>(element / info.block_elements * info.block_bytes);
        };
        buffer.resize(std::max(buffer.size(), at(chunk.count)));
        read_as(tensors[chunk.tensor].view, type, chunk.begin, chunk.count, floats, buffer.data());
        writer.write_slice(chunk.tensor, at(chunk.begin), std::span(buffer).first(at(chunk.count)));
        progress.advance(at(chunk.count));
      }
    } catch (...) {
      next = chunks.size();  // the other threads have no more to do
      throw;
    }
  });
}

void check_file(const fs::path& file) {
  if (fs::is_directory(file))
    throw UsageError("{} is a directory: --format gguf writes one file; give its name, such as {}",
                     file.string(), (file / "model.gguf").string());
  if (fs::exists(file)) throw UsageError("{} exists already: remove it, or give another name", file.string());
}

// How many tensors could not be quantised as asked, and which was the first.
void tell_of_fallbacks(const std::vector<formats::GgufDeclaration>& tensors, GgmlType wanted,
                       const fs::path& file) {
  if (!is_quantized(wanted)) return;
  int64_t count = 0;
  const formats::GgufDeclaration* first = nullptr;
  for (const formats::GgufDeclaration& tensor : tensors)
    if (tensor.type == GgmlType::F16 && ++count == 1) first = &tensor;
  if (first)
    log::warning(
        "{}: {} tensors stay F16, because {} does not divide their rows: {} (rows of {}) is the first",
        file.string(), count, formats::ggml_type_info(wanted).block_elements, first->name,
        first->shape.back());
}

}  // namespace

ConvertReport export_gguf(const fs::path& source_path, const fs::path& file, const GgufOptions& options) {
  check_file(file);
  const SourceTensors source = open_source(source_path, options.source);
  const Kind& kind = kind_of(options.dtype, source.model);
  CutOptions cut_options = options.cut;
  if (source.model.num_nextn_predict_layers > 0 && !cut_options.drop_mtp)
    log::info("{}: its MTP layers are left out, as llama.cpp's converter does", source.where());
  cut_options.drop_mtp = true;
  const ModelCut cut = cut_model(source.model, cut_options);

  formats::GgufMetadata metadata;
  add_gguf_model(cut.model, source.where(), metadata);
  metadata.emplace_back("general.name",
                        formats::GgufValue::text(fs::weakly_canonical(source_path).filename().string()));
  metadata.emplace_back("general.file_type", formats::GgufValue::u32(kind.file_type));
  metadata.emplace_back("general.quantization_version", formats::GgufValue::u32(kQuantizationVersion));
  add_gguf_tokenizer(cut.model, source_path, metadata);

  const std::vector<GgufView> tensors = gguf_views(source, cut);
  std::vector<formats::GgufDeclaration> declarations;
  ConvertReport report;
  for (const GgufView& tensor : tensors) {
    declarations.push_back({tensor.view.name, type_of(tensor, kind.type), tensor.view.shape});
    report.bytes += formats::ggml_tensor_bytes(declarations.back().type, tensor.view.shape, tensor.view.name);
  }
  report.tensors = tensors.size();
  report.files = 1;
  tell_of_fallbacks(declarations, kind.type, file);
  const fs::path parent = fs::absolute(file).parent_path();
  make_directories(parent);
  if (const uint64_t available = free_disk_bytes(parent); available < report.bytes + kSpareBytes)
    throw FileError("{}: too little disk: {} are to be written, {} is free", file.string(),
                    format_bytes(static_cast<double>(report.bytes + kSpareBytes)),
                    format_bytes(static_cast<double>(available)));
  Progress progress("convert", report.bytes, "B");
  formats::GgufWriter writer(file, metadata, declarations);
  write_tensors(file, tensors, writer, options.is_stopped, progress);
  writer.commit();
  sync_directory(parent);
  progress.finish();
  report.seconds = progress.seconds();
  return report;
}

}  // namespace fathom::checkpoint
