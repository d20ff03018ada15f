"""The peer of `./run bench train`: HF transformers' training step on random tokens, on a CPU.

    python bench/train/hf_train.py configs/models/tiny.json --precision autocast --compile --batch 4 --seq 512

A step is forward, backward, gradient clipping and AdamW. Written for transformers 5.24.0 and torch 2.15.0.
Multi-token prediction is off, since transformers does not train it: Fathom's run must have it off too. The
defaults (grouped_mm experts, SDPA attention, fused AdamW, no Trainer) are transformers' and torch's fast paths;
which setting is best depends on the model and machine, so compare against the best of several, --compile among
them.
Prints one JSON line on stdout:

    {"tokens_per_second": [per step], "median": .., "best": .., "peak_memory_bytes": VmHWM, "loss": [..], ..}

Warm-up steps (compilation included) are not among the steps, but count in peak memory. `--precision`: fp32;
autocast = fp32 parameters, bf16 autocast; bf16 = parameters, gradients and moments in bf16.
"""

import argparse
import contextlib
import json
import os
import pathlib
import statistics
import time

os.environ.setdefault("HF_HUB_OFFLINE", "1")


def parse():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", type=pathlib.Path, help="an HF config.json of the DeepSeek family")
    parser.add_argument("--precision", choices=("fp32", "autocast", "bf16"), default="autocast")
    parser.add_argument("--compile", action="store_true", help="torch.compile the model")
    parser.add_argument("--experts", choices=("grouped_mm", "batched_mm", "eager"), default="grouped_mm")
    parser.add_argument("--attention", choices=("sdpa", "eager"), default="sdpa")
    parser.add_argument("--optimizer", choices=("fused", "foreach"), default="fused")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--seq", type=int, default=512)
    parser.add_argument("--steps", type=int, default=5, help="timed steps")
    parser.add_argument("--warmup", type=int, default=None, help="default 1, with --compile 2")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--seed", type=int, default=1234)
    return parser.parse_args()


def build(arguments):
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    value = json.loads(arguments.config.read_text())
    value["num_nextn_predict_layers"] = 0
    classes = {
        "deepseek_v3": "DeepseekV3Config",
        "kimi_k2": "DeepseekV3Config",
        "deepseek_v2": "DeepseekV2Config",
    }
    config = getattr(transformers, classes[value.pop("model_type")])(**value)
    config.use_cache = False
    torch.manual_seed(arguments.seed)
    return transformers.AutoModelForCausalLM.from_config(
        config,
        dtype=torch.bfloat16 if arguments.precision == "bf16" else torch.float32,
        attn_implementation=arguments.attention,
        experts_implementation=arguments.experts,
    ).train()


def peak_memory_bytes():
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/self/status holds no VmHWM")


def main():
    arguments = parse()
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    import torch
    import transformers

    torch.set_num_threads(arguments.threads)
    model = build(arguments)
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(
        parameters,
        lr=2.2e-4,
        betas=(0.9, 0.95),
        eps=1e-8,
        weight_decay=0.1,
        fused=arguments.optimizer == "fused",
        foreach=arguments.optimizer == "foreach",
    )
    forward = torch.compile(model, dynamic=False) if arguments.compile else model
    autocast = contextlib.nullcontext()
    if arguments.precision == "autocast":
        autocast = torch.autocast("cpu", dtype=torch.bfloat16)
    generator = torch.Generator().manual_seed(arguments.seed)
    warmup = arguments.warmup if arguments.warmup is not None else (2 if arguments.compile else 1)
    seconds, losses = [], []
    for step in range(warmup + arguments.steps):
        shape = (arguments.batch, arguments.seq)
        tokens = torch.randint(model.config.vocab_size, shape, generator=generator)
        start = time.perf_counter()
        with autocast:
            loss = forward(input_ids=tokens, labels=tokens, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0, foreach=True)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step >= warmup:
            seconds.append(time.perf_counter() - start)
            losses.append(loss.item())
    rates = [arguments.batch * arguments.seq / s for s in seconds]
    settings = {k: v for k, v in vars(arguments).items() if k != "config"}
    report = {
        "peer": f"transformers {transformers.__version__}, torch {torch.__version__.split('+')[0]}",
        "model": arguments.config.name,
        "parameters": sum(p.numel() for p in parameters),
        "settings": settings | {"warmup": warmup},
        "tokens_per_second": rates,
        "median": statistics.median(rates) if rates else None,
        "best": max(rates, default=None),
        "peak_memory_bytes": peak_memory_bytes(),
        "loss": losses,
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
