# Completion for bash of dipcluster, dipcontroller and dipengine: what their --help lists. For zsh:
# autoload -U bashcompinit && bashcompinit, then source this file.

_ddipp() {
    local program=${COMP_WORDS[0]} word=${COMP_WORDS[COMP_CWORD]} command=""
    case ${COMP_WORDS[COMP_CWORD - 1]} in
        --profile-dir | --file | --sshkey | --python | --keyfile | --work-dir | --ipython-dir)
            COMPREPLY=($(compgen -f -- "$word"))
            return
            ;;
    esac
    if [[ ${program##*/} == dipcluster ]]; then
        command=${COMP_WORDS[1]}
        ((COMP_CWORD == 1)) && command=""
    fi
    local words
    words=$("$program" $command --help 2> /dev/null | sed -nE \
        -e 's/^  (-[^ ]*).*/\1/p' -e 's/^  ([a-z]+) .*/\1/p' | sed -E 's/\{[^}]*\}//g' | tr ',' '\n')
    COMPREPLY=($(compgen -W "$words" -- "$word"))
}

complete -F _ddipp dipcluster dipcontroller dipengine
