// The header of a GGUF file: counts, lengths and offsets that lie must not become a read outside it.
#include "formats/gguf.h"
#include "fuzz/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace fathom;
  // The file as long as the input, and longer, so that headers that promise data get further.
  for (const uint64_t file_bytes : {uint64_t{size}, uint64_t{size} + 256}) {
    formats::GgufHeader header;
    const auto bytes = fuzz::as_bytes(data, size);
    if (!fuzz::accepts([&] { header = formats::parse_gguf_header(bytes, file_bytes, "fuzz"); })) continue;
    uint64_t end = header.data_begin;
    for (const formats::GgufTensor& tensor : header.tensors) {
      FATHOM_CHECK(tensor.offset >= end || tensor.bytes == 0);  // by offset, without overlap
      FATHOM_CHECK(tensor.bytes == formats::ggml_tensor_bytes(tensor.type, tensor.shape, tensor.name));
      end = tensor.offset + tensor.bytes;
      FATHOM_CHECK(end <= file_bytes);
    }
    for (const auto& [key, value] : header.metadata) {
      FATHOM_CHECK(header.find(key) != nullptr);
      FATHOM_CHECK(!formats::gguf_type_name(value.type).empty());
    }
  }
  return 0;
}
