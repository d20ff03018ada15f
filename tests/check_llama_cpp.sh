#!/usr/bin/env bash
# tests/check_llama_cpp.sh: llama.cpp runs what `fathom convert --format gguf` writes (check_llama_cpp.py says what is
# compared). Part of ./run test-slow, which brings the packages of tests/llama_cpp_requirements.txt (llama.cpp is
# compiled then: minutes); FATHOM_PYTHON names another interpreter that has them.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${FATHOM_PYTHON:-.deps/llama/bin/python}
work=build/check_llama_cpp
rm -rf "$work"
mkdir -p "$work"
"$python" tests/check_llama_cpp.py --fathom build/release/fathom --work "$work" "$@"
