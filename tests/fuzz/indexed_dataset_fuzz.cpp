// Megatron's .idx, with a .bin of a size and bytes that the input decides, then everything that reads through it:
// all sequences and documents, the index of training windows in one, several and a fraction of an epoch, the
// windows, the whole-dataset check, and the merge with itself.
#include "formats/indexed_dataset.h"

#include <algorithm>
#include <memory>
#include <vector>

#include "data/gpt_dataset.h"
#include "data/merge.h"
#include "data/validate.h"
#include "fuzz/fuzz.h"

namespace {

using namespace fathom;

void read_all(const formats::IndexedDataset& dataset) {
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
}

void read_windows(const std::shared_ptr<const formats::IndexedDataset>& dataset, int64_t seq_length,
                  int64_t num_samples) {
  fuzz::accepts([&] {
    const data::GptDataset windows(dataset, {{0, dataset->num_sequences()}, num_samples, seq_length, 5});
    FATHOM_CHECK(windows.size() >= num_samples);
    std::vector<int32_t> out(static_cast<size_t>(seq_length) + 1);
    for (int64_t i = 0; i < std::min<int64_t>(windows.size(), 200); ++i) {
      int64_t tokens = 0;
      for (const auto& piece : windows.pieces(i)) {
        FATHOM_CHECK(dataset->document_begin(piece.document) <= piece.sequence);
        FATHOM_CHECK(dataset->document_begin(piece.document + 1) > piece.sequence);
        tokens += piece.count;
      }
      FATHOM_CHECK(tokens == seq_length + 1);
      fuzz::accepts([&] { windows.read(i, 1 << 20, out.data()); });
    }
  });
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 3) return 0;
  const std::filesystem::path prefix = fuzz::scratch_directory() / "data";
  std::string bin(data[0] | data[1] << 8, '\0');
  if (data[2] != 0)  // else zeros: valid ids of any type
    for (size_t i = 0; i < bin.size(); ++i) bin[i] = static_cast<char>(data[i % size] ^ data[2]);
  fuzz::write_file(prefix.string() + ".bin", bin);
  fuzz::write_file(prefix.string() + ".idx", fuzz::as_text(data + 3, size - 3));
  std::shared_ptr<const formats::IndexedDataset> dataset;
  if (!fuzz::accepts([&] { dataset = std::make_shared<const formats::IndexedDataset>(prefix); })) return 0;
  read_all(*dataset);
  for (const int64_t seq_length : {1, 7, 300})
    for (const int64_t num_samples : {0, 2, 90}) read_windows(dataset, seq_length, num_samples);
  fuzz::accepts([&] {
    const auto report = data::validate_dataset({prefix, 0});
    FATHOM_CHECK(report.tokens == dataset->num_tokens());
  });
  if (data[2] % 16 != 1) return 0;  // it syncs to the disk
  const std::filesystem::path twice = fuzz::scratch_directory() / "twice";
  if (!fuzz::accepts([&] { data::merge_datasets({.inputs = {prefix, prefix}, .output_prefix = twice}); }))
    return 0;
  const formats::IndexedDataset merged(twice);
  read_all(merged);
  FATHOM_CHECK(merged.num_sequences() == 2 * dataset->num_sequences());
  FATHOM_CHECK(merged.has_modes() == dataset->has_modes());
  return 0;
}
