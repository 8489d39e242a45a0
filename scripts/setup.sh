#!/bin/sh
# Installs the Debian packages that a step needs, when some are missing: says which, then does it.
#   setup.sh GROUP...    groups: build test fuzz lint npm
set -eu

packages() {
    case $1 in
    build) echo gcc g++ libc6-dev cmake ninja-build pkg-config libxxhash-dev liburing-dev libcjson-dev libopenblas-dev liblapacke-dev scdoc git ca-certificates ;;
    test) echo libcmocka-dev python3 python3-numpy binutils \
        gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user \
        chromium chromium-driver python3-selenium fonts-dejavu-core ;;
    fuzz) echo clang libclang-rt-14-dev ;;
    lint) echo clang-format clang-tidy cppcheck shellcheck codespell python3 ;;
    # A Node.js from elsewhere may bring its own npm and conflict with Debian's.
    npm) command -v npm >/dev/null || echo nodejs npm ;;
    *) echo "setup.sh: no such group: $1" >&2 && exit 2 ;;
    esac
}

wanted=
for group in "$@"; do
    wanted="$wanted $(packages "$group")"
done

if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
    echo "setup: not a Debian system; these must be here already, under their names on this system:$wanted" >&2
    exit 0
fi

missing=
for p in $wanted; do
    case $(dpkg-query -W -f '${Status}' "$p" 2>/dev/null) in
    *"ok installed") ;;
    *) missing="$missing $p" ;;
    esac
done
[ -n "$missing" ] || exit 0

as_root=
if [ "$(id -u)" -ne 0 ]; then
    as_root=sudo
    if ! command -v sudo >/dev/null; then
        echo "setup: missing packages:$missing" >&2
        echo "setup: run as root: apt-get install$missing" >&2
        exit 1
    fi
fi
echo "setup: missing packages:$missing"
echo "setup: installing them with apt-get${as_root:+ (through $as_root)}"
$as_root apt-get update -q || echo "setup: apt-get update failed; going on with the lists at hand" >&2
# shellcheck disable=SC2086 # both are lists of words
$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $missing
