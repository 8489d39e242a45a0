#!/bin/sh
# Static checks over the whole tree; all of them run, and the exit status is 1 when any complains.
set -u
cd "$(dirname "$0")/.." || exit 1
rc=0
build=$PWD/build-lint
cmake -S . -B "$build" -G Ninja -DCMAKE_C_COMPILER=clang -DCMAKE_BUILD_TYPE=Release >/dev/null || exit 1

echo "== clang-tidy"
# Only what is compiled here: each file has its own flags.
git ls-files '*.c' | while read -r f; do
    ! grep -q "\"file\": \"$PWD/$f\"" "$build/compile_commands.json" || echo "$f"
done | xargs -P "$(nproc)" -n 4 clang-tidy --quiet -p "$build" --warnings-as-errors='*' 2>/dev/null || rc=1

echo "== cppcheck"
# Suppressed: what it is wrong about (mmap's -1, a local's address that does not outlive it) or takes for C++.
cppcheck --quiet --error-exitcode=1 --enable=warning,performance,portability --inline-suppr --library=posix \
    -I include -I src --suppress=missingIncludeSystem --suppress=invalidFunctionArg --suppress=autoVariables \
    --suppress='memleak:integrations/llama.cpp/buffer.c' --suppress=strtokCalled --suppress=uninitvar --suppress=legacyUninitvar \
    src cli integrations || rc=1

echo "== shellcheck"
git ls-files '*.sh' .ci/run | xargs shellcheck || rc=1

echo "== codespell"
git ls-files | grep -v -E '\.(gguf|bin|npy|json|jsonl|page)$|^models/|/corpus/' |
    xargs codespell --ignore-words=tools/codespell_ignore.txt || rc=1

echo "== floors"
python3 tools/check_floors.py || rc=1
exit $rc
