#include "train/tensorboard.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <cmath>
#include <cstring>

#include "base/crc32c.h"
#include "base/error.h"
#include "base/file.h"
#include "base/host_name.h"

namespace fathom::train {
namespace {

constexpr std::string_view kFilePrefix = "events.out.tfevents.";

// Wire types of the protobuf encoding.
constexpr uint32_t kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5;

template <typename Integer>
void put_little_endian(std::string& out, Integer value) {
  static_assert(std::endian::native == std::endian::little);
  out.append(reinterpret_cast<const char*>(&value), sizeof value);
}

void put_varint(std::string& out, uint64_t value) {
  for (; value >= 0x80; value >>= 7) out += static_cast<char>(value | 0x80);
  out += static_cast<char>(value);
}

void put_key(std::string& out, uint32_t field, uint32_t wire_type) {
  put_varint(out, field << 3 | wire_type);
}

void put_bytes(std::string& out, uint32_t field, std::string_view bytes) {
  put_key(out, field, kBytes);
  put_varint(out, bytes.size());
  out += bytes;
}

std::string event_head(double wall_time, int64_t step) {
  std::string event;
  put_key(event, 1, kFixed64);
  put_little_endian(event, wall_time);
  if (step != 0) {  // proto3 leaves defaults out
    put_key(event, 2, kVarint);
    put_varint(event, static_cast<uint64_t>(step));
  }
  return event;
}

uint32_t masked_crc(std::string_view bytes) {
  const uint32_t crc = crc32c(bytes.data(), bytes.size());
  return std::rotr(crc, 15) + 0xa282ead8u;
}

double now_s() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

std::string host_in_a_file_name() {
  std::string text = host_name();
  std::replace(text.begin(), text.end(), '/', '_');
  return text;
}

// The seconds in the names of the event files of a directory, the latest; 0 without any.
int64_t latest_time(const fs::path& directory) {
  int64_t latest = 0;
  for (const auto& entry : fs::directory_iterator(directory)) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with(kFilePrefix)) continue;
    int64_t time = 0;
    std::from_chars(name.data() + kFilePrefix.size(), name.data() + name.size(), time);
    latest = std::max(latest, time);
  }
  return latest;
}

}  // namespace

std::string tf_record(std::string_view payload) {
  std::string record;
  put_little_endian(record, static_cast<uint64_t>(payload.size()));
  put_little_endian(record, masked_crc(record));
  record += payload;
  put_little_endian(record, masked_crc(payload));
  return record;
}

std::string file_version_event(double wall_time) {
  std::string event = event_head(wall_time, 0);
  put_bytes(event, 3, "brain.Event:2");
  return event;
}

std::string session_start_event(double wall_time, int64_t step) {
  std::string event = event_head(wall_time, step), session;
  put_key(session, 1, kVarint);
  put_varint(session, 1);
  put_bytes(event, 7, session);
  return event;
}

std::string scalars_event(double wall_time, int64_t step, const Scalars& scalars) {
  std::string event = event_head(wall_time, step), summary;
  for (const auto& [tag, number] : scalars) {
    std::string value;
    put_bytes(value, 1, tag);
    put_key(value, 2, kFixed32);
    put_little_endian(value, static_cast<float>(number));
    put_bytes(summary, 1, value);
  }
  put_bytes(event, 5, summary);
  return event;
}

EventFile::EventFile(const fs::path& directory, int64_t resume_step) {
  make_directories(directory);
  const double now = now_s();
  const int64_t time = std::max(static_cast<int64_t>(now), latest_time(directory) + 1);
  path_ = directory / fmt::format("{}{:010}.{}.{}", kFilePrefix, time, host_in_a_file_name(), ::getpid());
  fd_ = ::open(path_.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
  if (fd_ < 0) throw FileError("cannot write {}: {}", path_.string(), std::strerror(errno));
  append(tf_record(file_version_event(now)));
  if (resume_step > 0) append(tf_record(session_start_event(now, resume_step + 1)));
}

EventFile::~EventFile() {
  if (fd_ >= 0) ::close(fd_);
}

void EventFile::append(const std::string& bytes) {
  size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t n = ::write(fd_, bytes.data() + done, bytes.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) throw FileError("cannot write {}: {}", path_.string(), std::strerror(errno));
    done += static_cast<size_t>(n);
  }
}

void EventFile::write(int64_t step, const Scalars& scalars) {
  if (!scalars.empty()) append(tf_record(scalars_event(now_s(), step, scalars)));
}

void EventFile::write(const StepMetrics& metrics) {
  Scalars scalars = {{"loss", metrics.loss}};
  const auto add = [&](const char* tag, double value) {
    if (!std::isnan(value)) scalars.emplace_back(tag, value);
  };
  add("mtp_loss", metrics.mtp_loss);
  add("balance_loss", metrics.balance_loss);
  add("grad_norm", metrics.grad_norm);
  add("learning_rate", metrics.lr);
  add("tokens_per_second", metrics.tokens_per_second);
  add("max_violation", metrics.max_violation);
  add("skipped_steps", static_cast<double>(metrics.skipped));
  add("eval/loss", metrics.eval_loss);
  add("eval/perplexity", std::exp(metrics.eval_loss));
  write(metrics.step, scalars);
}

void EventFile::write(const ExpertLoad& load) {
  Scalars scalars;
  for (const LayerLoad& layer : load.layers) {
    if (layer.load.empty()) continue;
    const auto [low, high] = std::minmax_element(layer.load.begin(), layer.load.end());
    scalars.emplace_back(fmt::format("expert_load/layer_{}/max", layer.layer), *high);
    scalars.emplace_back(fmt::format("expert_load/layer_{}/min", layer.layer), *low);
  }
  write(load.step, scalars);
}

}  // namespace fathom::train
