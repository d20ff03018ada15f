"""Makes tests/checkpoint/mindformers/: two tiny models in HF's layout and in those of MindFormers.

Written from MindFormers' tables of names and arrangements, tensor by tensor with plain loops, and without any converter.
Element (row, column) of the n-th HF tensor is 10000 n + 100 row + column, so every element tells where it came from. All
files are float32 but for what is int8 (w8a8, further down). `v3` has query compression, correction biases and an MTP layer; `lite` has none of these.
Run: python tests/checkpoint/make_mindformers_fixture.py  (numpy 2.4.6, safetensors 0.8.0)
"""
import json
import pathlib

import numpy as np
from safetensors.numpy import save_file

VOCAB, HIDDEN, HEADS, NOPE, ROPE, V, KV_RANK = 11, 6, 2, 4, 4, 3, 7
DENSE, INNER, EXPERTS, SHARED, LAYERS = 9, 5, 4, 2, 2  # layer 0 is dense
ROPE_ROWS = [0, 2, 1, 3]  # even rows, then odd ones


def hf_model(q_rank, has_bias, mtp):
    tensors = {}

    def add(name, *shape):
        n = len(tensors) + 1
        value = np.zeros(shape, np.float32)
        for index in np.ndindex(*shape):
            row, column = (index[0], index[1]) if len(shape) == 2 else (0, index[0])
            value[index] = 10000 * n + 100 * row + column
        tensors[name] = value

    def mlp(prefix, inner):
        add(prefix + "gate_proj.weight", inner, HIDDEN)
        add(prefix + "up_proj.weight", inner, HIDDEN)
        add(prefix + "down_proj.weight", HIDDEN, inner)

    add("model.embed_tokens.weight", VOCAB, HIDDEN)
    add("model.norm.weight", HIDDEN)
    add("lm_head.weight", VOCAB, HIDDEN)
    for layer in range(LAYERS + mtp):
        p = f"model.layers.{layer}."
        if layer == LAYERS:
            # Copies of the trunk's.
            tensors[p + "embed_tokens.weight"] = tensors["model.embed_tokens.weight"].copy()
            tensors[p + "shared_head.head.weight"] = tensors["lm_head.weight"].copy()
            for name in ("enorm", "hnorm", "shared_head.norm"):
                add(p + name + ".weight", HIDDEN)
            add(p + "eh_proj.weight", HIDDEN, 2 * HIDDEN)
        add(p + "input_layernorm.weight", HIDDEN)
        add(p + "post_attention_layernorm.weight", HIDDEN)
        a = p + "self_attn."
        if q_rank:
            add(a + "q_a_proj.weight", q_rank, HIDDEN)
            add(a + "q_a_layernorm.weight", q_rank)
            add(a + "q_b_proj.weight", HEADS * (NOPE + ROPE), q_rank)
        else:
            add(a + "q_proj.weight", HEADS * (NOPE + ROPE), HIDDEN)
        add(a + "kv_a_proj_with_mqa.weight", KV_RANK + ROPE, HIDDEN)
        add(a + "kv_a_layernorm.weight", KV_RANK)
        add(a + "kv_b_proj.weight", HEADS * (NOPE + V), KV_RANK)
        add(a + "o_proj.weight", HIDDEN, HEADS * V)
        if layer == 0:
            mlp(p + "mlp.", DENSE)
            continue
        add(p + "mlp.gate.weight", EXPERTS, HIDDEN)
        if has_bias:
            add(p + "mlp.gate.e_score_correction_bias", EXPERTS)
        mlp(p + "mlp.shared_experts.", SHARED * INNER)
        for expert in range(EXPERTS):
            mlp(p + f"mlp.experts.{expert}.", INNER)
    return tensors


def config_json(q_rank, has_bias, mtp):
    return {
        "model_type": "deepseek_v3" if has_bias else "deepseek_v2", "vocab_size": VOCAB, "hidden_size": HIDDEN,
        "intermediate_size": DENSE, "moe_intermediate_size": INNER, "num_hidden_layers": LAYERS,
        "num_nextn_predict_layers": mtp, "num_attention_heads": HEADS, "num_key_value_heads": HEADS,
        "q_lora_rank": q_rank or None, "kv_lora_rank": KV_RANK, "qk_nope_head_dim": NOPE, "qk_rope_head_dim": ROPE,
        "v_head_dim": V, "n_routed_experts": EXPERTS, "n_shared_experts": SHARED, "num_experts_per_tok": 2,
        "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1, "moe_layer_freq": 1,
        "topk_method": "noaux_tc" if has_bias else "greedy", "scoring_func": "sigmoid" if has_bias else "softmax",
        "norm_topk_prob": has_bias, "routed_scaling_factor": 1.0, "rms_norm_eps": 1e-6, "rope_theta": 10000,
        "rope_scaling": None, "max_position_embeddings": 64, "initializer_range": 0.02, "hidden_act": "silu",
        "attention_bias": False, "tie_word_embeddings": False, "bos_token_id": 0, "eos_token_id": 1,
        "torch_dtype": "float32",
    }


