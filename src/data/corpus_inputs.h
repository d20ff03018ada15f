// Which files a corpus is made of: files, directories and patterns as the user names them, in a fixed order.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace fathom::data {

struct CorpusInputs {
  std::vector<std::filesystem::path> files;
  // Files of directories and patterns whose extension is not that of a corpus.
  std::vector<std::filesystem::path> ignored;
};

// Each of `names` is a file; a directory, taken with all below it (links to directories are not followed); or a
// pattern of the shell (* ? [...]), where no file has that very name. Inside a directory and a pattern paths are
// sorted by their bytes. Throws UsageError: nothing of that name, no match, no file that can be read as a corpus.
CorpusInputs find_corpus_inputs(const std::vector<std::string>& names);

// The names in a list: one a line; blank lines and lines that begin with # are left out. Throws FileError.
std::vector<std::string> read_input_list(const std::filesystem::path& list);

// Part `index` of `count` (both from "index/count", index from 0): files next to each other, so that the parts in
// order are the whole, cut where the sizes on disk are even; each part has a file at least. A function of the
// files' order and sizes only. Throws UsageError: no such part, fewer files than parts.
std::vector<std::filesystem::path> corpus_shard(const std::vector<std::filesystem::path>& files,
                                                const std::string& shard);

}  // namespace fathom::data
