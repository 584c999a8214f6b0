#!/usr/bin/env bash
# Run the commands on standard input, one a line, once per seed each; every experiment's script here ends in it.
#
#   SEEDS="1 2 3 4 5"   seeds
#   WORKERS=1           processes at a time; on a CPU they share its cores evenly; on one GPU their updates gain only by
#                       NVIDIA's MPS, started before with `nvidia-cuda-mps-control -d` (benchmark/speed.md); of runs that
#                       download one Minari dataset at the same time all but one may fail: rerun the command
#   FILTER=REGEX        only the commands that match, e.g. FILTER=medium or FILTER='umaze .*--seed 1$'
#   FLAGS="..."         added to every command, e.g. FLAGS="--total-timesteps 300000"; what does nothing for a command's
#                       method may be refused, so choose with FILTER
#   DRY_RUN=1           print the commands
#
# Finished runs are skipped and interrupted ones resumed (run_one.sh), so after Ctrl-C, a kill or a failure rerun the same
# command for what is left. A kill of this script alone leaves its runs running: kill its process group. If runs failed,
# it lists them and exits with a non-zero status.
set -euo pipefail
cd "$(dirname "$0")/.."
: "${SEEDS:=1 2 3 4 5}" "${WORKERS:=1}" "${FILTER:=.}" "${FLAGS:=}" "${DRY_RUN:=}"

error() {
    echo "error: $1" >&2
    exit 1
}
[[ $WORKERS =~ ^[1-9][0-9]*$ ]] || error "WORKERS must be 1 or more, got $WORKERS"
[[ $SEEDS$FLAGS =~ [^A-Za-z0-9_@%+=:,./\ -] ]] && error "SEEDS and FLAGS must be plain words with a space between, got $SEEDS $FLAGS"
FLAGS=$(echo $FLAGS)  # one space between words, as in the command that a run stores
lines=$(cat)
commands=$(for seed in $SEEDS; do
    while read -r line; do echo "$line${FLAGS:+ $FLAGS} --seed $seed"; done <<< "$lines"
done | grep -E -e "$FILTER") || error "no command matches FILTER=$FILTER; DRY_RUN=1 without it prints them all"
if [ -n "$DRY_RUN" ]; then
    echo "$commands"
    exit
fi
cores=$(nproc 2> /dev/null || getconf _NPROCESSORS_ONLN)
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((cores > WORKERS ? cores / WORKERS : 1))}
export FAILED=$(mktemp)
trap 'rm -f "$FAILED"' EXIT
trap 'echo "stopped; rerun the command to resume" >&2; exit 130' INT
echo "$(grep -c . <<< "$commands") runs, $WORKERS at a time with $OMP_NUM_THREADS threads each"
tr '\n' '\0' <<< "$commands" | xargs -0 -n 1 -P "$WORKERS" bash benchmark/run_one.sh || {
    [ -s "$FAILED" ] || echo "a run was killed" > "$FAILED"
    echo "rerun the command for what is left; if a worker was killed (xargs says so), no later run was started" >&2
    echo "failed:" >&2
    cat "$FAILED" >&2
    exit 1
}
echo "all finished; for the tables: python benchmark/report.py FOLDER-OF-THE-RUNS"
