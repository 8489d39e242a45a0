#!/bin/sh
# Static checks over the whole tree; all of them run, and the exit status is 1 when any complains.
set -u
cd "$(dirname "$0")/.." || exit 1
rc=0
build=build-lint

# run NAME COMMAND...
run() {
    echo "== $1"
    shift
    "$@" || rc=1
}

tracked() { git ls-files "$@"; }

cmake -S . -B $build -G Ninja -DCMAKE_C_COMPILER=clang -DCMAKE_BUILD_TYPE=Release >/dev/null || exit 1

# clang-tidy: what is compiled, so that every file has its own flags.
compiled() {
    tracked '*.c' | while read -r f; do
        ! grep -q "\"file\": \"$PWD/$f\"" $build/compile_commands.json || echo "$f"
    done
}
tidy() { compiled | xargs -P "$(nproc)" -n 4 clang-tidy --quiet -p $build --warnings-as-errors='*' 2>/dev/null; }
run clang-tidy tidy
run cppcheck cppcheck --quiet --error-exitcode=1 --enable=warning,performance,portability --inline-suppr \
    --library=posix -I include -I src --suppress=missingIncludeSystem src cli integrations
run shellcheck sh -c 'git ls-files "*.sh" .ci/run | xargs shellcheck'
run codespell sh -c 'git ls-files | grep -v -E "^models/|\.(gguf|bin|npy)$" | xargs codespell --ignore-words=tools/codespell_ignore.txt'
run floors python3 tools/check_floors.py
exit $rc
