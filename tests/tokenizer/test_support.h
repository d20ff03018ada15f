// What the tokenizer tests share: the shipped tokenizer (loaded once), fixtures, and tokenizers written on
// the spot.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/json.h"
#include "tokenizer/tokenizer.h"

namespace fathom::tokenizer {

inline fs::path source_dir() { return FATHOM_SOURCE_DIR; }
inline fs::path data_dir() { return source_dir() / "tests/tokenizer/data"; }

inline const Tokenizer& v3() {
  static const Tokenizer tokenizer = Tokenizer::load(source_dir() / "assets/tokenizer");
  return tokenizer;
}

inline std::vector<Json> read_json_lines(const fs::path& path) {
  std::istringstream lines(read_text_file(path));
  std::vector<Json> result;
  for (std::string line; std::getline(lines, line);) result.push_back(Json::parse(line));
  return result;
}

class TemporaryDirectory {
 public:
  TemporaryDirectory() {
    static int counter = 0;
    path_ = fs::temp_directory_path() /
            ("fathom_tokenizer_" + std::to_string(::getpid()) + "_" + std::to_string(counter++));
    fs::create_directories(path_);
  }
  ~TemporaryDirectory() { fs::remove_all(path_); }
  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

inline const Json& small_json() {
  static const Json json = Json::parse(read_text_file(data_dir() / "small.json"));
  return json;
}

inline Tokenizer load_text(const std::string& tokenizer_json, const std::string& config_json = "") {
  const TemporaryDirectory folder;
  std::ofstream(folder.path() / "tokenizer.json") << tokenizer_json;
  if (!config_json.empty()) std::ofstream(folder.path() / "tokenizer_config.json") << config_json;
  return Tokenizer::load(folder.path());
}

// Runs `call`, which must throw `Fault`, and gives its message.
template <typename Fault, typename Call>
std::string message_of(Call&& call) {
  try {
    call();
  } catch (const Fault& fault) {
    return fault.what();
  } catch (const std::exception& other) {
    ADD_FAILURE() << "another kind of error: " << other.what();
    return "";
  }
  ADD_FAILURE() << "nothing was thrown";
  return "";
}

}  // namespace fathom::tokenizer
