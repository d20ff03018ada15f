// Where commands find their weights: run directories, caches of links, and checkpoints that are not what they should
// be. Each command that takes a checkpoint, each time one line.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "e2e/tiny_run.h"
#include "formats/sharded_safetensors.h"

namespace fathom {
namespace {

namespace fs = std::filesystem;
using test::ProcessEnd;
using test::TinyRun;
using testing::AllOf;
using testing::HasSubstr;

using Words = std::vector<std::string>;

constexpr const char* kNewest = "out/checkpoints/step_00000004";

class Sources : public testing::Test {
 protected:
  Sources() {
    EXPECT_TRUE(
        test::ends_well(run_.pretrain({"train.steps=4", "train.eval_every=0", "checkpoint.every=2"})));
  }

  // Every command that takes a checkpoint, reading `path`.
  static std::map<std::string, Words> commands(const std::string& path) {
    return {{"generate", {"generate", path, "--prompt-ids", "2,3", "--max-new-tokens", "3", "--json"}},
            {"eval", {"eval", path, "--data", "valid", "--seq-length", "32", "--json"}},
            {"inspect", {"inspect", path, "--checksum", "--json"}},
            {"convert", {"convert", path, "converted", "--dtype", "fp32"}},
            {"pretrain",
             {"pretrain", "run.yaml", "--set", "output_dir=other", "--set", "checkpoint.load=" + path,
              "--set", "train.steps=4", "--set", "train.eval_every=0"}}};
  }
  ProcessEnd fathom(const Words& words, const std::function<bool()>& in_child = nullptr) const {
    fs::remove_all(run_.directory() / "converted");
    fs::remove_all(run_.directory() / "other");
    return run_.fathom(words, in_child);
  }
  // What a command makes of its checkpoint, less paths and times.
  std::string result(const std::string& command, const ProcessEnd& end) const {
    if (command == "convert") return test::text_of(run_.directory() / "converted/model.safetensors");
    if (command == "pretrain")
      return test::tensor_files_of(run_.checkpoint(4, "other")).at("model.safetensors");
    return command == "inspect" ? Json::parse(end.out).at("checksum").get<std::string>() : end.out;
  }
  void expect_like_newest(const std::string& path, const std::string& said,
                          const std::function<bool()>& in_child = nullptr) {
    for (const auto& [command, words] : commands(path)) {
      SCOPED_TRACE(command + " " + path);
      const ProcessEnd end = fathom(words, in_child);
      if (in_child && (end.exit_code == 125 || end.exit_code == 127))
        return;  // another user cannot run the program
      ASSERT_TRUE(test::ends_well(end));
      EXPECT_THAT(end.err, HasSubstr(said));
      const std::string found = result(command, end);
      if (!plain_.contains(command)) plain_[command] = result(command, fathom(commands(kNewest).at(command)));
      EXPECT_TRUE(found == plain_[command]) << found.substr(0, 300);
    }
  }
  void expect_refused(const std::string& path, const testing::Matcher<const std::string&>& said,
                      const std::string& except = "") {
    for (const auto& [command, words] : commands(path)) {
      if (command == except) continue;
      SCOPED_TRACE(command + " " + path);
      const ProcessEnd end = fathom(words);
      EXPECT_EQ(end.exit_code, 1) << end.err;
      EXPECT_EQ(end.out, "");
      int errors = 0;
      for (const std::string& line : test::lines_of(end.err)) {
        if (line.find("error: ") == std::string::npos) continue;
        ++errors;
        EXPECT_THAT(line, said);
      }
      EXPECT_EQ(errors, 1) << end.err;
      EXPECT_FALSE(fs::exists(run_.directory() / "converted/config.json"));
    }
  }
  // The newest checkpoint's weights in many files.
  fs::path sharded(const std::string& name, const std::string& size = "20kB") {
    EXPECT_TRUE(test::ends_well(run_.fathom({"convert", kNewest, name, "--max-shard-size", size})));
    return run_.directory() / name;
  }
  static std::vector<fs::path> shards(const fs::path& directory) {
    std::vector<fs::path> files;
    for (const auto& item : fs::directory_iterator(directory))
      if (item.path().extension() == ".safetensors") files.push_back(item.path());
    std::sort(files.begin(), files.end());
    EXPECT_GT(files.size(), 2U);
    return files;
  }

