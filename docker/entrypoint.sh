#!/bin/sh
# Run what follows the image's name: a command of `reproduce`, `test`, or any program, as MLflow's docker_env passes one.
# Every branch ends in `exec`, so that the program itself gets the engine's SIGTERM.
set -eu

asks_for_help() {
    for word in "$@"; do
        case "$word" in -h | --help) return 0 ;; esac
    done
    return 1
}

# Check before any work that the results can be written.
check_directory() {
    if asks_for_help "$@"; then return; fi
    if ! [ -w . ]; then
        echo "error: $PWD cannot be written to by user $(id -u): make a directory of your own and mount it, as in" \
            "mkdir -p output && docker run --user \"\$(id -u):\$(id -g)\" -v \"\$PWD/output:/output\" IMAGE" >&2
        exit 2
    fi
    if [ "$(stat -c %d .)" = "$(stat -c %d /)" ]; then
        echo "nothing is mounted at $PWD: the results stay in this container; keep them with -v \"\$PWD/output:$PWD\"" >&2
    fi
}

case "${1:-main}" in
-h | --help | --version)
    exec reproduce "$@"
    ;;
-*)
    check_directory "$@"
    exec reproduce main "$@"
    ;;
main | range_test | sweep | grid | report | verify | data)
    check_directory "$@"
    exec reproduce "${@:-main}"
    ;;
ui)
    shift
    check_directory "$@"
    # This is the container's own network. The options of `docker run` decide what is published.
    exec reproduce ui --host 0.0.0.0 "$@"
    ;;
test)
    shift
    cd /opt/reproduce
    REPRODUCE_HOME=$(mktemp -d)
    export REPRODUCE_HOME
    exec python -m pytest -p no:cacheprovider "$@"
    ;;
esac
if command -v "$1" >/dev/null; then
    exec "$@"
fi
# This is no program: `reproduce` prints an error with the nearest command.
exec reproduce "$@"
