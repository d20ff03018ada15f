"""The peers' side of ./run bench tokenizer: PEER TOKENIZER CORPUS.json, where PEER is hf or tiktoken.

Loads both once, then for each line "THREADS" of standard input encodes all documents and prints what it took as one
JSON object, as worker.cpp does.
"""

import json
import pathlib
import struct
import sys
import time
import zlib

ROOT = pathlib.Path(__file__).resolve().parents[2]

# The three steps of DeepSeek-V3's pre-tokenizer as one pattern: each alternative of the third step is kept from numbers
# and from the characters of the second, at which its text would have ended, and what nothing matches stands alone.
CJK = "一-龥぀-ゟ゠-ヿ"
PUNCTUATION = r"""!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~"""
V3 = "|".join([
    r"\p{N}{1,3}", f"[{CJK}]+", f"[{PUNCTUATION}][A-Za-z]+",
    rf"[^\r\n\p{{L}}\p{{P}}\p{{S}}\p{{N}}]?[\p{{L}}\p{{M}}&&[^{CJK}]]+", rf" ?[\p{{P}}\p{{S}}&&[^{CJK}]]+[\r\n]*",
    r"\s*[\r\n]+", rf"\s+(?=[\p{{N}}{CJK}])", r"\s+(?!\S)", r"\s+", r"[^\s\p{L}\p{M}\p{P}\p{S}\p{N}]+"])  # fmt: skip


def bytes_of_tokens(vocabulary):
    """Token bytes -> id, of a byte-level vocabulary; special tokens left out."""
    alphabet, extra = {}, 256
    for byte in range(256):
        prints = 33 <= byte <= 126 or 161 <= byte <= 172 or byte >= 174
        alphabet[chr(byte if prints else extra)] = byte
        extra += not prints
    return {bytes(alphabet[c] for c in token): id for token, id in vocabulary.items() if all(c in alphabet for c in token)}


def load(peer, tokenizer):
    """A function: documents, threads -> a list of id lists."""
    if peer == "hf":
        from tokenizers import Tokenizer

        hf = Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
        return lambda documents, threads: hf.encode_batch_fast(documents, add_special_tokens=False)
    import tiktoken

    if (tokenizer / "tiktoken.model").exists():
        sys.path.insert(0, str(ROOT / "tests/tokenizer"))
        import fuzz_against_tiktoken
        import make_tiktoken

        encoding = make_tiktoken.encoding(fuzz_against_tiktoken.tiktoken_ranks(tokenizer / "tiktoken.model"), {})
    else:
        vocabulary = json.loads((tokenizer / "tokenizer.json").read_text())["model"]["vocab"]
        encoding = tiktoken.Encoding("v3", pat_str=V3, mergeable_ranks=bytes_of_tokens(vocabulary), special_tokens={})

    def encode(documents, threads):
        if threads == 1:
            return [encoding.encode_ordinary(document) for document in documents]
        return encoding.encode_ordinary_batch(documents, num_threads=threads)

    return encode


def checksum(ids):
    crc = 0
    for document in ids:
        crc = zlib.crc32(struct.pack(f"<{len(document)}i", *document), crc)
    return crc


def anonymous_bytes():
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon")).split()[1]) * 1024


def main():
    peer, tokenizer, corpus = sys.argv[1:]
    encode = load(peer, pathlib.Path(tokenizer))
    documents = json.loads(pathlib.Path(corpus).read_text())
    for line in sys.stdin:
        threads = int(line)
        wall, processor = time.perf_counter(), time.process_time()
        result = encode(documents, threads)
        wall, processor = time.perf_counter() - wall, time.process_time() - processor
        memory = anonymous_bytes()
        ids = [r.ids for r in result] if peer == "hf" else result
        print(json.dumps({"wall": wall, "processor": processor, "tokens": sum(map(len, ids)), "crc": checksum(ids),
                          "anonymous_bytes": memory}), flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
