"""llama.cpp (llama-cpp-python 0.3.36) runs the GGUF files that `fathom convert --format gguf` writes.

For every shape of tests/golden, and for small random models with a tokenizer:

 1. A float32 GGUF, taken apart by the gguf package, gives the HF tensors back bit for bit.
 2. From it llama.cpp continues prompts greedily with the very tokens of `fathom generate`.
 3. With a tokenizer, llama.cpp cuts texts into the ids of `fathom tokenize`.
 4. bf16, q8_0 and q4_0 have the types and bits that llama.cpp's own quantiser makes of the float32 file, but for the head
    of q4_0: Q8_0 here, Q6_K there.
 5. llama.cpp runs them, and the dequantised file becomes an HF checkpoint, which `fathom generate` continues in float32.
    llama.cpp rounds activations to bfloat16 or 8 bits there: in a model without experts it must choose the same token
    wherever the best one leads the one it chose by more than TOLERANCE. With experts a rounding may choose another expert,
    so the lead is only shown. What follows a difference is not compared.

The same key and value cache in float32 everywhere. The golden case v2_group is left out: llama.cpp chooses its groups by
two experts (docs/convert.md). Prints "N passed, M failed".
"""

import argparse
import ctypes
import json
import os
import pathlib
import shutil
import subprocess
import sys

import gguf
import llama_cpp
import numpy as np
from safetensors.numpy import save_file

ROOT = pathlib.Path(__file__).resolve().parent.parent
GOLDEN = ["v3", "v3_yarn", "v3_negative_bias", "v3_half_split", "moonlight", "moonlight_yarn", "kimi_k2", "v2_lite",
          "v2_lite_yarn", "v3_mtp"]
TOLERANCE = {"bf16": 0.05, "q8_0": 0.1, "q4_0": 0.1}  # in log probability
FILE_TYPES = {"bf16": llama_cpp.LLAMA_FTYPE_MOSTLY_BF16, "q8_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0,
              "q4_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0}
NUM_TOKENS = 24
TEXTS = ["The history of the city, 1234567 years.\n\n  \t It's 3.14!", "\u5317\u4eac\u662f\u4e2d\u56fd\u7684\u9996\u90fd\u3002 \u3072\u3089\u304c\u306a",
         "def f(x):\n    return x**2 + 1  # caf\u00e9 \U0001f680\u200d", " na\u00efve \u0440\u0443\u0441\u0441\u043a\u0438\u0439 \u0e44\u0e17\u0e22  'RE 'll"]


class Program:
    def __init__(self, path):
        self.path = path

    def __call__(self, *arguments):
        result = subprocess.run([self.path, *map(str, arguments)], capture_output=True, text=True, check=False)
        if result.returncode != 0:
            raise RuntimeError(f"fathom {' '.join(map(str, arguments))}: {result.stderr}")
        return result.stdout

    def continue_greedily(self, directory, prompt):
        """Tokens, and at each place {token: log probability} of the best."""
        text = self("generate", directory, "--prompt-ids", ",".join(map(str, prompt)), "--max-new-tokens", NUM_TOKENS,
                    "--ignore-eos", "--dtype", "fp32", "--logprobs", 20, "--json")
        answer = json.loads(text.splitlines()[0])
        return answer["token_ids"], [self.by_token(place) for place in answer["top_logprobs"]]

    @staticmethod
    def by_token(place):
        if isinstance(place, dict):
            return {int(token): value for token, value in place.items()}
        return {item["token_id"] if "token_id" in item else item["id"]: item["logprob"] for item in place}


class Llama:
    def __init__(self, path):
        parameters = llama_cpp.llama_model_default_params()
        parameters.n_gpu_layers = 0
        # With its AMX buffers this llama.cpp aborts on Q8_0 and Q4_0 files of this architecture, its own quantiser's too
        # (GGML_ASSERT(*cur_backend_id != -1)).
        parameters.use_extra_bufts = False
        self.model = llama_cpp.llama_model_load_from_file(str(path).encode(), parameters)
        if not self.model:
            raise RuntimeError(f"llama.cpp does not load {path}")
        self.vocab = llama_cpp.llama_model_get_vocab(self.model)
        self.size = llama_cpp.llama_vocab_n_tokens(self.vocab)

    def tokenize(self, text):
        data = text.encode()
        ids = (llama_cpp.llama_token * (len(data) + 8))()
        count = llama_cpp.llama_tokenize(self.vocab, data, len(data), ids, len(ids), False, False)
        return list(ids[:count])

    def continue_greedily(self, prompt):
        parameters = llama_cpp.llama_context_default_params()
        parameters.n_ctx = 128
        parameters.type_k = parameters.type_v = 0  # float32
        parameters.flash_attn_type = 0
        parameters.n_threads = parameters.n_threads_batch = 2
        context = llama_cpp.llama_init_from_model(self.model, parameters)
        if not context:
            raise RuntimeError("llama.cpp makes no context")
        tokens, given = [], list(prompt)
        while len(tokens) < NUM_TOKENS:
            batch = (llama_cpp.llama_token * len(given))(*given)
            if llama_cpp.llama_decode(context, llama_cpp.llama_batch_get_one(batch, len(given))) != 0:
                raise RuntimeError("llama.cpp does not decode")
            logits = np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(context, -1), (self.size,))
            tokens.append(int(logits.argmax()))
            given = tokens[-1:]
        llama_cpp.llama_free(context)
        return tokens

    def close(self):
        llama_cpp.llama_model_free(self.model)


