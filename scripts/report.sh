#!/bin/sh
# The packages that the page of tightkv report is bundled from: got through npm by the lock file, kept for this user.
#   report.sh          makes sure that they are there; where they cannot be had, says so: only the page is missing then
#   report.sh where    prints the folder that holds them, and makes nothing
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/tightkv
home=$cache/report-$(sha1sum <"$root/report/package-lock.json" | cut -c1-12)

get() {
    "$root/scripts/setup.sh" npm || return 1
    # Into a folder beside it first: an interrupted download must not look like a whole one.
    rm -rf "$home.part"
    mkdir -p "$home.part"
    cp "$root/report/package.json" "$root/report/package-lock.json" "$home.part"
    (cd "$home.part" && timeout 600 npm ci --silent --no-audit --no-fund </dev/null) || return 1
    mv "$home.part" "$home"
}

case ${1:-} in
where)
    [ -e "$home/node_modules" ] || exit 1
    echo "$home/node_modules"
    ;;
'')
    mkdir -p "$cache"
    # Two clones on one machine share the packages: one waits for the other.
    exec 9>"$home.lock"
    flock 9
    [ -e "$home/node_modules" ] || get || {
        rm -rf "$home.part"
        echo "report: its packages could not be had through npm: tightkv report will have no page to fill" >&2
    }
    ;;
*)
    sed -n '2,4s/^# *//p' "$0" >&2
    exit 2
    ;;
esac
