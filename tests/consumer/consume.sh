#!/bin/sh
# Builds project/ against tightkv in one of the ways that users have, and runs it.
#   consume.sh WAY SOURCE_DIR BUILD_DIR WORK_DIR CC
set -eu
way=$1 source=$2 build=$3 work=$4 cc=$5
project=$source/tests/consumer/project
prefix=$work/prefix
rm -rf "$work"
mkdir -p "$work"

installed() { cmake --install "$build" --prefix "$prefix" >"$work/install.log"; }

with_cmake() {
    cmake -S "$project" -B "$work/build" -DCMAKE_C_COMPILER="$cc" -DCMAKE_BUILD_TYPE=Release "$@"
    cmake --build "$work/build" -j 2
}

case $way in
pkg_config*)
    installed
    pc=$(find "$prefix" -name tightkv.pc)
    flags() { PKG_CONFIG_PATH=${pc%/*} pkg-config "$@" tightkv; }
    if [ "$way" = pkg_config ]; then
        # shellcheck disable=SC2046 # lists of words
        "$cc" -std=c99 -Wall -Wextra -Werror "$project/main.c" -o "$work/consumer" $(flags --cflags --libs) -lm
    else
        libdir=$(flags --variable=libdir)
        # shellcheck disable=SC2046
        "$cc" -std=c99 -Wall -Wextra -Werror "$project/main.c" -o "$work/consumer" $(flags --cflags) "$libdir/libtightkv.a" \
            $(flags --static --libs-only-l | sed 's/-ltightkv//')
    fi
    LD_LIBRARY_PATH=$(flags --variable=libdir) "$work/consumer"
    ;;
find_package)
    installed
    with_cmake -DCMAKE_PREFIX_PATH="$prefix"
    "$work/build/consumer"
    ;;
find_package_static)
    installed
    with_cmake -DCMAKE_PREFIX_PATH="$prefix" -DTIGHTKV_STATIC=ON
    "$work/build/consumer"
    ;;
add_subdirectory)
    with_cmake -DTIGHTKV_SOURCE="$source"
    "$work/build/consumer"
    ;;
*)
    echo "consume.sh: no such way: $way" >&2
    exit 2
    ;;
esac
