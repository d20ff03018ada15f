"""./run bench convert [--rounds N] [--gigabytes G] [--folder DIR]: fathom convert beside what moves bytes and beside torch.

A synthetic checkpoint of DeepSeek's fp8 form (random codes, a float32 scale for each 128x128 block, about G GB, files of at
most 1 GB) is made in DIR (default: bench/out, the disk and its page cache; /dev/shm is a tmpfs). Three conversions, two
threads: fp8 to bf16, that back to fp8, and bf16 into files of another size. Sides in turn, a round each:

  fathom  the whole command, from process start to synced files
  mover   two threads read as many bytes and write as many, 4 MiB at a time, into files that are synced: what disk and
          memory can do at that moment; for the re-shard copy_file_range too, and the faster of both counts
  torch   bench/convert/torch_cast.py: the blocks in PyTorch with two threads, files through safetensors; once a run

Ratios are of median times; processor_ratio is that of the processor seconds of both threads, which other load disturbs less
where no disk is waited for. torch's whole run counts, and its arithmetic alone is named. Memory is the largest
RssAnon, looked at 50 times a second. Every value must have the bits that torch computed. Prints a table, writes
bench/out/convert.json, ends with a line a claim.
"""

import argparse
import contextlib
import json
import os
import pathlib
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from support.measure import run  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parent.parent
FATHOM = ROOT / "build/release/fathom"
MOVER_TARGET, TORCH_TARGET, MEMORY_LIMIT = 0.7, 10, 2e9
CHUNK = 4 << 20
THREADS = 2


def model_config(gigabytes):
    config = json.loads((ROOT / "configs/models/deepseek-v3-671b.json").read_text())
    expert = 3 * 2048 * 1408
    config.update(hidden_size=2048, intermediate_size=10944, moe_intermediate_size=1408, num_attention_heads=16,
                  num_key_value_heads=16, q_lora_rank=768, n_routed_experts=32, n_group=4, topk_group=2, vocab_size=8192,
                  first_k_dense_replace=1, num_nextn_predict_layers=0,
                  num_hidden_layers=1 + max(1, round((gigabytes * 1e9 - 2e8) / (expert * 33 + 1.2e7))))  # fmt: skip
    config["quantization_config"] = {"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8",
                                     "weight_block_size": [128, 128]}  # fmt: skip
    return config


