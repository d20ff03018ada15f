"""./run bench data-build [--rounds N] [--megabytes N]: a .jsonl corpus to .bin/.idx, Fathom beside Megatron's way.

The corpus is WikiText-2's training split, an article a line, repeated with running numbers to N MB (default 100). Fathom
runs whole, from process start to the synced files, with 1 and 2 workers; the peer is Megatron-LM's preprocess_data.py
with its parts (bench/data_build/megatron_build.py) and 2 processes. Both take turns in one run; their files must be the
same bytes. Memory is the largest sum of RssAnon over a side's processes, looked at 50 times a second. The tokenizer alone
(the worker of ./run bench tokenizer) encodes the same documents on one thread; beside it stands the time that the
builder reports, which begins, too, when the tokenizer is loaded, best turn against best turn. Prints a table, writes bench/out/data_build.json, and ends with one line a claim.
"""

import argparse
import filecmp
import json
import pathlib
import statistics
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import tokenizer as tokenizer_bench  # noqa: E402
from support.measure import run  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parent.parent
TARGET, MEMORY_TARGET, SHARE_TARGET, SECOND_TARGET = 8, 0.5, 0.8, 1.6


def make_corpus(path, megabytes):
    articles, documents = tokenizer_bench.corpora(0)["english"], []
    size = copy = 0
    with open(path, "w") as file:
        while size < megabytes * 1_000_000:
            for article in articles:
                documents.append(f"{copy} {article}")
                size += file.write(json.dumps({"id": len(documents), "text": documents[-1]}, ensure_ascii=False) + "\n")
            copy += 1
    return documents


def tokenizer_alone(documents, folder):
    """Seconds of one thread."""
    tokenizer_bench.build()
    corpus = folder / "documents.json"
    corpus.write_text(json.dumps(documents, ensure_ascii=False))
    side = tokenizer_bench.Side("fathom", ROOT / "assets/tokenizer", corpus)
    for _ in range(3):
        side.turn(1)
    side.close()
    return min(turn["wall"] for turn in side.turns[1])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="times each side runs, in turn")
    parser.add_argument("--megabytes", type=int, default=100)
    arguments = parser.parse_args()
    folder_out = ROOT / "bench/out"
    folder_out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder_out) as name:
        folder = pathlib.Path(name)
        corpus = folder / "corpus.jsonl"
        documents = make_corpus(corpus, arguments.megabytes)
        megabytes = corpus.stat().st_size / 1e6

        def fathom(workers):
            return [ROOT / "build/release/fathom", "data", "build", "--tokenizer", ROOT / "assets/tokenizer", "--input",
                    corpus, "--output-prefix", folder / "fathom", "--append-eod", "--json", "--workers",
                    str(workers)]  # fmt: skip

        sides = {
            "fathom, 1 worker": fathom(1),
            "fathom, 2 workers": fathom(2),
            "megatron, 2 processes": [sys.executable, ROOT / "bench/data_build/megatron_build.py", corpus,
                                      folder / "megatron", ROOT / "assets/tokenizer", "2"],
        }  # fmt: skip
        runs = {who: [] for who in sides}
        for _ in range(arguments.rounds):
            for who, command in sides.items():
                runs[who].append(run(command))
                print(f"  {who}: {megabytes / runs[who][-1][0]:.1f} MB/s", file=sys.stderr)
        same = all(filecmp.cmp(folder / f"fathom.{e}", folder / f"megatron.{e}", shallow=False) for e in ("bin", "idx"))
        alone = tokenizer_alone(documents, folder)

    results = {
        who: {"megabytes_per_second": megabytes / statistics.median(seconds for seconds, *_ in taken),
              "best": megabytes / min(seconds for seconds, *_ in taken), "peak": max(peak for _, peak, _ in taken)}
        for who, taken in runs.items()
    }  # fmt: skip
    text = sum(len(document.encode()) for document in documents) / 1e6
    print(f"{'side':24}{'median MB/s':>14}{'best MB/s':>12}{'peak memory':>14}")
    for who, r in results.items():
        print(f"{who:24}{r['megabytes_per_second']:14.1f}{r['best']:12.1f}{r['peak'] / 2**20:10.0f} MiB")
    print(f"{'the tokenizer, 1 thread':24}{'':14}{text / alone:12.1f}")
    built = {who: min(json.loads(out)["seconds"] for *_, out in taken) for who, taken in runs.items() if "fathom" in who}
    fathom_2, peer = results["fathom, 2 workers"], results["megatron, 2 processes"]
    claims = [
        f"data-build claim=jsonl-2-workers ratio={fathom_2['megabytes_per_second'] / peer['megabytes_per_second']:.2f} "
        f"target={TARGET} peak_memory_ratio={fathom_2['peak'] / peer['peak']:.2f} peak_memory_target={MEMORY_TARGET} "
        f"identical={int(same)} peer=\"megatron-core and HF tokenizers, 2 processes\"",
        f"data-build claim=not-the-bottleneck ratio={alone / built['fathom, 1 worker']:.2f} target={SHARE_TARGET} "
        f"peer=\"the tokenizer alone, 1 thread\"",
        f"data-build claim=second-worker ratio={built['fathom, 1 worker'] / built['fathom, 2 workers']:.2f} "
        f"target={SECOND_TARGET} peer=\"fathom, 1 worker\"",
    ]  # fmt: skip
    (folder_out / "data_build.json").write_text(json.dumps({"results": results, "claims": claims}, indent=1))
    print("\n".join(claims))
    if not same:
        sys.exit("the files differ")


if __name__ == "__main__":
    main()
