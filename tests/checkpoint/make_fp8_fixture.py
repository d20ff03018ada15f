"""Makes fp8_fixture.safetensors: a ragged matrix quantized and dequantized by PyTorch, block by block.

Tensors: source (bf16), codes (float8_e4m3fn), scale_inv (float32), values (bf16: codes * scale in float32, rounded).
Run: python tests/checkpoint/make_fp8_fixture.py  (torch and safetensors; versions are in the file's metadata)
"""
import pathlib

import safetensors
import torch
from safetensors.torch import save_file

ROWS, COLUMNS, BLOCK = 131, 150, 128

generator = torch.Generator().manual_seed(7)
source = (torch.randn(ROWS, COLUMNS, generator=generator) * 0.02).to(torch.bfloat16)
source[3, 5] = 0.9  # an outlier: the small values of its block become subnormal codes or zero
source[130, :] = 0  # the block below the first 128 rows: zeros among values
row_blocks, column_blocks = -(-ROWS // BLOCK), -(-COLUMNS // BLOCK)
codes = torch.empty(ROWS, COLUMNS, dtype=torch.float8_e4m3fn)
scale_inv = torch.empty(row_blocks, column_blocks, dtype=torch.float32)
values = torch.empty(ROWS, COLUMNS, dtype=torch.bfloat16)
for i in range(row_blocks):
    for j in range(column_blocks):
        part = (slice(i * BLOCK, (i + 1) * BLOCK), slice(j * BLOCK, (j + 1) * BLOCK))
        block = source[part].float()
        scale = block.abs().max() / 448
        scale_inv[i, j] = scale
        codes[part] = (block / scale).to(torch.float8_e4m3fn)
        values[part] = (codes[part].float() * scale).to(torch.bfloat16)

save_file(
    {"source": source, "codes": codes, "scale_inv": scale_inv, "values": values},
    pathlib.Path(__file__).with_name("fp8_fixture.safetensors"),
    metadata={"torch": torch.__version__, "safetensors": safetensors.__version__},
)
