#!/bin/sh
# Runs each fuzz target for some seconds over a copy of its corpus; what it finds stays in build-fuzz/findings.
#   fuzz.sh [SECONDS_EACH]
set -eu
cd "$(dirname "$0")/.."
seconds=${1:-60}
cmake --preset fuzz >/dev/null
cmake --build --preset fuzz
mkdir -p build-fuzz/findings
for target in build-fuzz/fuzz/fuzz_*; do
    name=${target##*/}
    corpus=build-fuzz/corpus/${name#fuzz_}
    mkdir -p "$corpus"
    echo "== $name, $seconds seconds"
    log=build-fuzz/$name.log
    rc=0
    "$target" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 \
        -artifact_prefix="build-fuzz/findings/$name-" "$corpus" "fuzz/corpus/${name#fuzz_}" >"$log" 2>&1 || rc=$?
    grep -E '^(#[0-9]+.*DONE|stat::|SUMMARY|.*not so)|ERROR' "$log" || true
    if [ $rc -ne 0 ]; then
        echo "$name failed: see $log; the input is in build-fuzz/findings" >&2
        exit 1
    fi
done
