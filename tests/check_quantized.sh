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
sed -e 's/"first_k_dense_replace": 1/"first_k_dense_replace": 4/' -e 's/"num_nextn_predict_layers": 1/"num_nextn_predict_layers": 0/' \
  configs/models/tiny.json > "$work/dense.json"
"$fathom" init configs/models/tiny.json "$work/experts" --dtype bf16 --seed 3
"$fathom" init "$work/dense.json" "$work/dense" --dtype bf16 --seed 3
cp assets/tokenizer/tokenizer.json "$work/experts"
cp assets/tokenizer/tokenizer.json "$work/dense"

check() {  # package|model experts|dense FLAGS...
  local with=$1 source=$2 more=(--no-model)
  shift 2
  echo "== $source $*"
  "$fathom" quantize "$work/$source" "$work/ints" "$@" > /dev/null
  "$fathom" convert "$work/ints" "$work/bf16" --dtype bf16
  if [[ $with == model ]]; then
    "$fathom" eval "$work/bf16" --text assets/README.md --dtype fp32 --seq-length 64 --dump-logits "$work/logits" > /dev/null
    more=(--logits "$work/logits")
  fi
  "$python" tests/check_quantized.py "$work/ints" "$work/bf16" "${more[@]}"
  rm -rf "$work/ints" "$work/bf16" "$work/logits"
}

check model dense --scheme w8a8
check model dense --scheme w8a8 --lm-head int8
check model experts --scheme int4 --group-size 32
check model experts --scheme int4 --group-size -1
check model experts --scheme int4 --group-size 32 --lm-head int4
# transformers 5.24 dequantises experts of int4 and fp8 only, and takes one scheme for everything outside experts.
check package experts --scheme w8a8 --lm-head int8
check package experts --scheme int4 --group-size 32 --lm-head int8
echo "7 passed, 0 failed"
