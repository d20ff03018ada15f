#include "train/tensorboard.h"

#include <gtest/gtest.h>

#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "base/crc32c.h"
#include "base/error.h"
#include "base/file.h"
#include "support/scratch.h"

namespace fathom::train {
namespace {

// The payloads of a file of records; fails where a checksum is wrong.
std::vector<std::string> payloads(const std::string& bytes) {
  std::vector<std::string> found;
  size_t at = 0;
  while (at < bytes.size()) {
    uint64_t size = 0;
    std::memcpy(&size, bytes.data() + at, 8);
    found.push_back(bytes.substr(at + 12, size));
    EXPECT_EQ(bytes.substr(at, 16 + size), tf_record(found.back()));
    at += 16 + size;
  }
  EXPECT_EQ(at, bytes.size());
  return found;
}

// data/events.tfrecord is TensorBoard's own writing of these three.
TEST(TensorBoard, same_bytes_as_its_own_writer) {
  const double infinity = std::numeric_limits<double>::infinity();
  const Scalars scalars = {
      {"loss", 5.271400451660156}, {"expert_load/layer_3/max", infinity}, {std::string(200, 't'), -0.0}};
  EXPECT_EQ(tf_record(file_version_event(1700000000.25)) + tf_record(session_start_event(1700000001.5, 301)) +
                tf_record(scalars_event(1700000002.75, 12345678901, scalars)),
            read_text_file(fs::path(FATHOM_SOURCE_DIR) / "tests/train/data/events.tfrecord"));
}

TEST(TensorBoard, a_new_run_has_a_version_and_its_scalars) {
  const test::ScratchDirectory scratch;
  EventFile file(scratch / "tensorboard", 0);
  StepMetrics m;
  m.step = 7;
  file.write(m);  // the loss is NaN, which TensorBoard shows; the rest was not measured
  file.write(ExpertLoad{7, {{3, {0.5, 1.5}}, {4, {}}}});
  file.write(ExpertLoad{7, {}});
  const auto records = payloads(read_text_file(file.path()));
  ASSERT_EQ(records.size(), 3u);
  EXPECT_NE(records[0].find("brain.Event:2"), std::string::npos);
  EXPECT_NE(records[1].find("loss"), std::string::npos);
  EXPECT_NE(records[1].find("learning_rate"), std::string::npos);
  EXPECT_EQ(records[1].find("mtp_loss"), std::string::npos);
  EXPECT_EQ(records[1].find("eval/loss"), std::string::npos);
  EXPECT_NE(records[2].find("expert_load/layer_3/max"), std::string::npos);
  EXPECT_EQ(records[2].find("layer_4"), std::string::npos);
}

TEST(TensorBoard, a_resumed_run_starts_a_later_file_that_drops_later_steps) {
  const test::ScratchDirectory scratch;
  fs::path previous;
  for (const int64_t resume_step : {0, 5, 5, 9}) {
    const EventFile file(scratch.path(), resume_step);
    EXPECT_LT(previous, file.path());  // the order in which TensorBoard reads
    previous = file.path();
    const auto records = payloads(read_text_file(file.path()));
    ASSERT_EQ(records.size(), resume_step > 0 ? 2u : 1u);
    if (resume_step > 0) {
      EXPECT_EQ(records[1].substr(9), session_start_event(0, resume_step + 1).substr(9));
    }
  }
}

TEST(TensorBoard, a_bad_place_is_an_error) {
  const test::ScratchDirectory scratch;
  write_text_file(scratch / "file", "");
  EXPECT_THROW(EventFile(scratch / "file", 0), FileError);
}

}  // namespace
}  // namespace fathom::train
