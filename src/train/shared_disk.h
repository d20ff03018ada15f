// Whether all ranks see one output directory.
#pragma once

#include <filesystem>

#include "parallel/notice_board.h"

namespace fathom::train {

// Rank 0 writes a file that the others look for. Throws FileError, on every rank, naming a rank and host that does not
// see it: checkpoints need a directory that all ranks share.
void check_shared_disk(const std::filesystem::path& output_dir, parallel::NoticeBoard& board);

}  // namespace fathom::train