def heads_first(matrix, size, first):
    """Rows [:first] of every head (of `size` rows), one head after the other; and the other rows of every head."""
    a, b = [], []
    for head in range(HEADS):
        for i in range(size):
            (a if i < first else b).append(matrix[head * size + i])
    return np.stack(a), np.stack(b)


def permuted_per_head(rows):
    result = []
    for head in range(HEADS):
        for i in ROPE_ROWS:
            result.append(rows[head * ROPE + i])
    return np.stack(result)


def permuted_query(matrix):
    """Inference: per head its nope rows and then its rope rows, evens before odds."""
    result = []
    for head in range(HEADS):
        for i in range(NOPE):
            result.append(matrix[head * (NOPE + ROPE) + i])
        for i in ROPE_ROWS:
            result.append(matrix[head * (NOPE + ROPE) + NOPE + i])
    return np.stack(result)


def permuted_latent(matrix):
    return np.stack([matrix[i] for i in range(KV_RANK)] + [matrix[KV_RANK + i] for i in ROPE_ROWS])


LEGACY_NAMES = {
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_a_layernorm": "attention.lq_norm",
    "self_attn.kv_a_layernorm": "attention.lkv_norm",
    "self_attn.o_proj": "attention.wo",
}


def legacy(hf, q_rank, has_bias, mtp, kind, fused=False):
    """kind: train, gmm or infer."""
    out = {
        "model.tok_embeddings.embedding_weight": hf["model.embed_tokens.weight"],
        "model.norm_out.weight": hf["model.norm.weight"],
        "lm_head.weight": hf["lm_head.weight"],
    }
    infer = kind == "infer"
    for layer in range(LAYERS + mtp):
        p = f"model.layers.{layer}."

        def of(name):
            return hf[p + name + ".weight"]

        for name, here in LEGACY_NAMES.items():
            if p + name + ".weight" in hf:
                out[p + here + ".weight"] = of(name)
        if q_rank and not fused:
            out[p + "attention.q2l_proj.weight"] = of("self_attn.q_a_proj")
        if not q_rank:
            out[p + "attention.q_proj.weight"] = permuted_query(of("self_attn.q_proj"))
        elif infer:
            out[p + "attention.l2q_proj.weight"] = permuted_query(of("self_attn.q_b_proj"))
        else:
            nope, rope = heads_first(of("self_attn.q_b_proj"), NOPE + ROPE, NOPE)
            out[p + "attention.l2q_nope_proj.weight"] = nope
            out[p + "attention.l2q_pe_proj.weight"] = permuted_per_head(rope)
        latent = permuted_latent(of("self_attn.kv_a_proj_with_mqa"))
        if fused and q_rank:
            out[p + "attention.qkv2l.weight"] = np.concatenate([of("self_attn.q_a_proj"), latent])
        elif infer:
            out[p + "attention.kv2l.weight"] = latent
        else:
            out[p + "attention.kv2l_latent_kv.weight"] = latent[:KV_RANK]
            out[p + "attention.kv2l_k_pe.weight"] = latent[KV_RANK:]
        k, v = heads_first(of("self_attn.kv_b_proj"), NOPE + V, NOPE)
        out[p + "attention.lkv2kv_k_nope.weight"] = k
        out[p + "attention.lkv2kv_v.weight"] = v

        plain = [("mlp.", "feed_forward.")] if layer == 0 else [("mlp.shared_experts.", "feed_forward.shared_experts.")]
        for name, here in plain:
            gate, up = of(name + "gate_proj"), of(name + "up_proj")
            if fused:
                out[p + here + "w_gate_hidden.weight"] = np.concatenate([gate, up])
            else:
                out[p + here + "w1.weight"], out[p + here + "w3.weight"] = gate, up
            out[p + here + "w2.weight"] = of(name + "down_proj")
        if layer > 0:
            routed = p + "feed_forward.routed_experts."
            gate, up, down = [
                [of(f"mlp.experts.{e}.{x}_proj") for e in range(EXPERTS)] for x in ("gate", "up", "down")
            ]
            bias = {"train": "router.router.topk_bias", "gmm": "topk_bias", "infer": "router.e_score_correction_bias"}
            out[routed + ("router_dense.weight" if kind == "gmm" else "router.dense.weight")] = of("mlp.gate")
            if has_bias:
                out[routed + bias[kind]] = hf[p + "mlp.gate.e_score_correction_bias"]
            if kind == "train":
                out[routed + "ffn.w1.weight"] = np.stack(gate)
                out[routed + "ffn.w3.weight"] = np.stack(up)
                out[routed + "ffn.w2.weight"] = np.stack(down)
            elif kind == "gmm":
                out[routed + "ffn.w1"] = np.stack([np.concatenate([g.T, u.T], 1) for g, u in zip(gate, up)])
                out[routed + "ffn.w2"] = np.stack([d.T for d in down])
            else:
                if fused:
                    out[routed + "ffn.w_gate_hidden.weight"] = np.stack(
                        [np.concatenate([g.T, u.T], 1) for g, u in zip(gate, up)])
                else:
                    out[routed + "ffn.w1.weight"] = np.stack([g.T for g in gate])
                    out[routed + "ffn.w3.weight"] = np.stack([u.T for u in up])
                out[routed + "ffn.w2.weight"] = np.stack([d.T for d in down])
        if layer == LAYERS and infer:
            out[p + "tok_embeddings.weight"] = of("embed_tokens")
            for name in ("enorm", "hnorm", "eh_proj", "shared_head.norm", "shared_head.head"):
                out[p + name + ".weight"] = of(name)
        elif layer == LAYERS:
            out["model.mtp_hidden_fusers.0.norm_emb.weight"] = of("enorm")
            out["model.mtp_hidden_fusers.0.norm.weight"] = of("hnorm")
            both = of("eh_proj")  # embedding first; training has the hidden state first
            out["model.mtp_hidden_fusers.0.dense.weight"] = np.concatenate([both[:, HIDDEN:], both[:, :HIDDEN]], 1)
            out["model.mtp_norms.0.weight"] = of("shared_head.norm")
    return out


