#!/bin/sh
# Checks what the libraries export and need.
#   check_symbols.sh SHARED_LIBRARY STATIC_LIBRARY HEADER
# Exported by the shared one: exactly the functions that HEADER declares with TKV_API. Global in the static one: only
# names that begin with tkv_. Needed from outside: no call that prints, exits, aborts, starts a thread, reads the
# environment or opens a file, but for the spill file's open(); no library but libc, libm and liburing.
set -eu
LC_ALL=C
export LC_ALL
shared=$1 static=$2 header=$3
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
rc=0

# complain TEXT FILE: one line for each line of FILE.
complain() {
    [ -s "$2" ] || return 0
    sed "s|^|$1: |" "$2"
    rc=1
}

nm -D --defined-only "$shared" | awk '{ print $NF }' | sort -u >"$tmp/exported"
grep -v '^#' "$header" | tr '\n' ' ' | grep -o 'TKV_API [^(;]*(' | sed 's/.*[ *]\(tkv_[a-z0-9_]*\)(/\1/' | sort -u >"$tmp/declared"
[ -s "$tmp/declared" ] || { echo "no TKV_API function in $header" && exit 1; }
comm -23 "$tmp/exported" "$tmp/declared" >"$tmp/undeclared"
comm -13 "$tmp/exported" "$tmp/declared" >"$tmp/undefined"
complain "exported, not declared in the header" "$tmp/undeclared"
complain "declared in the header, not exported" "$tmp/undefined"

nm --defined-only --extern-only "$static" | awk 'NF == 3 { print $3 }' | grep -v '^tkv_' | sort -u >"$tmp/unprefixed" || true
complain "global in the static library without tkv_" "$tmp/unprefixed"

nm -D --undefined-only "$shared" | awk '{ print $NF }' | sed 's/@.*//' | sort -u >"$tmp/needed"
grep -E '^(v?f?printf|puts|putchar|fputs|fputc|fwrite|perror|fopen(64)?|read|write|getenv|secure_getenv|abort|exit|_exit|__assert_fail|signal|raise|pthread_.*|thrd_.*|syscall|rand|srand|time)$' \
    "$tmp/needed" >"$tmp/forbidden" || true
nm -A --undefined-only "$static" | awk '$NF ~ /^(open|open64)$/ && !/:spill\.c/ { print $1, $NF }' >>"$tmp/forbidden"
complain "the library must not call" "$tmp/forbidden"
objdump -p "$shared" | awk '$1 == "NEEDED" { print $2 }' | grep -v -E '^(libc|libm|liburing|ld-linux[a-z0-9_-]*)\.so' >"$tmp/libraries" || true
complain "needs another library" "$tmp/libraries"

echo "$(wc -l <"$tmp/exported") functions exported, $(wc -l <"$tmp/needed") needed"
exit $rc
