"""What the fixture scripts share: seeding, published tensor names, files, manifests.

Oracle: HF transformers 5.24.0, torch 2.15.0, safetensors 0.8.0, on a CPU, fp32, eager attention.
"""

import hashlib
import json
import os
import pathlib

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import safetensors
import safetensors.torch
import torch
import transformers

GOLDEN = pathlib.Path(__file__).resolve().parent


def set_up(threads=1):
    """One thread and deterministic kernels: the same bits on every run of one machine."""
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    transformers.logging.set_verbosity_error()


def published(tensors):
    """HF's fused experts -> the names and shapes of the hub's files.

    `experts.gate_up_proj` [E, 2I, D] becomes `experts.<e>.gate_proj.weight` and `.up_proj.weight` [I, D],
    `experts.down_proj` [E, D, I] becomes `experts.<e>.down_proj.weight` [D, I]; all else keeps its name.
    """
    out = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach()
        if name.endswith(".experts.gate_up_proj"):
            prefix = name.removesuffix("gate_up_proj")
            for expert, gate_up in enumerate(tensor):
                gate, up = gate_up.chunk(2, dim=0)
                out[f"{prefix}{expert}.gate_proj.weight"] = gate.contiguous().clone()
                out[f"{prefix}{expert}.up_proj.weight"] = up.contiguous().clone()
        elif name.endswith(".experts.down_proj"):
            prefix = name.removesuffix("down_proj")
            for expert, down in enumerate(tensor):
                out[f"{prefix}{expert}.down_proj.weight"] = down.contiguous().clone()
        else:
            out[name] = tensor.contiguous().clone()
    return dict(sorted(out.items()))


@torch.no_grad()
def fill_random(module, seed, std=0.1, gate_std=0.3, bias_range=(-0.2, 0.2)):
    """Weights N(0, std), norms 1 + N(0, 0.1), router N(0, gate_std), bias uniform in `bias_range`."""
    generator = torch.Generator().manual_seed(seed)
    tensors = dict(module.named_parameters()) | {
        n: b for n, b in module.named_buffers() if n.endswith("e_score_correction_bias")
    }
    for name in sorted(tensors):
        tensor = tensors[name]
        noise = torch.randn(tensor.shape, generator=generator)
        if name.endswith("e_score_correction_bias"):
            low, high = bias_range
            tensor.copy_(torch.rand(tensor.shape, generator=generator) * (high - low) + low)
        elif "norm" in name.rsplit(".", 2)[-2]:
            tensor.copy_(1 + 0.1 * noise)
        elif name.endswith("gate.weight"):
            tensor.copy_(gate_std * noise)
        else:
            tensor.copy_(std * noise)


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def save_tensors(path, tensors):
    safetensors.torch.save_file(
        {k: v.detach().clone().contiguous() for k, v in tensors.items()}, path, metadata={"format": "pt"}
    )


def save_json(path, value):
    path.write_text(json.dumps(value, indent=2, ensure_ascii=True) + "\n")


def write_config(directory, config, model_type=None):
    """config.json as transformers 5 writes it; `model_type` is replaced where HF lacks the class."""
    config.save_pretrained(directory)
    path = directory / "config.json"
    value = json.loads(path.read_text())
    if model_type:
        value["model_type"] = model_type
    save_json(path, value)


def write_manifest(directory, script, seed, oracle_class, notes, facts):
    files = sorted(
        p for p in directory.iterdir() if p.suffix in (".json", ".safetensors") and p.name != "manifest.json"
    )
    save_json(
        directory / "manifest.json",
        {
            "case": directory.name,
            "script": f"tests/golden/{script}",
            "seed": seed,
            "oracle": f"transformers.{oracle_class}",
            "versions": {
                "transformers": transformers.__version__,
                "torch": torch.__version__.split("+")[0],
                "safetensors": safetensors.__version__,
            },
            "arithmetic": "fp32, CPU, eager attention, looped experts, one thread",
            "facts": facts,
            "notes": notes,
            "sha256": {p.name: sha256(p) for p in files},
        },
    )
