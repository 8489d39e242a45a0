#!/bin/sh
# llama.cpp at the version that tightkv is built and measured against: got, checked, built, kept for this user.
#   llama.sh          makes sure that it is there (minutes the first time, a second afterwards)
#   llama.sh where    prints its source folder and its build folder, one a line, and makes nothing
# LLAMA_CPP_DIR: take this source tree instead (nothing is written into it).
# LLAMA_CPP_BUILD: with it, take this finished build of that tree as it is.
set -eu

tag=v0.5.0
tree=fd570ef54b10
repository=https://github.com/ggml-org/llama.cpp
npm_package=node-llama-cpp@3.22.1
npm_bundle=package/llama/gitRelease.bundle

flags="-DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=ON -DGGML_BACKEND_DL=ON -DGGML_NATIVE=OFF
-DGGML_CPU_ALL_VARIANTS=ON -DLLAMA_CURL=OFF -DLLAMA_OPENSSL=OFF -DLLAMA_BUILD_UI=OFF
-DLLAMA_USE_PREBUILT_UI=OFF -DLLAMA_BUILD_EXAMPLES=OFF"
# ggml brings every CPU variant with it.
targets="ggml llama-completion llama-cli llama-server llama-bench llama-batched-bench llama-perplexity
llama-quantize llama-tokenize test-llama-archs test-save-load-state test-state-restore-fragmented test-backend-ops"

here=$(cd "$(dirname "$0")" && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/tightkv
if [ -n "${LLAMA_CPP_DIR:-}" ]; then
    if [ ! -e "$LLAMA_CPP_DIR/CMakeLists.txt" ]; then
        echo "llama.cpp: LLAMA_CPP_DIR=$LLAMA_CPP_DIR is no llama.cpp source tree" >&2
        exit 2
    fi
    src=$(cd "$LLAMA_CPP_DIR" && pwd)
    home=$cache/llama.cpp-$(printf %s "$src" | sha1sum | cut -c1-12)
else
    home=$cache/llama.cpp-$tag
    src=$home/src
fi
build=${LLAMA_CPP_BUILD:-$home/build}

say() { echo "llama.cpp: $*"; }

# Runs a command that may hang on a network that swallows packets.
patiently() { timeout "$@" </dev/null; }

from_git() {
    say "cloning $tag"
    GIT_TERMINAL_PROMPT=0 patiently 20 git ls-remote --exit-code "$repository" "refs/tags/$tag" >/dev/null 2>&1 &&
        GIT_TERMINAL_PROMPT=0 patiently 600 git clone -q -c advice.detachedHead=false --depth 1 --branch "$tag" "$repository" "$1"
}

from_npm() {
    say "no clone to be had; taking the git bundle in the npm package $npm_package"
    "$here/setup.sh" npm
    tmp=$(mktemp -d)
    if (cd "$tmp" && patiently 600 npm pack --silent "$npm_package" >/dev/null &&
        tar -xzf ./*.tgz "$npm_bundle") && git clone -q -c advice.detachedHead=false "$tmp/$npm_bundle" "$1"; then
        git -C "$1" remote remove origin
        rm -rf "$tmp"
    else
        rm -rf "$tmp"
        return 1
    fi
}

get_source() {
    [ ! -e "$src/CMakeLists.txt" ] || return 0
    mkdir -p "$home"
    # Into a folder beside it first: an interrupted download must not look like a source tree.
    rm -rf "$src.part" "$src"
    if ! from_git "$src.part"; then
        rm -rf "$src.part"
        from_npm "$src.part" || {
            say "could be had neither from its repository nor from npm; set LLAMA_CPP_DIR to a source tree of $tag" >&2
            exit 1
        }
    fi
    mv "$src.part" "$src"
}

check_source() {
    found=$(git -C "$src" rev-parse 'HEAD^{tree}' 2>/dev/null || echo unknown)
    case $found in
    "$tree"*) ;;
    *) say "warning: the tree in $src is $found, not $tree ($tag): going on, but figures and tests are for $tag" >&2 ;;
    esac
}

# What a build depends on; a finished build with the same key is taken as it is.
key() {
    git -C "$src" rev-parse HEAD 2>/dev/null || echo "$src"
    echo "$flags $targets" | tr '\n' ' '
    ${CC:-cc} -dumpfullversion 2>/dev/null || true
}

configured_with() { [ -e "$build/build.ninja" ] && [ "$(cat "$build/tightkv.configured" 2>/dev/null)" = "$1" ]; }

build_it() {
    want=$(key)
    [ "$(cat "$build/tightkv.built" 2>/dev/null)" != "$want" ] || return 0
    mkdir -p "$build"
    if ! configured_with "$want"; then
        say "configuring"
        # shellcheck disable=SC2086 # a list of words
        cmake -S "$src" -B "$build" -G Ninja $flags >"$build/configure.log" 2>&1 || {
            tail -n 20 "$build/configure.log" >&2
            say "could not be configured: see $build/configure.log" >&2
            exit 1
        }
        echo "$want" >"$build/tightkv.configured"
    fi
    say "building in $build (about 12 minutes on 2 cores, once; an interrupted build goes on where it stopped)"
    # shellcheck disable=SC2086 # a list of words
    ninja -C "$build" -j "$(jobs_here)" $targets || {
        say "could not be built: run $0 again to go on, or see the lines above" >&2
        exit 1
    }
    echo "$want" >"$build/tightkv.built"
}

# One compiler a core, but none without a gigabyte of memory.
jobs_here() {
    cores=$(nproc)
    gigabytes=$(awk '/MemAvailable/ { print int($2 / 1048576) }' /proc/meminfo)
    [ "$gigabytes" -ge "$cores" ] || cores=$gigabytes
    [ "$cores" -ge 1 ] || cores=1
    echo "$cores"
}

case ${1:-} in
where)
    [ -e "$build/CMakeCache.txt" ] || exit 1
    echo "$src"
    echo "$build"
    ;;
'')
    if [ -n "${LLAMA_CPP_BUILD:-}" ]; then
        [ -n "${LLAMA_CPP_DIR:-}" ] || { say "LLAMA_CPP_BUILD needs LLAMA_CPP_DIR, the source it was built from" >&2; exit 2; }
    else
        mkdir -p "$home"
        # Two clones on one machine share the build: one waits for the other.
        exec 9>"$home/lock"
        flock 9
        get_source
        check_source
        build_it
    fi
    ;;
*)
    sed -n '2,6s/^# *//p' "$0" >&2
    exit 2
    ;;
esac
