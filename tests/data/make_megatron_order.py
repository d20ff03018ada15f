"""Makes fixtures/: two small datasets and megatron_order.json, the samples that megatron-core's own GPTDataset and
BlendedDataset draw from them, with masks and position ids. Made with megatron-core 0.16.1 (its compiled helpers),
numpy 2.4.6, torch 2.15.0. Run: python tests/data/make_megatron_order.py"""
import json
import pathlib
import shutil
import tempfile

import numpy
import torch
from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder
from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig
from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder

fixtures = pathlib.Path(__file__).parent / "fixtures"
fixtures.mkdir(exist_ok=True)
EOD = 1


class Tokenizer:
    vocab_size, eod, pad = 70000, EOD, -1
    unique_identifiers = {"class": "fixture"}


def build(name, dtype, lengths, vocab, seed):
    rng = numpy.random.RandomState(seed)
    builder = IndexedDatasetBuilder(str(fixtures / (name + ".bin")), dtype=dtype)
    for length in lengths:
        tokens = rng.randint(2, vocab, size=length)
        if length > 0:
            tokens[-1] = EOD
        builder.add_document(torch.tensor(tokens, dtype=torch.int64), [length])
    builder.finalize(str(fixtures / (name + ".idx")))


build("a", numpy.int32, [5, 1, 0, 17, 8, 9, 30, 2, 2, 3, 12, 41, 7, 8, 16, 1, 1, 6, 23, 4], 60000, 1)
build("b", numpy.uint16, [64, 3, 9, 0, 0, 10, 33], 500, 2)

# sources with weights (None: a single prefix), split, samples asked per split (None: one epoch), seed, seq_length
CASES = [
    dict(name="within_one_epoch", sources=["a"], split="1,0,0", samples=[5, 0, 0], seed=1234, seq_length=8),
    dict(name="exactly_one_epoch", sources=["a"], split="1,0,0", samples=[None] * 3, seed=1234, seq_length=8),
    dict(name="last_epoch_apart", sources=["a"], split="1,0,0", samples=[60, 0, 0], seed=1234, seq_length=8),
    dict(name="last_epoch_mixed_in", sources=["a"], split="1,0,0", samples=[70, 0, 0], seed=7, seq_length=8),
    dict(name="window_longer_than_the_data", sources=["b"], split="1,0,0", samples=[5, 0, 0], seed=5, seq_length=200),
    dict(name="seq_length_1", sources=["b"], split="1,0,0", samples=[9, 0, 0], seed=0, seq_length=1),
    dict(name="split_80_20", sources=["a"], split="80,20", samples=[20, 6, 0], seed=4294967295, seq_length=8),
    dict(name="split_half_to_even", sources=["b"], split="1,1,2", samples=[6, 6, 6], seed=3, seq_length=8),
    dict(name="masks", sources=["a"], split="1,0,0", samples=[12, 0, 0], seed=11, seq_length=8, flags=True),
    dict(name="blend", sources=["a", "b"], weights=[0.7, 0.3], split="1,0,0", samples=[60, 0, 0], seed=1234,
         seq_length=8),
    dict(name="blend_of_the_same_twice", sources=["a", "b", "a"], weights=[1.0, 5.0, 2.5], split="1,0,0",
         samples=[41, 0, 0], seed=9, seq_length=4),
    dict(name="blend_exhaustive", sources=["a", "b"], split="1,0,0", samples=[None] * 3, seed=2, seq_length=8),
]

results = []
for case in CASES:
    with tempfile.TemporaryDirectory() as scratch:
        for f in fixtures.glob("[ab].*"):
            shutil.copy(f, scratch)
        flags = case.get("flags", False)
        config = GPTDatasetConfig(
            random_seed=case["seed"], sequence_length=case["seq_length"], split=case["split"],
            blend=([f"{scratch}/{s}" for s in case["sources"]], case.get("weights")), tokenizer=Tokenizer(),
            reset_position_ids=flags, reset_attention_mask=flags, eod_mask_loss=flags, create_attention_mask=True)
        built = BlendedMegatronDatasetBuilder(GPTDataset, case["samples"], lambda: True, config).build()
        result = dict(case, splits=[])
        for dataset in built:
            if dataset is None:
                result["splits"].append(None)
                continue
            samples = [dataset[i] for i in range(len(dataset))]
            out = {"tokens": [s["tokens"].tolist() + [int(s["labels"][-1])] for s in samples]}
            if flags:
                out["loss_mask"] = [[int(x) for x in s["loss_mask"]] for s in samples]
                out["position_ids"] = [s["position_ids"].tolist() for s in samples]
                # A row of the mask: True where attention is forbidden. The first allowed column is the document's start.
                out["first_visible"] = [[int((~row).nonzero()[0]) for row in s["attention_mask"][0]] for s in samples]
            if len(case["sources"]) > 1:
                out["dataset"] = [int(s["dataset_id"]) for s in samples]
            result["splits"].append(out)
        results.append(result)

random = numpy.random.RandomState(1234)
shuffles = []
for size in [1, 2, 10, 33]:
    values = numpy.arange(size, dtype=numpy.uint32)
    random.shuffle(values)
    shuffles.append(values.tolist())
sums = numpy.random.RandomState(3).random_sample(300)
(fixtures / "megatron_order.json").write_text(json.dumps(
    {"eod": EOD, "shuffles": shuffles, "cases": results,
     "sum_values": sums.tolist(), "sums": {str(n): float(numpy.sum(sums[:n])) for n in [1, 7, 8, 9, 16, 100, 128, 129, 300]}}) + "\n")
