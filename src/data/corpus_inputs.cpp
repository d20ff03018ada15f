#include "data/corpus_inputs.h"

#include <glob.h>

#include <algorithm>
#include <charconv>
#include <fstream>

#include "base/error.h"
#include "data/corpus.h"

namespace fathom::data {
namespace {

namespace fs = std::filesystem;

std::vector<fs::path> files_below(const fs::path& directory) {
  std::vector<fs::path> found;
  std::error_code error;
  for (fs::recursive_directory_iterator at(directory, error), end; !error && at != end; at.increment(error))
    if (at->is_regular_file()) found.push_back(at->path());
  if (error) throw FileError("cannot read the directory {}: {}", directory.string(), error.message());
  std::sort(found.begin(), found.end(), [](const auto& a, const auto& b) { return a.native() < b.native(); });
  return found;
}

std::vector<fs::path> matches_of(const std::string& pattern) {
  glob_t result{};
  const int failure = ::glob(pattern.c_str(), GLOB_NOSORT, nullptr, &result);
  std::vector<fs::path> found;
  if (failure == 0) found.assign(result.gl_pathv, result.gl_pathv + result.gl_pathc);
  ::globfree(&result);
  if (failure != 0 && failure != GLOB_NOMATCH) throw FileError("cannot look for {}", pattern);
  std::sort(found.begin(), found.end(), [](const auto& a, const auto& b) { return a.native() < b.native(); });
  return found;
}

void add_known(const std::vector<fs::path>& found, CorpusInputs& inputs) {
  for (const fs::path& path : found) {
    if (fs::is_directory(path)) {
      add_known(files_below(path), inputs);
    } else {
      (known_corpus_format(path) ? inputs.files : inputs.ignored).push_back(path);
    }
  }
}

}  // namespace

CorpusInputs find_corpus_inputs(const std::vector<std::string>& names) {
  CorpusInputs inputs;
  for (const std::string& name : names) {
    const size_t before = inputs.files.size();
    if (fs::is_directory(name)) {
      add_known(files_below(name), inputs);
    } else if (fs::exists(name)) {
      corpus_format(name);
      inputs.files.emplace_back(name);
    } else if (name.find_first_of("*?[") != std::string::npos) {
      const auto found = matches_of(name);
      if (found.empty()) throw UsageError("--input {}: no file matches", name);
      add_known(found, inputs);
    } else {
      throw UsageError("--input {}: there is no such file", name);
    }
    if (inputs.files.size() == before)
      throw UsageError("--input {}: no .tokens, .txt or .jsonl file (also as .gz or .zst) is there", name);
  }
  return inputs;
}

std::vector<std::string> read_input_list(const fs::path& list) {
  std::ifstream file(list);
  if (!file || fs::is_directory(list)) throw FileError("cannot open the list {}", list.string());
  std::vector<std::string> names;
  for (std::string line; std::getline(file, line);) {
    if (line.ends_with('\r')) line.pop_back();
    if (!is_blank(line) && !line.starts_with('#')) names.push_back(line);
  }
  if (names.empty()) throw UsageError("{}: the list names no file", list.string());
  return names;
}

std::vector<fs::path> corpus_shard(const std::vector<fs::path>& files, const std::string& shard) {
  uint64_t index = 0, count = 0;
  const char* const end = shard.data() + shard.size();
  const auto [slash, bad_index] = std::from_chars(shard.data(), end, index);
  const bool has_slash = bad_index == std::errc() && slash != end && *slash == '/';
  const auto [rest, bad_count] = std::from_chars(has_slash ? slash + 1 : end, end, count);
  if (!has_slash || bad_count != std::errc() || rest != end || index >= count)
    throw UsageError("--shard {}: it is I/N with I from 0 to N - 1, such as 0/4, 1/4, 2/4, 3/4", shard);
  if (files.size() < count)
    throw UsageError("--shard {}: there are {} files for {} parts; a part has a file at least", shard,
                     files.size(), count);
  std::vector<uint64_t> sizes;
  uint64_t total = 0;
  for (const fs::path& file : files) {
    sizes.push_back(fs::file_size(file));
    total += sizes.back();
  }
  // Part k ends behind the file in which the (k + 1)/count-th of all bytes lies nearest to its end.
  size_t begin = 0, next = 0;
  uint64_t bytes = 0;
  for (uint64_t k = 0; k <= index; ++k) {
    begin = next;
    const double goal = static_cast<double>(total) * static_cast<double>(k + 1) / static_cast<double>(count);
    const size_t last = files.size() - static_cast<size_t>(count - k - 1);
    do {
      bytes += sizes[next++];
    } while (next < last && static_cast<double>(bytes) + static_cast<double>(sizes[next]) / 2 <= goal);
    if (k + 1 == count) next = files.size();
  }
  return {files.begin() + static_cast<std::ptrdiff_t>(begin),
          files.begin() + static_cast<std::ptrdiff_t>(next)};
}

}  // namespace fathom::data
