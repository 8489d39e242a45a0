#!/bin/sh
# Runs what scripts/measure.runs lists, each to a file of its own in docs/results; a file that is there is not made
# again, and an evaluation that was cut goes on where it was. Then: make results. Speeds need a quiet machine.
#   measure.sh [NAME...]     only the runs of these names (a shell pattern each)
# MODEL  GGUF model (the embedded one)       TWIN  the same with outliers in its keys (made by tightkv harden)
# EVAL   folder of long texts and questions (wikitext2-raw-test.txt, recall-*.jsonl, visual-24.*); without it the text
#        that ships is scored
# OUT    folder of the results (docs/results)
set -eu
cd "$(dirname "$0")/.."

tightkv=build/bin/tightkv
MODEL=${MODEL:-models/tightkv-lm-46m-q4_k_m.gguf}
TWIN=${TWIN:-build/measure/$(basename "$MODEL" .gguf)-twin-1.gguf}
EVAL=${EVAL:-}
OUT=${OUT:-docs/results}
TEXT=${TEXT:-${EVAL:+$EVAL/wikitext2-raw-test.txt}}
TEXT=${TEXT:-models/demo-text.txt}
patterns=$*
mkdir -p "$OUT"

wanted() {
    [ -n "$patterns" ] || return 0
    for pattern in $patterns; do
        # shellcheck disable=SC2254 # it is a pattern
        case $1 in $pattern) return 0 ;; esac
    done
    return 1
}

# run NAME COMMAND...: an evaluation writes its file itself, for it can go on.
run() {
    name=$1
    file=$OUT/$1.json
    shift
    wanted "$name" || return 0
    if [ -s "$file" ]; then
        echo "== $name is there"
        return 0
    fi
    echo "== $name: tightkv $*"
    if [ "$1" = eval ]; then
        "$tightkv" "$@" --output "$file"
    else
        "$tightkv" "$@" --json --quiet >"$file.new" && mv "$file.new" "$file"
    fi
}

# The model with outliers, made once for the runs on it.
make_twin() {
    [ ! -e "$TWIN" ] || return 0
    mkdir -p "$(dirname "$TWIN")"
    "$tightkv" harden "$MODEL" "$TWIN.new" --seed 1 && mv "$TWIN.new" "$TWIN"
}

# shellcheck source=/dev/null
. scripts/measure.runs