def make_checkpoint(folder, gigabytes):
    """The checkpoint of the config, and the names of its fp8 matrices."""
    import torch
    from safetensors.torch import save_file

    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(model_config(gigabytes)))
    listed = json.loads(subprocess.check_output([FATHOM, "inspect", folder / "config.json", "--json"]))["tensors"]
    generator = torch.Generator().manual_seed(7)
    files, pending, size = [], {}, 0

    def flush():
        nonlocal pending, size
        if pending:
            files.append(dict.fromkeys(pending))
            save_file(pending, folder / f"part-{len(files):05}.safetensors", metadata={"format": "pt"})
        pending, size = {}, 0

    for tensor in listed:
        name, shape = tensor["name"], tensor["shape"]
        if name.endswith("_scale_inv"):
            continue
        if tensor["dtype"] == "F8_E4M3":
            codes = torch.randint(0, 254, shape, generator=generator, dtype=torch.uint8)
            codes += (codes >= 127).to(torch.uint8)  # 0x7f and 0xff are NaN
            pending[name] = codes.view(torch.float8_e4m3fn)
            blocks = [-(-extent // 128) for extent in shape]
            pending[name + "_scale_inv"] = torch.rand(blocks, generator=generator) * 1e-3 + 1e-5
            size += codes.numel() + 4 * blocks[0] * blocks[1]
        else:
            dtype = {"BF16": torch.bfloat16, "F32": torch.float32}[tensor["dtype"]]
            pending[name] = (torch.randn(shape, generator=generator) * 0.02).to(dtype)
            size += pending[name].nbytes
        if size > 900e6:
            flush()
    flush()
    weight_map = {name: f"part-{i + 1:05}.safetensors" for i, names in enumerate(files) for name in names}
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return [t["name"] for t in listed if t["dtype"] == "F8_E4M3"]


def tensor_bytes(folder):
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def move(source, destination, written, in_kernel=False):
    """Seconds to read the files of `source` and write `written` bytes, with THREADS threads."""
    destination.mkdir()
    files = sorted(source.glob("*.safetensors"))
    work = [(path, at, min(CHUNK, path.stat().st_size - at)) for path in files for at in range(0, path.stat().st_size, CHUNK)]
    share = written / sum(size for *_, size in work)
    lock, failures = threading.Lock(), []
    begin = time.monotonic()
    outputs = {path: os.open(destination / path.name, os.O_WRONLY | os.O_CREAT, 0o644) for path in files}
    inputs = {path: os.open(path, os.O_RDONLY) for path in files}
    items = iter(work)

    def one_thread():
        buffer = bytearray(max(CHUNK, int(CHUNK * share) + 1))
        view = memoryview(buffer)
        try:
            while True:
                with lock:
                    path, at, size = next(items, (None, 0, 0))
                if path is None:
                    return
                if in_kernel:
                    done = 0
                    while done < size:
                        done += os.copy_file_range(inputs[path], outputs[path], size - done, at + done, at + done)
                    continue
                os.preadv(inputs[path], [view[:size]], at)
                os.pwrite(outputs[path], view[: int(size * share)], int(at * share))
        except OSError as fault:
            failures.append(fault)

    threads = [threading.Thread(target=one_thread) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for descriptor in outputs.values():
        os.fsync(descriptor)
        os.close(descriptor)
    seconds = time.monotonic() - begin
    for descriptor in inputs.values():
        os.close(descriptor)
    shutil.rmtree(destination)
    if failures:
        raise failures[0]
    return seconds


def different_tensors(first, second):
    """Names whose bits differ between two checkpoints, or that only one has."""
    import torch
    from safetensors import safe_open

    def locations(folder):
        found = {}
        for path in folder.glob("*.safetensors"):
            with safe_open(path, "pt") as file:
                found.update(dict.fromkeys(file.keys(), path))
        return found

    here, there = locations(first), locations(second)
    differing = sorted(set(here) ^ set(there))
    with contextlib.ExitStack() as stack:
        opened = {p: stack.enter_context(safe_open(p, "pt")) for p in {*here.values(), *there.values()}}
        for name in sorted(set(here) & set(there)):
            a, b = opened[here[name]].get_tensor(name), opened[there[name]].get_tensor(name)
            if a.shape != b.shape or a.dtype != b.dtype or not torch.equal(a.view(torch.uint8), b.view(torch.uint8)):
                differing.append(name)
    return differing


def processor_seconds(whose):
    usage = resource.getrusage(whose)
    return usage.ru_utime + usage.ru_stime


def timed(whose, work, *arguments, **options):
    """What `work` returns, and the processor time that it took of ours or of our children."""
    before = processor_seconds(whose)
    result = work(*arguments, **options)
    return result, processor_seconds(whose) - before


def measure(what, source, folder, flags, rounds, matrices=None):
    """One conversion by its sides. `matrices`: torch makes the same, and the bits are compared; None: no torch."""
    target = folder / what
    walls, processors = {}, {}
    peak = 0

    def take(who, wall, processor):
        walls.setdefault(who, []).append(wall)
        processors.setdefault(who, []).append(processor)

    def take_mover(who, **options):
        os.sync()
        take(who, *timed(resource.RUSAGE_SELF, move, source, folder / "moved", tensor_bytes(target), **options))

    for _ in range(rounds):
        shutil.rmtree(target, ignore_errors=True)
        os.sync()
        command = [FATHOM, "convert", source, target, *flags]
        (seconds, anonymous, _), processor = timed(resource.RUSAGE_CHILDREN, run, command)
        take("fathom", seconds, processor)
        peak = max(peak, anonymous)
        take_mover("mover")
        if matrices is None:
            with contextlib.suppress(OSError):  # not every file system has it
                take_mover("mover in the kernel", in_kernel=True)
        shown = (f"{who} {walls[who][-1]:.2f} s ({processors[who][-1]:.2f} of processors)" for who in walls)
        print(f"  {what}: " + ", ".join(shown), file=sys.stderr)

    def ratio(seconds):
        medians = {who: statistics.median(taken) for who, taken in seconds.items()}
        return min(taken for who, taken in medians.items() if who != "fathom") / medians["fathom"]

    result = {"read": tensor_bytes(source), "written": tensor_bytes(target), "seconds": walls, "processor_seconds": processors,
              "fathom": statistics.median(walls["fathom"]), "fathom_processor": statistics.median(processors["fathom"]),
              "ratio": ratio(walls), "processor_ratio": ratio(processors), "peak": peak, "differing": []}  # fmt: skip
    if matrices is not None:
        other = folder / f"{what}-torch"
        command = [sys.executable, ROOT / "bench/convert/torch_cast.py", flags[1], source, other]
        os.sync()
        (seconds, torch_peak, out), processor = timed(resource.RUSAGE_CHILDREN, run, command, "\n".join(matrices))
        result.update(torch=seconds, torch_processor=processor, torch_arithmetic=float(out), torch_peak=torch_peak,
                      differing=different_tensors(target, other))  # fmt: skip
        shutil.rmtree(other)
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="times fathom and the mover run, in turn")
    parser.add_argument("--gigabytes", type=float, default=2.2, help="of the fp8 checkpoint; five times as much disk")
    parser.add_argument("--folder", type=pathlib.Path, default=ROOT / "bench/out", help="where the checkpoints are made")
    arguments = parser.parse_args()
    (ROOT / "bench/out").mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = pathlib.Path(name)
        fp8, bf16 = folder / "source", folder / "fp8-to-bf16"
        matrices = make_checkpoint(fp8, arguments.gigabytes)
        results = {"fp8-to-bf16": measure("fp8-to-bf16", fp8, folder, ["--dtype", "bf16"], arguments.rounds, matrices)}
        shutil.rmtree(fp8)
        results["bf16-to-fp8"] = measure("bf16-to-fp8", bf16, folder, ["--dtype", "fp8"], arguments.rounds, matrices)
        shutil.rmtree(folder / "bf16-to-fp8")
        results["re-shard"] = measure("re-shard", bf16, folder, ["--max-shard-size", "700MB"], arguments.rounds)
        results["re-shard"]["differing"] = different_tensors(bf16, folder / "re-shard")

    print(f"{'conversion':14}{'GB read':>9}{'written':>9}{'fathom s':>10}{'mover s':>9}{'torch s':>9}   of processors{'RssAnon':>12}")
    claims = []
    for what, r in results.items():
        wall, processor = r["fathom"], r["fathom_processor"]
        print(f"{what:14}{r['read'] / 1e9:9.2f}{r['written'] / 1e9:9.2f}{wall:10.2f}{r['ratio'] * wall:9.2f}{r.get('torch', 0):9.2f}"
              f"   {processor:.2f}, {r['processor_ratio'] * processor:.2f}, {r.get('torch_processor', 0):.2f}"
              f"{r['peak'] / 1e6:8.0f} MB")  # fmt: skip
        same = f"identical={int(not r['differing'])}"
        claims.append(f"convert claim={what}-bytes ratio={r['ratio']:.2f} target={MOVER_TARGET} "
                      f"processor_ratio={r['processor_ratio']:.2f} peak_memory_ratio={r['peak'] / MEMORY_LIMIT:.3f} "
                      f"peak_memory_target=1 {same} peer=\"reading and writing as many bytes\"")  # fmt: skip
        if "torch" in r:
            claims.append(f"convert claim={what}-torch ratio={r['torch'] / wall:.2f} target={TORCH_TARGET} "
                          f"processor_ratio={r['torch_processor'] / processor:.2f} peak_memory_ratio={r['peak'] / r['torch_peak']:.3f} "
                          f"{same} arithmetic_alone={r['torch_arithmetic'] / wall:.2f} "
                          f"peer=\"torch and safetensors, {THREADS} threads\"")  # fmt: skip
    (ROOT / "bench/out/convert.json").write_text(json.dumps({"results": results, "claims": claims}, indent=1))
    print("\n".join(claims))
    differing = [name for r in results.values() for name in r["differing"]]
    if differing:
        sys.exit(f"{len(differing)} tensors differ from torch's: {', '.join(differing[:5])}")


if __name__ == "__main__":
    main()
