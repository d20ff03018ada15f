// The kinds of fault. Every message says what is wrong, where (file, key path, tensor, byte offset), and how to
// mend it. `cli/main.cpp` maps kinds to exit codes; libraries never exit, abort or print.
#pragma once

#include <fmt/format.h>

#include <stdexcept>
#include <string>
#include <utility>

namespace fathom {

class Error : public std::runtime_error {
 public:
  explicit Error(const std::string& message) : std::runtime_error(message) {}
  template <typename Arg, typename... Args>
  Error(fmt::format_string<Arg, Args...> format, Arg&& arg, Args&&... args)
      : std::runtime_error(fmt::format(format, std::forward<Arg>(arg), std::forward<Args>(args)...)) {}
};

#define FATHOM_ERROR_KIND(Name) \
  class Name : public Error {   \
   public:                      \
    using Error::Error;         \
  }

FATHOM_ERROR_KIND(UsageError);        // wrong flags or arguments: exit code 2
FATHOM_ERROR_KIND(ConfigError);       // recipe, config.json, tokenizer.json
FATHOM_ERROR_KIND(DataError);         // corpora, bin/idx
FATHOM_ERROR_KIND(CheckpointError);   // safetensors, checkpoint directories
FATHOM_ERROR_KIND(FileError);         // open, read, write, rename, disk full
FATHOM_ERROR_KIND(NumericError);      // NaN/Inf, shapes that do not fit
FATHOM_ERROR_KIND(DistributedError);  // ranks, collectives
#undef FATHOM_ERROR_KIND

// For our own bugs only (never for user input); stays on in release builds.
#define FATHOM_ASSERT(condition)                                                                   \
  do {                                                                                             \
    if (!(condition)) [[unlikely]]                                                                 \
      throw std::logic_error(                                                                      \
          fmt::format("{}:{}: internal error: {} does not hold", __FILE__, __LINE__, #condition)); \
  } while (false)

}  // namespace fathom
