#!/usr/bin/env python3
"""Writes src/tokenizer/unicode_data.cpp and tests/tokenizer/data/unicode_classes.txt.

The tables are read out of the oracle itself (HF tokenizers, PyPI `tokenizers==0.23.3`), not out of a Unicode
release: its regular expressions, its added-token matching and its Digits splitter must agree with ours on every
code point, whatever Unicode version each of them was built with.

Run: python tools/make_unicode_tables.py   (about a minute)
"""
import pathlib
import sys

import tokenizers
from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers

ORACLE = "0.23.3"
CATEGORIES = ["Cn", "Cc", "Cf", "Co", "Lu", "Ll", "Lt", "Lm", "Lo", "Mn", "Mc", "Me", "Nd", "Nl", "No",
              "Pc", "Pd", "Ps", "Pe", "Pi", "Pf", "Po", "Sm", "Sc", "Sk", "So", "Zs", "Zl", "Zp"]
ROOT = pathlib.Path(__file__).resolve().parent.parent
CODE_POINTS = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
TEXT = "".join(map(chr, CODE_POINTS))


def members_by_splitter(splitter):
    """Code points that a splitter of behaviour `removed` removes."""
    keep = bytearray(len(CODE_POINTS))
    for _, (start, end) in splitter.pre_tokenize_str(TEXT):
        keep[start:end] = b"\1" * (end - start)
    return [c for c, k in zip(CODE_POINTS, keep) if not k]


def members(pattern):
    return members_by_splitter(pre_tokenizers.Split(Regex(pattern), "removed"))


def numeric_of_digits():
    """Code points that the Digits pre-tokenizer isolates: what stands alone in front of and behind an `a`."""
    found = []
    for piece, (start, end) in pre_tokenizers.Digits(individual_digits=True).pre_tokenize_str(
            "".join("a" + chr(c) for c in CODE_POINTS) + "a"):
        if end - start == 1 and start % 2 == 1:
            found.append(ord(piece))
    return found


def added_token_probe(**flags):
    tokenizer = Tokenizer(models.WordLevel({"?": 0}, unk_token="?"))
    tokenizer.add_tokens([AddedToken("XQXQ", normalized=False, **flags)])
    token_id = tokenizer.token_to_id("XQXQ")
    unit = 6  # newline, the code point, XQXQ
    encoding = tokenizer.encode("".join("\n" + chr(c) + "XQXQ" for c in CODE_POINTS))
    starts = {}
    for i, (start, end) in zip(encoding.ids, encoding.offsets):
        if i == token_id:
            starts[(end - 1) // unit] = start % unit
    return starts


def ranges(code_points):
    out = []
    for c in code_points:
        # Surrogates cannot be asked; a range runs over them, which no valid text notices.
        if out and (out[-1][1] + 1 == c or (out[-1][1] == 0xD7FF and c == 0xE000)):
            out[-1][1] = c
        else:
            out.append([c, c])
    return out


def fnv1a(code_points):
    value = 0xCBF29CE484222325
    for c in code_points:
        value = ((value ^ c) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return value


def main():
    if tokenizers.__version__ != ORACLE:
        sys.exit(f"this needs tokenizers {ORACLE}, found {tokenizers.__version__}: change ORACLE on purpose")
    category_of = {}
    for index, name in enumerate(CATEGORIES):
        if name == "Cn":
            continue
        for c in members(r"\p{%s}+" % name):
            assert c not in category_of, hex(c)
            category_of[c] = index
    runs = []  # [first, last, category], Cn left out
    for c in CODE_POINTS:
        index = category_of.get(c, 0)
        if index == 0:
            continue
        if runs and runs[-1][1] + 1 == c and runs[-1][2] == index:
            runs[-1][1] = c
        else:
            runs.append([c, c, index])

    sets = {"white_space": members(r"\s+"), "han": members(r"\p{Han}+"), "digits_numeric": numeric_of_digits()}
    word = added_token_probe(single_word=True)
    sets["word"] = [c for i, c in enumerate(CODE_POINTS) if i not in word]
    stripped = added_token_probe(lstrip=True)
    # The newline in front of it is stripped too, so the start moves to 0.
    sets["strip_space"] = [c for i, c in enumerate(CODE_POINTS) if stripped[i] < 2]

    hashes = []
    for major in "LMNPSZC":
        if major == "C":
            continue
        chosen = [c for c in CODE_POINTS if CATEGORIES[category_of.get(c, 0)][0] == major]
        direct = members(r"\p{%s}+" % major)
        assert chosen == direct, major
        hashes.append((major, direct))
    hashes += [(name, members(r"\p{%s}+" % name)) for name in CATEGORIES if name != "Cn"]
    hashes += list(sets.items())
    with open(ROOT / "tests/tokenizer/data/unicode_classes.txt", "w") as out:
        out.write(f"# class, members, FNV-1a (64 bit, one step a code point); from tokenizers {ORACLE} by "
                  "tools/make_unicode_tables.py\n")
        for name, chosen in hashes:
            out.write(f"{name} {len(chosen)} {fnv1a(chosen):016x}\n")

    def wrapped(items):
        lines, line = [], " "
        for item in items:
            if len(line) + len(item) + 1 > 110:
                lines.append(line)
                line = " "
            line += " " + item
        return "\n".join(lines + [line])

    with open(ROOT / "src/tokenizer/unicode_data.cpp", "w") as out:
        out.write(f"// Generated by tools/make_unicode_tables.py from HF tokenizers {ORACLE}. Do not edit.\n"
                  "// clang-format off\n"
                  '#include "tokenizer/unicode.h"\n\nnamespace fathom::tokenizer::unicode_data {\n\n'
                  f'const char* const kOracle = "tokenizers {ORACLE}";\n\n'
                  "// {first, last, category}; code points in no range are Cn.\n"
                  f"const CategoryRange kCategories[] = {{\n")
        out.write(wrapped(f"{{{a:#x},{b:#x},{i}}}," for a, b, i in runs))
        out.write(f"\n}};\nconst size_t kNumCategories = {len(runs)};\n")
        for name, chosen in sets.items():
            camel = "k" + "".join(part.capitalize() for part in name.split("_"))
            r = ranges(chosen)
            out.write(f"\nconst CodePointRange {camel}[] = {{\n")
            out.write(wrapped(f"{{{a:#x},{b:#x}}}," for a, b in r))
            out.write(f"\n}};\nconst size_t kNum{camel[1:]} = {len(r)};\n")
        out.write("\n}  // namespace fathom::tokenizer::unicode_data\n")
    n = set(c for c in CODE_POINTS if CATEGORIES[category_of.get(c, 0)][0] == "N")
    print("runs", len(runs), {k: len(v) for k, v in sets.items()},
          "digits_numeric == N:", n == set(sets["digits_numeric"]),
          "strip_space == white_space:", sets["strip_space"] == sets["white_space"])


if __name__ == "__main__":
    main()
