// What makes a stopped conversion go on: a small file in the directory being written that says what it is a conversion
// of. Finished files appear under their names whole, so they are the record of what is done.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "base/directory_lock.h"
#include "base/json.h"
#include "checkpoint/saved_tensor.h"

namespace fathom::checkpoint {

// Throws CheckpointError: `directory` holds a checkpoint, and not one that a conversion has left unfinished; FileError: it
// is a file.
void refuse_other_checkpoint(const std::filesystem::path& directory);

class ConvertJournal {
 public:
  // Makes the directory and holds it against other conversions until the end of this object. `plan`: "source" and
  // "options", in full; where an unfinished conversion of another plan lies there, its files are removed with a
  // message. Throws CheckpointError: the directory holds a checkpoint; FileError: among others, another process writes there.
  ConvertJournal(const std::filesystem::path& directory, Json plan, const std::vector<SavedFile>& files);
  ConvertJournal(const ConvertJournal&) = delete;
  ConvertJournal& operator=(const ConvertJournal&) = delete;

  // The file lies there from an earlier run, with the tensors that it should have.
  bool is_written(const SavedFile& file) const;
  void finish();  // removes the journal: everything else is written

 private:
  void remove_leftovers(const Json& files) const;
  std::filesystem::path directory_, path_;
  DirectoryLock lock_;
};

}  // namespace fathom::checkpoint
