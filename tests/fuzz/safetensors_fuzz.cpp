// The safetensors header (field case: a header that lies must not become a read outside the file).
#include "formats/safetensors.h"
#include "fuzz/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace fathom;
  // The file as long as the input, and longer, so that headers that promise data get further.
  for (const uint64_t file_bytes : {uint64_t{size}, uint64_t{size} + 64}) {
    formats::SafetensorsHeader header;
    const auto bytes = fuzz::as_bytes(data, size);
    if (!fuzz::accepts([&] { header = formats::parse_safetensors_header(bytes, file_bytes, "fuzz"); }))
      continue;
    uint64_t end = header.data_begin;
    for (const formats::TensorEntry& tensor : header.tensors) {
      FATHOM_CHECK(tensor.offset == end);  // by offset, without holes
      FATHOM_CHECK(tensor.bytes == formats::tensor_bytes(tensor.dtype, tensor.shape, tensor.name));
      end += tensor.bytes;
    }
    FATHOM_CHECK(end == file_bytes);
  }
  return 0;
}
