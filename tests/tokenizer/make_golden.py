#!/usr/bin/env python3
"""Makes the golden data of tests/tokenizer from HF tokenizers (PyPI tokenizers==0.23.3).

    python tests/tokenizer/make_golden.py --samples DIR

DIR holds the sample texts named in FILES and golden.jsonl (cases of llama.cpp's ggml-vocab.inp and the Big List of
Naughty Strings, both MIT). Written to tests/tokenizer/data:
  golden.jsonl        the cases as they are: name, text, ids
  files/*, files.json sample texts, and for each: number of ids, sha256 of the ids as u32 little-endian
  mixed.jsonl         more cases on the shipped tokenizer: mixed scripts, odd spaces, controls, long lines, random
                      strings; special tokens encoded as HF does
  small.json          a tokenizer of 600 entries trained here
  variants.jsonl      changes to small.json (pre-tokenizers of the family, added tokens with every flag,
                      post-processors) with cases for each
"""
import argparse
import hashlib
import json
import pathlib
import random
import struct

import tokenizers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

import variants

assert tokenizers.__version__ == "0.23.3"
ROOT = pathlib.Path(__file__).resolve().parents[2]
DATA = ROOT / "tests/tokenizer/data"
FILES = ["blns.txt", "blns.json", "ggml-vocab.inp", "botchan-en.txt", "wagahai-ja.txt", "wikitext2-raw-test.txt"]

MIXED = [
    "", " ", "\n", "\r\n\r\n", "\t\t \t", "a", "é", "中", "👍", "\u0000", "\u0000\u0001\u001f\u007f\u0080\u009f",
    "The quick brown fox jumps over the lazy dog.", "  leading and trailing  ", "tabs\tand\nnewlines\r\nmixed\r",
    "混合 English 与中文，数字123456以及符号！？", "深度求索发布了DeepSeek-V3模型，共671B参数。", "春眠不觉晓，处处闻啼鸟。",
    "私はカタカナとひらがなと漢字を混ぜます。ア・イ゛ウ〜", "한국어 문장도 있습니다.", "Ελληνικά, кириллица, עברית, العربية, हिन्दी, ไทย",
    "e\u0301 vs é; n\u0303; a\u0308\u0323; \u0301 alone; क्षि", "Z͑ͫ̓ͪ̂ͫ̽͏̴̙̤̞͉͚̯̞̠͍A̴̵̜̰͔ͫ͗͢L̠ͨͧͩ͘G̴̻͈͍͔̹̑͗̎̅͛́Ǫ̵̹̻̝̳͂̌̌͘!", "👨‍👩‍👧‍👦👍🏽🇩🇪🏴‍☠️❤️‍🔥", "a\u200bb\u200dc\u2060d\ufeffe",
    "a\u00a0b\u2003c\u3000d\u202fe\u1680f\u180eg\u0085h\u2028i\u2029j", "x  y   z    w", "end spaces   \n  next", "   \n\n   \n",
    "def f(x):\n    if x > 0:\n        return x**2  # squared\n\treturn None\n", "for(int i=0;i<10;++i){a[i]+=b[i]*c[i];}",
    "#include <vector>\n\nstd::vector<std::pair<int,int>> v{{1,2},{3,4}};", "{\"key\": [1, 2.5, -3e10], \"text\": \"\\u00e9\\n\"}",
    "SELECT * FROM t WHERE a='b' AND c<>\"d\";--x", "https://example.com/a?b=c&d=%20#e", "user.name+tag@example.co.uk",
    "don't DON'T I'm you've we'll he'd 'tis ''''", "$100,000.00 €5 £6 ¥7 ₹8 50% ½ ² ³ Ⅷ ① ٣٤٥ १२३ 𝟘𝟙", "1234567890123456789012345678901234567890",
    "3.14159265358979", "v1.2.3-rc4+build567", "...!!!???", "------====****", "(((([[[[{{{{", "\\\\\\\\\"\"\"\"", "@#$%^&*()_+-=[]{}|;':\",./<>?`~",
    "a\nb\n\nc\n\n\nd", "a\rb\r\rc", "word\u0301word", "ﬁ ﬂ ﬀ ß ẞ ſ K Å", "𝕳𝖊𝖑𝖑𝖔 𝒲ℴ𝓇𝓁𝒹 Ｆｕｌｌｗｉｄｔｈ", "\ue000\uf8ff\U000f0000\U0010fffd\uffff",
    "\u0378\u0379 unassigned \U000e0fff", "\u1e9e\u0130\u0131\u01c5", "<｜begin▁of▁sentence｜>hello<｜end▁of▁sentence｜>",
    "<｜User｜>hi<｜Assistant｜>hello<｜end▁of▁sentence｜>", "<｜User｜ >not one", "a <｜User｜> b", "<|EOT|><｜place▁holder▁no▁5｜>", "<｜fim▁begin｜>x<｜fim▁hole｜>y<｜fim▁end｜>",
    "a" * 3000, "ab" * 2000, " " * 3000, "\n" * 1000, "=" * 2000, "9" * 1000, "中" * 2000, "0 " * 1000, "word " * 1000, "👍" * 300,
    "e\u0301" * 500, "\u0000" * 300, ("The same line again, with 123 numbers. " * 100), "x" + " " * 500 + "y", "\r\n" * 300 + "x",
]

