#!/usr/bin/env bash
# tests/check_transformers.sh [CHECKPOINT]: HF transformers takes what Fathom trains. Two tiny models are trained anew
# and compared, then CHECKPOINT (without it the demo's newest, or, before the demo has run, two steps of it): nothing
# missing, nothing unexpected but the MTP layer, the same logits in fp32. Part of ./run test-slow, which brings the
# packages of tests/golden/requirements.txt; FATHOM_PYTHON names another interpreter that has them.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
fathom=build/release/fathom
python=${FATHOM_PYTHON:-.deps/oracle/bin/python}
work=build/check_transformers
rm -rf "$work"
mkdir -p "$work"

"$python" tests/golden/make_trained.py --fathom "$fathom" --output "$work"

newest_in() { [[ ! -e $1/checkpoints/latest ]] || echo "$1/checkpoints/$(<"$1/checkpoints/latest")"; }

checkpoint=${1:-$(newest_in out/demo)}
if [[ -z $checkpoint ]]; then
  "$fathom" data build --tokenizer assets/tokenizer --input assets/wikitext-2/wiki.valid.tokens.zst \
    --output-prefix "$work/text" --append-eod --sequences document
  "$fathom" pretrain configs/recipes/demo.yaml --set output_dir="$work/demo" --set train.steps=2 \
    --set train.lr.warmup_steps=1 --set train.eval_every=0 --set checkpoint.optimizer=none --set data.valid=[] \
    --set data.train="[{path: $PWD/$work/text}]"
  checkpoint=$(newest_in "$work/demo")
fi
"$fathom" eval "$checkpoint" --text assets/README.md --dtype fp32 --seq-length 128 \
  --dump-logits "$work/logits.safetensors"
"$python" tests/golden/load_in_transformers.py "$checkpoint" --outputs "$work/logits.safetensors"
echo "3 passed, 0 failed"
