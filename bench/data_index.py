"""./run bench data-index [--rounds N] [--tokens N]: the order of 10^9 tokens, Fathom beside megatron-core.

Synthetic datasets of 10^9 tokens (a real .idx, a .bin of zeros without blocks) in 10^6 and 10^7 sequences; windows of 4,096
tokens for one epoch and for two and a half. Fathom: `fathom data index`, which opens the dataset, computes its order and
stores it; then the same again, which finds it. megatron-core: the building of its GPTDataset, cache files included
(bench/data_index/megatron_index.py). Both take turns in one run, and a few samples must come from the same sequences. Times
are without process start and imports (Fathom's whole process stands in the table), memory is what RssAnon grows by from
there. Prints a table, writes bench/out/data_index.json
and ends with one line a claim.
"""

import argparse
import json
import pathlib
import statistics
import sys
import tempfile

import numpy

from support.measure import run

ROOT = pathlib.Path(__file__).resolve().parent.parent
FATHOM = ROOT / "build/release/fathom"
SEQ_LENGTH, SEED, BATCH = 4096, 1234, 16
TARGET, MEMORY_TARGET = 1.0, 1.0


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="times each side runs, in turn")
    parser.add_argument("--tokens", type=int, default=10**9)
    return parser.parse_args()


def make_dataset(prefix, sequences, tokens):
    """Lengths as documents have them, a long tail, summing to `tokens`; uint16 zeros."""
    lengths = numpy.random.RandomState(1).lognormal(0, 1, sequences)
    lengths = numpy.maximum(1, lengths * (tokens / lengths.sum())).astype("<i4")
    lengths[-1] += max(0, tokens - int(lengths.sum(dtype=numpy.int64)))
    ends = 2 * numpy.cumsum(lengths, dtype="<i8")
    with open(f"{prefix}.idx", "wb") as idx:
        idx.write(b"MMIDIDX\0\0" + (1).to_bytes(8, "little") + bytes([8]))
        idx.write(sequences.to_bytes(8, "little") + (sequences + 1).to_bytes(8, "little"))
        idx.write(lengths.tobytes() + (ends - 2 * lengths).tobytes() + numpy.arange(sequences + 1, dtype="<i8").tobytes())
    with open(f"{prefix}.bin", "wb") as bin:
        bin.truncate(int(ends[-1]))
    return int(ends[-1]) // 2


def fathom_index(prefix, output, samples):
    sets = {
        "output_dir": output, "data.train.0.path": prefix, "data.seq_length": SEQ_LENGTH, "seed": SEED,
        "train.steps": samples // BATCH, "train.global_batch_size": BATCH, "train.micro_batch_size": 1,
        "train.eval_every": 0, "model.vocab_size": 60000, "model.max_position_embeddings": SEQ_LENGTH,
    }  # fmt: skip
    command = [FATHOM, "data", "index", ROOT / "configs/recipes/tiny.yaml", "--json"]
    for key, value in sets.items():
        command += ["--set", f"{key}={value}"]
    whole, peak, text = run(command, interval=0.005)
    return json.loads(text)["seconds"], peak, whole


def check(prefix, samples, rows, total):
    """The sequences that Fathom's windows come from are megatron-core's."""
    for number, expected in rows.items():
        _, _, text = run([FATHOM, "data", "inspect", prefix, "--seq-length", SEQ_LENGTH, "--seed", SEED,
                          "--num-samples", samples, "--sample", number, "--json"])  # fmt: skip
        answer = json.loads(text)
        pieces = [p["sequence"] for p in answer["sample"]["pieces"]]
        # Megatron lists a sequence of which it takes nothing, too.
        if answer["samples"] != total or pieces != [s for s in expected if s in pieces]:
            sys.exit(f"sample {number}: sequences {pieces}, megatron-core has {expected}")


def main():
    arguments = parse()
    out = ROOT / "bench/out"
    out.mkdir(parents=True, exist_ok=True)
    results, claims = [], []
    with tempfile.TemporaryDirectory(dir=out) as scratch:
        scratch = pathlib.Path(scratch)
        make_dataset(scratch / "small", 10, 10**6)
        start_memory = fathom_index(scratch / "small", scratch / "small-run", 2 * BATCH)[1]
        for sequences in (10**6, 10**7):
            prefix = scratch / f"synthetic-{sequences}"
            tokens = make_dataset(prefix, sequences, arguments.tokens)
            for epochs in (1.0, 2.5):
                samples = int(epochs * tokens) // SEQ_LENGTH // BATCH * BATCH
                sides = {"fathom": [], "fathom from cache": [], "megatron-core": []}
                for turn in range(arguments.rounds):
                    output = scratch / f"run-{sequences}-{epochs}-{turn}"
                    numbers = [0, samples // 2, samples - 1] if turn == 0 else []
                    for who in ("fathom", "fathom from cache"):
                        seconds, peak, whole = fathom_index(prefix, output, samples)
                        sides[who].append((seconds, max(0, peak - start_memory), whole))
                    _, _, text = run([sys.executable, ROOT / "bench/data_index/megatron_index.py", prefix,
                                      scratch / f"cache-{sequences}-{epochs}-{turn}", SEQ_LENGTH, samples, SEED],
                                     " ".join(map(str, numbers)))  # fmt: skip
                    theirs = json.loads(text.splitlines()[-1])
                    sides["megatron-core"].append((theirs["seconds"], theirs["memory"], 0))
                    check(prefix, samples, theirs["sequences"], theirs["samples"])
                settings = {}
                for who, runs in sides.items():
                    settings[who] = {"who": who, "sequences": sequences, "epochs": epochs, "tokens": tokens,
                                     "samples": samples, "median": statistics.median(r[0] for r in runs),
                                     "best": min(r[0] for r in runs), "memory": max(r[1] for r in runs),
                                     "whole": statistics.median(r[2] for r in runs)}  # fmt: skip
                    results.append(settings[who])
                peer = settings["megatron-core"]
                for who, name in (("fathom", "build"), ("fathom from cache", "cached")):
                    mine = settings[who]
                    claims.append(
                        f"data-index claim={name}-{sequences:.0e}-sequences-{epochs}-epochs "
                        f"seconds={mine['median']:.2f} ratio={peer['median'] / mine['median']:.2f} target={TARGET:.2f} "
                        f"peak_memory_ratio={mine['memory'] / max(1, peer['memory']):.2f} "
                        f"peak_memory_target={MEMORY_TARGET}")
    print(f"{'sequences':>10}{'epochs':>8}  {'':20}{'median s':>10}{'best s':>9}{'process s':>11}{'memory':>12}")
    for s in results:
        print(f"{s['sequences']:10}{s['epochs']:8}  {s['who']:20}{s['median']:10.2f}{s['best']:9.2f}{s['whole']:11.2f}{s['memory'] / 2**20:8.0f} MiB")
    (out / "data_index.json").write_text(json.dumps({"results": results, "claims": claims}, indent=1))
    print("\n".join(claims))


if __name__ == "__main__":
    main()