TEMPLATE = {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<|bos|>", "type_id": 0}},
                                                     {"Sequence": {"id": "A", "type_id": 0}},
                                                     {"SpecialToken": {"id": "<|eos|>", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<|bos|>": {"id": "<|bos|>", "ids": [0], "tokens": ["<|bos|>"]},
                               "<|eos|>": {"id": "<|eos|>", "ids": [1], "tokens": ["<|eos|>"]}}}
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True}


def write_lines(path, objects):
    path.write_text("".join(json.dumps(o, ensure_ascii=False) + "\n" for o in objects))


def small_tokenizer(samples):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=["<|bos|>", "<|eos|>"], show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    texts = [(samples / "botchan-en.txt").read_text()[:30000], (samples / "wagahai-ja.txt").read_text()[:8000], *MIXED]
    tokenizer.train_from_iterator(texts, trainer)
    return json.loads(tokenizer.to_str())


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--samples", type=pathlib.Path, required=True)
    samples = parser.parse_args().samples
    (DATA / "files").mkdir(parents=True, exist_ok=True)
    v3 = Tokenizer.from_file(str(ROOT / "assets/tokenizer/tokenizer.json"))
    encode = lambda tokenizer, text, **flags: tokenizer.encode(text, **{"add_special_tokens": False, **flags}).ids

    cases = [json.loads(line) for line in (samples / "golden.jsonl").open(newline="\n")]
    for case in cases:
        assert encode(v3, case["text"]) == case["ids"]
    write_lines(DATA / "golden.jsonl", [{k: c[k] for k in ("name", "text", "ids")} for c in cases])

    files = []
    for name in FILES:
        content = (samples / name).read_bytes()
        (DATA / "files" / name).write_bytes(content)
        ids = encode(v3, content.decode())
        files.append({"file": name, "num_ids": len(ids),
                      "sha256": hashlib.sha256(struct.pack(f"<{len(ids)}I", *ids)).hexdigest()})
    (DATA / "files.json").write_text(json.dumps(files, indent=1) + "\n")

    rng = random.Random(2024)
    texts = MIXED + [variants.random_text(rng) for _ in range(200)]
    write_lines(DATA / "mixed.jsonl", [{"text": t, "ids": encode(v3, t)} for t in texts])

    small = small_tokenizer(samples)
    (DATA / "small.json").write_text(json.dumps(small, ensure_ascii=False) + "\n")
    vocab, changes = small["model"]["vocab"], []
    for name, pre_tokenizer in variants.PRE_TOKENIZERS.items():
        changes.append((name, {"pre_tokenizer": pre_tokenizer}))
    changes.append(("added", {"added_tokens": small["added_tokens"] + variants.added_tokens(vocab, 600)}))
    changes.append(("template", {"post_processor": TEMPLATE}))
    changes.append(("sequence", {"post_processor": {"type": "Sequence", "processors": [BYTE_LEVEL, TEMPLATE]}}))
    changes.append(("ignore_merges", {"model": {**small["model"], "ignore_merges": True}}))
    out = []
    short = [t for t in MIXED if len(t) < 200]
    for name, change in changes:
        tokenizer = Tokenizer.from_str(json.dumps({**small, **change}))
        rng = random.Random(name)
        cases = []
        for text in short + [variants.random_text(rng) for _ in range(40)]:
            case = {"text": text, "ids": encode(tokenizer, text)}
            if "post_processor" in change:
                case["ids_special"] = encode(tokenizer, text, add_special_tokens=True)
            cases.append(case)
        if name == "ignore_merges":  # said by a flag instead of a second vocabulary
            change = {"ignore_merges": True}
        out.append({"name": name, "change": change, "cases": cases})
    write_lines(DATA / "variants.jsonl", out)


if __name__ == "__main__":
    main()
