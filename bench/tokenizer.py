"""./run bench tokenizer [--rounds N]: text to ids, Fathom beside HF tokenizers and tiktoken.

English is WikiText-2's training split by article, Chinese bench/tokenizer/chinese.txt.zst, code Fathom's own sources and
Python's standard library, a document a file. Every side loads its tokenizer and the documents first; then all encode all
documents in turn, HF through encode_batch_fast, tiktoken through encode_ordinary, Fathom through encode_into with a fresh
word cache each time. With one thread the figure is processor time, which neighbours on a shared machine disturb least.
Two threads are held against two processes of one thread each that encode the corpus at the same time, which is all that this
machine's two processors give (they may be two halves of one core); speedup is over one thread, on the wall clock, and all
three take the best turn. Memory is RssAnon after the first turn, its ids included.
HF's ids must be Fathom's. The
`kimi` rows are the same vocabulary as a tiktoken.model with the pattern of Kimi-K2; its merges are tiktoken's.
Prints a table, writes bench/out/tokenizer.json, and ends with one line a claim.
"""

import argparse
import ctypes
import ctypes.util
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import sysconfig
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
WORKER = ROOT / "build/bench/fathom_bench_tokenizer"
TARGETS = {"english": 8, "chinese": 5, "code": 5}
CODE_BYTES = 6_000_000


def unzstd(path):
    zstd, data = ctypes.CDLL(ctypes.util.find_library("zstd")), path.read_bytes()
    zstd.ZSTD_getFrameContentSize.restype = zstd.ZSTD_decompress.restype = ctypes.c_size_t
    zstd.ZSTD_decompress.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_size_t]
    zstd.ZSTD_getFrameContentSize.argtypes = [ctypes.c_char_p, ctypes.c_size_t]
    size = zstd.ZSTD_getFrameContentSize(data, len(data))
    out = ctypes.create_string_buffer(size)
    assert zstd.ZSTD_decompress(out, size, data, len(data)) == size, path
    return out.raw.decode()


def code(most):
    files = [p for folder in ("src", "tests", "bench", "tools") for p in sorted((ROOT / folder).rglob("*.*"))]
    files = [p for p in files if p.suffix in (".cpp", ".h", ".py") and "unicode_data" not in p.name]
    files += sorted(p for p in pathlib.Path(sysconfig.get_path("stdlib")).rglob("*.py") if "-packages" not in str(p))
    texts, size = [], 0
    for path in files:
        text = path.read_text(errors="replace")
        if "<｜" in text or "<|" in text:  # HF makes special tokens of it, the others text
            continue
        size += len(text.encode())
        if size > most:
            break
        texts.append(text)
    return texts


def corpora(code_bytes=CODE_BYTES):
    english = unzstd(ROOT / "assets/wikitext-2/wiki.train.tokens.zst")
    return {
        "english": re.split(r"\n(?= = [^=]+ = \n)", english),
        "chinese": unzstd(ROOT / "bench/tokenizer/chinese.txt.zst").split("\n\n"),
        "code": code(code_bytes),
    }


def build():
    quiet = {"stdout": subprocess.DEVNULL, "check": True}
    subprocess.run(["cmake", "-S", ROOT, "-B", ROOT / "build/bench", "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release",
                    "-DFATHOM_TORCH_FREE=ON", "-DFATHOM_TESTS=OFF", "-DFATHOM_BENCH=ON"], **quiet)  # fmt: skip
    subprocess.run(["cmake", "--build", ROOT / "build/bench", "--target", "fathom_bench_tokenizer"], **quiet)


class Side:
    """One process that encodes the corpus at each turn."""

    def __init__(self, who, tokenizer, corpus):
        peer = [sys.executable, ROOT / "bench/tokenizer/peer.py", who]
        self.command = [*([WORKER] if who == "fathom" else peer), tokenizer, corpus]
        self.process = subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                        env={**os.environ, "RAYON_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"})  # fmt: skip
        self.turns = {}

    def turn(self, threads, kept=True):
        self.start(threads)
        return self.finish(threads, kept)

    def start(self, threads):
        print(threads, file=self.process.stdin, flush=True)

    def finish(self, threads, kept=True):
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"{' '.join(map(str, self.command))} ended")
        turn = json.loads(line)
        if kept:
            self.turns.setdefault(threads, []).append(turn)
        return turn

    def close(self):
        self.process.stdin.close()
        self.process.wait()

    def seconds(self, threads=1, clock="processor"):
        return statistics.median(turn[clock] for turn in self.turns[threads])

    def memory(self, threads=1):
        return self.turns[threads][0]["anonymous_bytes"]

    def ids(self):
        return {(turn["tokens"], turn["crc"]) for turns in self.turns.values() for turn in turns}


