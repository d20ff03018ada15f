// The rules that hold the sources together (docs/design.md §2), read from the sources themselves.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <regex>
#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace fathom {
namespace {

namespace fs = std::filesystem;
using testing::IsEmpty;

const fs::path kRoot = FATHOM_SOURCE_DIR;
constexpr size_t kMaxLines = 650;  // 600 is the point to split

// Which folders a folder of src/ may include from, beside itself and base.
const std::map<std::string, std::set<std::string>> kMaySee = [] {
  using Folders = std::set<std::string>;
  const auto plus = [](const Folders& a, const Folders& b) {
    Folders both = a;
    both.insert(b.begin(), b.end());
    return both;
  };
  const Folders ground = {"formats", "grammar", "tokenizer", "chat", "config", "kernels"};
  const Folders below_model = plus(ground, {"data", "checkpoint", "weights", "parallel", "ops"});
  const Folders below_train = plus(below_model, {"model"});
  const Folders below_tools = plus(below_train, {"train", "infer"});
  return std::map<std::string, Folders>{
      {"base", {}},
      {"config", {}},
      {"formats", {}},
      {"tokenizer", {}},
      {"chat", {"tokenizer"}},
      {"grammar", {}},
      {"kernels", {}},
      {"data", {"formats", "tokenizer", "chat", "config"}},
      {"ops", {"kernels", "config"}},
      {"parallel", {"config"}},
      {"checkpoint", {"formats", "tokenizer", "config", "kernels"}},
      {"weights", {"formats", "config", "ops", "checkpoint"}},
      {"model", below_model},
      {"train", below_train},
      {"infer", below_train},
      {"quantize", below_tools},
      {"eval", plus(below_train, {"infer"})},
      {"plan", plus(below_train, {"train"})},
      {"serve", {"config", "tokenizer", "chat", "grammar", "infer"}},  // of infer: engine_api.h only
      {"cli", plus(below_tools, {"quantize", "eval", "plan", "serve"})},
  };
}();

const std::set<std::string> kSeeTorch = {"ops",   "parallel", "weights", "model",   "train",
                                         "infer", "eval",     "plan",    "quantize"};

struct Source {
  std::string name;  // from the project's root, "src/base/json.h"
  std::vector<std::string> lines;
};

Source read_source(const fs::path& path) {
  Source source{path.lexically_relative(kRoot).generic_string(), {}};
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) source.lines.push_back(line);
  return source;
}

std::vector<Source> read_sources(const std::string& folder, const std::set<std::string>& extensions) {
  std::vector<Source> sources;
  if (fs::exists(kRoot / folder))
    for (const auto& entry : fs::recursive_directory_iterator(kRoot / folder))
      if (entry.is_regular_file() && extensions.contains(entry.path().extension().string()) &&
          !entry.path().lexically_relative(kRoot).generic_string().starts_with(
              "bench/out/"))  // results, not sources
        sources.push_back(read_source(entry.path()));
  std::sort(sources.begin(), sources.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
  return sources;
}

const std::set<std::string> kCpp = {".cpp", ".h", ".inl", ".cu", ".cuh"};

const std::vector<Source>& product() {
  static const std::vector<Source> sources = read_sources("src", kCpp);
  return sources;
}

// The folder of src/ a file stands in.
std::string folder_of(const Source& source) { return source.name.substr(4, source.name.find('/', 4) - 4); }

struct Include {
  std::string target;
  bool is_ours = false;  // "..." rather than <...>
  std::string where;     // file:line
};

std::vector<Include> includes_of(const Source& source) {
  static const std::regex directive(R"(^\s*#\s*include\s*(["<])([^">]+)[">])");
  std::vector<Include> includes;
  std::smatch match;
  for (size_t i = 0; i < source.lines.size(); ++i)
    if (std::regex_search(source.lines[i], match, directive))
      includes.push_back({match[2], match[1] == "\"", source.name + ":" + std::to_string(i + 1)});
  return includes;
}

bool is_torch(std::string_view header) {
  return header.starts_with("ATen/") || header.starts_with("c10/") || header.starts_with("torch/");
}

