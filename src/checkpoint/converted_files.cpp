#include "checkpoint/converted_files.h"

#include <algorithm>
#include <atomic>
#include <span>
#include <utility>

#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "base/parallel.h"
#include "base/progress.h"
#include "checkpoint/convert_journal.h"

namespace fathom::checkpoint {
namespace {

constexpr int64_t kChunkElements = 1 << 18;
constexpr uint64_t kSmallFilesBytes = 64 << 20;

struct Chunk {
  const SavedTensor* tensor;
  int64_t begin, count;
};

void write_file(const fs::path& directory, const SavedFile& file, const std::function<bool()>& is_stopped,
                Progress& progress) {
  formats::SafetensorsWriter writer(directory / file.name, declarations(file.tensors));
  std::vector<Chunk> chunks;
  for (const SavedTensor& tensor : file.tensors)
    for (int64_t begin = 0, numel = tensor.numel(); begin < numel; begin += kChunkElements)
      chunks.push_back({&tensor, begin, std::min(kChunkElements, numel - begin)});
  std::atomic<size_t> next{0};
  parallel_tasks(num_threads(), [&](int64_t) {
    std::vector<std::byte> buffer;
    try {
      for (size_t i; (i = next.fetch_add(1)) < chunks.size();) {
        if (is_stopped())
          throw Error("{}: stopped by a signal; the same command goes on from the files that are done",
                      directory.string());
        const Chunk& chunk = chunks[i];
        const int64_t size = formats::dtype_bits(chunk.tensor->declaration.dtype) / 8;
        const auto bytes = static_cast<size_t>(chunk.count * size);
        buffer.resize(std::max(buffer.size(), bytes));
        chunk.tensor->read(chunk.begin, chunk.count, buffer.data());
        writer.write_slice(chunk.tensor->declaration.name, static_cast<uint64_t>(chunk.begin * size),
                           std::span(buffer).first(bytes));
        progress.advance(bytes);
      }
    } catch (...) {
      next = chunks.size();  // the other threads have no more to do
      throw;
    }
  });
  writer.commit();
}

}  // namespace

ConvertReport write_converted(const fs::path& directory, Json plan, std::vector<SavedFile>& files,
                              const std::function<bool()>& is_stopped, const std::function<void()>& finish) {
  ConvertReport report;
  report.files = files.size();
  std::vector<bool> is_done;
  ConvertJournal journal(directory, std::move(plan), files);
  for (const SavedFile& file : files) {
    is_done.push_back(journal.is_written(file));
    report.bytes += file.bytes();
    report.tensors += file.tensors.size();
    if (is_done.back()) report.resumed_bytes += file.bytes();
  }
  const uint64_t missing = report.bytes - report.resumed_bytes, available = free_disk_bytes(directory);
  if (available < missing + kSmallFilesBytes)
    throw FileError("{}: too little disk: {} are to be written, {} is free", directory.string(),
                    format_bytes(static_cast<double>(missing + kSmallFilesBytes)),
                    format_bytes(static_cast<double>(available)));
  if (report.resumed_bytes > 0)
    log::info("{}: goes on after {} of an earlier run", directory.string(),
              format_bytes(static_cast<double>(report.resumed_bytes)));
  Progress progress("convert", missing, "B");
  for (size_t i = 0; i < files.size(); ++i) {
    if (!is_done[i]) write_file(directory, files[i], is_stopped, progress);
    for (SavedTensor& tensor : files[i].tensors) tensor.read = nullptr;  // with what it kept of its blocks
  }
  finish();
  sync_directory(directory);
  journal.finish();
  progress.finish();
  report.seconds = progress.seconds();
  return report;
}

}  // namespace fathom::checkpoint
