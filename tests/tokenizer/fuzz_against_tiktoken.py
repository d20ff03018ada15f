#!/usr/bin/env python3
"""Compares `fathom tokenize` on a tiktoken.model with the tiktoken package (PyPI tiktoken==0.14.0), random strings.

    python tests/tokenizer/fuzz_against_tiktoken.py --fathom build/release/fathom [--count 20000] [--seed 1]

Kimi's pattern, on the small vocabulary of tests/tokenizer/data/kimi and on that of assets/tokenizer written as ranks.
Ids with special tokens as text and encoded, and decoded text, must be equal. Exit status 1 when they are not.
"""
import argparse
import base64
import json
import pathlib
import random
import sys
import tempfile

import fuzz_against_hf
import make_tiktoken
import variants

ROOT = pathlib.Path(__file__).resolve().parents[2]
PARTS = ["[BOS]", "<|im_end|>", "<|im_user|>", "[EOT", "<|reserved_token_", "it's", "I'M", "HTTPServer", "iPhone", "ＡＢｃ", "々", "〇", "Ǆ", "ǅ"]


def random_text(rng):
    text = variants.random_text(rng)
    for _ in range(rng.choice([0, 0, 1, 3])):
        at = rng.randint(0, len(text))
        text = text[:at] + rng.choice(PARTS) + text[at:]
    return text


def compare(binary, name, folder, ranks, texts):
    oracle = make_tiktoken.encoding(ranks, make_tiktoken.special_tokens(len(ranks)))
    bad = 0
    for mode in ("text", "encode"):
        found = fuzz_against_hf.fathom(binary, folder, texts, "--special-tokens", mode)
        wanted = [oracle.encode(t, allowed_special="all") if mode == "encode" else oracle.encode_ordinary(t) for t in texts]
        decoded = fuzz_against_hf.fathom(binary, folder, wanted, "--decode")
        for text, want, got, back in zip(texts, wanted, found, decoded, strict=True):
            if want != got["ids"] or back["text"] != text:
                bad += 1
                if bad <= 5:
                    print(f"{name}: {text!r}\n  tiktoken {want}\n  fathom   {got['ids']}\n  decoded  {back['text']!r}")
    print(f"{name:>6} {len(texts):7} strings, {bad} differ", flush=True)
    return bad


def tiktoken_ranks(path):
    lines = path.read_text().splitlines()
    return {base64.b64decode(token): int(rank) for token, rank in (line.split() for line in lines)}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--fathom", default=str(ROOT / "build/release/fathom"))
    parser.add_argument("--count", type=int, default=20000)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    texts = [random_text(rng) for _ in range(args.count // 2)]
    merges = json.loads((ROOT / "assets/tokenizer/tokenizer.json").read_text())["model"]["merges"]
    bad = 0
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        ranks = tiktoken_ranks(ROOT / "tests/tokenizer/data/kimi/tiktoken.model")
        bad += compare(args.fathom, "small", ROOT / "tests/tokenizer/data/kimi", ranks, texts)
        ranks = make_tiktoken.ranks_of(merges)
        make_tiktoken.write_model(folder, ranks)
        texts = [random_text(rng) for _ in range(args.count - len(texts))]
        bad += compare(args.fathom, "large", folder, ranks, texts)
    print(f"{2 * args.count - min(bad, 2 * args.count)} passed, {bad} failed")
    sys.exit(bad > 0)


if __name__ == "__main__":
    main()
