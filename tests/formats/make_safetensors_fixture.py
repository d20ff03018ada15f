"""Makes data/hf_mixed.safetensors with the reference writer. Run: python tests/formats/make_safetensors_fixture.py
Made with safetensors 0.8.0, torch 2.15.0."""
import pathlib

import torch
from safetensors.torch import save_file

directory = pathlib.Path(__file__).parent / "data"
tensors = {
    "model.norm.weight": torch.arange(5, dtype=torch.float32) / 3,
    "model.embed_tokens.weight": (torch.arange(21, dtype=torch.float32) - 7).reshape(7, 3).to(torch.bfloat16),
    "gate.e_score_correction_bias": torch.tensor([1.5, -2.25, 6.817], dtype=torch.float64),
    "weight_fp8": torch.tensor([[1.0, -2.0, 448.0]]).to(torch.float8_e4m3fn),
    "scale_ue8m0": torch.tensor([1.0, 2.0, 0.5, 4.0]).to(torch.float8_e8m0fnu),
    "step": torch.tensor(1000, dtype=torch.int64),
    "mask": torch.tensor([True, False, True]),
    "codes": torch.tensor([-128, 127, 3], dtype=torch.int8),
    "empty": torch.zeros(0, 4, dtype=torch.float16),
    "\u6743\u91cd": torch.tensor([7], dtype=torch.uint16),
}
save_file(tensors, directory / "hf_mixed.safetensors", metadata={"format": "pt", "note": "fixture"})
