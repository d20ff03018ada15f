"""Loads a checkpoint directory that Fathom wrote into HF transformers and compares logits.

    python tests/golden/load_in_transformers.py DIR [--outputs FILE] [--dtype fp32|bf16] [--tolerance 1e-4]

DIR holds config.json, model*.safetensors and, where there are shards, model.safetensors.index.json. FILE
holds what Fathom computed from DIR: `tokens` [B, S] and `logits` [B, S, V], as safetensors or JSON (nested lists).
Fails (exit 1) when a tensor is missing, has another shape or is unknown (multi-token prediction layers
`model.layers.<num_hidden_layers + k>.*` excepted: transformers does not load them), when the index and the
files disagree, or when logits differ by more than the tolerance.
"""

import argparse
import json
import os
import pathlib
import re
import sys

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import safetensors
import safetensors.torch
import torch
import transformers


def load_config(directory):
    """The config, with Kimi-K2 (which transformers has no class for) read as the DeepSeek-V3 that it is."""
    value = json.loads((directory / "config.json").read_text())
    if value.get("model_type") != "kimi_k2":
        return transformers.AutoConfig.from_pretrained(directory)
    value.pop("model_type")
    value.pop("auto_map", None)
    return transformers.DeepseekV3Config(**value)


def check_index(directory):
    """Every tensor of the files is in the index under its file, and the other way round."""
    files = sorted(directory.glob("model*.safetensors"))
    if not files:
        raise SystemExit(f"{directory}: no model*.safetensors")
    held = {}
    for path in files:
        with safetensors.safe_open(path, "pt") as reader:
            for name in reader.keys():
                if name in held:
                    raise SystemExit(f"{name} is in {held[name]} and in {path.name}")
                held[name] = path.name
    index = directory / "model.safetensors.index.json"
    if index.exists():
        listed = json.loads(index.read_text())["weight_map"]
        if listed != held:
            wrong = sorted(set(listed.items()) ^ set(held.items()))
            raise SystemExit(f"{index.name} and the files disagree on {len(wrong)} entries, first {wrong[0]}")
    elif len(files) > 1:
        raise SystemExit(f"{directory}: {len(files)} files without model.safetensors.index.json")
    return held


def read_outputs(path):
    if path.suffix == ".json":
        value = json.loads(path.read_text())
        return torch.tensor(value["tokens"]), torch.tensor(value["logits"], dtype=torch.float32)
    value = safetensors.torch.load_file(path)
    tokens = value["tokens"] if "tokens" in value else value["input.tokens"]
    return tokens.long(), value["logits"].float()


def load(directory, config, dtype):
    """The model, or None where transformers refuses, and a report: counts of tensors, problems found."""
    held = check_index(directory)
    try:
        model, info = transformers.AutoModelForCausalLM.from_pretrained(
            directory,
            config=config,
            dtype=dtype,
            attn_implementation="eager",
            experts_implementation="eager",
            output_loading_info=True,
        )
    except (
        RuntimeError,
        ValueError,
        KeyError,
    ) as error:  # a missing expert, for instance, stops the fusing of experts
        return None, {"tensors": len(held), "problems": [f"transformers refused to load: {error}"]}
    problems = [f"missing: {n}" for n in sorted(info["missing_keys"])]
    problems += [f"mismatched: {n}" for n in sorted(map(str, info["mismatched_keys"]))]
    problems += [f"error: {n}" for n in info.get("error_msgs") or []]
    depths = getattr(config, "num_nextn_predict_layers", 0) or 0
    extra = {n for n in held if is_mtp(n, config.num_hidden_layers, depths)}
    # Experts of these layers are reported under transformers' fused names, so compare by layer, not by name.
    unexpected = [n for n in info["unexpected_keys"] if not is_mtp(n, config.num_hidden_layers, depths)]
    problems += [f"unexpected: {n}" for n in sorted(unexpected)]
    if depths and not extra:
        problems.append(f"config.json says {depths} multi-token prediction layers, the files hold none")
    return model.eval(), {"tensors": len(held), "mtp_tensors": len(extra), "problems": problems}


def compare_logits(model, tokens, logits, tolerance):
    """What goes into the report: the worst difference, and it as a problem where it is too large."""
    with torch.no_grad():
        ours = model(tokens, use_cache=False).logits.float()
    if ours.shape != logits.shape:
        return {"problems": [f"logits are {list(logits.shape)}, transformers gives {list(ours.shape)}"]}
    worst = (ours - logits).abs().max().item()
    relative = ((ours - logits).norm() / ours.norm()).item()
    problems = []
    if not worst <= tolerance:
        problems.append(f"logits differ by up to {worst:.3g}, more than {tolerance:.3g}")
    return {
        "compared_logits": logits.numel(),
        "worst_logit_difference": worst,
        "relative_to_norm": relative,
        "tolerance": tolerance,
        "problems": problems,
    }


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("directory", type=pathlib.Path)
    parser.add_argument("--outputs", type=pathlib.Path)
    parser.add_argument("--dtype", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument(
        "--tolerance", type=float, default=1e-4, help="largest absolute difference of a logit"
    )
    arguments = parser.parse_args()
    transformers.logging.set_verbosity_error()

    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[arguments.dtype]
    model, report = load(arguments.directory, load_config(arguments.directory), dtype)
    if arguments.outputs and not report["problems"]:
        report |= compare_logits(model, *read_outputs(arguments.outputs), arguments.tolerance)
    print(json.dumps(report))
    return 1 if report["problems"] else 0


def is_mtp(name, layers, depths):
    match = re.match(r"model\.layers\.(\d+)\.", name)
    return match is not None and layers <= int(match.group(1)) < layers + depths


if __name__ == "__main__":
    sys.exit(main())
