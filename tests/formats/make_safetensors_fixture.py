"""Makes data/hf_mixed.safetensors and data/hf_dtypes.safetensors with the reference writer. Run: python tests/formats/make_safetensors_fixture.py
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

# Every dtype that torch and the format share but bool (in the other file), each over the bytes 0, 1, 2, ... of 16 (8 rows of int4 packed into I32 and into
# U8, as compressed-tensors lays them out, with the shape that is meant beside them).
by_dtype = {
    str(dtype).removeprefix("torch."): torch.arange(16, dtype=torch.uint8).view(dtype)
    for dtype in [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
                  torch.uint64, torch.uint32, torch.uint16, torch.uint8, torch.float8_e4m3fn, torch.float8_e5m2,
                  torch.float8_e8m0fnu, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz, torch.complex64,
                  torch.float4_e2m1fn_x2]
}  # fmt: skip
packed = torch.tensor([[(row * 8 + i) * 37 % 256 for i in range(8)] for row in range(8)], dtype=torch.uint8)
by_dtype["int4.weight_packed"] = packed.clone().view(torch.int32)
by_dtype["int4.weight_shape"] = torch.tensor([8, 16])
by_dtype["int4.weight_scale"] = torch.arange(8, dtype=torch.float32).to(torch.bfloat16).reshape(8, 1)
by_dtype["int4.weight_packed_u8"] = packed
save_file(by_dtype, directory / "hf_dtypes.safetensors", metadata={"format": "pt"})
