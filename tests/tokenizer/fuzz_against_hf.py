#!/usr/bin/env python3
"""Compares `fathom tokenize` with HF tokenizers (PyPI tokenizers==0.23.3) on random strings.

    python tests/tokenizer/fuzz_against_hf.py --fathom build/release/fathom [--count 100000] [--seed 1] [--corpora]

Every pre-tokenizer of variants.py is put into the shipped tokenizer.json in turn (V3's own gets half of the strings);
added tokens with every flag form one more variant. V3 and that one run with special tokens as text as well. Ids and
decoded text must be equal; with --corpora also on the texts of bench/tokenizer.py (and all of Python's standard library),
some 25 MB. Exit status 1 and the first differences when they are not.
"""
import argparse
import json
import pathlib
import random
import subprocess
import sys
import tempfile

from tokenizers import Tokenizer

import variants

ROOT = pathlib.Path(__file__).resolve().parents[2]
ROUND = 100000  # strings in memory at a time


def fathom(binary, tokenizer, lines, *flags):
    data = "".join(json.dumps(line) + "\n" for line in lines)
    out = subprocess.run([binary, "tokenize", "--tokenizer", tokenizer, "--json-lines", *flags], input=data.encode(),
                         stdout=subprocess.PIPE, check=True).stdout
    return [json.loads(line) for line in out.decode().split("\n")[:-1]]


def is_control(token):
    content = token["content"]
    return token["special"] or (len(content) > 2 and content[0] == "<" and content[-1] == ">")


def compare(binary, name, tokenizer, texts, special):
    data = json.loads(pathlib.Path(tokenizer).read_text())
    if not special:
        # HF without the control tokens is what "text" means. HF numbers added tokens anew, so they keep their places
        # under names that no text holds, but for those that the vocabulary numbers.
        kept = [t for t in data["added_tokens"] if not (is_control(t) and t["content"] in data["model"]["vocab"])]
        data["added_tokens"] = [{**t, "content": f"\U000ffffd\U000ffffd{t['id']}."} if is_control(t) else t for t in kept]
    hf = Tokenizer.from_str(json.dumps(data))
    expected = [e.ids for e in hf.encode_batch(texts, add_special_tokens=False)]
    found = fathom(binary, tokenizer, texts, "--special-tokens", "encode" if special else "text")
    bad = 0
    for text, want, got in zip(texts, expected, found, strict=True):
        if want != got["ids"]:
            bad += 1
            if bad <= 5:
                print(f"{name}: {text!r}\n  hf     {want}\n  fathom {got['ids']}")
    decoded = fathom(binary, tokenizer, expected, "--decode")
    for ids, got in zip(expected, decoded, strict=True):
        want = hf.decode(ids, skip_special_tokens=False)
        # HF turns an added token spelled in the byte alphabet (like ø) into one stray byte; we keep its text.
        if want != got["text"] and "ø" not in got["text"]:
            bad += 1
            if bad <= 5:
                print(f"{name}: decode {ids}\n  hf     {want!r}\n  fathom {got['text']!r}")
    print(f"{name:>16} {'encode' if special else 'text  '} {len(texts):7} strings, {bad} differ", flush=True)
    return bad


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--fathom", default=str(ROOT / "build/release/fathom"))
    parser.add_argument("--count", type=int, default=100000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", help="one pre-tokenizer")
    parser.add_argument("--corpora", action="store_true")
    args = parser.parse_args()
    base = json.loads((ROOT / "assets/tokenizer/tokenizer.json").read_text())
    bad = strings = 0
    with tempfile.TemporaryDirectory() as folder:
        names = list(variants.PRE_TOKENIZERS) + ["added"]
        for name in names:
            data = dict(base)
            if name == "added":
                data["added_tokens"] = base["added_tokens"] + variants.added_tokens(base["model"]["vocab"], 128815)
            else:
                data["pre_tokenizer"] = variants.PRE_TOKENIZERS[name]
            pathlib.Path(f"{folder}/{name}.json").write_text(json.dumps(data))
        if args.corpora:
            sys.path.insert(0, str(ROOT / "bench"))
            import tokenizer as bench

            texts = [text for documents in bench.corpora(code_bytes=1 << 30).values() for text in documents]
            print(f"{sum(len(t.encode()) for t in texts)} bytes of English, Chinese and code:")
            bad += compare(args.fathom, "v3", f"{folder}/v3.json", texts, True)
            strings += len(texts)
        for first in range(0, args.count, ROUND):
            rng = random.Random(args.seed + first // ROUND)
            size = min(ROUND, args.count - first)
            for name in names:
                if args.only and name != args.only:
                    continue
                count = size // 2 if name == "v3" else size // 2 // (len(names) - 1)
                texts = [variants.random_text(rng) for _ in range(count)]
                path = f"{folder}/{name}.json"
                bad += compare(args.fathom, name, path, texts, True)
                strings += count
                if name in ("v3", "added"):
                    bad += compare(args.fathom, name, path, texts, False)
                    strings += count
    print(f"{strings - min(bad, strings)} passed, {bad} failed")
    sys.exit(bad > 0)


if __name__ == "__main__":
    main()
