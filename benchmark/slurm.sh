#!/usr/bin/env bash
# The runs of an experiment's script as a SLURM array, one task each; options of sbatch may follow and override these.
#
#     bash benchmark/slurm.sh benchmark/td3_bst_antmaze.sh --partition gpu --array 1-30%8
#
# SEEDS, FILTER and FLAGS as in run.sh. A requeued task resumes; submitting again skips what has finished. SLURM's output
# has a line per task, runs/logs the output of the runs.
set -euo pipefail
[ -f "${1:-}" ] || { echo "error: the first argument must be an experiment's script, got ${1:-none}" >&2; exit 1; }
name=$(basename "$1" .sh)
commands=$(DRY_RUN=1 bash "$1")
cd "$(dirname "$0")/.."
mkdir -p runs/logs
list=$(mktemp "runs/logs/$name-XXXXXX")
echo "$commands" > "$list"
sbatch --job-name "$name" --array "1-$(grep -c . "$list")" --requeue --output "runs/logs/slurm-%A_%a.out" \
    --gpus 1 --cpus-per-task 10 --mem 24G --time 12:00:00 "${@:2}" \
    --wrap "OMP_NUM_THREADS=\$SLURM_CPUS_PER_TASK bash benchmark/run_one.sh \"\$(sed -n \"\${SLURM_ARRAY_TASK_ID}p\" $list)\""
