// What the tests of MindFormers' layouts share: the files of make_mindformers_fixture.py, a small random model, and
// comparing.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/file.h"
#include "checkpoint/compare.h"
#include "checkpoint/convert.h"
#include "checkpoint/init.h"
#include "checkpoint/inspect.h"
#include "support/scratch.h"
#include "support/small_checkpoint.h"

namespace fathom::checkpoint {

inline const fs::path kMindformersFixture = fs::path(FATHOM_SOURCE_DIR) / "tests/checkpoint/mindformers";

// tiny.json, smaller still: 4 layers (the first dense), 16 experts, one MTP layer.
inline config::ModelConfig small_model(const std::function<void(Json&)>& edit = {}) {
  Json json = read_json_file(fs::path(FATHOM_SOURCE_DIR) / "configs/models/tiny.json");
  json["vocab_size"] = 40;
  json["hidden_size"] = 160;
  if (edit) edit(json);
  return config::parse_model_config(json, "tiny.json");
}

inline LayoutOptions layout(Layout which) {
  LayoutOptions options;
  options.layout = which;
  return options;
}
inline LayoutOptions mcore_r1_8() {
  LayoutOptions options = layout(Layout::mcore);
  options.mcore_version = McoreVersion::r1_8;
  options.has_interleaved_fc1 = true;
  return options;
}
inline LayoutOptions fused_infer() {
  LayoutOptions options = layout(Layout::mindformers_infer);
  options.has_fused_qkv = options.has_fused_ffn = true;
  return options;
}

class MindformersTest : public ::testing::Test {
 protected:
  fs::path convert(const fs::path& from, const std::string& name, const LayoutOptions& to,
                   const std::string& dtype = "", const SourceOptions& source = {}) {
    ConvertOptions options;
    options.layout = to;
    options.dtype = dtype;
    options.source = source;
    const fs::path directory = scratch_ / name;
    convert_checkpoint(from, directory, options);
    return directory;
  }
  fs::path to_hf(const fs::path& from, const std::string& name, const std::string& dtype = "",
                 const SourceOptions& source = {}) {
    return convert(from, name, {}, dtype, source);
  }

  // A directory with one file and a config, as users have them from elsewhere.
  fs::path strange_directory(const std::string& model, const std::string& file) {
    const fs::path directory = scratch_ / (model + "_" + file);
    fs::create_directories(directory);
    fs::copy_file(kMindformersFixture / model / (file + ".safetensors"), directory / "weights.safetensors");
    fs::copy_file(kMindformersFixture / model / "config.json", directory / "config.json");
    return directory;
  }
  fs::path hf_directory(const std::string& model) {
    const fs::path directory = scratch_ / (model + "_hf");
    fs::create_directories(directory);
    fs::copy_file(kMindformersFixture / model / "hf.safetensors", directory / "model.safetensors");
    fs::copy_file(kMindformersFixture / model / "config.json", directory / "config.json");
    return directory;
  }

  template <typename Fault = CheckpointError>
  std::string refusal(const fs::path& from, const LayoutOptions& to = {}, const SourceOptions& source = {},
                      const std::string& dtype = "") {
    try {
      convert(from, "refused", to, dtype, source);
    } catch (const Fault& e) {
      EXPECT_FALSE(fs::exists(scratch_ / "refused/config.json"));
      return e.what();
    }
    return "not refused";
  }

  const test::ScratchDirectory scratch_;
};

// All tensors of a directory's files.
struct AllTensors {
  explicit AllTensors(const fs::path& path) {
    std::vector<fs::path> paths;
    if (fs::is_directory(path)) {
      for (const auto& entry : fs::directory_iterator(path))
        if (entry.path().extension() == ".safetensors") paths.push_back(entry.path());
    } else {
      paths.push_back(path);
    }
    for (const fs::path& file : paths) files.emplace_back(file);
  }
  std::set<std::string> names() const {
    std::set<std::string> result;
    for (const auto& file : files)
      for (const auto& entry : file.tensors())
        EXPECT_TRUE(result.insert(entry.name).second) << entry.name << " twice";
    return result;
  }
  std::pair<const formats::SafetensorsFile*, const formats::TensorEntry*> at(const std::string& name) const {
    for (const auto& file : files)
      if (const auto* entry = file.find(name)) return {&file, entry};
    throw CheckpointError("no tensor {}", name);
  }
  std::vector<float> floats(const std::string& name) const {
    const auto [file, entry] = at(name);
    EXPECT_EQ(entry->dtype, formats::Dtype::F32) << name;
    std::vector<float> values(static_cast<size_t>(entry->numel()));
    std::memcpy(values.data(), file->bytes(*entry).data(), values.size() * sizeof(float));
    return values;
  }
  std::vector<formats::SafetensorsFile> files;
};

inline void expect_same_tensors(const AllTensors& made, const AllTensors& expected) {
  EXPECT_EQ(made.names(), expected.names());
  for (const std::string& name : expected.names()) {
    const auto [a_file, a] = made.at(name);
    const auto [b_file, b] = expected.at(name);
    EXPECT_EQ(a->dtype, b->dtype) << name;
    EXPECT_EQ(a->shape, b->shape) << name;
    const auto x = a_file->bytes(*a), y = b_file->bytes(*b);
    EXPECT_TRUE(x.size() == y.size() && std::memcmp(x.data(), y.data(), x.size()) == 0) << name;
  }
}

}  // namespace fathom::checkpoint
