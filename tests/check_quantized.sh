#!/usr/bin/env bash
# tests/check_quantized.sh: what `fathom quantize` writes, read by the compressed-tensors package and by HF transformers.
# By hand; FATHOM_PYTHON names an interpreter that has the packages of tests/golden/requirements.txt and
# compressed-tensors 0.20.0.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
fathom=build/release/fathom
python=${FATHOM_PYTHON:-.deps/oracle/bin/python}
work=build/check_quantized
rm -rf "$work"
mkdir -p "$work"
"$fathom" init configs/models/tiny.json "$work/source" --dtype bf16 --seed 3
cp assets/tokenizer/tokenizer.json "$work/source"

check() {  # NAME [--no-model] -- FLAGS OF QUANTIZE
  local name=$1 more=()
  shift
  if [[ $1 == --no-model ]]; then more=(--no-model) && shift; fi
  "$fathom" quantize "$work/source" "$work/$name" "$@" > "$work/$name.txt"
  "$fathom" convert "$work/$name" "$work/$name-bf16" --dtype bf16
  if [[ ${#more[@]} -eq 0 ]]; then
    "$fathom" eval "$work/$name-bf16" --text assets/README.md --dtype fp32 --seq-length 64 \
      --dump-logits "$work/$name.logits" > /dev/null
    more=(--logits "$work/$name.logits")
  fi
  echo "== $name"
  "$python" tests/check_quantized.py "$work/$name" "$work/$name-bf16" "${more[@]}"
  rm -rf "$work/$name-bf16" "$work/$name.logits"
}

check w8a8 --scheme w8a8
check w8a8-head --scheme w8a8 --lm-head int8
check int4 --scheme int4 --group-size 32
check int4-channel --scheme int4 --group-size -1
check int4-head --scheme int4 --group-size 32 --lm-head int4
# transformers takes one scheme for all matrices outside experts, so a head of another one is for the package alone.
check int4-int8-head --no-model --scheme int4 --group-size 32 --lm-head int8
echo "6 passed, 0 failed"
