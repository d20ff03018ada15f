"""Makes fixtures/: four small datasets, megatron_order.json, the samples that megatron-core's own GPTDataset and
BlendedDataset draw from them, with masks and position ids, and megatron_matrix.json, digests of the samples of many
more configurations. Made with megatron-core 0.16.1 (its compiled helpers), numpy 2.4.6, torch 2.15.0.
Run: python tests/data/make_megatron_order.py"""
import itertools
import json
import pathlib
import shutil
import tempfile

import numpy
import torch
from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder
from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig
from megatron.core.datasets.indexed_dataset import IndexedDataset, IndexedDatasetBuilder

fixtures = pathlib.Path(__file__).parent / "fixtures"
fixtures.mkdir(exist_ok=True)
EOD = 1


class Tokenizer:
    vocab_size, eod, pad = 70000, EOD, -1
    unique_identifiers = {"class": "fixture"}


def build(name, dtype, documents, vocab, seed):
    """`documents`: the lengths of each one's sequences, or the length of its only one."""
    rng = numpy.random.RandomState(seed)
    builder = IndexedDatasetBuilder(str(fixtures / (name + ".bin")), dtype=dtype)
    for lengths in documents:
        lengths = [lengths] if isinstance(lengths, int) else lengths
        tokens = rng.randint(2, vocab, size=sum(lengths))
        if len(tokens) > 0:
            tokens[-1] = EOD
        builder.add_document(torch.tensor(tokens, dtype=torch.int64), lengths)
    builder.finalize(str(fixtures / (name + ".idx")))


build("a", numpy.int32, [5, 1, 0, 17, 8, 9, 30, 2, 2, 3, 12, 41, 7, 8, 16, 1, 1, 6, 23, 4], 60000, 1)
build("b", numpy.uint16, [64, 3, 9, 0, 0, 10, 33], 500, 2)
build("c", numpy.int64, [[3, 1, 12], [], [0], [7, 7, 0, 2], 25, [1] * 11, [5, 40]], 60000, 3)
build("d", numpy.uint8, [2, 1], 200, 4)  # less than most windows

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



def draw(case, reset_position_ids, reset_attention_mask, eod_mask_loss, attention):
    """The samples of each split, None where there is none."""
    blend = dict(blend=None)
    with tempfile.TemporaryDirectory() as scratch:
        for f in fixtures.glob("[abcd].*"):
            shutil.copy(f, scratch)
        of = lambda sources, weights: ([f"{scratch}/{s}" for s in sources], weights)
        if "per_split" in case:
            blend = dict(blend_per_split=[p and of(p["sources"], p.get("weights")) for p in case["per_split"]])
        else:
            blend = dict(blend=of(case["sources"], case.get("weights")), split=case["split"])
        config = GPTDatasetConfig(
            random_seed=case["seed"], sequence_length=case["seq_length"], tokenizer=Tokenizer(), **blend,
            reset_position_ids=reset_position_ids, reset_attention_mask=reset_attention_mask,
            eod_mask_loss=eod_mask_loss, create_attention_mask=attention)
        built = BlendedMegatronDatasetBuilder(GPTDataset, case["samples"], lambda: True, config).build()
        return [None if dataset is None else [dataset[i] for i in range(len(dataset))] for dataset in built]


def tokens_of(sample):
    return sample["tokens"].tolist() + [int(sample["labels"][-1])]


def first_visible(sample):
    # A row of the mask: True where attention is forbidden. The first allowed column is the document's start.
    return [int((~row).nonzero()[0]) for row in sample["attention_mask"][0]]


results = []
for case in CASES:
    flags = case.get("flags", False)
    result = dict(case, splits=[])
    for samples in draw(case, flags, flags, flags, True):
        if samples is None:
            result["splits"].append(None)
            continue
        out = {"tokens": [tokens_of(s) for s in samples]}
        if flags:
            out["loss_mask"] = [[int(x) for x in s["loss_mask"]] for s in samples]
            out["position_ids"] = [s["position_ids"].tolist() for s in samples]
            out["first_visible"] = [first_visible(s) for s in samples]
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


def digest(values):
    """64-bit FNV-1a over int32 values, low byte first."""
    h = 0xCBF29CE484222325
    for byte in numpy.asarray(values, dtype="<i4").tobytes():
        h = (h ^ byte) * 0x100000001B3 % 2**64
    return f"{h:016x}"


