#!/usr/bin/env bash
# tests/check_vllm.sh: vLLM's CPU build loads what `fathom quantize` writes and continues prompts as `fathom generate`
# does (check_vllm.py says what is compared). Part of ./run test-slow, which brings the packages of
# tests/vllm_requirements.txt (PyPI's torch with its CUDA packages: 7 GB); FATHOM_PYTHON names another interpreter that has
# them.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${FATHOM_PYTHON:-.deps/vllm/bin/python}
work=build/check_vllm
rm -rf "$work"
mkdir -p "$work"
"$python" tests/check_vllm.py --fathom build/release/fathom --work "$work" "$@"
