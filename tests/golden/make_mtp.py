"""Makes the multi-token prediction fixtures tests/golden/v3_mtp (depth 1) and v3_mtp2 (depth 2).

    python tests/golden/make_mtp.py [CASE...]

The layer arithmetic is transformers' MtpModel.forward_layer. Its loader knows DeepSeek's layer 61 only and
its loss adds to None, so composition and losses are written here, after DeepSeek-V3's report, section 2.2:

    h_0 = output of the trunk AFTER its final norm;   for depth k = 1..D and positions i = 0..S-1-k:
    h_k[i] = shared_head.norm_k( block_k( eh_proj_k [ enorm_k(embed(t[i+k])), hnorm_k(h_{k-1}[i]) ] ) )
    logits_k[i] = lm_head(h_k[i]), target t[i+k+1], none at the last position
    total = CE(trunk) + 0.3 / D * sum_k CE_k, each CE a mean over its own targets.
"""

import sys

import torch
from torch.nn.functional import cross_entropy
from transformers.modeling_layers import MtpModel

import golden_common as common
import make_models
from make_models import BATCH, DOCUMENTS, LENGTH

LOSS_WEIGHT = 0.3
TRUNK_LAYERS = 2
CASES = {"v3_mtp": (1, 121, "all"), "v3_mtp2": (2, 122, "some")}


def published_names(tensors):
    """MtpModel's names -> model.layers.<TRUNK_LAYERS + k>.*; tied and fused tensors are left alone."""
    out = {}
    for name, tensor in tensors.items():
        if not name.startswith("layers."):
            continue
        _, depth, rest = name.split(".", 2)
        rest = rest.removeprefix("mtp_block.").replace("post_norm.", "shared_head.norm.")
        out[f"model.layers.{TRUNK_LAYERS + int(depth)}.{rest}"] = tensor
    return out


def run(model, mtp, tokens):
    """(trunk logits, [depth logits], [depth hidden]) of whole rows that are one document each."""
    length = tokens.shape[1]
    hidden = model.model(tokens, use_cache=False).last_hidden_state
    trunk_logits = model.lm_head(hidden)
    logits, hiddens = [], []
    for depth in range(1, len(mtp.layers) + 1):
        hidden = hidden[:, : length - depth]
        if hidden.shape[1] == 0:
            break
        positions = torch.arange(length - depth).unsqueeze(0)
        hidden = mtp.forward_layer(depth - 1, hidden, positions, None, input_ids=tokens[:, depth:])
        hiddens.append(hidden)
        logits.append(mtp._project_to_logits(hidden))
    return trunk_logits, logits, hiddens


def loss_sums(tokens, trunk_logits, depth_logits):
    """[(sum of losses, count of targets)] of the trunk and of each depth."""
    out = []
    for depth, logits in enumerate([trunk_logits, *depth_logits]):
        targets = tokens[:, depth + 1 :]
        used = logits[:, : targets.shape[1]]
        out.append((cross_entropy(used.flatten(0, 1), targets.flatten(), reduction="sum"), targets.numel()))
    return out


def total_loss(means):
    depths = len(means) - 1
    return means[0] + LOSS_WEIGHT / depths * sum(means[1:])


def gradients(model, mtp):
    """By published name; embedding and head are shared: their gradients are sums over trunk and depths."""
    tensors = {n: p.grad for n, p in model.named_parameters()}
    tensors |= {n: p.grad for n, p in published_names(dict(mtp.named_parameters())).items()}
    return common.published(tensors)


def zero(model, mtp):
    model.zero_grad(set_to_none=True)
    mtp.zero_grad(set_to_none=True)


def packed(model, mtp, tokens):
    """Every document alone; nothing of it crosses its end. Means are over all targets of all rows."""
    depths = len(mtp.layers)
    sums, counts = [0.0] * (depths + 1), [0] * (depths + 1)
    for row, starts in enumerate(DOCUMENTS):
        for begin, end in zip(starts, starts[1:] + (LENGTH,)):
            document = tokens[row : row + 1, begin:end]
            trunk, logits, _ = run(model, mtp, document)
            for index, (value, count) in enumerate(loss_sums(document, trunk, logits)):
                if count:
                    sums[index] = sums[index] + value
                    counts[index] += count
    means = [s / c for s, c in zip(sums, counts)]
    total = total_loss(means)
    zero(model, mtp)
    total.backward()
    out = {"packed.loss": means[0], "packed.total": total, "packed.target_counts": torch.tensor(counts)}
    out |= {f"packed.mtp.{k}.loss": means[k] for k in range(1, depths + 1)}
    keep = ("norm.weight", "eh_proj.weight", "gate.weight", "kv_a_proj_with_mqa.weight")
    out |= {f"packed.grad.{n}": g for n, g in gradients(model, mtp).items() if n.endswith(keep)}
    return out