def both_at_once(first, second):
    """Wall time until both have encoded the corpus on one thread each."""
    for side in (first, second):
        side.start(1)
    return max(side.finish(1, kept=False)["wall"] for side in (first, second))


def write_kimi(folder):
    sys.path.insert(0, str(ROOT / "tests/tokenizer"))
    import make_tiktoken

    merges = json.loads((ROOT / "assets/tokenizer/tokenizer.json").read_text())["model"]["merges"]
    make_tiktoken.write_model(folder, make_tiktoken.ranks_of(merges))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="times each side encodes each corpus, in turn")
    arguments = parser.parse_args()
    build()
    rows, claims = [], []
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        (scratch / "kimi").mkdir()
        write_kimi(scratch / "kimi")
        print(f"{'corpus':16}{'side':10}{'threads':>8}{'MB/s':>9}{'tokens':>10}{'RssAnon':>11}")
        for name, documents in corpora().items():
            size = sum(len(document.encode()) for document in documents)
            corpus = scratch / f"{name}.json"
            corpus.write_text(json.dumps(documents, ensure_ascii=False))
            for vocabulary, tokenizer in (("", ROOT / "assets/tokenizer"), ("kimi-", scratch / "kimi")):
                label = vocabulary + name
                names = ["hf", "tiktoken", "fathom"] if not vocabulary else ["tiktoken", "fathom"]
                sides = {who: Side(who, tokenizer, corpus) for who in names}
                for _ in range(arguments.rounds):
                    for side in sides.values():
                        side.turn(1)
                pairs = []
                if not vocabulary:
                    second = Side("fathom", tokenizer, corpus)
                    second.turn(1)
                    for _ in range(3 * arguments.rounds):
                        sides["fathom"].turn(1)
                        sides["fathom"].turn(2)
                        pairs.append(both_at_once(sides["fathom"], second))
                    second.close()
                for who, side in sides.items():
                    side.close()
                    for threads in side.turns:
                        clock = "processor" if threads == 1 else "wall"
                        rows.append({"corpus": label, "side": who, "threads": threads, "bytes": size, "clock": clock,
                                     "mb_per_s": size / side.seconds(threads, clock) / 1e6,
                                     "tokens": side.turns[threads][0]["tokens"], "memory": side.memory(threads),
                                     "turns": side.turns[threads]})  # fmt: skip
                        r = rows[-1]
                        print(f"{label:16}{who:10}{threads:8}{r['mb_per_s']:9.1f}{r['tokens']:10}{r['memory'] / 2**20:8.0f} MiB")
                fathom = sides.pop("fathom")
                for who, peer in sides.items():
                    same = fathom.ids() == peer.ids()
                    if not same and (who == "hf" or vocabulary):
                        sys.exit(f"{label}: {who} gives other ids: {peer.ids()} against {fathom.ids()}")
                    claims.append(
                        f"tokenizer claim={label}-{who} ratio={peer.seconds() / fathom.seconds():.2f} "
                        f"target={TARGETS[name] if who == 'hf' else 1}.00 "
                        f"peak_memory_ratio={fathom.memory() / peer.memory():.2f} same_ids={'yes' if same else 'no'}"
                    )
                if not vocabulary:
                    one, two = (min(turn["wall"] for turn in fathom.turns[t]) for t in (1, 2))
                    claims.append(
                        f"tokenizer claim={label}-two-threads ratio={min(pairs) / (2 * two):.2f} target=0.90 "
                        f"peak_memory_ratio={fathom.memory(2) / fathom.memory(1):.2f} speedup={one / two:.2f} "
                        f"speedup_of_two_processes={2 * one / min(pairs):.2f}"
                    )
    (ROOT / "bench/out").mkdir(parents=True, exist_ok=True)
    (ROOT / "bench/out/tokenizer.json").write_text(json.dumps({"results": rows, "claims": claims}, indent=1))
    print("\n".join(claims))


if __name__ == "__main__":
    main()