  const TinyRun run_;
  std::map<std::string, std::string>
      plain_;  // results from the newest checkpoint under its own name, by command
};

TEST_F(Sources, a_run_stands_for_its_newest_good_checkpoint) {
  expect_like_newest("out", "newest good checkpoint is step_00000004");
  expect_like_newest("out/checkpoints/", "newest good checkpoint is step_00000004");
  const fs::path file = run_.checkpoint(4) / "model.safetensors";
  fs::resize_file(file, fs::file_size(file) / 2);
  const ProcessEnd end = fathom({"inspect", "out", "--json"});
  EXPECT_EQ(Json::parse(end.out).at("path"), "out/checkpoints/step_00000002");
  EXPECT_THAT(end.err, AllOf(HasSubstr("warning"), HasSubstr("step_00000004"), HasSubstr("truncated")));
  fs::remove(run_.checkpoint(2) / "manifest.json");
  expect_refused("out", AllOf(HasSubstr("none of its checkpoints is whole"), HasSubstr("step_00000002")));
  fs::remove_all(run_.checkpoint(2)), fs::remove_all(run_.checkpoint(4));
  expect_refused("out", HasSubstr("no checkpoint in this run yet"));
  expect_refused("nowhere", HasSubstr("nowhere: there is no such file or directory"));
}

TEST_F(Sources, links_extra_files_and_a_directory_that_cannot_be_written) {
  // As the cache of the Hugging Face hub: names link to blobs.
  const fs::path plain = sharded("plain"), cache = run_.directory() / "cache";
  fs::create_directories(cache / "blobs");
  fs::create_directories(cache / "snapshots/main");
  int number = 0;
  for (const auto& item : fs::directory_iterator(plain)) {
    const std::string blob = "sum" + std::to_string(number++);
    fs::copy(item.path(), cache / "blobs" / blob);
    fs::create_symlink("../../blobs/" + blob, cache / "snapshots/main" / item.path().filename());
  }
  for (const char* extra : {"README.md", ".gitattributes", "train_state.pt"})
    write_text_file(cache / "snapshots/main" / extra, "of no concern");
  const fs::path snapshot = cache / "snapshots/main";
  fs::permissions(snapshot, fs::perms::owner_write | fs::perms::group_write, fs::perm_options::remove);
  fs::permissions(run_.directory(), fs::perms::all);
  const bool is_root = ::geteuid() == 0;
  expect_like_newest("cache/snapshots/main", "",
                     is_root ? std::function<bool()>(test::become_nobody) : nullptr);
  expect_like_newest("cache/snapshots/main", "");
  fs::permissions(snapshot, fs::perms::owner_write, fs::perm_options::add);
  const fs::path shard = shards(snapshot)[0];
  fs::remove(snapshot / fs::read_symlink(shard));  // a link to nothing
  expect_refused("cache/snapshots/main", AllOf(HasSubstr(shard.filename().string()), HasSubstr("missing")));
}

TEST_F(Sources, a_single_file_beside_an_index_is_left_out_with_a_word) {
  const fs::path plain = sharded("plain");
  write_text_file(plain / "model.safetensors", "of another conversion");
  expect_like_newest("plain", "");
  EXPECT_THAT(fathom({"convert", "plain", "converted"}).err,
              HasSubstr("model.safetensors is not named by its index, and left out"));
  const Json seen = Json::parse(fathom({"inspect", "plain", "--json"}).out);
  EXPECT_EQ(seen.at("unlisted_files"), Json::array({"model.safetensors"}));
}

TEST_F(Sources, an_index_and_files_that_do_not_belong_together) {
  const fs::path plain = sharded("plain"), other = sharded("other_cut", "9kB");
  const auto files = shards(plain);
  const std::string second = files[1].filename().string();
  fs::rename(files[1], run_.directory() / "away");
  expect_refused("plain", AllOf(HasSubstr(second), HasSubstr("missing")));
  // A shard of another version under this one's name.
  fs::copy(shards(other)[0], files[1]);
  expect_refused("plain", AllOf(HasSubstr(second), HasSubstr("by the index")));
  fs::copy(run_.directory() / "away", files[1], fs::copy_options::overwrite_existing);
  fs::resize_file(files[1], fs::file_size(files[1]) - 10);
  expect_refused("plain", AllOf(HasSubstr(second), HasSubstr("truncated")));
  fs::resize_file(files[1], 0);
  expect_refused("plain", AllOf(HasSubstr(second), HasSubstr("truncated")));
  fs::copy(run_.directory() / "away", files[1], fs::copy_options::overwrite_existing);
  expect_like_newest("plain", "");
  write_text_file(plain / formats::kIndexFileName, "{\"weight_map\": ");
  expect_refused("plain", HasSubstr(formats::kIndexFileName));
  write_text_file(plain / formats::kIndexFileName, "{\"weight_map\": {\"lm_head.weight\": \"../../away\"}}");
  expect_refused("plain", HasSubstr("../../away"));
}

TEST_F(Sources, WT_12_another_architecture_is_refused_by_every_command) {
  const fs::path file = run_.checkpoint(4) / "config.json";
  Json config = read_json_file(file);
  config["model_type"] = "qwen2";
  config["architectures"] = {"Qwen2ForCausalLM"};
  write_text_file(file, config.dump());
  expect_refused(kNewest, AllOf(HasSubstr("qwen2"), HasSubstr("deepseek_v3")));
  const ProcessEnd init = fathom({"init", file.string(), "made"});
  EXPECT_EQ(init.exit_code, 1);
  EXPECT_THAT(init.err, HasSubstr("qwen2"));
  fs::remove(file);
  expect_refused(kNewest, HasSubstr("config.json"), "inspect");
}

}  // namespace
}  // namespace fathom
