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
    "$target" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 \
        -artifact_prefix="build-fuzz/findings/$name-" "$corpus" "fuzz/corpus/${name#fuzz_}" 2>&1 |
        tee "build-fuzz/$name.log" | grep -E '^(#[0-9]+.*DONE|stat::|==|SUMMARY|.*ERROR)' || true
    # The pipe above ends with grep's status: the log says whether the target failed.
    if ls build-fuzz/findings/"$name"-* >/dev/null 2>&1; then
        echo "$name: see build-fuzz/$name.log and build-fuzz/findings" >&2
        exit 1
    fi
done
