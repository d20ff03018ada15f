"""The peer of ./run bench data-index: megatron-core's own index building (its compiled helpers), with its cache on disk.

Usage: megatron_index.py PREFIX CACHE SEQ_LENGTH SAMPLES SEED. Prints seconds without the imports, anonymous memory before
and at its peak, and the tokens of the samples named by the numbers on standard input."""
import json
import re
import sys
import threading
import time

from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder
from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig


class Tokenizer:
    vocab_size, eod, pad = 60000, 0, -1
    unique_identifiers = {"class": "bench"}


def anonymous_bytes():
    with open("/proc/self/status") as status:
        return int(re.search(r"RssAnon:\s+(\d+)", status.read())[1]) * 1024


prefix, cache, seq_length, samples, seed = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:6])
before = peak = anonymous_bytes()
running = True


def watch():
    global peak
    while running:
        peak = max(peak, anonymous_bytes())
        time.sleep(0.005)


watcher = threading.Thread(target=watch)
watcher.start()
begin = time.monotonic()
config = GPTDatasetConfig(
    random_seed=seed, sequence_length=seq_length, split="1,0,0", blend=([prefix], None), tokenizer=Tokenizer(),
    reset_position_ids=False, reset_attention_mask=False, eod_mask_loss=False, create_attention_mask=False,
    path_to_cache=cache)
dataset = BlendedMegatronDatasetBuilder(GPTDataset, [samples, 0, 0], lambda: True, config).build()[0]
seconds = time.monotonic() - begin
running = False
watcher.join()
rows = {}
for number in sys.stdin.read().split():
    text, documents = dataset._query_document_sample_shuffle_indices(int(number))
    rows[number] = [int(d) for d in documents]
print(json.dumps({"seconds": seconds, "memory": peak - before, "samples": len(dataset), "sequences": rows}))
