"""Makes data/dtypes.json: what megatron-core's IndexedDatasetBuilder writes for the same documents in every type of its
DType enum. Made with megatron-core 0.16.1, numpy 2.4.6, torch 2.15.0. Run: python tests/formats/make_dtype_fixtures.py"""
import json
import pathlib
import tempfile

import torch
from megatron.core.datasets.indexed_dataset import DType, IndexedDatasetBuilder

data = pathlib.Path(__file__).parent / "data"
# Documents of sequences: an empty document at either end, an empty sequence, the largest value of the narrowest type.
documents = [[], [[1, 2, 127]], [[], [5], [6, 100, 0, 3]], [[9]], []]
types = {}
for dtype in DType:
    with tempfile.TemporaryDirectory() as scratch:
        prefix = pathlib.Path(scratch) / "d"
        builder = IndexedDatasetBuilder(f"{prefix}.bin", dtype=DType.dtype_from_code(dtype.value))
        for document in documents:
            for sequence in document:
                builder.add_item(torch.tensor(sequence, dtype=torch.int64))
            builder.end_document()
        builder.finalize(f"{prefix}.idx")
        types[dtype.name] = {"code": dtype.value, **{
            kind: prefix.with_suffix(f".{kind}").read_bytes().hex() for kind in ("bin", "idx")}}
(data / "dtypes.json").write_text(json.dumps({"documents": documents, "types": types}, indent=1) + "\n")
