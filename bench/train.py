"""./run bench train [tiny|small ...] [--rounds N] [--steps N]: training throughput and peak memory, Fathom beside HF.

For each model and precision policy, Fathom and every setting of HF transformers (bench/train/hf_train.py) run in
turn, in the same run, on the same cores: bf16 with fp32 masters against autocast, all-bf16 against all-bf16, each
with and without torch.compile. Multi-token prediction is off on both sides. Fathom's run includes one checkpoint.
Prints a table, writes bench/out/train.json, and ends with one line a claim.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
SHAPES = {"tiny": (4, 512), "small": (2, 512)}  # micro-batch, sequence length
# Fathom's settings and HF's. Autocast rounds each weight's gradient to bf16 and stores it in fp32; of Fathom both are
# measured: sums in fp32, which keep more, and sums in bf16, which with one micro-batch a step keep as much.
POLICIES = {
    "masters": (({"precision": "bf16"}, {"precision": "bf16", "grad_dtype": "bf16"}), "autocast"),
    "all-bf16": (({"precision": "bf16_pure"},), "bf16"),
}
WARMUP = 2
MEMORY_TARGET = 0.85


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=[], help="tiny, small; default both")
    parser.add_argument("--rounds", type=int, default=2, help="times each setting runs, in turn")
    parser.add_argument("--steps", type=int, default=6, help="timed steps of each run")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out (much quicker)")
    return parser.parse_args()


def run(command):
    """Runs a command; returns its stdout and its peak resident bytes."""
    with tempfile.TemporaryFile("w+") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.PIPE, text=True)
        log = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        if status != 0:
            sys.exit(f"{' '.join(map(str, command))}\nfailed:\n{log[-3000:]}")
        out.seek(0)
        return out.read(), usage.ru_maxrss * 1024


def make_data(directory):
    prefix = directory / "wikitext"
    run([ROOT / "build/release/fathom", "data", "build", "--tokenizer", ROOT / "assets/tokenizer", "--input",
         ROOT / "assets/wikitext-2/wiki.train.tokens.zst", "--output-prefix", prefix, "--append-eod"])
    return prefix


def name_of(setting):
    return f"fathom {setting['precision']}" + (" bf16-grads" if "grad_dtype" in setting else "")


def run_fathom(model, setting, steps, data):
    batch, length = SHAPES[model]
    with tempfile.TemporaryDirectory(dir=ROOT / "bench/out") as out:
        overrides = {
            "output_dir": out, "train.steps": steps + WARMUP,
            "train.lr.warmup_ratio": 0, "train.global_batch_size": batch, "train.micro_batch_size": batch,
            "data.seq_length": length, "data.train.0.path": data, "model.num_nextn_predict_layers": 0,
            "checkpoint.every": 0,
        }  # fmt: skip
        overrides |= {f"train.{key}": value for key, value in setting.items()}
        command = [ROOT / "build/release/fathom", "pretrain", ROOT / f"configs/recipes/{model}.yaml"]
        for key, value in overrides.items():
            command += ["--set", f"{key}={value}"]
        _, peak = run(command)
        lines = (pathlib.Path(out) / "metrics.jsonl").read_text().splitlines()
        rates = [json.loads(line)["tokens_per_second"] for line in lines][WARMUP:]
    return {"who": name_of(setting), "rates": rates, "peak": peak}


def run_hf(model, precision, steps, compiled):
    batch, length = SHAPES[model]
    command = [sys.executable, ROOT / "bench/train/hf_train.py", ROOT / f"configs/models/{model}.json", "--precision",
               precision, "--batch", str(batch), "--seq", str(length), "--steps", str(steps)]  # fmt: skip
    text, peak = run(command + (["--compile"] if compiled else []))
    rates = json.loads(text.splitlines()[-1])["tokens_per_second"]
    return {"who": f"hf {precision}{' compiled' if compiled else ''}", "rates": rates, "peak": peak}


def main():
    arguments = parse()
    models = arguments.models or list(SHAPES)
    (ROOT / "bench/out").mkdir(parents=True, exist_ok=True)
    results, claims = [], []
    with tempfile.TemporaryDirectory(dir=ROOT / "bench/out") as scratch:
        data = make_data(pathlib.Path(scratch))
        for model in models:
            for policy, (ours, theirs) in POLICIES.items():
                runs = []
                for _ in range(arguments.rounds):
                    runs += [run_fathom(model, setting, arguments.steps, data) for setting in ours]
                    for compiled in (False,) if arguments.no_compile else (False, True):
                        runs.append(run_hf(model, theirs, arguments.steps, compiled))
                        print(f"  {model} {runs[-1]['who']}: {max(runs[-1]['rates']):.0f} tokens/s", file=sys.stderr)
                settings = {}
                for r in runs:
                    s = settings.setdefault(r["who"], {"model": model, "policy": policy, "rates": [], "peak": 0})
                    s["rates"] += r["rates"]
                    s["peak"] = max(s["peak"], r["peak"])
                for who, s in settings.items():
                    s["who"], s["median"], s["best"] = who, statistics.median(s["rates"]), max(s["rates"])
                    results.append(s)
                peer = max((s for who, s in settings.items() if who.startswith("hf")), key=lambda s: s["median"])
                for setting in ours:
                    fathom = settings[name_of(setting)]
                    claims.append(
                        f"train claim={model}-{policy}{'-bf16-grads' if 'grad_dtype' in setting else ''} "
                        f"ratio={fathom['median'] / peer['median']:.2f} target=1.00 "
                        f"peak_memory_ratio={fathom['peak'] / peer['peak']:.2f} peak_memory_target={MEMORY_TARGET} "
                        f"peer=\"{peer['who']}\""
                    )
    print(f"{'model':7}{'setting':24}{'median tok/s':>14}{'best tok/s':>12}{'peak memory':>14}")
    for s in results:
        print(f"{s['model']:7}{s['who']:24}{s['median']:14.0f}{s['best']:12.0f}{s['peak'] / 2**30:10.2f} GiB")
    (ROOT / "bench/out/train.json").write_text(json.dumps({"results": results, "claims": claims}, indent=1))
    print("\n".join(claims))


if __name__ == "__main__":
    main()
