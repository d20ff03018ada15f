"""DeepSeek's block cast and its inverse in PyTorch on the CPU: torch_cast.py bf16|fp8 SOURCE DESTINATION.

bf16: value = codes as float32 * their block's scale, rounded to bf16. fp8: scale = a block's largest size / 448, codes =
value / scale as float8_e4m3fn. File by file with safetensors, as fp8_cast_bf16.py walks a checkpoint; the tensors that are no
matrix of blocks are copied. The names of the matrices that become fp8 come on standard input, one a line. Writes the
seconds of the arithmetic alone to standard output.
"""

import json
import pathlib
import sys
import time

import torch
from safetensors.torch import load_file, save_file

BLOCK, SUFFIX = 128, "_scale_inv"


def dequantised(codes, scale):
    rows, columns = codes.shape
    factor = scale.repeat_interleave(BLOCK, 0)[:rows].repeat_interleave(BLOCK, 1)[:, :columns]
    return (codes.to(torch.float32) * factor).to(torch.bfloat16)


def quantised(values):
    rows, columns = values.shape
    row_blocks, column_blocks = -(-rows // BLOCK), -(-columns // BLOCK)
    padded = torch.zeros(row_blocks * BLOCK, column_blocks * BLOCK)
    padded[:rows, :columns] = values
    blocks = padded.view(row_blocks, BLOCK, column_blocks, BLOCK)
    scale = blocks.abs().amax((1, 3)) / 448
    scale[scale == 0] = 1
    codes = (blocks / scale[:, None, :, None]).to(torch.float8_e4m3fn)
    return codes.view(padded.shape)[:rows, :columns].contiguous(), scale


def main():
    dtype, source, destination = sys.argv[1], pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3])
    matrices = set(sys.stdin.read().split())
    destination.mkdir()
    torch.set_num_threads(2)
    weight_map, arithmetic = {}, 0
    files = sorted(source.glob("*.safetensors"))
    owners = json.loads((source / "model.safetensors.index.json").read_text())["weight_map"] if len(files) > 1 else {}
    cache = {}
    for path in files:
        loaded, out = load_file(path), {}
        cache = {path.name: loaded}
        for name, tensor in loaded.items():
            begin = time.monotonic()
            if tensor.dtype == torch.float8_e4m3fn and dtype == "bf16":
                owner = owners.get(name + SUFFIX, path.name)
                if owner not in cache:
                    cache[owner] = load_file(source / owner)
                out[name] = dequantised(tensor, cache[owner][name + SUFFIX])
            elif name in matrices and dtype == "fp8":
                out[name], out[name + SUFFIX] = quantised(tensor)
            elif not name.endswith(SUFFIX):
                out[name] = tensor
            arithmetic += time.monotonic() - begin
        save_file(out, destination / path.name, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(out, path.name))
    (destination / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    print(arithmetic)


if __name__ == "__main__":
    main()
