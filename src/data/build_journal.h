// PREFIX.build/: where a build keeps what it has done until it is whole. journal.json in it says how far it got
// and what it was made from.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

#include "base/directory_lock.h"
#include "base/json.h"
#include "data/builder.h"

namespace fathom::data {

// Hash of what decides the ids: tokenizer.json by itself; of a rank file the special tokens that stand beside it too.
std::string tokenizer_hash(const std::filesystem::path& path);

class BuildJournal {
 public:
  // Makes the directory and holds it against other processes. Throws FileError (another build is at work).
  BuildJournal(const BuildOptions& options, const tokenizer::Tokenizer& tokenizer);
  BuildJournal(const BuildJournal&) = delete;
  BuildJournal& operator=(const BuildJournal&) = delete;
  ~BuildJournal();  // removes the directory if nothing was ever saved in it

  const std::filesystem::path& directory() const { return directory_; }
  const std::string& tokenizer_fingerprint() const { return tokenizer_fingerprint_; }

  // The state that was saved last by a build of the same things; empty if there is none. A build of other things
  // is removed, with a message that names what has changed.
  Json load();
  void forget();  // what was saved
  void save(const Json& state);
  // A file beside the output, whole; its temporary name lies in the directory.
  void put_file(const std::filesystem::path& path, std::string_view text) const;
  void remove();

 private:
  void clear() const;
  bool skip_bad_;
  std::filesystem::path prefix_, directory_, file_;
  std::string tokenizer_fingerprint_;
  Json fingerprint_;
  DirectoryLock lock_;
};

}  // namespace fathom::data
