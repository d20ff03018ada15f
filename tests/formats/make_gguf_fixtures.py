"""Makes tests/formats/data/every_type.gguf and blocks.gguf, with gguf 0.19.0 and numpy 2.4.6:

    python -m pip install gguf==0.19.0 numpy==2.4.6
    python tests/formats/make_gguf_fixtures.py

every_type.gguf: a metadata value of each type, arrays, and small tensors. blocks.gguf: values as F32 and the same as
Q8_0, Q4_0, BF16 and F16, quantised by gguf.quants.
"""

import pathlib

import gguf
import numpy as np

DATA = pathlib.Path(__file__).parent / "data"


def every_type():
    writer = gguf.GGUFWriter(DATA / "every_type.gguf", "deepseek2")
    writer.add_uint8("a.uint8", 200)
    writer.add_int8("a.int8", -100)
    writer.add_uint16("a.uint16", 60000)
    writer.add_int16("a.int16", -30000)
    writer.add_uint32("a.uint32", 4000000000)
    writer.add_int32("a.int32", -2000000000)
    writer.add_float32("a.float32", 0.1)
    writer.add_bool("a.bool", True)
    writer.add_string("a.string", "gr\u00fc\u00df dich")
    writer.add_uint64("a.uint64", 2**63 + 5)
    writer.add_int64("a.int64", -(2**62))
    writer.add_float64("a.float64", 0.1)
    writer.add_array("a.strings", ["one", "", "three"])
    writer.add_array("a.ints", [1, -2, 3])
    writer.add_array("a.floats", [0.5, -0.25])
    writer.add_tensor("matrix", np.arange(6, dtype=np.float32).reshape(2, 3))
    writer.add_tensor("vector", np.arange(5, dtype=np.float16))
    writer.add_tensor("cube", np.arange(24, dtype=np.int32).reshape(2, 3, 4))
    finish(writer)


def blocks():
    generator = np.random.default_rng(11)
    values = generator.standard_normal((24, 64)).astype(np.float32)
    values *= np.exp2(generator.integers(-20, 12, (24, 1))).astype(np.float32)
    values[1, :] = 0
    values[2, :32] = -0.0
    values[3, :] = np.round(generator.standard_normal(64) * 4) / 4  # many equal sizes
    values[3, 5], values[3, 9] = 3.5, -3.5
    values[4, :] = 1e-41  # its scale has no inverse
    values[5, :] = 3e-6  # a subnormal scale
    # codes on halves: 127 * k / 254 with a largest value of 127
    values[6, :] = np.arange(-32, 32) + 0.5
    values[6, 0], values[6, 32] = 127, -127
    values[7, :] = np.linspace(-8, 8, 64)
    values[8, :] = values[8, :].astype(np.float16).astype(np.float32)
    writer = gguf.GGUFWriter(DATA / "blocks.gguf", "deepseek2")
    writer.add_tensor("values", values)
    with np.errstate(all="ignore"):
        for kind in ("Q8_0", "Q4_0", "BF16", "F16"):
            quantised = gguf.quants.quantize(values, gguf.GGMLQuantizationType[kind])
            writer.add_tensor(kind, quantised, raw_dtype=gguf.GGMLQuantizationType[kind])
            if kind.startswith("Q"):
                back = gguf.quants.dequantize(quantised, gguf.GGMLQuantizationType[kind])
                writer.add_tensor(kind + ".values", back)
    finish(writer)


def finish(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    every_type()
    blocks()