def mcore(hf, q_rank, has_bias, mtp, version, split=False, local=False):
    """version: dev or r1.8."""
    out = {
        "embedding.word_embeddings.weight": hf["model.embed_tokens.weight"],
        "decoder.final_layernorm.weight": hf["model.norm.weight"],
        "output_layer.weight": hf["lm_head.weight"],
    }
    dev = version == "dev"

    def fc1(gate, up):
        if dev:
            return np.concatenate([gate, up])
        rows = []
        for g, u in zip(gate, up):
            rows += [g, u]
        return np.stack(rows)

    for layer in range(LAYERS + mtp):
        p, q = f"model.layers.{layer}.", f"decoder.layers.{layer}."

        def of(name):
            return hf[p + name + ".weight"]

        if layer == LAYERS:
            for name, here in (("enorm", "enorm"), ("hnorm", "hnorm"), ("eh_proj", "eh_proj"),
                               ("shared_head.norm", "final_layernorm")):
                out[f"mtp.layers.0.{here}.weight"] = of(name)
            q = "mtp.layers.0.transformer_layer."
        out[q + "input_layernorm.weight"] = of("input_layernorm")
        out[q + "pre_mlp_layernorm.weight"] = of("post_attention_layernorm")
        a, query = q + "self_attention.", of("self_attn.q_a_proj" if q_rank else "self_attn.q_proj")
        latent = of("self_attn.kv_a_proj_with_mqa")
        if dev:
            out[a + "linear_qkv.weight"] = np.concatenate([query, latent])
        else:
            out[a + ("linear_q_down_proj.weight" if q_rank else "linear_q_proj.weight")] = query
            out[a + "linear_kv_down_proj.weight"] = latent
        out[a + ("k_layernorm.weight" if dev else "kv_layernorm.weight")] = of("self_attn.kv_a_layernorm")
        if q_rank:
            out[a + "q_layernorm.weight"] = of("self_attn.q_a_layernorm")
            if split:
                nope, rope = heads_first(of("self_attn.q_b_proj"), NOPE + ROPE, NOPE)
                out[a + "linear_qk_nope.weight"], out[a + "linear_qk_rope.weight"] = nope, rope
            else:
                out[a + ("linear_qb.weight" if dev else "linear_q_up_proj.weight")] = of("self_attn.q_b_proj")
        if split:
            k, v = heads_first(of("self_attn.kv_b_proj"), NOPE + V, NOPE)
            out[a + "linear_kv_nope.weight"], out[a + "linear_v.weight"] = k, v
        else:
            out[a + ("linear_kvb.weight" if dev else "linear_kv_up_proj.weight")] = of("self_attn.kv_b_proj")
        out[a + "linear_proj.weight"] = of("self_attn.o_proj")
        if layer == 0:
            out[q + "mlp.linear_fc1.weight"] = fc1(of("mlp.gate_proj"), of("mlp.up_proj"))
            out[q + "mlp.linear_fc2.weight"] = of("mlp.down_proj")
            continue
        out[q + "mlp.router.weight"] = of("mlp.gate")
        if has_bias:
            out[q + "mlp.router.expert_bias"] = hf[p + "mlp.gate.e_score_correction_bias"]
        shared = "mlp.shared_experts."
        out[q + shared + "linear_fc1.weight"] = fc1(of(shared + "gate_proj"), of(shared + "up_proj"))
        out[q + shared + "linear_fc2.weight"] = of(shared + "down_proj")
        first = [np.concatenate([of(f"mlp.experts.{e}.gate_proj"), of(f"mlp.experts.{e}.up_proj")]) for e in range(EXPERTS)]
        second = [of(f"mlp.experts.{e}.down_proj") for e in range(EXPERTS)]
        if local:
            for e in range(EXPERTS):
                out[q + f"mlp.experts.local_experts.{e}.linear_fc1.weight"] = first[e]
                out[q + f"mlp.experts.local_experts.{e}.linear_fc2.weight"] = second[e]
            continue
        weight1 = np.concatenate([w.T for w in first])  # [experts * hidden, gate and up]
        out[q + "mlp.experts.weight1"] = weight1.reshape(HIDDEN, -1) if dev else weight1
        out[q + "mlp.experts.weight2"] = np.concatenate([w.T for w in second])
    return out


