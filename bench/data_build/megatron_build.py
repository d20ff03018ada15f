"""The peer's side of ./run bench data-build: what Megatron-LM's tools/preprocess_data.py does, with its parts.

MEGATRON_BUILD INPUT.jsonl OUTPUT_PREFIX TOKENIZER_DIR PROCESSES: a pool of processes parses the lines and encodes the
text (HF tokenizers, without the transformers wrapper, which is slower), the parent writes with megatron-core's
IndexedDatasetBuilder and appends the end-of-document id.
"""

import json
import multiprocessing
import os
import sys

os.environ["TOKENIZERS_PARALLELISM"] = "false"
EOD = 1


def start(folder):
    global tokenizer
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(f"{folder}/tokenizer.json")


def encode(line):
    ids = tokenizer.encode(json.loads(line)["text"], add_special_tokens=False).ids
    ids.append(EOD)
    return ids


def main():
    source, prefix, folder, processes = sys.argv[1:]
    import numpy
    import torch
    from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder

    builder = IndexedDatasetBuilder(f"{prefix}.bin", dtype=numpy.int32)
    with multiprocessing.Pool(int(processes), initializer=start, initargs=(folder,)) as pool, open(source) as lines:
        for ids in pool.imap(encode, lines, 32):
            builder.add_document(torch.IntTensor(ids), [len(ids)])
    builder.finalize(f"{prefix}.idx")


if __name__ == "__main__":
    main()
