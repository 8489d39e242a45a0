#!/bin/sh
# Compiles every header alone: the public ones as C99, C11 and C++17, with everything that -Wpedantic finds; the
# others as C11.
#   check_headers.sh ROOT [CC [CXX]]
set -eu
cd "$1"
cc=${2:-cc} cxx=${3:-c++}
rc=0
n=0

# alone COMPILER LANGUAGE STANDARD HEADER
alone() {
    n=$((n + 1))
    printf '#include "%s"\nextern int not_empty;\n' "$4" | "$1" -x "$2" -std="$3" -fsyntax-only -Wall -Wextra -Wpedantic -Werror \
        -Wno-unused-function -Wno-unused-const-variable -I include -I src - || {
        echo "$4 does not stand alone as $3"
        rc=1
    }
}

for header in include/tightkv/*.h; do
    alone "$cc" c c99 "${header#include/}"
    alone "$cc" c c11 "${header#include/}"
    alone "$cxx" c++ c++17 "${header#include/}"
done
# Headers of one instruction set need its flags; those of every other are tried.
for header in $(find src -name '*.h' ! -path 'src/kernels/x86/*' ! -path 'src/kernels/arm/*' | sort); do
    alone "$cc" c c11 "${header#src/}"
done
echo "$n compilations of headers"
exit $rc
