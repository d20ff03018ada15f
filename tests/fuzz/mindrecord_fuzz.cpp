// A MindRecord file with index rows of the input's own choice: opening, every row.
// Input: u8 n; n index rows of seven u16; u16 length of the header; the header; u16 length of what stands from byte 16384
// on; the rest, which stands a page of 32 KiB behind.
#include "formats/mindrecord.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "formats/mindrecord_values.h"
#include "fuzz/fuzz.h"

namespace {

using namespace fathom;

class Input {
 public:
  Input(const uint8_t* data, size_t size) : left_(fuzz::as_text(data, size)) {}
  std::string_view take(size_t size) {
    const std::string_view part = left_.substr(0, size);
    left_.remove_prefix(part.size());
    return part;
  }
  int64_t u16() {
    const std::string_view part = take(2);
    return part.size() < 2 ? 0 : static_cast<uint8_t>(part[0]) | static_cast<uint8_t>(part[1]) << 8;
  }
  std::string_view rest() const { return left_; }

 private:
  std::string_view left_;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  Input input(data + 1, size - 1);
  std::vector<formats::MindIndexRow> rows(data[0] % 16);
  for (auto& row : rows)
    row = {input.u16(), input.u16(), input.u16(), input.u16(), input.u16(), input.u16(), input.u16()};
  const std::string_view header = input.take(static_cast<size_t>(input.u16()));
  const uint64_t length = header.size();
  std::string file(reinterpret_cast<const char*>(&length), sizeof length);
  file += header;
  const auto put_at = [&](size_t place, std::string_view bytes) {
    if (!bytes.empty()) file.resize(std::max(file.size(), place), '\0');
    file.replace(std::min(place, file.size()), bytes.size(), bytes);
  };
  put_at(16384, input.take(static_cast<size_t>(input.u16())));
  put_at(16384 + 32768, input.rest());
  const auto path = fuzz::scratch_directory() / "f.mindrecord";
  fuzz::write_file(path, file);
  fuzz::accepts([&] {
    const formats::MindRecordShard shard(path, rows);
    FATHOM_CHECK(shard.size() == static_cast<int64_t>(rows.size()));
    for (int64_t r = 0; r < shard.size(); ++r)
      fuzz::accepts([&] { FATHOM_CHECK(shard.row(r).size() == shard.columns().size()); });
  });
  // Integers that decode are the ones that encode to them or to something shorter.
  std::vector<int64_t> values, again;
  if (formats::decode_mind_integers(input.rest(), formats::MindType::int64, values).empty()) {
    std::string bytes;
    formats::encode_mind_integers(values, bytes);
    FATHOM_CHECK(bytes.size() <= input.rest().size());
    FATHOM_CHECK(formats::decode_mind_integers(bytes, formats::MindType::int64, again).empty() &&
                 again == values);
  }
  formats::MindScalars scalars;
  formats::decode_mind_scalars(input.rest(), scalars);
  return 0;
}
