// Fathom's side of ./run bench tokenizer: loads a tokenizer and a corpus (a JSON list of documents) once, then, for each
// line "THREADS" of standard input, encodes all documents and prints what it took as one JSON object.
#include <zlib.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <ctime>
#include <exception>
#include <iostream>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/parallel.h"
#include "tokenizer/tokenizer.h"

namespace {

using namespace fathom;

double wall_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double processor_seconds() { return static_cast<double>(std::clock()) / CLOCKS_PER_SEC; }

void measure(const tokenizer::Tokenizer& tokenizer, const std::vector<std::string>& documents, int threads) {
  set_num_threads(threads);
  std::vector<std::vector<int32_t>> ids(documents.size());
  const double wall = wall_seconds(), processor = processor_seconds();
  // One scratch a thread, made inside the timed part: the word caches start cold.
  std::atomic<size_t> next{0};
  parallel_tasks(threads, [&](int64_t) {
    tokenizer::EncodeScratch scratch;
    for (size_t i = next++; i < documents.size(); i = next++)
      tokenizer.encode_into(documents[i], scratch, ids[i]);
  });
  const double wall_taken = wall_seconds() - wall, processor_taken = processor_seconds() - processor;
  const uint64_t anonymous_bytes = anonymous_resident_bytes();
  size_t tokens = 0;
  uint64_t crc = 0;
  for (const auto& document : ids) {
    tokens += document.size();
    if (document.empty()) continue;  // its null pointer would start the sum anew
    crc = crc32_z(crc, reinterpret_cast<const Bytef*>(document.data()), document.size() * sizeof(int32_t));
  }
  std::cout << Json({{"wall", wall_taken},
                     {"processor", processor_taken},
                     {"tokens", tokens},
                     {"crc", crc},
                     {"anonymous_bytes", anonymous_bytes}})
                   .dump()
            << std::endl;
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc != 3) {
    std::fprintf(stderr,
                 "usage: fathom_bench_tokenizer TOKENIZER CORPUS.json, thread counts on standard input\n");
    return 2;
  }
  const auto tokenizer = tokenizer::Tokenizer::load(argv[1]);
  const auto documents = read_json_file(argv[2]).get<std::vector<std::string>>();
  for (int threads; std::cin >> threads;) measure(tokenizer, documents, threads);
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 1;
}
