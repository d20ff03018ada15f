#!/usr/bin/env python3
"""Makes tests/tokenizer/data/kimi: a small tiktoken.model of our own with the pattern of Kimi-K2 and Moonlight.

    python tests/tokenizer/make_tiktoken.py        (PyPI tokenizers==0.23.3 trains it, tiktoken==0.14.0 is the oracle)

  tiktoken.model         1,500 ranks learnt from the sample texts of tests/tokenizer/data/files
  tokenizer_config.json  special tokens as those models name theirs
  cases.jsonl            text; ids: tiktoken's encode_ordinary; ids_special: with every special token allowed
"""
import base64
import json
import pathlib
import random

import tiktoken
import tokenizers
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

import make_golden
import variants

assert (tokenizers.__version__, tiktoken.__version__) == ("0.23.3", "0.14.0")
ROOT = pathlib.Path(__file__).resolve().parents[2]
OUT = ROOT / "tests/tokenizer/data/kimi"
NAMED = {0: "[BOS]", 1: "[EOS]", 2: "<|im_end|>", 3: "<|im_user|>", 4: "<|im_assistant|>", 6: "<|start_header_id|>",
         7: "<|end_header_id|>", 9: "[EOT]", 10: "<|im_system|>", 11: "<|tool_calls_section_begin|>",
         17: "<|im_middle|>", 254: "[UNK]", 255: "[PAD]"}
NOT_SPECIAL = {11}


def encoding(ranks, special):
    return tiktoken.Encoding(name="kimi", pat_str=variants.KIMI, mergeable_ranks=ranks, special_tokens=special)


def special_tokens(num_ranks):
    return {NAMED.get(i, f"<|reserved_token_{num_ranks + i}|>"): num_ranks + i for i in range(256)}


def write_model(folder, ranks):
    """`ranks`: bytes -> rank, 0, 1, 2, ..."""
    lines = [base64.b64encode(token).decode() + f" {rank}\n" for token, rank in sorted(ranks.items(), key=lambda x: x[1])]
    (folder / "tiktoken.model").write_text("".join(lines))
    added = {str(len(ranks) + i): {"content": name, "lstrip": False, "normalized": False, "rstrip": False,
                                   "single_word": False, "special": i not in NOT_SPECIAL} for i, name in NAMED.items()}
    config = {"added_tokens_decoder": added, "bos_token": "[BOS]", "eos_token": "[EOS]", "pad_token": "[PAD]",
              "unk_token": "[UNK]", "tokenizer_class": "TikTokenTokenizer", "model_max_length": 131072}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n")


def learnt_ranks(texts, size):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(variants.KIMI), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=size, show_progress=False,
                                                             initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    return ranks_of(json.loads(tokenizer.to_str())["model"]["merges"])


def ranks_of(merges):
    """tiktoken's ranks of a byte-level merge list: the bytes, then what each merge makes."""
    alphabet = {}
    for byte in range(256):
        prints = 33 <= byte <= 126 or 161 <= byte <= 172 or byte >= 174
        alphabet[chr(byte if prints else 256 + sum(c > "\xff" for c in alphabet))] = byte
    ranks = {bytes([byte]): byte for byte in range(256)}
    for merge in merges:
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        ranks.setdefault(bytes(alphabet[c] for c in left + right), len(ranks))
    return ranks


def main():
    OUT.mkdir(exist_ok=True)
    files = ROOT / "tests/tokenizer/data/files"
    texts = [(files / "botchan-en.txt").read_text()[:40000], (files / "wagahai-ja.txt").read_text()[:20000],
             (ROOT / "tests/tokenizer/variants.py").read_text(), *make_golden.MIXED]
    ranks = learnt_ranks(texts, 1500)
    write_model(OUT, ranks)
    special = special_tokens(len(ranks))
    oracle = encoding(ranks, special)
    rng = random.Random(20)
    texts = make_golden.MIXED + [
        "中文English中文ENGLISH中文", "iPhone的XMLHttpRequest不是HTTPServer", "don't DON'T IT'S it'ſ x'LLy 'Tis 々〆〇〡 ⼀⺀", "漢字かな交じり文、ＡＢＣ。",
        "[BOS]<|im_user|>user<|im_middle|>你好<|im_end|><|im_assistant|>[EOS][PAD]", f"<|reserved_token_{len(ranks) + 5}|>",
        f"<|reserved_token_{len(ranks) + 256}|><|tool_calls_section_begin|>", "ǅǈ ʰˠ ªº Ⅷ", "A\u0301B\u0301a\u0301 \u0301a \u302a\u302b"]
    texts += [variants.random_text(rng) for _ in range(300)]
    make_golden.write_lines(OUT / "cases.jsonl", [
        {"text": t, "ids": oracle.encode_ordinary(t), "ids_special": oracle.encode(t, allowed_special="all")}
        for t in texts])


if __name__ == "__main__":
    main()
