"""Pre-tokenizers of the DeepSeek-V3 family and its neighbours, added tokens with every flag, and random text.

Shared by make_golden.py and fuzz_against_hf.py.
"""
import random


def split(pattern):
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}

V3_PATTERNS = [r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+",
               r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^""" "\r\n" r"""\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+["""
               "\r\n" r"""]*|\s*[""" "\r\n" r"""]+|\s+(?!\S)|\s+"""]

# The letters that DeepSeek-LLM and V2 spell out.
V2_LETTERS = (
    "[A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba"
    "\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af\u0370-\u0373\u0376\u0377\u037b-"
    "\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5\u03f7-\u0481"
    "\u048a-\u052f\u0531-\u0556\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd\u1c90"
    "-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77\u1d79-\u1d9a\u1e00-"
    "\u1f15\u1f18-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d"
    "\u1f5f-\u1f7d\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc"
    "\u1fd0-\u1fd3\u1fd6-\u1fdb\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc\u2102"
    "\u2107\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128\u212a-\u212d\u212f-"
    "\u2134\u2139\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-"
    "\u2ce4\u2ceb-\u2cee\u2cf2\u2cf3\ua640-\ua66d\ua680-\ua69b\ua722-\ua76f\ua771"
    "-\ua787\ua78b-\ua78e\uab70-\uabbf\ufb00-\ufb06\ufb13-\ufb17\uff21-"
    "\uff3a\uff41-\uff5a\U00010400-\U0001044f\U000104b0-\U000104d3\U000104d8-\U000104fb\U00010c80-\U00010cb2"
    "\U00010cc0-\U00010cf2\U000118a0-\U000118df\U0001e900-\U0001e943]")

KIMI = "|".join([
    r"[\p{Han}]+",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"\p{N}{1,3}", r" ?[^\s\p{L}\p{N}]+[\r\n]*", r"\s*[\r\n]+", r"\s+(?!\S)", r"\s+"])

LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
          r"\s+(?!\S)|\s+")


def sequence(*steps):
    return {"type": "Sequence", "pretokenizers": list(steps)}


PRE_TOKENIZERS = {
    "v3": sequence(*map(split, V3_PATTERNS), BYTE_LEVEL),
    # The same pieces by a pattern that is not recognised as V3's, so the general matcher runs.
    "v3_by_regex": sequence(split("(?:" + V3_PATTERNS[0] + ")"), *map(split, V3_PATTERNS[1:]), BYTE_LEVEL),
    "v2": sequence(split("[\r\n]"), split(r"\s?" + V2_LETTERS + "+"), split(r"\s?[!-/:-~！-／：-～‘-‟　-。]+"), split(r"\s+$"),
                   split("[一-龥ࠀ-一가-퟿]+"), {"type": "Digits", "individual_digits": True}, BYTE_LEVEL),
    "coder": sequence(split("[\r\n]"), split(r"\s?\p{L}+"), split(r"\s?\p{P}+"), split("[一-龥ࠀ-一가-퟿]+"),
                      {"type": "Digits", "individual_digits": True}, BYTE_LEVEL),
    "kimi": sequence(split(KIMI), BYTE_LEVEL),
    "llama3": sequence(split(LLAMA3), BYTE_LEVEL),
    "gpt2": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
    "digit_runs": sequence({"type": "Digits", "individual_digits": False}, BYTE_LEVEL),
    "string": sequence({"type": "Split", "pattern": {"String": "é."}, "behavior": "Isolated", "invert": False},
                       BYTE_LEVEL),
    "none": BYTE_LEVEL,
}


def added(content, id, **flags):
    token = {"id": id, "content": content, "single_word": False, "lstrip": False, "rstrip": False,
             "normalized": False, "special": False}
    token.update(flags)
    return token


def added_tokens(vocab, first_id):
    """Tokens that overlap, nest, strip and want to stand alone. All count as control tokens or not by their look."""
    table = [("<|im_end|>", dict(special=True)), ("<think>", {}), ("ab", dict(normalized=True)),
             ("abab", dict(normalized=True)), ("bab", dict(special=True)), ("[L]", dict(lstrip=True)),
             ("[R]", dict(rstrip=True)), ("[LR]", dict(lstrip=True, rstrip=True, normalized=True)),
             ("word", dict(single_word=True)), ("句", dict(single_word=True, normalized=True)),
             (" sp ", dict(normalized=True)), ("ø", dict(normalized=True)), ("<ø>", dict(special=True, lstrip=True)),
             ("\r\n\r\n", dict(single_word=True, lstrip=True))]
    tokens = []
    for content, flags in table:
        id = vocab.get(content, first_id)
        first_id += id == first_id
        tokens.append(added(content, id, **flags))
    return tokens


BLOCKS = [(0x20, 0x7E), (0x20, 0x7E), (0x20, 0x7E), (0x00, 0x1F), (0x80, 0xFF), (0x100, 0x24F), (0x300, 0x36F),
          (0x370, 0x3FF), (0x400, 0x4FF), (0x590, 0x5FF), (0x600, 0x6FF), (0x900, 0x97F), (0xE00, 0xE7F),
          (0x10A0, 0x10FF), (0x1100, 0x11FF), (0x1E00, 0x1FFF), (0x2000, 0x206F), (0x2070, 0x20CF), (0x20D0, 0x218F),
          (0x2190, 0x2BFF), (0x2E80, 0x2FFF), (0x3000, 0x303F), (0x3040, 0x30FF), (0x3040, 0x30FF),
          (0x3100, 0x33FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0x4E00, 0x9FFF), (0xA000, 0xABFF), (0xAC00, 0xD7A3),
          (0xD7A4, 0xD7FF), (0xE000, 0xE0FF), (0xF900, 0xFAFF), (0xFB00, 0xFDFF), (0xFE00, 0xFEFF), (0xFF00, 0xFFFF),
          (0x10000, 0x107FF), (0x10800, 0x11FFF), (0x12000, 0x1BFFF), (0x1D000, 0x1D7FF), (0x1E000, 0x1EFFF),
          (0x1F000, 0x1FAFF), (0x20000, 0x2A6DF), (0x2F800, 0x3134F), (0xE0000, 0xE01EF), (0x0, 0x10FFFF)]
SPACES = list(" \t\n\r\v\f") + list("\x1c\x85\xa0\u1680\u180e\u2000\u2003\u200b\u2028\u2029\u202f\u205f\u2060\u3000\ufeff")
SNIPPETS = ["\r\n", "  ", "   \n", "'s", "'S", "'ſ", "'LL", "'re", "can't", "don'T", " hello", "World", "12", "3456", "½", "²", "٣", "۴",
            "中文", "日本語", "カタカナ", "・", "゛", "한국어", "é", "e\u0301", "👍🏽", "👨‍👩‍👧", "🇩🇪", "\u200d", "\ufe0f", "-->", "://",
            "return", "\t\treturn x;", "{}", "()", ".", "。", "，", "！", "…", "—", "\u0000", "\u007f", "x=1;", "__init__", "ΣΑΣ",
            "ß", "İ", "\u212a", "\u212b", "'\u212a", "ﬀ", "<", ">", "|", "｜", "▁", "a" * 30, " " * 20, "\n" * 5, "=" * 40, "ab", "word",
            "[L]", "[R]", "[LR]", "句", "sp", "<think>", "<|im_end|>", "<ø>", "ø"]


def random_text(rng: random.Random):
    out = []
    for _ in range(rng.choice([1, 2, 3, 5, 8, 13, 30])):
        kind = rng.random()
        if kind < 0.25:
            out.append(rng.choice(SNIPPETS))
        elif kind < 0.4:
            out.append(rng.choice(SPACES) * rng.choice([1, 1, 1, 2, 3]))
        elif kind < 0.5:
            out.append("".join(rng.choice("0123456789٠०½²Ⅷ") for _ in range(rng.randint(1, 8))))
        else:
            low, high = rng.choice(BLOCKS)
            out.append("".join(chr(rng.randint(low, high)) for _ in range(rng.randint(1, 6))))
    return "".join(c for c in "".join(out) if not 0xD800 <= ord(c) < 0xE000)