# --- w8a8: the recipe of predict_deepseek3_671b_w8a8.yaml, in the tensors that its loader wants

# Channel j of an input lies in [j + 1 - half, j + 1 + half], so the shift is -(j + 1).
HALF_RANGES = {"q_proj": 4, "q_a_proj": 4, "kv_a_proj_with_mqa": 4, "q_b_proj": 6, "o_proj": 10}
MLP = ("gate_proj", "up_proj", "down_proj")


def kind_of(name):
    """static, dynamic or None, of an HF tensor; MTP layers and kv_b_proj stay as they are."""
    if any(name.startswith(f"model.layers.{layer}.") for layer in range(LAYERS)):
        module = name.split(".")[-2]
        if ".self_attn." in name and module in HALF_RANGES:
            return "static"
        if ".mlp." in name and module in MLP:
            return "dynamic"
    return None


def input_scale(half):
    """The smallest bfloat16 from half / 127 on, as float32."""
    exact = np.float32(half) / np.float32(127)
    rounded = (exact.view(np.uint32) & np.uint32(0xffff0000)).view(np.float32)
    return rounded if rounded >= exact else (rounded.view(np.uint32) + np.uint32(0x10000)).view(np.float32)


def coded(hf):
    """Integer codes with a 127 in each row, a scale a row of few bits, and the HF model that they make."""
    codes, scales, model = {}, {}, dict(hf)
    for n, (name, value) in enumerate(hf.items()):
        if not kind_of(name):
            continue
        rows, columns = value.shape
        code, scale = np.zeros((rows, columns), np.int8), np.zeros((rows, 1), np.float32)
        for r in range(rows):
            scale[r] = (2 * (r % 4) + 1) * 2.0 ** -(7 + n % 3)
            for c in range(columns):
                code[r, c] = (37 * (7 * r + 13 * c + n)) % 255 - 127
            code[r, r % columns] = 127 if r % 2 else -127
        codes[name], scales[name] = code, scale
        model[name] = code.astype(np.float32) * scale
    return codes, scales, model


