#include "formats/checkpoint_manifest.h"

#define XXH_INLINE_ALL
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include <cerrno>
#include <cstring>
#include <memory>
#include <vector>

#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "base/parallel.h"

namespace fathom::formats {
namespace {

constexpr const char* kFormat = "fathom-checkpoint";
constexpr int64_t kVersion = 1;
constexpr size_t kBlockBytes = 4 << 20;

bool stays_inside(const std::string& name) {
  const fs::path path(name);
  if (name.empty() || path.is_absolute()) return false;
  for (const fs::path& part : path)
    if (part == "..") return false;
  return true;
}

std::string check_one(const fs::path& directory, const std::string& name, const ManifestFile& expected) {
  try {
    const ManifestFile found = checksum_file(directory / name);
    if (found.bytes != expected.bytes || found.xxh3 != expected.xxh3)
      return fmt::format("{}: its checksum is {}, the manifest says {}: the file is damaged", name,
                         found.xxh3, expected.xxh3);
  } catch (const Error& e) {
    return e.what();
  }
  return "";
}

}  // namespace

// read() instead of a map: a bad disk is then an error here, not a signal.
ManifestFile checksum_file(const fs::path& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) throw FileError("cannot open {}: {}", path.string(), std::strerror(errno));
  const std::unique_ptr<XXH3_state_t, XXH_errorcode (*)(XXH3_state_t*)> state(XXH3_createState(),
                                                                              XXH3_freeState);
  XXH3_64bits_reset(state.get());
  std::vector<char> block(kBlockBytes);
  ManifestFile result;
  while (true) {
    const ssize_t count = ::read(fd, block.data(), block.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) {
      const int cause = errno;
      ::close(fd);
      throw FileError("cannot read {} at byte {}: {}", path.string(), result.bytes, std::strerror(cause));
    }
    if (count == 0) break;
    XXH3_64bits_update(state.get(), block.data(), static_cast<size_t>(count));
    result.bytes += static_cast<uint64_t>(count);
  }
  ::close(fd);
  result.xxh3 = fmt::format("{:016x}", static_cast<uint64_t>(XXH3_64bits_digest(state.get())));
  return result;
}

void write_manifest(const fs::path& directory, const CheckpointManifest& manifest) {
  Json files = Json::object();
  auto& members = files.get_ref<Json::object_t&>();
  for (const auto& [name, file] : manifest.files)
    members.emplace_back(name, Json{{"bytes", file.bytes}, {"xxh3", file.xxh3}});
  Json object = {{"format", kFormat}, {"version", kVersion}, {"step", manifest.step}};
  object["files"] = std::move(files);
  write_text_file(directory / kManifestName, object.dump(2) + "\n");
}

CheckpointManifest read_manifest(const fs::path& directory) {
  const fs::path path = directory / kManifestName;
  CheckpointManifest manifest;
  try {
    const SortedJson object = parse_sorted_json(read_text_file(path), path.string());
    if (object.at("format") != kFormat)
      throw CheckpointError("{}: this is no manifest of a Fathom checkpoint", path.string());
    if (object.at("version") != kVersion)
      throw CheckpointError("{}: version {} of the manifest; this program reads version {}", path.string(),
                            object.at("version").dump(), kVersion);
    manifest.step = object.at("step").get<int64_t>();
    for (const auto& [name, file] : object.at("files").items()) {
      if (!stays_inside(name))
        throw CheckpointError("{}: \"{}\" is no file of this directory", path.string(), name);
      manifest.files[name] = {file.at("bytes").get<uint64_t>(), file.at("xxh3").get<std::string>()};
    }
  } catch (const ConfigError& e) {
    throw CheckpointError("{}", e.what());
  } catch (const SortedJson::exception& e) {
    throw CheckpointError("{}: it is damaged: {}", path.string(), e.what());
  }
  return manifest;
}

std::optional<std::string> find_fault(const fs::path& directory, Verify what) {
  CheckpointManifest manifest;
  try {
    if (!fs::exists(directory / kManifestName)) return fmt::format("it has no {}", kManifestName);
    manifest = read_manifest(directory);
  } catch (const Error& e) {
    return e.what();
  }
  for (const auto& [name, file] : manifest.files) {
    struct stat info;
    if (::stat((directory / name).c_str(), &info) != 0 || !S_ISREG(info.st_mode))
      return fmt::format("{}: the file is missing", name);
    if (static_cast<uint64_t>(info.st_size) != file.bytes)
      return fmt::format(
          "{}: it has {} bytes, the manifest says {}: the file is {}", name, info.st_size, file.bytes,
          static_cast<uint64_t>(info.st_size) < file.bytes ? "truncated" : "not what was written");
  }
  if (what == Verify::sizes) return std::nullopt;
  std::vector<std::pair<std::string, ManifestFile>> files(manifest.files.begin(), manifest.files.end());
  std::vector<std::string> faults(files.size());
  parallel_tasks(static_cast<int64_t>(files.size()), [&](int64_t i) {
    const auto at = static_cast<size_t>(i);
    faults[at] = check_one(directory, files[at].first, files[at].second);
  });
  for (const std::string& fault : faults)
    if (!fault.empty()) return fault;
  return std::nullopt;
}

}  // namespace fathom::formats
