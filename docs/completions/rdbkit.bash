# bash completion for rdbkit. Options come from the program's own help, so that there is no second list.
_rdbkit() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]} verb=${COMP_WORDS[1]} IFS=$'\n'
    COMPREPLY=()
    if [ "$prev" = --to ]; then
        COMPREPLY=($(compgen -W "$(rdbkit to-resp --to '?' 2>&1 | sed -n 's/.*targets are \([^,]*\),.*/\1/p' | tr ' ' '\n')" -- "$cur"))
    elif [ "$prev" = --format ] && [ "$verb" = convert ]; then
        COMPREPLY=($(compgen -W $'rdb\naof' -- "$cur"))
    elif [[ $cur == -* ]]; then
        COMPREPLY=($(compgen -W "$(rdbkit help "$verb" 2>/dev/null | sed -n 's/^  ....\(--[a-z-]*\).*/\1/p')" -- "$cur"))
    elif [ "$COMP_CWORD" = 1 ] || { [ "$COMP_CWORD" = 2 ] && [ "$verb" = help ]; }; then
        COMPREPLY=($(compgen -W "$(rdbkit help 2>/dev/null | sed -n 's/^  \([a-z-]*\)  *.*/\1/p')" -- "$cur"))
    else
        COMPREPLY=($(compgen -f -- "$cur"))
    fi
}
complete -o filenames -F _rdbkit rdbkit
