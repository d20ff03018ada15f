// What AtomicFile leaves where its process is killed.
#pragma once

#include <filesystem>

namespace fathom {

// Removes `<path>.tmp-<pid>` of every process that is no more (on this machine), with a notice. For writers of large
// files whose directory is not theirs alone; failing to remove one is no fault.
void remove_dead_temporaries(const std::filesystem::path& path);

}  // namespace fathom
