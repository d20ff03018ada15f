"""MindRecord fixtures by MindSpore itself, and its verdict on our files.

Oracle: mindspore 2.10.0 (PyPI, CPU), Python 3.11.

    python tests/formats/mindrecord_oracle.py make              # writes tests/formats/data/mindrecord
    python tests/formats/mindrecord_oracle.py dump FILE...      # rows as JSON, a line each (the files of a set in order)
    python tests/formats/mindrecord_oracle.py compare FATHOM FILE...  # dump against fathom data inspect

Values are formulas, so that mindrecord_test.cpp knows them too.
"""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np

os.environ.setdefault("GLOG_v", "3")
from mindspore.mindrecord import FileReader, FileWriter  # noqa: E402

DATA = pathlib.Path(__file__).parent / "data" / "mindrecord"


def value(row, i):
    return (row * 7919 + i * 104729) % 129280


def ragged():
    """Seven rows of three arrays of growing length; widths of 1, 2, 4 and 8 bytes, negative ones included."""
    for r in range(7):
        n = 3 * r + (r > 0)
        ids = [value(r, i) for i in range(n)]
        yield {
            "input_ids": np.array(ids, np.int32),
            "labels": np.array([(-100 if i % 3 == 0 else (v << 20) * (-1) ** i) for i, v in enumerate(ids)], np.int64),
            "loss_mask": np.array([i % 3 != 0 for i in range(n)], np.float32),
        }


def mixed():
    for r in range(11):
        yield {"id": r, "score": r / 3, "big": 2**40 + r, "text": f"ligne {r} é 文", "blob": bytes(range(r, r + 9)), "small": -r * 300}


def paged():
    for r in range(9):
        yield {"input_ids": np.array([value(r, i) for i in range(2000)], np.int32)}


def make():
    DATA.mkdir(exist_ok=True)
    for old in DATA.iterdir():
        old.unlink()
    array = lambda kind: {"type": kind, "shape": [-1]}
    for name, shards, schema, rows, index in [
        ("ragged.mindrecord", 1, {"input_ids": array("int32"), "labels": array("int64"), "loss_mask": array("float32")}, ragged(), []),
        ("mixed.mindrecord", 3, {"id": {"type": "int32"}, "score": {"type": "float64"}, "big": {"type": "int64"}, "text": {"type": "string"}, "blob": {"type": "bytes"}, "small": {"type": "int32"}}, mixed(), ["id"]),
        ("paged.mindrecord", 1, {"input_ids": array("int32")}, paged(), []),
    ]:
        writer = FileWriter(str(DATA / name), shards, overwrite=True)
        writer.set_header_size(1 << 14)
        writer.set_page_size(1 << 15)
        writer.add_schema(schema, "fathom")
        if index:
            writer.add_index(index)
        writer.write_raw_data(list(rows))
        writer.commit()


def plain(value):
    if isinstance(value, (bytes, bytearray)):
        return value.hex()
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value


def dump(files):
    reader = FileReader(files if len(files) > 1 else files[0], num_consumer=1)
    rows = [{k: plain(v) for k, v in row.items()} for row in reader.get_next()]
    reader.close()
    return rows


def compare(fathom, files):
    theirs = dump(files)
    command = [fathom, "data", "inspect", files[0], "--sample", "0", "--count", str(len(theirs)), "--json"]
    ours = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert ours["rows"] == len(theirs), (ours["rows"], len(theirs))
    for i, (a, b) in enumerate(zip(ours["rows_shown"], theirs)):
        assert a["values"] == b, f"row {i}: {a['values']} against {b}"
    print(f"{len(theirs)} rows of {', '.join(files)} agree")


if sys.argv[1] == "make":
    make()
elif sys.argv[1] == "dump":
    for row in dump(sys.argv[2:]):
        print(json.dumps(row, ensure_ascii=False))
else:
    compare(sys.argv[2], sys.argv[3:])
