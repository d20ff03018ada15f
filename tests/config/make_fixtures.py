"""Writes tests/config/data/transformers5-*.json and rope-golden.json from HF transformers.

Made with transformers 5.24.0, torch 2.15.0. Run from the project folder: python tests/config/make_fixtures.py
"""
import json
import pathlib

import transformers
from transformers import DeepseekV2Config, DeepseekV3Config
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3RotaryEmbedding, yarn_apply_mscale

DATA = pathlib.Path(__file__).parent / "data"
PUBLISHED = {"deepseek-v3": DeepseekV3Config, "moonlight": DeepseekV3Config, "kimi-k2": DeepseekV3Config,
             "deepseek-v2-lite": DeepseekV2Config}
SMALL = dict(vocab_size=64, hidden_size=32, intermediate_size=48, moe_intermediate_size=16, num_hidden_layers=2,
             num_attention_heads=2, num_key_value_heads=2, n_routed_experts=8, n_group=2, topk_group=1,
             num_experts_per_tok=2, q_lora_rank=12, kv_lora_rank=16, qk_nope_head_dim=8, qk_rope_head_dim=8,
             v_head_dim=8, first_k_dense_replace=1, max_position_embeddings=512)
SCALINGS = {
    "plain": None,
    "no-mscale": {"type": "yarn", "factor": 8.0, "original_max_position_embeddings": 64},
    "only-mscale": {"type": "yarn", "factor": 8.0, "mscale": 0.707, "original_max_position_embeddings": 64},
    "only-all-dim": {"type": "yarn", "factor": 8.0, "mscale_all_dim": 0.707, "original_max_position_embeddings": 64},
    "unequal": {"type": "yarn", "factor": 8.0, "mscale": 1.0, "mscale_all_dim": 0.5,
                "original_max_position_embeddings": 64},
    "attention-factor": {"type": "yarn", "factor": 4.0, "attention_factor": 0.75, "mscale_all_dim": 1.0,
                         "original_max_position_embeddings": 128},
    "not-truncated": {"type": "yarn", "factor": 4.0, "truncate": False, "beta_fast": 16, "beta_slow": 2,
                      "original_max_position_embeddings": 128},
}


def golden(name, raw, config):
    rotary = DeepseekV3RotaryEmbedding(config)
    return {"name": name, "config": raw, "inv_freq": rotary.inv_freq.double().tolist(),
            "amplitude": float(rotary.attention_scaling),
            "softmax_scale": float(yarn_apply_mscale(config.rope_parameters, config.qk_head_dim ** -0.5))}


def main():
    cases = []
    for name, kind in PUBLISHED.items():
        raw = json.loads((DATA / f"{name}.json").read_text())
        kept = {k: v for k, v in raw.items() if k not in ("auto_map", "quantization_config", "model_type")}
        config = kind(**kept)
        (DATA / f"transformers5-{name}.json").write_text(config.to_json_string())
        cases.append(golden(name, raw, kind(**json.loads(json.dumps(kept)))))
    for name, scaling in SCALINGS.items():
        raw = {"model_type": "deepseek_v3", **SMALL, "rope_theta": 10000.0, "rope_scaling": scaling}
        cases.append(golden(name, raw, DeepseekV3Config(**json.loads(json.dumps(raw)))))
    (DATA / "rope-golden.json").write_text(json.dumps({"transformers": transformers.__version__, "cases": cases}, indent=1))


if __name__ == "__main__":
    main()
