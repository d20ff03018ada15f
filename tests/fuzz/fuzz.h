// What the fuzz targets share. A target calls its parser through accepts(): foreign bytes may be refused with
// one of our errors; any other exception, a crash, a hang or a broken promise (FATHOM_CHECK) is a finding.
#pragma once

#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

#include "base/error.h"
#include "support/scratch.h"

namespace fathom::fuzz {

inline std::string_view as_text(const uint8_t* data, size_t size) {
  return {reinterpret_cast<const char*>(data), size};
}

inline std::span<const std::byte> as_bytes(const uint8_t* data, size_t size) {
  return {reinterpret_cast<const std::byte*>(data), size};
}

// Whether `parse` took its input; false: it threw a fathom::Error with a message.
template <typename Parse>
bool accepts(const Parse& parse) {
  try {
    parse();
    return true;
  } catch (const Error& error) {
    if (std::string_view(error.what()).empty()) std::abort();
    return false;
  }
}

#define FATHOM_CHECK(condition)                                                          \
  do {                                                                                   \
    if (!(condition)) {                                                                  \
      std::fprintf(stderr, "%s:%d: %s does not hold\n", __FILE__, __LINE__, #condition); \
      std::abort();                                                                      \
    }                                                                                    \
  } while (false)

// For parsers that read files: one directory a process, in memory where there is one.
inline const std::filesystem::path& scratch_directory() {
  static const test::ScratchDirectory directory;
  return directory.path();
}

inline void write_file(const std::filesystem::path& path, std::string_view bytes) {
  std::FILE* file = std::fopen(path.c_str(), "wb");
  FATHOM_CHECK(file != nullptr);
  FATHOM_CHECK(std::fwrite(bytes.data(), 1, bytes.size(), file) == bytes.size());
  FATHOM_CHECK(std::fclose(file) == 0);
}

}  // namespace fathom::fuzz
