"""Makes the trunk fixtures tests/golden/<case>/ from HF transformers. See README.md for what each file holds.

python tests/golden/make_models.py [CASE...]
"""

import sys

import torch
import transformers
from transformers import AutoModelForCausalLM, DeepseekV2Config, DeepseekV2ForCausalLM, DeepseekV3Config
from transformers import DeepseekV3ForCausalLM
from transformers.masking_utils import create_causal_mask

import golden_common as common

BATCH, LENGTH, GENERATE = 2, 40, 24
PROMPT_LENGTHS = (7, 13)
# Document starts of the packed rows; row 1 holds a document of one token.
DOCUMENTS = ((0, 13, 27), (0, 5, 6, 31))

BASE = dict(
    vocab_size=320,
    hidden_size=48,
    intermediate_size=72,
    moe_intermediate_size=20,
    num_hidden_layers=3,
    first_k_dense_replace=1,
    moe_layer_freq=1,
    num_attention_heads=4,
    num_key_value_heads=4,
    q_lora_rank=24,
    kv_lora_rank=32,
    qk_nope_head_dim=16,
    qk_rope_head_dim=8,
    v_head_dim=12,
    n_routed_experts=8,
    num_experts_per_tok=3,
    n_shared_experts=1,
    hidden_act="silu",
    rms_norm_eps=1e-6,
    rope_theta=10000,
    rope_scaling=None,
    max_position_embeddings=96,
    initializer_range=0.02,
    attention_bias=False,
    attention_dropout=0.0,
    tie_word_embeddings=False,
    use_cache=True,
    bos_token_id=0,
    eos_token_id=1,
    ep_size=1,
    pretraining_tp=1,
    torch_dtype="float32",
)


def yarn(factor, original, mscale, mscale_all_dim=None, beta_fast=32, beta_slow=1):
    return dict(
        type="yarn",
        factor=factor,
        original_max_position_embeddings=original,
        beta_fast=beta_fast,
        beta_slow=beta_slow,
        mscale=mscale,
        mscale_all_dim=mscale if mscale_all_dim is None else mscale_all_dim,
    )


V3 = BASE | dict(
    architectures=["DeepseekV3ForCausalLM"],
    model_type="deepseek_v3",
    n_group=4,
    topk_group=2,
    topk_method="noaux_tc",
    scoring_func="sigmoid",
    norm_topk_prob=True,
    routed_scaling_factor=2.5,
    num_nextn_predict_layers=0,
)
# The ramp ends inside the rotary dimensions (frequency 1 of 4 is a half-and-half blend).
V3_YARN = V3 | dict(rope_theta=100, rope_scaling=yarn(4, 24, 1.0))
MOONLIGHT = V3 | dict(
    q_lora_rank=None,
    rms_norm_eps=1e-5,
    rope_theta=50000.0,
    n_group=1,
    topk_group=1,
    n_shared_experts=2,
    routed_scaling_factor=2.446,
)
KIMI = V3 | dict(
    model_type="kimi_k2",
    n_group=1,
    topk_group=1,
    n_routed_experts=16,
    num_experts_per_tok=4,
    moe_intermediate_size=12,
    routed_scaling_factor=2.827,
    rope_theta=50000.0,
    rope_scaling=yarn(4, 24, 1.0, beta_fast=1.0, beta_slow=1.0),
)
V2_LITE = BASE | dict(
    architectures=["DeepseekV2ForCausalLM"],
    model_type="deepseek_v2",
    q_lora_rank=None,
    n_group=1,
    topk_group=1,
    topk_method="greedy",
    scoring_func="softmax",
    norm_topk_prob=False,
    routed_scaling_factor=1.0,
    n_shared_experts=2,
)
V2_GROUP = V2_LITE | dict(
    q_lora_rank=24,
    n_group=4,
    topk_group=2,
    topk_method="group_limited_greedy",
    routed_scaling_factor=16.0,
    rope_scaling=yarn(4, 16, 0.707),
    max_position_embeddings=64,
)

# name -> (published config, seed, options)
CASES = {
    "v3": (V3, 101, dict(packed=True, bf16=True)),
    "v3_yarn": (V3_YARN, 102, dict(gradients="router")),
    "v3_negative_bias": (V3, 103, dict(bias_range=(-1.2, 0.3), gradients="router")),
    "v3_half_split": (
        V3 | dict(num_hidden_layers=2, rope_interleave=False),
        104,
        dict(gradients="attention"),
    ),
    "moonlight": (MOONLIGHT, 105, dict()),
    # mscale != mscale_all_dim: the only case whose cosines and sines are scaled.
    "moonlight_yarn": (
        MOONLIGHT | dict(num_hidden_layers=2, rope_scaling=yarn(4, 24, 1.0, 0.5)),
        106,
        dict(gradients="attention"),
    ),
    "kimi_k2": (KIMI, 107, dict(gradients="router")),
    "v2_lite": (V2_LITE, 108, dict(gradients="router")),
    "v2_lite_yarn": (
        V2_LITE | dict(num_hidden_layers=2, rope_scaling=yarn(4, 16, 0.707), max_position_embeddings=64),
        409,
        dict(gradients="attention"),
    ),
    "v2_group": (V2_GROUP, 210, dict(gradients="router")),
}