// Why `include` may not stand in `folder`; empty: it may.
std::string fault_of(const std::string& folder, const Include& include) {
  const std::string& target = include.target;
  const auto says = [&](const std::string& rule) { return include.where + ": " + target + ": " + rule; };
  if (target == "torch/torch.h" || target == "ATen/ATen.h")
    return says("costs 5 to 13 s a file; ATen/core/Tensor.h and ATen/ops/<name>.h");
  if (is_torch(target) && !kSeeTorch.contains(folder))
    return says("src/" + folder + " builds without LibTorch");
  if (target.starts_with("CLI/") && folder != "cli") return says("only cli parses command lines");
  if (target.starts_with("yaml-cpp/") && folder != "base") return says("YAML is read through base/tree.h");
  if (!include.is_ours) return "";
  const size_t slash = target.find('/');
  if (slash == std::string::npos) return says("write the path from src/");
  const std::string other = target.substr(0, slash);
  if (other == folder || other == "base") return kMaySee.contains(other) ? "" : says("unknown folder");
  if (!kMaySee.contains(folder) || !kMaySee.at(folder).contains(other))
    return says("src/" + folder + " may not see src/" + other);
  if (folder == "serve" && other == "infer" && target != "infer/engine_api.h")
    return says("serve sees infer/engine_api.h only");
  return "";
}

TEST(Architecture, includes_point_one_way) {
  ASSERT_GT(product().size(), 50u) << "no sources under " << kRoot;
  std::vector<std::string> faults;
  for (const Source& source : product())
    for (const Include& include : includes_of(source))
      if (const std::string fault = fault_of(folder_of(source), include); !fault.empty())
        faults.push_back(fault);
  EXPECT_THAT(faults, IsEmpty());
}

// The rules themselves: each of these arrows is wrong, and would be found.
TEST(Architecture, wrong_arrows_are_found) {
  const auto is_refused = [](const std::string& folder, const std::string& target, bool is_ours = true) {
    return !fault_of(folder, {target, is_ours, "file:1"}).empty();
  };
  EXPECT_TRUE(is_refused("base", "config/recipe.h"));
  EXPECT_TRUE(is_refused("kernels", "config/model_config.h"));
  EXPECT_TRUE(is_refused("formats", "ATen/core/Tensor.h", false));
  EXPECT_TRUE(is_refused("data", "c10/util/Half.h", false));
  EXPECT_TRUE(is_refused("ops", "torch/torch.h", false));
  EXPECT_TRUE(is_refused("ops", "weights/parameter_registry.h"));
  EXPECT_TRUE(is_refused("weights", "model/moe.h"));
  EXPECT_TRUE(is_refused("train", "infer/engine.h"));
  EXPECT_TRUE(is_refused("infer", "train/trainer.h"));
  EXPECT_TRUE(is_refused("serve", "infer/engine.h"));
  EXPECT_TRUE(is_refused("model", "CLI/CLI.hpp", false));
  EXPECT_TRUE(is_refused("config", "yaml-cpp/yaml.h", false));
  EXPECT_TRUE(is_refused("model", "mla.h"));
  EXPECT_FALSE(is_refused("weights", "ops/weight.h"));
  EXPECT_FALSE(is_refused("cli", "tokenizer/tokenizer.h"));
  EXPECT_FALSE(is_refused("ops", "ATen/ops/matmul.h", false));
}

TEST(Architecture, no_folder_outside_the_design) {
  for (const Source& source : product())
    EXPECT_TRUE(kMaySee.contains(folder_of(source)) && source.name.find('/', 4) != std::string::npos)
        << source.name;
}

TEST(Architecture, headers_open_with_what_they_are_for) {
  for (const Source& source : product()) {
    if (!source.name.ends_with(".h")) continue;
    ASSERT_FALSE(source.lines.empty()) << source.name;
    EXPECT_TRUE(source.lines[0].starts_with("// ")) << source.name;
    EXPECT_NE(std::find(source.lines.begin(), source.lines.end(), "#pragma once"), source.lines.end())
        << source.name;
  }
}

TEST(Architecture, whole_torch_headers_stand_nowhere) {
  for (const Source& source : read_sources("tests", kCpp))
    for (const Include& include : includes_of(source))
      EXPECT_TRUE(include.target != "torch/torch.h" && include.target != "ATen/ATen.h") << include.where;
}

