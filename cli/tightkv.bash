# bash completion for tightkv(1). Options come from each command's --help, so that this file cannot fall behind.

_tightkv_presets() {
    tightkv run --kv '?' 2>&1 | sed -n 's/.*presets: \([a-z ]*\).*/\1/p'
}

_tightkv() {
    local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]} words=${COMP_WORDS[1]}
    local n_words=1 choices
    COMPREPLY=()
    if [ "$words" = bench ] || [ "$words" = book ]; then
        words="$words ${COMP_WORDS[2]}"
        n_words=2
    fi
    if [ "$COMP_CWORD" -le "$n_words" ]; then
        choices=$(tightkv --help | sed -n 's/^  \(.*[^ ]\)   *[^ ].*/\1/p')
        [ "$COMP_CWORD" = 2 ] && choices=$(printf '%s\n' "$choices" | sed -n "s/^${COMP_WORDS[1]} //p")
    elif [ "$previous" = --kv ]; then
        choices=$(_tightkv_presets)
    elif [ "$previous" = --cpu ]; then
        choices='ref avx2 avx512 bf16 neon dotprod all'
    elif [ "$previous" = --against ]; then
        choices=llama
    elif [[ $current == -* ]]; then
        # shellcheck disable=SC2086 # the words of a command are arguments of their own
        choices=$(tightkv $words --help 2>/dev/null | sed -n 's/^ .*\(--[a-z0-9-]*\).*/\1/p')
    else
        mapfile -t COMPREPLY < <(compgen -f -- "$current")
        return
    fi
    mapfile -t COMPREPLY < <(compgen -W "$choices" -- "$current" | sort -u)
}

complete -o filenames -F _tightkv tightkv
