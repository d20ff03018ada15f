// Megatron's .idx, with a .bin of zeros whose size is the first two bytes of the input.
#include "formats/indexed_dataset.h"

#include <algorithm>
#include <vector>

#include "fuzz/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace fathom;
  if (size < 2) return 0;
  const std::filesystem::path prefix = fuzz::scratch_directory() / "data";
  fuzz::write_file(prefix.string() + ".bin", std::string(data[0] | data[1] << 8, '\0'));
  fuzz::write_file(prefix.string() + ".idx", fuzz::as_text(data + 2, size - 2));
  fuzz::accepts([&] {
    const formats::IndexedDataset dataset(prefix);
    int64_t tokens = 0;
    std::vector<int32_t> out;
    for (int64_t s = 0; s < dataset.num_sequences(); ++s) {
      const int64_t length = dataset.sequence_length(s);
      FATHOM_CHECK(static_cast<int64_t>(dataset.sequence_bytes(s).size()) ==
                   length * formats::token_type_bytes(dataset.type()));
      out.resize(static_cast<size_t>(length));
      fuzz::accepts([&] { dataset.read(s, 0, length, out.data()); });  // a float type is refused here
      dataset.sequence_mode(s);
      tokens += length;
    }
    FATHOM_CHECK(tokens == dataset.num_tokens());
    FATHOM_CHECK(dataset.document_begin(dataset.num_documents()) == dataset.num_sequences());
    for (int64_t d = 0; d < dataset.num_documents(); ++d)
      FATHOM_CHECK(dataset.document_begin(d) <= dataset.document_begin(d + 1));
  });
  return 0;
}
