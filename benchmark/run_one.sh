#!/usr/bin/env bash
# Run one command of a benchmark: skip it if it has finished, resume it if it was interrupted.
#
#     bash benchmark/run_one.sh "python td3_bst.py --env-id antmaze-umaze --seed 1"
#
# A run is found by its exact command in the args.json of its folder. Its output is in the folder `logs` beside that.
set -uo pipefail
cd "$(dirname "$0")/.."
trap 'exit 130' INT
command=${1:?error: no command}
runs=$(sed -nE 's/.*--runs[-_]dir[ =]([^ ]*).*/\1/p' <<< "$command")
runs=${runs:-runs}
mkdir -p "$runs/logs"
log=$runs/logs/$(cksum <<< "$command" | cut -d " " -f 1).log

fail() {
    echo "$command: $1" | tee -a "${FAILED:-/dev/null}" >&2
    exit 1
}
if command -v flock > /dev/null; then  # the run itself holds the lock too, should this script be killed
    exec 9> "$log.lock"
    flock -w 60 9 || fail "another process is running it"
fi
now=$command
for file in $(grep -lsF "\"command\": \"$command\"" "$runs"/*/args.json); do
    run=$(dirname "$file")
    steps=$(sed -n 's/.*"total_timesteps": \([0-9]*\).*/\1/p' "$file")  # none in morse_only.py's
    if grep -qs "${steps:+\"step\": $steps, \"last\": true}" "$run/results.json" || grep -qsx "done: $run" "$log"; then
        echo "finished before: $command"
        exit
    elif [ -f "$run/checkpoint.pt" ]; then
        now="$(cut -d ' ' -f 1-2 <<< "$command") --resume $run"
    fi
done
echo "$(date +%H:%M) start: $now > $log"
reason() {  # the log's last line or, if that closes a box of tyro's, the box's first
    awk '/^╭/ { getline; box = $0 } { line = $0 } END { print line ~ /^╰/ ? box : line }' "$log" | sed 's/ *│ *//g'
}
$now >> "$log" 2>&1 || fail "status $?, $(reason) (all of it in $log)"
echo "$(date +%H:%M) finished: $command"
