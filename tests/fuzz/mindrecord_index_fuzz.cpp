// The SQLite index of a MindRecord file.
#include "formats/mindrecord.h"
#include "fuzz/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto path = fathom::fuzz::scratch_directory() / "f.mindrecord.db";
  fathom::fuzz::write_file(path, fathom::fuzz::as_text(data, size));
  fathom::fuzz::accepts([&] { fathom::formats::read_mindrecord_index(path); });
  return 0;
}
