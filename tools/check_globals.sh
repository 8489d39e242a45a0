#!/bin/sh
# Checks that the library has no mutable global or static state, by the sections that its objects have.
#   check_globals.sh STATIC_LIBRARY
# Letters of nm would not do: constant tables of pointers (.data.rel.ro) have the D of writable data.
# Exceptions: tools/globals_allowed.txt, one symbol a line.
set -eu
allowed=$(dirname "$0")/globals_allowed.txt
# Symbols of writable sections, without the section symbols themselves (their size is 0), and common ones. A line is
# an address, a space, seven letters, a space, the section, the size, the name.
found=$(objdump -t "$1" | awk '
    /^[^ ]+: +file format/ { object = $1; next }
    { line = substr($0, index($0, " ") + 9); n = split(line, f, /[ \t]+/); section = f[1]; name = f[n] }
    section ~ /^\.(data|bss|tdata|tbss)/ && section !~ /^\.data\.rel\.ro/ && f[2] !~ /^0+$/ { print object, name }
    section == "*COM*" { print object, name }' | while read -r object name; do
    grep -q -x -F "$name" "$allowed" || echo "$object $name"
done)
objects=$(objdump -t "$1" | grep -c 'file format') || { echo "no objects in $1" && exit 1; }
[ -z "$found" ] || { echo "$found" | sed 's/^/mutable global: /' && exit 1; }
echo "$objects objects without mutable globals"
