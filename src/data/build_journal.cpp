#include "data/build_journal.h"

#include <sys/stat.h>

#include <cerrno>
#include <cstring>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "base/error.h"
#include "base/file.h"
#include "base/log.h"

namespace fathom::data {
namespace {

namespace fs = std::filesystem;

std::string hex_hash(std::string_view bytes) {
  return fmt::format("{:016x}", XXH64(bytes.data(), bytes.size(), 0));
}

// Names, sizes and times of change: reading terabytes again to see that they are the same is out of the question.
std::string inputs_fingerprint(const std::vector<fs::path>& inputs) {
  std::string text;
  for (const fs::path& path : inputs) {
    struct stat info {};
    if (::stat(path.c_str(), &info) != 0)
      throw FileError("cannot read {}: {}", path.string(), std::strerror(errno));
    text += fmt::format("{}\n{} {}.{}\n", fs::absolute(path).string(), info.st_size, info.st_mtim.tv_sec,
                        info.st_mtim.tv_nsec);
  }
  return hex_hash(text);
}

}  // namespace

std::string tokenizer_hash(const fs::path& path) {
  std::string text(MappedFile(path).text());
  const fs::path config = path.parent_path() / "tokenizer_config.json";
  if (path.extension() != ".json" && fs::exists(config)) text += read_text_file(config);
  return hex_hash(text);
}

BuildJournal::BuildJournal(const BuildOptions& options, const tokenizer::Tokenizer& tokenizer)
    : skip_bad_(options.skip_bad),
      prefix_(options.output_prefix),
      directory_(options.output_prefix.string() + ".build"),
      file_(directory_ / "journal.json"),
      tokenizer_fingerprint_(tokenizer_hash(tokenizer.path())) {
  // --on-error, --split and the number of workers may change: they decide nothing about what is done already.
  fingerprint_ = {{"version", 1},
                  {"inputs", inputs_fingerprint(options.inputs)},
                  {"tokenizer", tokenizer_fingerprint_},
                  {"--append-eod", options.append_eod ? tokenizer.eos_id().value_or(-1) : -1},
                  {"--json-key", options.json_key},
                  {"--seq-length", options.seq_length},
                  {"--special-tokens", static_cast<int>(options.special_tokens)},
                  {"--sequences", static_cast<int>(options.sequences)}};
  make_directories(directory_);
  lock_ = DirectoryLock(directory_, "is building this dataset; wait for it or take another --output-prefix");
}

BuildJournal::~BuildJournal() {
  std::error_code ignored;
  if (!fs::exists(file_, ignored)) clear();
}

void BuildJournal::clear() const {
  std::error_code ignored;
  fs::remove(file_, ignored);  // first: without it the rest means nothing
  fs::remove_all(directory_, ignored);
}

Json BuildJournal::load() {
  std::string changed;
  Json state;
  if (fs::exists(file_)) {
    try {
      const Json journal = read_json_file(file_);
      const Json& made_from = journal.at("made_from");
      for (const auto& [key, value] : fingerprint_.items())
        if (made_from.value(key, Json()) != value) changed += (changed.empty() ? "" : ", ") + key;
      state = journal.at("state");
      if (changed.empty() && !skip_bad_ && state.at("skipped_documents") > 0) changed = "--on-error";
    } catch (const std::exception&) {
      changed = "the journal itself";
    }
    if (!changed.empty())
      log::warning("{} holds an unfinished build, but something has changed ({}): starting afresh",
                   directory_.string(), changed);
  }
  if (changed.empty() && !state.empty()) return state;
  forget();
  return Json();
}

void BuildJournal::forget() {
  std::error_code ignored;
  fs::remove(file_, ignored);  // first: without it the rest means nothing
  for (const auto& entry : fs::directory_iterator(directory_))
    if (entry.path().filename() != DirectoryLock::kFileName) fs::remove(entry.path(), ignored);
}

void BuildJournal::save(const Json& state) {
  write_text_file(file_, Json({{"made_from", fingerprint_}, {"state", state}})
                                 .dump(1, ' ', false, Json::error_handler_t::replace) +
                             "\n");
}

void BuildJournal::put_file(const fs::path& path, std::string_view text) const {
  const fs::path temporary = directory_ / "file";
  write_text_file(temporary, text);
  std::error_code error;
  fs::rename(temporary, path, error);
  if (error) throw FileError("cannot put {} in place: {}", path.string(), error.message());
}

void BuildJournal::remove() { clear(); }

}  // namespace fathom::data
