# What every rank's bash runs before the user's text. A file of skyq's, never of a user's.
#
# ~/.bashrc is evaluated, not sourced: most begin with a guard that returns when the shell is not
# interactive, and at the top level of an eval that `return` is an error that changes nothing. So
# what conda and people put at the end is there, as in SkyPilot's `bash -i`, without the noise.
# If it ends the shell all the same, the trap starts over without it; an `exec zsh` in it does nothing.
if [ -z "$SKYQ_SKIP_RC" ] && [ -r "$HOME/.bashrc" ]; then
    IFS= read -r -d '' __skyq_rc <"$HOME/.bashrc"
    __skyq_cwd=$PWD
    trap '
        builtin cd "$__skyq_cwd"
        export SKYQ_SKIP_RC=1
        builtin exec "$BASH" --noprofile --norc "$0" "$@" <&6 >&7 2>&8 6<&- 7>&- 8>&-
    ' EXIT
    # A cancel meant the job, not what its ~/.bashrc does: nothing starts over.
    for __skyq_sig in TERM HUP INT; do
        trap "trap - EXIT $__skyq_sig; kill -$__skyq_sig \$\$" "$__skyq_sig"
    done
    exec 6<&0 7>&1 8>&2 </dev/null >/dev/null 2>&1
    exec() { :; }
    eval "$__skyq_rc"
    unset -f exec
    set +aefmuvxC +o pipefail
    trap - EXIT ERR DEBUG TERM HUP INT
    [ "$PWD" = "$__skyq_cwd" ] || builtin cd "$__skyq_cwd"
    exec <&6 >&7 2>&8 6<&- 7>&- 8>&-
    unset __skyq_cwd __skyq_sig
fi
unset SKYQ_SKIP_RC
# What the job was given again, since ~/.bashrc may have changed it: NAME=value, each ended by NUL. PATH and
# the rest of the account's environment is not among it: there ~/.bashrc has the last word.
while IFS= read -r -d '' -u 9 __skyq_rc; do
    export "$__skyq_rc"
done
exec 9<&-
# docker and podman, where there are such, go through wrappers: last, since all of the above may set PATH.
for __skyq_rc in docker podman; do
    if [ -x "$2/$__skyq_rc/$__skyq_rc" ] && type -P "$__skyq_rc" >/dev/null; then
        export PATH="$2/$__skyq_rc:$PATH"
    fi
done
__skyq_rc=$1
shift 2
. "$__skyq_rc"