def build(published_config):
    """The HF model of a published config; Kimi-K2 has no class of its own and is V3 with other numbers."""
    keys = {k: v for k, v in published_config.items() if k not in ("model_type", "rope_scaling")}
    if published_config["rope_scaling"] is not None:
        keys["rope_scaling"] = dict(published_config["rope_scaling"])
    v2 = published_config["model_type"] == "deepseek_v2"
    config = (DeepseekV2Config if v2 else DeepseekV3Config)(**keys)
    config._attn_implementation = "eager"
    config._experts_implementation = "eager"
    return (DeepseekV2ForCausalLM if v2 else DeepseekV3ForCausalLM)(config).eval()


class RouterTap:
    """Records what each MoE layer's router returns."""

    def __init__(self, model):
        self.records = {}
        self.handles = [
            layer.mlp.gate.register_forward_hook(self.hook(index))
            for index, layer in enumerate(model.model.layers)
            if hasattr(layer.mlp, "gate")
        ]

    def hook(self, index):
        def store(module, args, output):
            self.records[index] = tuple(t.detach().clone() for t in output)

        return store

    def close(self):
        for handle in self.handles:
            handle.remove()


def router_margins(config, logits, bias):
    """How far from a tie we are: the smallest gap of last chosen and first refused expert; same for groups.

    Also the choice itself, and for how many tokens a 0.0 mask of refused groups instead of -inf would differ.
    """
    experts, groups = logits.shape[-1], config.n_group or 1
    v3 = bias is not None
    choice = logits.sigmoid() + bias if v3 else logits.softmax(-1)
    grouped = choice.view(-1, groups, experts // groups)
    limited = v3 or config.topk_method == "group_limited_greedy"
    group_gap = float("inf")
    masked, zero_masked = choice, choice
    if limited and config.topk_group < groups:
        scores = grouped.topk(2, -1).values.sum(-1) if v3 else grouped.amax(-1)
        ranked = scores.sort(-1, descending=True)
        group_gap = (
            (ranked.values[:, config.topk_group - 1] - ranked.values[:, config.topk_group]).min().item()
        )
        keep = torch.zeros_like(scores, dtype=torch.bool).scatter_(
            1, ranked.indices[:, : config.topk_group], True
        )
        keep = keep.repeat_interleave(experts // groups, dim=1)
        masked = choice.masked_fill(~keep, float("-inf"))
        zero_masked = choice.masked_fill(~keep, 0.0)
    ranked = masked.sort(-1, descending=True)
    k = config.num_experts_per_tok
    gap = (ranked.values[:, k - 1] - ranked.values[:, k]).min().item()
    ours = ranked.indices[:, :k].sort(-1).values
    zero = zero_masked.sort(dim=-1, descending=True, stable=True).indices[:, :k].sort(-1).values
    return gap, group_gap, ours, int((ours != zero).any(-1).sum())


def wanted(name, gradients):
    attention = "self_attn" in name or "norm" in name
    return gradients == "all" or attention or (gradients == "router" and name.endswith("gate.weight"))


def block_diagonal_mask(dtype=torch.float32):
    """([B, 1, S, S] additive mask, [B, S] positions) of the packed rows."""
    mask = torch.full((BATCH, 1, LENGTH, LENGTH), torch.finfo(dtype).min, dtype=dtype)
    positions = torch.zeros(BATCH, LENGTH, dtype=torch.int64)
    for row, starts in enumerate(DOCUMENTS):
        for begin, end in zip(starts, starts[1:] + (LENGTH,)):
            positions[row, begin:end] = torch.arange(end - begin)
            mask[row, 0, begin:end, begin:end].masked_fill_(
                torch.ones(end - begin, end - begin).tril().bool(), 0.0
            )
    return mask, positions


def packed_case(model, tokens):
    """Logits when documents do not see each other: each is run alone, and the mask form must agree."""
    logits = torch.empty(BATCH, LENGTH, model.config.vocab_size)
    for row, starts in enumerate(DOCUMENTS):
        for begin, end in zip(starts, starts[1:] + (LENGTH,)):
            with torch.no_grad():
                logits[row, begin:end] = model(tokens[row : row + 1, begin:end], use_cache=False).logits[0]
    mask, positions = block_diagonal_mask()
    model.zero_grad(set_to_none=True)
    masked = model(tokens, attention_mask=mask, position_ids=positions, use_cache=False).logits
    worst = (masked - logits).abs().max().item()
    assert worst < 2e-5, worst
    targets = tokens[:, 1:].clone()
    crossing = positions[:, 1:] == 0
    every = torch.nn.functional.cross_entropy(masked[:, :-1].flatten(0, 1), targets.flatten())
    inside = torch.nn.functional.cross_entropy(
        masked[:, :-1].flatten(0, 1), targets.masked_fill(crossing, -100).flatten()
    )
    inside.backward()
    out = {
        "packed.position_ids": positions,
        "packed.logits": logits,
        "packed.loss": inside.detach(),
        "packed.loss_with_crossing_targets": every.detach(),
    }
    grads = common.published({n: p.grad for n, p in model.named_parameters()})
    out |= {f"packed.grad.{n}": g for n, g in grads.items() if wanted(n, "router")}
    return out, {"packed_mask_form_worst_difference": worst}


def generate(model, tokens):
    """Greedy continuations of two prompts, and the smallest gap of best and second logit on the way."""
    out, gap = {}, float("inf")
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    for index, length in enumerate(PROMPT_LENGTHS):
        prompt = tokens[index : index + 1, :length]
        result = model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=GENERATE,
            do_sample=False,
            use_cache=True,
            output_logits=True,
            return_dict_in_generate=True,
        )
        best = torch.stack(result.logits).squeeze(1).topk(2, -1).values
        gap = min(gap, (best[:, 0] - best[:, 1]).min().item())
        out[f"generate.{index}.prompt"] = prompt[0]
        out[f"generate.{index}.tokens"] = result.sequences[0, length:]
        assert out[f"generate.{index}.tokens"].numel() == GENERATE
    return out, gap


def bf16_case(directory, tokens):
    """Every weight rounded to bf16 (the router's too), run in bf16 and in fp32."""
    weights = {
        k: v if k.endswith("e_score_correction_bias") else v.bfloat16()
        for k, v in common.safetensors.torch.load_file(directory / "model.safetensors").items()
    }
    out = {"input.tokens": tokens}
    for name, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        model = AutoModelForCausalLM.from_pretrained(
            directory, dtype=dtype, attn_implementation="eager", experts_implementation="eager"
        ).eval()
        fused = model.state_dict()
        names = common.published({k: torch.arange(v.numel()).view(v.shape) for k, v in fused.items()})
        for key, tensor in fused.items():
            flat = tensor.view(-1)
            for part, where in ((p, w) for p, w in names.items() if belongs(p, key)):
                flat[where.flatten()] = weights[part].flatten().to(tensor.dtype)
        tap = RouterTap(model)
        with torch.no_grad():
            result = model(tokens, labels=tokens, use_cache=False)
        out[f"{name}.logits"] = result.logits
        out[f"{name}.loss"] = result.loss.float()
        for layer, (_, _, indices) in tap.records.items():
            out[f"{name}.router.{layer}.indices_ascending"] = indices.sort(-1).values
    common.save_tensors(directory / "expected_bf16.safetensors", out)
    difference = (out["bf16.logits"].float() - out["fp32.logits"]).abs()
    flipped = {
        layer: int((out[f"bf16.{key}"] != out[f"fp32.{key}"]).any(-1).sum())
        for layer in tap.records
        for key in [f"router.{layer}.indices_ascending"]
    }
    return {
        "bf16_against_fp32_arithmetic": {
            "worst_logit_difference": difference.max().item(),
            "median_logit_difference": difference.median().item(),
            "logit_standard_deviation": out["fp32.logits"].std().item(),
            "loss_bf16": out["bf16.loss"].item(),
            "loss_fp32": out["fp32.loss"].item(),
            "tokens_routed_otherwise": flipped,
        }
    }


def belongs(part, key):
    if key.endswith(("experts.gate_up_proj", "experts.down_proj")):
        prefix, leaf = key.rsplit(".", 1)
        leaves = ("gate_proj", "up_proj") if leaf == "gate_up_proj" else ("down_proj",)
        return part.startswith(prefix + ".") and part.split(".")[-2] in leaves
    return part == key


def make(case):
    published_config, seed, options = CASES[case]
    gradients = options.get("gradients", "all")
    directory = common.GOLDEN / case
    directory.mkdir(exist_ok=True)
    for old in directory.iterdir():
        old.unlink()
    model = build(published_config)
    common.fill_random(model, seed, bias_range=options.get("bias_range", (-0.2, 0.2)))
    config = model.config
    config.architectures = published_config["architectures"]
    config.dtype = "float32"
    kimi = published_config["model_type"] == "kimi_k2"
    common.write_config(directory, config, "kimi_k2" if kimi else None)
    common.save_json(directory / "config-published.json", published_config)
    state = common.published(model.state_dict())
    common.save_tensors(directory / "model.safetensors", state)

    tokens = torch.randint(
        2, config.vocab_size, (BATCH, LENGTH), generator=torch.Generator().manual_seed(seed + 1000)
    )
    tap = RouterTap(model)
    result = model(tokens, labels=tokens, output_hidden_states=True, use_cache=False)
    records = dict(tap.records)
    tap.close()
    result.loss.backward()
    expected = {"input.tokens": tokens, "logits": result.logits, "loss": result.loss}
    for index, hidden in enumerate(result.hidden_states):
        expected[f"hidden.{index}"] = hidden
    facts = {"loss": result.loss.item(), "router": {}}
    for layer, (logits, weights, indices) in records.items():
        bias = getattr(model.model.layers[layer].mlp.gate, "e_score_correction_bias", None)
        gap, group_gap, ours, differ = router_margins(config, logits, bias)
        order = indices.argsort(-1)
        ascending = indices.gather(1, order)
        assert torch.equal(ascending, ours), f"{case}: layer {layer} routes by another rule"
        assert (
            gap > 2e-5 and group_gap > 2e-5
        ), f"{case}: layer {layer} has a near tie ({gap}, {group_gap}): take another seed"
        expected[f"router.{layer}.logits"] = logits
        expected[f"router.{layer}.indices"] = indices
        expected[f"router.{layer}.weights"] = weights
        expected[f"router.{layer}.indices_ascending"] = ascending
        expected[f"router.{layer}.weights_ascending"] = weights.gather(1, order)
        facts["router"][str(layer)] = {
            "smallest_expert_gap": gap,
            "smallest_group_gap": group_gap if group_gap != float("inf") else None,
            "tokens_where_a_zero_mask_would_choose_otherwise": differ,
        }
    grads = common.published({n: p.grad for n, p in model.named_parameters()})
    expected |= {f"grad.{n}": g for n, g in grads.items() if wanted(n, gradients)}
    generated, gap = generate(model, tokens)
    expected |= generated
    facts["smallest_greedy_gap"] = gap
    assert gap > 2e-4, f"{case}: greedy near tie {gap}: take another seed"
    if options.get("packed"):
        packed, more = packed_case(model, tokens)
        expected |= packed
        facts |= more
    common.save_tensors(directory / "expected.safetensors", expected)
    if not kimi:
        check_loads(directory, tokens, result.logits.detach())
    if options.get("bf16"):
        facts |= bf16_case(directory, tokens)
    rotary = model.model.rotary_emb
    facts["rope"] = {
        "inv_freq": rotary.inv_freq.tolist(),
        "cos_sin_factor": rotary.attention_scaling,
        "softmax_scale": model.model.layers[0].self_attn.scaling,
    }
    common.write_manifest(
        directory, "make_models.py", seed, type(model).__name__, notes_of(case, gradients), facts
    )
    size = sum(p.stat().st_size for p in directory.iterdir())
    print(
        f"{case}: loss {result.loss.item():.6f}, {size / 1e6:.2f} MB, {facts['router']}, greedy gap {gap:.2e}"
    )


def check_loads(directory, tokens, logits):
    """The written files are a checkpoint that transformers loads without a missing or unexpected key."""
    for source in ("config.json", "config-published.json"):
        config = transformers.AutoConfig.from_pretrained(directory / source)
        model, info = AutoModelForCausalLM.from_pretrained(
            directory,
            config=config,
            output_loading_info=True,
            attn_implementation="eager",
            experts_implementation="eager",
        )
        assert not info["missing_keys"] and not info["unexpected_keys"], info
        with torch.no_grad():
            again = model.eval()(tokens, use_cache=False).logits
        assert torch.equal(again, logits), f"{source}: {(again - logits).abs().max()}"


def notes_of(case, gradients):
    notes = [
        "This transformers masks refused groups with -inf (older versions: 0.0); -inf is the rule to follow.",
        "q_a_layernorm and kv_a_layernorm use eps 1e-6 whatever rms_norm_eps says.",
    ]
    if gradients != "all":
        notes.append(
            f"Gradients are kept for attention, norms{' and routers' if gradients == 'router' else ''} only."
        )
    if case == "kimi_k2":
        notes.append(
            "transformers has no kimi_k2 class; DeepseekV3ForCausalLM computed this, model_type was renamed."
        )
    if case == "v3":
        notes.append(
            "expected_bf16.safetensors: weights rounded to bf16; fp32.* is a tight oracle, bf16.* loose."
        )
    if case == "v3_negative_bias":
        notes.append(
            "Biased scores are mostly negative, so a 0.0 mask would choose experts of refused groups."
        )
    return notes


if __name__ == "__main__":
    common.set_up()
    for name in sys.argv[1:] or CASES:
        make(name)