TEST(Architecture, no_file_is_too_long) {
  for (const std::string folder : {"src", "tests", "bench", "tools"})
    for (const Source& source : read_sources(folder, {".cpp", ".h", ".inl", ".cu", ".py", ".sh"})) {
      // Tables made by a script in tools/.
      if (source.name.ends_with("_data.cpp")) continue;
      EXPECT_LE(source.lines.size(), kMaxLines) << source.name;
    }
}

TEST(Architecture, every_folder_says_what_it_is) {
  std::set<std::string> folders;
  for (const Source& source : product()) folders.insert(folder_of(source));
  for (const std::string& folder : folders) {
    const fs::path path = kRoot / "src" / folder / "README.md";
    ASSERT_TRUE(fs::exists(path)) << "write " << path << ": duty, entry header, invariants, about ten lines";
    const Source readme = read_source(path);
    EXPECT_GE(readme.lines.size(), 5u) << path;
    EXPECT_LE(readme.lines.size(), 20u) << path;
    // The headers it names exist.
    static const std::regex header(R"(`([a-z0-9_/]+\.(?:h|inl|cpp))`)");
    for (const std::string& line : readme.lines)
      for (std::sregex_iterator match(line.begin(), line.end(), header), end; match != end; ++match) {
        const std::string name = (*match)[1];
        EXPECT_TRUE(fs::exists(path.parent_path() / name) || fs::exists(kRoot / "src" / name))
            << path << " names " << name;
      }
  }
}

// Where the comment of a line begins, strings respected; npos: none.
size_t comment_begin(const std::string& line) {
  bool is_quoted = false;
  for (size_t i = 0; i < line.size(); ++i) {
    if (line[i] == '\\') {
      ++i;
    } else if (line[i] == '"') {
      is_quoted = !is_quoted;
    } else if (!is_quoted && line.compare(i, 2, "//") == 0) {
      return i;
    }
  }
  return std::string::npos;
}

TEST(Architecture, code_is_ascii) {
  for (const Source& source : product()) {
    if (folder_of(source) == "tokenizer") continue;  // its tables are about other characters
    for (size_t i = 0; i < source.lines.size(); ++i) {
      const std::string code = source.lines[i].substr(0, comment_begin(source.lines[i]));
      EXPECT_TRUE(
          std::all_of(code.begin(), code.end(), [](char c) { return static_cast<unsigned char>(c) < 128; }))
          << source.name << ":" << i + 1 << ": " << code;
    }
  }
}

// Text files of the project, but for data.
std::vector<Source> project_texts() {
  std::vector<Source> texts;
  for (const std::string folder : {"src", "tests", "bench", "tools", "cmake", "configs", "docs", ".ci"})
    for (Source& source : read_sources(folder, {".cpp", ".h", ".inl", ".cu", ".py", ".sh", ".cmake", ".txt",
                                                ".md", ".json", ".yaml", ""}))
      if (source.name.find("/data/") == std::string::npos &&
          source.name.find("/corpus/") == std::string::npos)
        texts.push_back(std::move(source));
  for (const char* name : {"run", "README.md", "README.zh-CN.md", "CMakeLists.txt", "CMakePresets.json"})
    if (fs::exists(kRoot / name)) texts.push_back(read_source(kRoot / name));
  return texts;
}

TEST(Architecture, no_path_of_one_machine) {
  static const std::regex home(R"((^|[\s"'`(=:,])/(work|root|home|Users|mnt)(/|["'`\s),:;]|$))");
  for (const Source& source : project_texts())
    for (size_t i = 0; i < source.lines.size(); ++i)
      EXPECT_FALSE(std::regex_search(source.lines[i], home))
          << source.name << ":" << i + 1 << ": " << source.lines[i];
}

TEST(Architecture, what_is_left_to_do_says_when) {
  static const std::regex any(R"(\b(TODO|FIXME)\b)"), good(R"(\bTODO\((when|once|until|if) [^)]+\))");
  for (const Source& source : project_texts()) {
    if (source.name.starts_with("tests/arch/") || source.name.ends_with(".json")) continue;
    for (size_t i = 0; i < source.lines.size(); ++i)
      EXPECT_TRUE(!std::regex_search(source.lines[i], any) || std::regex_search(source.lines[i], good))
          << source.name << ":" << i + 1 << ": write the condition that removes it: TODO(when ...)";
  }
}

}  // namespace
}  // namespace fathom
