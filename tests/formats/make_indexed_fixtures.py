"""Makes the Megatron pairs under data/ that megatron-core's own builder writes, and expected.json with what its reader
reads. Made with megatron-core 0.16.1, numpy 2.4.6. Run: python make_indexed_fixtures.py WIKITEXT_PREFIX, where the
argument is a pair of DeepSeek-V3 ids of WikiText-2's validation split, one document an article (of which two are kept).
data/ag_news_prompt_targets_document.* is not made here: it comes from Megatron-DeepSpeed's tests/data/gpt2."""
import hashlib
import json
import pathlib
import sys

import numpy
import torch
from megatron.core.datasets.indexed_dataset import IndexedDataset, IndexedDatasetBuilder

data = pathlib.Path(__file__).parent / "data"
source = IndexedDataset(sys.argv[1])


def build(name, dtype, documents, modes=None):
    builder = IndexedDatasetBuilder(str(data / (name + ".bin")), dtype=dtype, multimodal=modes is not None)
    i = 0
    for document in documents:
        for sequence in document:
            builder.add_item(torch.tensor(numpy.asarray(sequence, dtype=numpy.int64)), *([modes[i]] if modes else []))
            i += 1
        builder.end_document()
    builder.finalize(str(data / (name + ".idx")))


begin = source.document_indices
build("wikitext2_cut_text_document", numpy.int32,
      [[source[int(i)] for i in range(begin[d], begin[d + 1])] for d in range(3, 5)])
build("uint16_with_empty_documents", numpy.uint16, [[], [[1, 65535, 0]], [[], [7]], []])
build("int64_multimodal", numpy.int64, [[[5, 6], [7]], [[8]]], modes=[0, 1, 0])
build("empty", numpy.int32, [])

expected = {}
for idx in sorted(data.glob("*.idx")):
    prefix = idx.with_suffix("")
    if (data / (prefix.name + ".bin")).stat().st_size == 0:
        expected[prefix.name] = {"type": "int32", "sequences": 0, "documents": 0, "tokens": 0}
        continue
    dataset = IndexedDataset(str(prefix), multimodal=prefix.name == "int64_multimodal")
    sequences = [dataset[i] for i in range(len(dataset))]
    if prefix.name == "int64_multimodal":
        sequences = [s for s, mode in sequences]
    tokens = numpy.concatenate(sequences).astype("<i4")
    expected[prefix.name] = {
        "type": dataset.index.dtype.__name__, "sequences": len(dataset),
        "documents": len(dataset.document_indices) - 1, "tokens": len(tokens),
        "token_sum": int(tokens.sum(dtype=numpy.int64)),
        "documents_begin": [int(x) for x in dataset.document_indices[:6]],
        "last_sequence": [int(x) for x in sequences[-1][:12]],
        "sha256_tokens_i4le": hashlib.sha256(tokens.tobytes()).hexdigest(),
    }
(data / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")
