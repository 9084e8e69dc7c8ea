# bash completion for rdbkit. Verbs, options and targets come from the program's own help, so that there is no second list;
# it is the program that is being typed, which need not be in PATH.
_rdbkit() {
    local program=${COMP_WORDS[0]/#\~\//$HOME/} verb=${COMP_WORDS[1]} cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]}
    local arg='' words='' before='' i IFS=$'\n'
    COMPREPLY=()
    # --to=x is three words
    if [ "$cur" = = ]; then cur=''; elif [ "$prev" = = ]; then prev=${COMP_WORDS[COMP_CWORD - 2]}; fi
    for ((i = 2; i < COMP_CWORD; i++)); do
        if [ "${COMP_WORDS[i]}" = -- ]; then verb=--; fi
    done
    if [[ $verb != -- && $COMP_CWORD -gt 2 && $prev == -* ]]; then
        arg=$("$program" help "$verb" 2>/dev/null | sed -En "s/^  (-., |    )(--[a-z-]+) ([A-Z:]+) .*/\1\2 \3/p" |
            sed -En "s/^ *($prev|$prev, --[a-z-]+|-., $prev) ([A-Z:]+)\$/\2/p")
    fi
    if [ -n "$arg" ]; then
        case $verb:$prev in
            *:--to) words=$("$program" to-resp --to '?' 2>&1 | sed -n 's/.*targets are \([^,]*\),.*/\1/p' | tr ' ' '\n') ;;
            convert:--format) words=$'rdb\naof' ;;
            *:--encoding) words=$'auto\nutf8\nbase64\nlatin1' ;;
            *:-t | *:-T | *:--type | *:--not-type)
                words=$'string\nlist\nset\nzset\nhash\nstream\nmodule'
                if [[ $cur == *,* ]]; then before=${cur%,*}, cur=${cur##*,}; fi ;;
            *) if [ "$arg" != FILE ]; then return; fi ;;
        esac
    elif [ "$COMP_CWORD" = 1 ] || { [ "$COMP_CWORD" = 2 ] && [ "$verb" = help ] && [[ $cur != -* ]]; }; then
        words=$("$program" help 2>/dev/null | sed -En 's/^  ([a-z][a-z-]*) +.*/\1/p')
    elif [[ $verb != -- && $cur == -?* ]] || [[ $verb != -- && $cur == - ]]; then
        words=$("$program" help "$verb" 2>/dev/null | sed -En -e 'h;s/^  (-.), --.*/\1/p;g' -e 's/^  (-., |    )(--[a-z-]+).*/\2/p')
    fi
    if [ -n "$words" ]; then
        compopt +o filenames 2>/dev/null
        COMPREPLY=($(compgen -P "$before" -W "$words" -- "$cur"))
    else
        COMPREPLY=($(compgen -f -- "$cur"))
    fi
}
complete -o filenames -F _rdbkit rdbkit
