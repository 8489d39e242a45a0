#!/bin/sh
# Builds and tests each preset named (release debug O0 neon), then adds up: "N passed, N failed" is the last line.
set -u
cd "$(dirname "$0")/.." || exit 1
passed=0
failed=0
summary=

# Adds a run's JUnit counts to the totals. Skipped tests are neither passed nor failed.
count() {
    counts=$(sed -n '/<testsuite/,/>/p' "$2" | tr '\n\t' '  ')
    field() { echo "$counts" | sed -n "s/.* $1=\"\([0-9]*\)\".*/\1/p"; }
    f=$(field failures)
    skipped=$(($(field skipped) + $(field disabled)))
    p=$(($(field tests) - f - skipped))
    passed=$((passed + p))
    failed=$((failed + f))
    summary="$summary$1: $p passed, $f failed, $skipped skipped
"
}

# A preset that cannot even be built is one failure.
broken() {
    failed=$((failed + 1))
    summary="$summary$1: $2
"
}

for preset in "$@"; do
    if [ "$preset" = neon ] && ! { command -v aarch64-linux-gnu-gcc && command -v qemu-aarch64; } >/dev/null; then
        summary="${summary}neon: left out, no aarch64-linux-gnu-gcc or no qemu-aarch64
"
        continue
    fi
    echo "== $preset"
    results=$PWD/build-$preset/results.xml
    [ "$preset" != release ] || results=$PWD/build/results.xml
    rm -f "$results"
    if ! { cmake --preset "$preset" >/dev/null && cmake --build --preset "$preset"; }; then
        broken "$preset" "does not build"
        continue
    fi
    ctest --preset "$preset" -j "$(nproc)" --output-junit "$results"
    if [ -s "$results" ]; then
        count "$preset" "$results"
    else
        broken "$preset" "ctest did not run"
    fi
done

printf '\n%s' "$summary"
mkdir -p build
echo "$passed passed, $failed failed" | tee build/summary
[ "$failed" -eq 0 ]
