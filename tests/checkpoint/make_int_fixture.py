#!/usr/bin/env python3
"""int_fixture.safetensors: matrices compressed and decompressed by the compressed-tensors package.

Made with compressed-tensors 0.20.0 and torch 2.15.0. For each case: <case>.source.weight, the parts as the package
writes them (<case>.weight, .weight_packed, .weight_scale, .weight_shape), and <case>.values.weight, what it decompresses
them to."""
import sys

import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from compressed_tensors.quantization.utils import calculate_qparams
from safetensors.torch import save_file

CASES = {  # name: dtype, rows, columns, bits, group
    "int4_bf16": (torch.bfloat16, 6, 256, 4, 128),
    "int4_f32": (torch.float32, 5, 96, 4, 32),
    "int4_channel": (torch.bfloat16, 3, 75, 4, None),  # packed rows end inside a word
    "int8_bf16": (torch.bfloat16, 7, 33, 8, None),
    "int8_f32": (torch.float32, 4, 64, 8, None),
}


def compress(weight, bits, group):
    weights = QuantizationArgs(num_bits=bits, group_size=group, strategy="group" if group else "channel")
    inputs = QuantizationArgs(num_bits=8, strategy="token", dynamic=True) if bits == 8 else None
    scheme = QuantizationScheme(targets=["Linear"], weights=weights, input_activations=inputs)
    grouped = weight.unflatten(-1, (-1, group)) if group else weight.unsqueeze(1)
    scale, zero = calculate_qparams(grouped.amin(-1), grouped.amax(-1), weights)
    compressor = BaseCompressor.get_value_from_registry("pack-quantized" if bits == 4 else "int-quantized")
    parts = compressor.compress({"weight": weight, "weight_scale": scale, "weight_zero_point": zero}, scheme)
    return parts, compressor.decompress(parts, scheme)["weight"]


def main(path):
    torch.manual_seed(5)
    tensors = {}
    for name, (dtype, rows, columns, bits, group) in CASES.items():
        weight = torch.randn(rows, columns) * torch.logspace(-3, 2, rows).unsqueeze(1)
        weight[1, :] = 0  # a scale of nothing
        weight = weight.to(dtype)
        parts, values = compress(weight, bits, group)
        tensors[f"{name}.source.weight"] = weight
        tensors[f"{name}.values.weight"] = values
        for part, tensor in parts.items():
            tensors[f"{name}.{part}"] = tensor.contiguous()
    save_file(tensors, path)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "tests/checkpoint/int_fixture.safetensors")
