# shellcheck shell=bash disable=SC2154
# ./run test-slow (sourced by run): what takes too long for every change. Each part is one row of the table in
# docs/quality.md; logs are under build/slow/.

fuzz_seconds=${FATHOM_FUZZ_SECONDS:-300}

# NAME COMMAND...: runs it, keeps its log, adds a row. Never stops the parts after it.
record() {
  local name=$1 log="build/slow/${1// /-}.log" start=$SECONDS verdict=passed
  say "$name"
  # A shell of its own, so that the first fault ends the part.
  (set -e; "${@:2}") >"$log" 2>&1 &
  if ! wait $!; then
    verdict=FAILED failures=$((failures + 1))
    tail -n 30 "$log"
  fi
  local detail
  detail=$(grep -E '^[0-9]+ passed, [0-9]+ failed$' "$log" | tail -n 1) || true
  printf '| %s | %s | %s | %d s |\n' "$name" "$verdict" "$detail" $((SECONDS - start)) | tee -a build/slow/table.md
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
  if ! cmp -s $list .deps/llama/requirements.txt; then
    rm -rf .deps/llama
    python3 -m venv .deps/llama
    .deps/llama/bin/python -m pip install --quiet -r $list >&2
    cp $list .deps/llama/
  fi
  bash tests/check_llama_cpp.sh
}

tokenizer_against() {  # hf|tiktoken ARGUMENTS...
  build release fathom
  need_oracle
  .deps/oracle/bin/python "tests/tokenizer/fuzz_against_$1.py" --fathom "$fathom" "${@:2}"
}

task_test_slow() {
  local failures=0
  rm -rf build/slow
  mkdir -p build/slow
  setup
  record "slow tests" slow_release_tests
  record "address and undefined-behaviour sanitizers" sanitized_tests asan
  record "thread sanitizer" sanitized_tests tsan
  record "fixtures made anew" fixtures_made_anew
  record "checkpoints in transformers" checkpoints_in_transformers
  record "GGUF in llama.cpp" gguf_in_llama_cpp
  record "tokenizer against HF tokenizers" tokenizer_against hf --count 100000 --corpora
  record "tokenizer against tiktoken" tokenizer_against tiktoken --count 20000
  record "fuzzing, $fuzz_seconds s a target" task_fuzz all "$fuzz_seconds"

  local page=docs/quality.md commit
  commit=$(git rev-parse --short HEAD 2>/dev/null || echo unknown)
  # Everything above the mark is written by hand and stays.
  { sed '/<!-- results/,$d' "$page"
    echo "<!-- results: written by ./run test-slow -->"
    echo "Run on $(date -u +%Y-%m-%d) at commit $commit: $(nproc) x $(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -n 1)."
    echo
    echo "| part | verdict | count | time |"
    echo "| --- | --- | --- | --- |"
    cat build/slow/table.md
  } >build/slow/quality.md
  cp build/slow/quality.md "$page"
  say "$page has the results; $failures of the parts failed"
  [[ $failures -eq 0 ]]
}