def w8a8(codes, scales, model, q_rank, has_bias, mtp, fused):
    static = [name for name in codes if kind_of(name) == "static"]
    step = {name: input_scale(HALF_RANGES[name.split(".")[-2]]) for name in static}
    bias = {}
    for name in static:
        beta = [-(j + 1) for j in range(codes[name].shape[1])]
        sums = [sum(int(code) * b for code, b in zip(row, beta)) for row in codes[name]]
        bias[name] = np.array([[np.rint(-s / np.float64(step[name]))] for s in sums]).astype(np.int32)

    def laid_out(values):
        """The layout of anything that has a row for each row of a matrix."""
        return legacy({name: values.get(name, value) for name, value in model.items()}, q_rank, has_bias, mtp, "infer",
                      fused)

    names = {name: np.full_like(codes[name], 1 + (kind_of(name) == "static")) for name in codes}
    kinds = legacy({name: names.get(name, np.zeros_like(value)) for name, value in model.items()}, q_rank, has_bias, mtp,
                   "infer", fused)
    by_code, by_scale = laid_out(codes), laid_out(scales)
    by_deq = laid_out({name: scales[name] * step[name] for name in static})
    by_bias = laid_out(bias)
    by_step = laid_out({name: np.full_like(scales[name], step[name]) for name in static})
    out, types = {}, {}
    for name, value in laid_out({}).items():
        kind, x = kinds[name].flat[0], name.removesuffix("weight")
        if not kind:
            out[name], types[name] = value, "FLOAT"
            continue
        stack = by_code[name].ndim == 3
        shape = by_scale[name].shape
        parts = {"_layer.weight": by_code[name].astype(np.int8)}
        if kind == 1:
            vectors = by_scale[name].reshape((shape[0], shape[2]) if stack else shape[:1])
            parts["_layer.matmul.weight_scale"] = vectors.astype(np.float32)
        else:
            columns = by_code[name].shape[1]
            parts["_layer.matmul.dequant_scale"] = by_deq[name].reshape(-1).astype(np.float32)
            parts["_layer.matmul.quant_bias"] = by_bias[name].reshape(-1).astype(np.int32)
            parts["quant_op.input_scale"] = bfloat16(by_step[name].reshape(-1)[:1])
            parts["quant_op.input_zp"] = np.zeros(1, np.int8)
            parts["quant_op.beta"] = bfloat16(np.array([-(j + 1) for j in range(columns)], np.float32))
        for part, tensor in parts.items():
            out[x + part], types[x + part] = tensor, "W8A8_DYNAMIC" if kind == 1 else "W8A8"
    return out, types


def bfloat16(values):
    """The upper halves of values that are bfloat16 already."""
    assert not (values.view(np.uint32) & np.uint32(0xffff)).any()
    return (values.view(np.uint32) >> np.uint32(16)).astype(np.uint16)


def write(path, tensors):
    save_file({name: np.ascontiguousarray(value) for name, value in tensors.items()}, path)


def write_with_bfloat16(path, tensors):
    """NumPy has no bfloat16: its bytes are written as float16's, and the header then calls them by their name."""
    write(path, {name: value.view(np.float16) if value.dtype == np.uint16 else value for name, value in tensors.items()})
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = data[8:8 + size].replace(b'"F16"', b'"BF16"').rstrip()
    header += b" " * (-len(header) % 8)
    path.write_bytes(len(header).to_bytes(8, "little") + header + data[8 + size:])


for model, shape in {"v3": (5, True, 1), "lite": (0, False, 0)}.items():
    folder = pathlib.Path(__file__).parent / "mindformers" / model
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config_json(*shape), indent=1) + "\n")
    hf = hf_model(*shape)
    write(folder / "hf.safetensors", hf)
    write(folder / "infer.safetensors", legacy(hf, *shape, "infer"))
    codes, scales, whole = coded(hf)
    write(folder / "w8a8_hf.safetensors", whole)
    for fused in (False, True):
        tensors, types = w8a8(codes, scales, whole, *shape, fused)
        write_with_bfloat16(folder / ("w8a8_fused.safetensors" if fused else "w8a8.safetensors"), tensors)
        if not fused:
            (folder / "w8a8.json").write_text(json.dumps(types, indent=1, sort_keys=True) + "\n")
    write(folder / "mcore_dev.safetensors", mcore(hf, *shape, "dev"))
    write(folder / "mcore_r1.8.safetensors", mcore(hf, *shape, "r1.8"))
    if model == "lite":
        continue
    write(folder / "train.safetensors", legacy(hf, *shape, "train"))
    write(folder / "train_gmm.safetensors", legacy(hf, *shape, "gmm"))
    write(folder / "infer_fused.safetensors", legacy(hf, *shape, "infer", fused=True))
    write(folder / "mcore_split.safetensors", mcore(hf, *shape, "dev", split=True, local=True))
