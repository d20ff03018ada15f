"""Trains tiny models with the fathom binary and checks that HF transformers takes the checkpoints: the fixtures
`trained` (fp32) and `trained_bf16` (bf16 with fp32 masters, YaRN).

    python tests/golden/make_trained.py [--fathom build/release/fathom] [--output tests/golden] [CASE...]

For each case: 30 steps on tokens that can be learnt, with MLA, MoE, MTP and the balance bias on; the newest
checkpoint's HF files are copied; transformers must load them with nothing missing and nothing unexpected but the MTP
layer; its logits (fp32 arithmetic on the stored weights) for fixed tokens become expected.safetensors; and the logits
that `fathom eval --dump-logits` writes must be the same. Exit 1 otherwise.

Oracle: HF transformers 5.24.0, torch 2.15.0, safetensors 0.8.0, on a CPU, fp32, eager attention.
"""

import argparse
import json
import pathlib
import random
import shutil
import struct
import subprocess
import sys
import tempfile

import golden_common
import torch
from golden_common import GOLDEN, set_up
from load_in_transformers import compare_logits, load, load_config, read_outputs
from safetensors import safe_open

VOCAB, SEED, STEPS = 96, 29, 30
CONFIG = {
    "architectures": ["DeepseekV3ForCausalLM"],
    "model_type": "deepseek_v3",
    "vocab_size": VOCAB,
    "hidden_size": 48,
    "intermediate_size": 64,
    "moe_intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_nextn_predict_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "q_lora_rank": 24,
    "kv_lora_rank": 32,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 12,
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "num_experts_per_tok": 3,
    "n_group": 4,
    "topk_group": 2,
    "first_k_dense_replace": 1,
    "moe_layer_freq": 1,
    "topk_method": "noaux_tc",
    "scoring_func": "sigmoid",
    "norm_topk_prob": True,
    "routed_scaling_factor": 2.5,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000,
    "rope_scaling": None,
    "max_position_embeddings": 64,
    "hidden_act": "silu",
    "initializer_range": 0.05,
    "tie_word_embeddings": False,
    "attention_bias": False,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
YARN = {
    "type": "yarn",
    "factor": 4,
    "original_max_position_embeddings": 16,
    "beta_fast": 32,
    "beta_slow": 1,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
}
CASES = {
    "trained": ("fp32", {"torch_dtype": "float32"}),
    "trained_bf16": ("bf16", {"torch_dtype": "bfloat16", "rope_scaling": YARN}),
}
RECIPE = """output_dir: out
seed: {seed}
model: model.json
data:
  train: [{{path: train}}]
  valid: [{{path: valid}}]
  seq_length: 40
train:
  steps: {steps}
  global_batch_size: 8
  micro_batch_size: 4
  precision: {precision}
  lr: {{schedule: cosine, peak: 1.0e-2, min: 1.0e-3, warmup_steps: 4}}
  balance: {{bias_update_rate: 0.01, sequence_aux_loss: 0.0001}}
  threads: 1
checkpoint: {{every: 0, optimizer: none}}
"""


def write_tokens(prefix, documents, seed):
    """Megatron .bin/.idx (uint16) of documents in which each token mostly follows from the one before."""
    draw = random.Random(seed)
    rows = []
    for _ in range(documents):
        token = draw.randrange(2, VOCAB)
        row = []
        for _ in range(draw.randrange(20, 80)):
            row.append(token)
            token = draw.randrange(2, VOCAB) if draw.random() < 0.1 else 2 + (token * 5 + 3) % (VOCAB - 2)
        rows.append([*row, 1])
    data = [struct.pack(f"<{len(row)}H", *row) for row in rows]
    offsets = [sum(map(len, data[:i])) for i in range(len(data))]
    prefix.with_suffix(".bin").write_bytes(b"".join(data))
    prefix.with_suffix(".idx").write_bytes(
        b"MMIDIDX\x00\x00"
        + struct.pack("<QBQQ", 1, 8, len(rows), len(rows) + 1)
        + struct.pack(f"<{len(rows)}i", *map(len, rows))
        + struct.pack(f"<{len(rows)}q", *offsets)
        + struct.pack(f"<{len(rows) + 1}q", *range(len(rows) + 1))
    )


def train(fathom, case, scratch):
    """Runs the recipe in `scratch`; the checkpoint's directory and the losses of the first and last step."""
    precision, changes = CASES[case]
    golden_common.save_json(scratch / "model.json", CONFIG | changes)
    write_tokens(scratch / "train", 300, SEED)
    write_tokens(scratch / "valid", 12, SEED + 1)
    (scratch / "run.yaml").write_text(RECIPE.format(seed=SEED, steps=STEPS, precision=precision))
    subprocess.run([fathom, "pretrain", "run.yaml"], cwd=scratch, check=True, capture_output=True, text=True)
    losses = [json.loads(line)["loss"] for line in (scratch / "out/metrics.jsonl").read_text().splitlines()]
    assert losses[-1] < 0.8 * losses[0], f"it did not learn: {losses[0]} -> {losses[-1]}"
    checkpoints = scratch / "out/checkpoints"
    return checkpoints / (checkpoints / "latest").read_text().strip(), losses


def check_mtp_tensors(checkpoint):
    """The MTP layer is complete in the files: its own tensors, and copies of embedding and head."""
    with safe_open(checkpoint / "model.safetensors", "pt") as reader:
        prefix = f"model.layers.{CONFIG['num_hidden_layers']}."
        for copy, source in (
            ("embed_tokens.weight", "model.embed_tokens.weight"),
            ("shared_head.head.weight", "lm_head.weight"),
        ):
            assert torch.equal(reader.get_tensor(prefix + copy), reader.get_tensor(source)), copy
        assert any(n.startswith(prefix + "mlp.experts.7.") for n in reader.keys())


def make(fathom, case, output):
    with tempfile.TemporaryDirectory() as name:
        scratch = pathlib.Path(name)
        checkpoint, losses = train(fathom, case, scratch)
        check_mtp_tensors(checkpoint)
        model, report = load(checkpoint, load_config(checkpoint), torch.float32)
        assert not report["problems"], report

        # The binary's own logits on a data set, as a user would compare them.
        subprocess.run(
            [fathom, "eval", checkpoint, "--data", "valid", "--seq-length", "40", "--dtype", "fp32"]
            + ["--threads", "1", "--dump-logits", "logits.safetensors"],
            cwd=scratch,
            check=True,
            capture_output=True,
            text=True,
        )
        report |= compare_logits(model, *read_outputs(scratch / "logits.safetensors"), 1e-4)
        assert not report["problems"], report

        directory = output / case
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        for file in checkpoint.iterdir():
            if file.name.startswith(("model", "config", "generation_config")):
                shutil.copy(file, directory)
    tokens = torch.randint(VOCAB, (2, 40), generator=torch.Generator().manual_seed(SEED))
    with torch.no_grad():
        logits = model(tokens, use_cache=False).logits
    golden_common.save_tensors(
        directory / "expected.safetensors", {"input.tokens": tokens, "logits": logits.float()}
    )
    golden_common.write_manifest(
        directory,
        "make_trained.py",
        SEED,
        "DeepseekV3ForCausalLM",
        [
            f"Weights: fathom pretrain, {STEPS} steps, precision {CASES[case][0]}; config.json is the trainer's.",
            "Other kernels or another instruction set train other last bits: made anew, the weights may differ.",
        ],
        {"loss_first": losses[0], "loss_last": losses[-1]} | {n: report[n] for n in ("tensors", "mtp_tensors")},
    )
    print(json.dumps({"case": case, "loss": [losses[0], losses[-1]], **report}))


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cases", nargs="*", default=list(CASES), metavar="CASE")
    parser.add_argument("--fathom", type=pathlib.Path, default=GOLDEN.parents[1] / "build/release/fathom")
    parser.add_argument("--output", type=pathlib.Path, default=GOLDEN)
    arguments = parser.parse_args()
    set_up()
    for case in arguments.cases:
        try:
            make(arguments.fathom.resolve(), case, arguments.output)
        except subprocess.CalledProcessError as error:
            command = " ".join(map(str, error.cmd))
            print(f"{command} failed ({error.returncode}):\n{error.stderr}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
