#!/usr/bin/env python3
"""A checkpoint of `fathom quantize` as compressed-tensors and HF transformers read it.

    python tests/check_quantized.py QUANTISED BF16 [--logits FILE] [--no-model]

QUANTISED is the checkpoint, BF16 what `fathom convert QUANTISED BF16 --dtype bf16` made of it. The package must
decompress every integer matrix to the bits of BF16. Then transformers loads QUANTISED (dequantised): nothing missing,
nothing unexpected but MTP layers, every parameter equal to that of BF16, and logits equal to FILE's (`tokens`, `logits`
of `fathom eval BF16 --dtype fp32 --dump-logits FILE`). Seen with compressed-tensors 0.20.0, transformers 5.24.0."""
import argparse
import json
import os
import pathlib
import re
import sys

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import safetensors
import torch
import transformers
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationConfig
from compressed_tensors.utils import match_name


def read(directory):
    tensors = {}
    for path in sorted(directory.glob("model*.safetensors")):
        with safetensors.safe_open(path, framework="pt") as file:
            tensors.update({name: file.get_tensor(name) for name in file.keys()})
    return tensors


def scheme_of(config, module):
    """The scheme of a module: ignored ones have none; a name goes before a class."""
    if any(match_name(module, pattern) for pattern in config.ignore):
        return None
    groups = list(config.config_groups.values())
    named = [group for group in groups if any(match_name(module, target) for target in group.targets)]
    of_class = [group for group in groups if "Linear" in group.targets]
    return (named + of_class)[0]


def check_package(directory, wide):
    config = QuantizationConfig.model_validate(json.loads((directory / "config.json").read_text())["quantization_config"])
    stored = read(directory)
    modules = sorted(name.removesuffix(".weight_scale") for name in stored if name.endswith(".weight_scale"))
    assert modules, "no matrix is quantised"
    for module in modules:
        scheme = scheme_of(config, module)
        assert scheme is not None, f"{module} is quantised, but the config ignores it"
        compressor = BaseCompressor.get_value_from_registry(scheme.format or config.format)
        parts = {p: stored[f"{module}.{p}"] for p in ("weight", "weight_packed", "weight_scale", "weight_shape")
                 if f"{module}.{p}" in stored}
        theirs, ours = compressor.decompress(parts, scheme)["weight"], wide[f"{module}.weight"]
        assert theirs.dtype == ours.dtype and torch.equal(theirs, ours), f"{module}: other values"
    plain = [name for name in stored if name in wide and stored[name].dtype != torch.int8]
    for name in plain:
        assert stored[name].dtype == wide[name].dtype and torch.equal(stored[name], wide[name]), name
    print(f"{len(modules)} matrices decompress to our bits, {len(plain)} tensors are as they were")


def check_transformers(directory, wide_directory, logits):
    load = lambda path, **more: transformers.AutoModelForCausalLM.from_pretrained(
        path, dtype=torch.bfloat16, output_loading_info=True, **more)
    quantization = transformers.CompressedTensorsConfig(dequantize=True)
    model, info = load(directory, quantization_config=quantization)
    assert not info["missing_keys"], info["missing_keys"]
    assert not info["mismatched_keys"], info["mismatched_keys"]
    layers = model.config.num_hidden_layers
    for name in info["unexpected_keys"]:
        layer = re.match(r"model\.layers\.(\d+)\.", name)
        assert layer and int(layer[1]) >= layers, f"unexpected {name}"
    plain, _ = load(wide_directory)
    theirs, ours = dict(model.named_parameters()), dict(plain.named_parameters())
    assert theirs.keys() == ours.keys()
    for name, value in theirs.items():
        assert torch.equal(value, ours[name]), f"{name}: transformers has other values"
    print(f"transformers: {len(ours)} parameters equal")
    if logits is None:
        return
    with safetensors.safe_open(logits, framework="pt") as file:
        tokens, expected = file.get_tensor("tokens"), file.get_tensor("logits")
    with torch.no_grad():
        got = model.float()(tokens.long()).logits
    error = (got - expected.float()).abs().max().item() / expected.float().abs().max().item()
    print(f"logits of {tuple(tokens.shape)} tokens: largest difference {error:.2e} of the largest logit")
    assert error < 1e-4


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("quantised", type=pathlib.Path)
    parser.add_argument("bf16", type=pathlib.Path)
    parser.add_argument("--logits")
    parser.add_argument("--no-model", action="store_true")
    options = parser.parse_args()
    check_package(options.quantised, read(options.bf16))
    if not options.no_model:
        check_transformers(options.quantised, options.bf16, options.logits)


if __name__ == "__main__":
    sys.exit(main())
