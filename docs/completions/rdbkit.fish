# fish completion for rdbkit. Verbs and options come from the program's own help, so that there is no second list.
function __rdbkit_verbs
    rdbkit help 2>/dev/null | string replace -rf '^  ([a-z-]+) +(.*)' '$1\t$2'
end
function __rdbkit_verb
    set -l words (commandline -opc)
    test (count $words) -gt 1; and echo $words[2]
end
function __rdbkit_options
    rdbkit help (__rdbkit_verb) 2>/dev/null | string replace -rf '^  ....(--[a-z-]+)(?: [A-Z]+)? +(.*)' '$1\t$2'
end
function __rdbkit_targets
    rdbkit to-resp --to '?' 2>&1 | string replace -rf '.*targets are ([^,]*),.*' '$1' | string split ' '
end
complete -c rdbkit -n 'test -z (__rdbkit_verb)' -f -a '(__rdbkit_verbs)'
complete -c rdbkit -n 'test (__rdbkit_verb) = help' -f -a '(__rdbkit_verbs)'
complete -c rdbkit -n 'string match -q -- "-*" (commandline -ct)' -f -a '(__rdbkit_options)'
complete -c rdbkit -n 'test (commandline -opc)[-1] = --to' -f -a '(__rdbkit_targets)'
complete -c rdbkit -n 'test (__rdbkit_verb) = convert; and test (commandline -opc)[-1] = --format' -f -a 'rdb aof'
