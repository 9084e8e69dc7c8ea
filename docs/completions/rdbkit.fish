# fish completion for rdbkit. Verbs, options and targets come from the program's own help, so that there is no second list;
# it is the program that is being typed, which need not be in PATH.
function __rdbkit_program
    set -l words (commandline -opc)
    string replace -r '^~/' "$HOME/" -- $words[1]
end

function __rdbkit_verb
    set -l words (commandline -opc)
    test (count $words) -gt 1; and echo $words[2]
end

# Lines of "name, argument or nothing, what it does", with tabs between, for each option and letter of the verb.
function __rdbkit_rows
    set -l program (__rdbkit_program)
    $program help (__rdbkit_verb) 2>/dev/null | awk '
        function out() { if (name != "") { print name "\t" arg "\t" text; if (letter != "") print letter "\t" arg "\t" text } name = "" }
        /^  (-.,|   ) --[a-z-]+/ {
            out()
            letter = substr($0, 3, 1) == "-" ? substr($0, 3, 2) : ""
            rest = substr($0, 7)
            split(rest, word, / /)
            name = word[1]; arg = word[2]
            text = substr(rest, length(name " " arg) + 1); sub(/^ +/, "", text)
            next
        }
        /^ +rdbkit / || /^$/ { out(); next }
        name != "" { sub(/^ +/, ""); text = text " " $0 }'
end

# The name of the argument that is to come, if an option wants one.
function __rdbkit_argument
    set -l option (__rdbkit_option)
    test -n "$option"; or return
    for row in (__rdbkit_rows)
        set -l cells (string split \t -- $row)
        test "$cells[1]" = "$option"; and echo $cells[2]; and return
    end
end

# The option whose argument is being typed: that of --name=, or the word before.
function __rdbkit_option
    set -l words (commandline -opc)
    contains -- -- $words; and return
    set -l name (string match -rg -- '^(--[a-z-]+)=' (commandline -ct)); and echo $name; and return
    test (count $words) -gt 2; and string match -r -- '^-.*' $words[-1]
end

function __rdbkit_values
    set -l program (__rdbkit_program)
    set -l before (string match -r -- '^--[a-z-]+=' (commandline -ct))
    set -l values
    switch (__rdbkit_verb)' '(__rdbkit_option)
        case '* --to'
            set values ($program to-resp --to '?' 2>&1 | string replace -rf '.*targets are ([^,]*),.*' '$1' | string split ' ')
        case 'convert --format'
            set values rdb aof
        case '* --encoding'
            set values auto utf8 base64 latin1
        case '* -t' '* -T' '* --type' '* --not-type'
            set before "$before"(string match -r -- '[^=]*,' (commandline -ct))
            set values string list set zset hash stream module
    end
    test -n "$values"; and printf '%s\n' "$before"$values
end

function __rdbkit_complete
    set -l program (__rdbkit_program)
    set -l words (commandline -opc)
    set -l cur (commandline -ct)
    set -l argument (__rdbkit_argument)
    if test (count $words) = 1; or begin; test (count $words) = 2; and test "$words[2]" = help; and not string match -q -- '-*' "$cur"; end
        $program help 2>/dev/null | string replace -rf '^  ([a-z][a-z-]*) +(.*)' '$1\t$2'
    else if test -n "$argument"
        __rdbkit_values
    else if string match -q -- '-*' "$cur"; and not contains -- -- $words
        __rdbkit_rows | string replace -r '^([^\t]*)\t[^\t]*\t' '$1\t'
    end
end

function __rdbkit_wants_file
    set -l verb (__rdbkit_verb)
    set -l argument (__rdbkit_argument)
    test -n "$verb" -a "$verb" != help; and contains -- "$argument" '' FILE
end

complete -c rdbkit -f -a '(__rdbkit_complete)'
complete -c rdbkit -n __rdbkit_wants_file -F