def make(case):
    depths, seed, which = CASES[case]
    directory = common.GOLDEN / case
    directory.mkdir(exist_ok=True)
    for old in directory.iterdir():
        old.unlink()
    published_config = make_models.V3 | dict(num_hidden_layers=TRUNK_LAYERS, num_nextn_predict_layers=depths)
    model = make_models.build(published_config)
    mtp = MtpModel(model, depths).eval()
    assert mtp.config._attn_implementation == "eager" and mtp.config._experts_implementation == "eager"
    assert mtp.embed_tokens is model.model.embed_tokens and mtp.shared_head is model.lm_head
    common.fill_random(mtp.layers, seed + 1)
    common.fill_random(model, seed)
    model.config.architectures = published_config["architectures"]
    model.config.dtype = "float32"
    common.write_config(directory, model.config)
    common.save_json(directory / "config-published.json", published_config)

    state = dict(model.state_dict()) | published_names(mtp.state_dict())
    state = common.published(state)
    for depth in range(depths):
        state[f"model.layers.{TRUNK_LAYERS + depth}.embed_tokens.weight"] = model.model.embed_tokens.weight
        state[f"model.layers.{TRUNK_LAYERS + depth}.shared_head.head.weight"] = model.lm_head.weight
    common.save_tensors(directory / "model.safetensors", state)

    generator = torch.Generator().manual_seed(seed + 1000)
    tokens = torch.randint(2, model.config.vocab_size, (BATCH, LENGTH), generator=generator)
    records = {}
    routers = [(1, model.model.layers[1].mlp.gate)]
    routers += [(TRUNK_LAYERS + k, layer.mtp_block.mlp.gate) for k, layer in enumerate(mtp.layers)]
    hooks = [
        gate.register_forward_hook(lambda m, a, out, i=i: records.__setitem__(i, [t.detach() for t in out]))
        for i, gate in routers
    ]
    trunk, logits, hiddens = run(model, mtp, tokens)
    for hook in hooks:
        hook.remove()
    means = [s / c for s, c in loss_sums(tokens, trunk, logits)]
    total = total_loss(means)
    zero(model, mtp)
    total.backward()

    expected = {"input.tokens": tokens, "logits": trunk, "loss": means[0], "total": total}
    for k in range(1, depths + 1):
        expected |= {
            f"mtp.{k}.logits": logits[k - 1],
            f"mtp.{k}.hidden": hiddens[k - 1],
            f"mtp.{k}.loss": means[k],
        }
    facts = {
        "loss": means[0].item(),
        "mtp_losses": [m.item() for m in means[1:]],
        "total": total.item(),
        "router": {},
    }
    facts["mtp_loss_weight"] = LOSS_WEIGHT
    for (layer, gate), (router_logits, weights, indices) in zip(routers, (records[i] for i, _ in routers)):
        gap, group_gap, ours, differ = make_models.router_margins(
            model.config, router_logits, gate.e_score_correction_bias
        )
        order = indices.argsort(-1)
        assert torch.equal(indices.gather(1, order), ours)
        assert (
            gap > 2e-5 and group_gap > 2e-5
        ), f"{case}: layer {layer} near tie ({gap}, {group_gap}): another seed"
        expected[f"router.{layer}.indices_ascending"] = ours
        expected[f"router.{layer}.weights_ascending"] = weights.gather(1, order)
        facts["router"][str(layer)] = {"smallest_expert_gap": gap, "smallest_group_gap": group_gap}
    for name, grad in gradients(model, mtp).items():
        if which == "all" or ".mlp.experts." not in name:
            expected[f"grad.{name}"] = grad
    expected |= packed(model, mtp, tokens)
    common.save_tensors(directory / "expected.safetensors", expected)
    notes = [
        "The input hidden state is the trunk's output after model.norm (as in transformers' generate).",
        "Depth k's positions run from 0; transformers uses i + k: the same scores.",
        "Embedding and head are the trunk's: their copies on disk are equal, gradients appear once, summed.",
        "router.<layer> of depth k has S - k rows a sequence, row-major over [B, S - k].",
    ]
    if which != "all":
        notes.append("Gradients of routed experts are left out to keep the file small.")
    common.write_manifest(
        directory, "make_mtp.py", seed, "modeling_layers.MtpModel.forward_layer", notes, facts
    )
    size = sum(p.stat().st_size for p in directory.iterdir())
    print(f"{case}: {facts}, {size / 1e6:.2f} MB")


if __name__ == "__main__":
    common.set_up()
    for name in sys.argv[1:] or CASES:
        make(name)