def matrix():
    for source, seq_length, seed in itertools.product("abcd", [2, 5, 8, 33], [0, 1234, 4294967295]):
        for samples in [None, 1, 17, 40, 61, 130]:
            if samples is None and source == "d":
                continue  # less than one window
            yield dict(sources=[source], split="1,0,0", samples=[samples, 0, 0], seed=seed, seq_length=seq_length)
    for source, split, seed in itertools.product("abc", ["969,30,1", "1,1,1", "0.5,0.25,0.25", "50,50", "7,2.5,0"], [3, 99]):
        yield dict(sources=[source], split=split, samples=[33, 9, 4], seed=seed, seq_length=6)
    blends = [
        ("ab", [1.0, 2.0]), ("ba", [0.3, 0.7]), ("ca", [1e-3, 1.0]), ("abc", [0.1, 0.2, 0.7]), ("cba", [1 / 3] * 3),
        ("abcd", [1.0, 0.9, 0.5, 0.01]), ("dcba", [3.0, 1.0, 4.0, 1.5]), ("abcab", [3.0, 1.0, 4.0, 1.0, 5.0]),
        ("abcda", [0.11, 0.13, 0.17, 0.19, 0.4]), ("aaaaa", [1.0, 2.0, 3.0, 5.0, 7.0]),
    ]
    for (sources, weights), samples, seed in itertools.product(blends, [1, 7, 64, 401], [0, 1234]):
        yield dict(sources=list(sources), weights=weights, split="1,0,0", samples=[samples, 0, 0], seed=seed, seq_length=6)
    for sources, seed, seq_length in itertools.product(["ab", "abc", "cbaab"], [5, 6], [3, 16]):
        yield dict(sources=list(sources), split="1,0,0", samples=[None] * 3, seed=seed, seq_length=seq_length)
    for seed in [1, 2]:
        yield dict(per_split=[dict(sources=["a", "b"], weights=[0.8, 0.2]), dict(sources=["c"]), None],
                   samples=[50, 11, 0], seed=seed, seq_length=7)
        yield dict(per_split=[dict(sources=["c"]), dict(sources=["a", "b"], weights=[1.0, 3.0]), None],
                   samples=[31, 20, 0], seed=seed, seq_length=7)
        yield dict(per_split=[dict(sources=["c"]), dict(sources=["b", "a"]), None], samples=[31, None, 0], seed=seed,
                   seq_length=7)


def has_empty_part(case):
    """Megatron never ends on a part of a split without tokens: it adds epochs of nothing."""
    if "split" not in case:
        return False
    parts = numpy.array([float(x) for x in case["split"].split(",")])
    ends = numpy.cumsum(parts / parts.sum())
    for source in case["sources"]:
        dataset = IndexedDataset(str(fixtures / source))
        lengths = dataset.sequence_lengths.copy()  # they are in its map
        begin = 0
        for part, end in zip(parts, ends):
            end = int(round(end * float(len(lengths))))
            if part > 0 and lengths[begin:end].sum() == 0:
                return True
            begin = end
    return False


entries = []
for case in matrix():
    if has_empty_part(case):
        continue
    drawn = draw(case, False, False, False, False)
    entries.append(dict(case, splits=[None if samples is None else {
        "size": len(samples),
        "tokens": digest([t for s in samples for t in tokens_of(s)]),
        "dataset": digest([int(s.get("dataset_id", 0)) for s in samples]),
    } for samples in drawn]))
for source, positions, attention, loss in itertools.product("abc", *[[False, True]] * 3):
    case = dict(sources=[source], split="1,0,0", samples=[25, 0, 0], seed=8, seq_length=9)
    samples = draw(case, positions, attention, loss, True)[0]
    entries.append(dict(case, flags=[positions, attention, loss], splits=[{
        "size": len(samples),
        "tokens": digest([t for s in samples for t in tokens_of(s)]),
        "dataset": digest([0] * len(samples)),
        "loss_mask": digest([int(x) for s in samples for x in s["loss_mask"]]),
        "position_ids": digest([int(x) for s in samples for x in s["position_ids"]]),
        "first_visible": digest([x for s in samples for x in first_visible(s)]),
    }, None, None]))
(fixtures / "megatron_matrix.json").write_text(
    '{"cases": [\n' + ",\n".join(json.dumps(e, separators=(",", ":")) for e in entries) + "\n]}\n")
