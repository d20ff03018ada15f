#include "base/crc32c.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <vector>

namespace fathom {
namespace {

// RFC 3720, appendix B.4.
TEST(Crc32c, known_values) {
  const std::string zeros(32, '\0'), ones(32, '\xff');
  std::string ascending;
  for (char c = 0; c < 32; ++c) ascending += c;
  for (const auto checksum : {crc32c, crc32c_reference}) {
    EXPECT_EQ(checksum(zeros.data(), 32, 0), 0x8a9136aau);
    EXPECT_EQ(checksum(ones.data(), 32, 0), 0x62a8ab43u);
    EXPECT_EQ(checksum(ascending.data(), 32, 0), 0x46dd794eu);
    EXPECT_EQ(checksum("123456789", 9, 0), 0xe3069283u);
    EXPECT_EQ(checksum(nullptr, 0, 0), 0u);
  }
}

TEST(Crc32c, agrees_with_the_table_at_every_length_and_start) {
  std::vector<uint8_t> bytes(100);
  uint32_t state = 1;
  for (auto& b : bytes) b = static_cast<uint8_t>((state = state * 1664525 + 1013904223) >> 24);
  for (size_t start = 0; start < 9; ++start)
    for (size_t n = 0; start + n <= bytes.size(); ++n)
      ASSERT_EQ(crc32c(bytes.data() + start, n), crc32c_reference(bytes.data() + start, n))
          << start << " " << n;
}

TEST(Crc32c, pieces_make_the_whole) {
  const std::string text = "a text that is fed in two pieces of awkward sizes";
  for (size_t cut = 0; cut <= text.size(); ++cut)
    EXPECT_EQ(crc32c(text.data() + cut, text.size() - cut, crc32c(text.data(), cut)),
              crc32c(text.data(), text.size()));
}

}  // namespace
}  // namespace fathom
