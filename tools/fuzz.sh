#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Builds the fuzz targets (clang, ASan, UBSan) and runs each for SECONDS, four at a time.
#   tools/fuzz.sh [SECONDS=60] [TARGET...]
# What a run learns stays in build/PRESET/corpus, where FUZZ_PRESET is "sanitize" or "loaders"; the seeds are in
# tests/fuzz/corpus. Exit status 1 on a finding, whose input is left in build/PRESET/findings.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds="${1:-60}"
shift || true
preset="${FUZZ_PRESET:-sanitize}"
build="build/$preset"
jobs="${FUZZ_JOBS:-4}"

test -f "$build/build.ninja" || cmake --preset "$preset"
cmake --build --preset "$preset" -j "$(nproc)" --target carousel_fuzz

targets=("$@")
if ((${#targets[@]} == 0)); then
  for source in tests/fuzz/*_fuzz.cc; do
    target=$(basename "$source" _fuzz.cc)
    # Without Boost there is no server, and none of its targets.
    if [ -x "$build/tests/fuzz/${target}_fuzz" ]; then targets+=("$target"); fi
  done
fi

mkdir -p "$build/findings"
run_one() {
  local target="$1" seconds="$2" build="$3" log="$3/findings/$1.log" seeds="tests/fuzz/corpus/$1"
  mkdir -p "$build/corpus/$target" "$seeds"
  if "$build/tests/fuzz/${target}_fuzz" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -max_len=65536 \
    -print_final_stats=1 -artifact_prefix="$build/findings/$target-" "$build/corpus/$target" "$seeds" >"$log" 2>&1; then
    echo "ok    $target: $(grep -oE 'number_of_executed_units: [0-9]+' "$log" | grep -oE '[0-9]+$') inputs in $seconds s"
  else
    echo "FOUND $target: see $log"
    tail -n 40 "$log"
    return 1
  fi
}
export -f run_one

printf '%s\n' "${targets[@]}" | xargs -P "$jobs" -I{} bash -c 'run_one "$@"' _ {} "$seconds" "$build" || exit 1