NAMES = {"attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_q_a": "self_attn.q_a_proj",
         "attn_q_a_norm": "self_attn.q_a_layernorm", "attn_q_b": "self_attn.q_b_proj",
         "attn_kv_a_mqa": "self_attn.kv_a_proj_with_mqa", "attn_kv_a_norm": "self_attn.kv_a_layernorm",
         "attn_output": "self_attn.o_proj", "ffn_norm": "post_attention_layernorm", "ffn_gate_inp": "mlp.gate"}
for part in ("gate", "up", "down"):
    NAMES[f"ffn_{part}"] = f"mlp.{part}_proj"
    NAMES[f"ffn_{part}_shexp"] = f"mlp.shared_experts.{part}_proj"


def to_hf(path, interleaves):
    """The float32 HF tensors in a GGUF."""
    reader = gguf.GGUFReader(path)
    field = lambda key: reader.get_field("deepseek2." + key).contents()
    rope = field("rope.dimension_count")
    nope = field("attention.key_length_mla") - rope
    result, halves = {}, {}

    def as_halves(rows, heads):  # adjacent pairs back into first and second halves
        if interleaves:
            return rows
        blocks = rows.reshape(heads, -1, rows.shape[1]).copy()
        last = blocks[:, -rope:].copy()
        blocks[:, -rope:] = np.concatenate([last[:, 0::2], last[:, 1::2]], axis=1)
        return blocks.reshape(rows.shape)

    for tensor in reader.tensors:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        values = values.reshape([int(n) for n in reversed(tensor.shape)])
        parts = tensor.name.split(".")
        if parts[0] != "blk":
            name = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}[parts[0]]
            result[name + ".weight"] = values
            continue
        prefix, kind = f"model.layers.{parts[1]}.", parts[2]
        if kind in ("attn_k_b", "attn_v_b"):
            halves[prefix, kind] = values
        elif kind.endswith("_exps"):
            for expert, matrix in enumerate(values):
                result[f"{prefix}mlp.experts.{expert}.{kind[4:-5]}_proj.weight"] = matrix
        elif kind == "exp_probs_b":
            result[prefix + "mlp.gate.e_score_correction_bias"] = values
        else:
            if kind in ("attn_q", "attn_q_b"):
                values = as_halves(values, values.shape[0] // (nope + rope))
            elif kind == "attn_kv_a_mqa":
                values = as_halves(values, 1)
            result[f"{prefix}{NAMES[kind]}.weight"] = values
    for (prefix, kind), k_b in halves.items():
        if kind == "attn_k_b":
            kv_b = np.concatenate([k_b.transpose(0, 2, 1), halves[prefix, "attn_v_b"]], axis=1)
            result[prefix + "self_attn.kv_b_proj.weight"] = kv_b.reshape(-1, kv_b.shape[2])
    return {name: np.ascontiguousarray(values) for name, values in result.items()}


def write_hf(directory, source, tensors):
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    config = json.loads((source / "config.json").read_text())
    config.pop("quantization_config", None)
    config.update(num_nextn_predict_layers=0, dtype="float32", torch_dtype="float32")
    (directory / "config.json").write_text(json.dumps(config))
    save_file(tensors, directory / "model.safetensors")


def stored_tensors(directory):
    """Float32 HF tensors as `fathom convert --dtype fp32` gives them."""
    from safetensors import safe_open

    result = {}
    for file in sorted(directory.glob("*.safetensors")):
        with safe_open(file, framework="numpy") as tensors:
            result.update({name: tensors.get_tensor(name) for name in tensors.keys()})
    return result


class Check:
    def __init__(self, fathom, work):
        self.fathom, self.work = fathom, work
        self.passed = self.failed = 0

    def expect(self, holds, what):
        self.passed += bool(holds)
        self.failed += not holds
        print(("ok      " if holds else "FAILED  ") + what, flush=True)

    def model(self, name, source, dtypes, prompts, has_tokenizer):
        interleaves = json.loads((source / "config.json").read_text()).get("rope_interleave", True)
        for dtype in dtypes:
            path = self.work / f"{name}-{dtype}.gguf"
            self.fathom("convert", source, path, "--format", "gguf", "--dtype", dtype)
            tensors = to_hf(path, interleaves)
            if dtype == "fp32":
                plain = self.work / f"{name}-hf"
                self.fathom("convert", source, plain, "--dtype", "fp32", "--drop-mtp")
                expected = stored_tensors(plain)
                same = tensors.keys() == expected.keys() and all(
                    np.array_equal(tensors[key].view(np.uint32), expected[key].view(np.uint32)) for key in expected)
                self.expect(same, f"{name} {dtype}: {len(expected)} tensors come back bit for bit")
            if dtype in FILE_TYPES:
                self.quantize(name, dtype, path)
            directory = self.work / f"{name}-{dtype}"
            write_hf(directory, source, tensors)
            llama = Llama(path)
            if has_tokenizer and dtype == "fp32":
                for text in TEXTS:
                    command = ["tokenize", "--tokenizer", source, "--json", "--file", self.work / "text"]
                    (self.work / "text").write_text(text)
                    ids = json.loads(self.fathom(*command).splitlines()[0])["ids"]
                    self.expect(llama.tokenize(text) == ids, f"{name}: the ids of {text[:20]!r}")
            has_experts = any(".experts." in key for key in tensors)
            for prompt in prompts:
                self.compare(f"{name} {dtype}", directory, llama, prompt, dtype, has_experts)
            llama.close()
            shutil.rmtree(directory)
            if dtype != "fp32":
                path.unlink()

    def quantize(self, name, dtype, path):
        theirs = self.work / "theirs.gguf"
        parameters = llama_cpp.llama_model_quantize_default_params()
        parameters.ftype = FILE_TYPES[dtype]
        source = self.work / f"{name}-fp32.gguf"
        if llama_cpp.llama_model_quantize(str(source).encode(), str(theirs).encode(), parameters) != 0:
            raise RuntimeError(f"llama.cpp does not quantise {source}")
        ours, expected = ({t.name: t for t in gguf.GGUFReader(file).tensors} for file in (path, theirs))
        if dtype == "q4_0":
            expected.pop("output.weight")
            self.expect(ours.pop("output.weight").tensor_type.name == "Q8_0", f"{name} {dtype}: the head is Q8_0")
        same = ours.keys() == expected.keys() and all(
            ours[key].tensor_type == t.tensor_type and np.array_equal(ours[key].data, t.data)
            for key, t in expected.items())
        self.expect(same, f"{name} {dtype}: {len(expected)} tensors are bit for bit those of llama.cpp's quantiser")
        theirs.unlink()

    def compare(self, name, directory, llama, prompt, dtype, has_experts):
        ours, alternatives = self.fathom.continue_greedily(directory, prompt)
        theirs = llama.continue_greedily(prompt)
        same = next((i for i in range(NUM_TOKENS) if ours[i] != theirs[i]), NUM_TOKENS)
        text = f"{name}: {same} of {NUM_TOKENS} tokens after {len(prompt)}"
        if same < NUM_TOKENS:
            best = alternatives[same]
            lead = best[ours[same]] - best.get(theirs[same], -np.inf)
            text += f"; then the best leads theirs by {lead:.4f}"
            self.expect(dtype != "fp32" and (has_experts or lead <= TOLERANCE[dtype]), text)
        else:
            self.expect(True, text)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--fathom", default="build/release/fathom")
    parser.add_argument("--work", type=pathlib.Path, default=pathlib.Path("build/check_llama_cpp"))
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    if not os.environ.get("FATHOM_VERBOSE"):
        silence = llama_cpp.llama_log_callback(lambda level, text, data: None)
        llama_cpp.llama_log_set(silence, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    check = Check(Program(options.fathom), options.work)
    generator = np.random.default_rng(3)
    for case in GOLDEN:
        if options.only in case:
            prompts = [generator.integers(2, 320, n).tolist() for n in (1, 7, 40)]
            check.model(case, ROOT / "tests/golden" / case, ["fp32"], prompts, False)
    # Random models whose logits are far enough apart for a greedy choice to mean something.
    for family, changes in {
        "small-v3": dict(n_group=4, topk_group=2),
        "small-v3-yarn": dict(rope_scaling=dict(type="yarn", factor=40, original_max_position_embeddings=64, beta_fast=32,
                                                beta_slow=1, mscale=1.0, mscale_all_dim=1.0)),
        "small-moonlight": dict(q_lora_rank=None, n_group=1, topk_group=1, n_shared_experts=2, rope_theta=50000),
        "small-dense": dict(n_routed_experts=None, num_nextn_predict_layers=0),
    }.items():
        if options.only not in family:
            continue
        config = json.loads((ROOT / "configs/models/tiny.json").read_text())
        config.update(initializer_range=0.1, **changes)
        file = options.work / f"{family}.json"
        file.write_text(json.dumps(config))
        source = options.work / family
        check.fathom("init", file, source, "--dtype", "bf16", "--seed", 5)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(ROOT / "assets/tokenizer" / name, source / name)
        prompts = [generator.integers(2, 100000, n).tolist() for n in (5, 33)]
        check.model(family, source, ["fp32", "bf16", "q8_0", "q4_0"], prompts, True)
        shutil.rmtree(source)
    print(f"{check.passed} passed, {check.failed} failed")
    sys.exit(check.failed != 0)


if __name__ == "__main__":
    main()
