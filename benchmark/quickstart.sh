#!/usr/bin/env bash
# From a fresh clone to a trained policy: installs into .venv, recreates pointmaze-umaze, trains TD3-BST and behaviour
# cloning for the same number of steps, and prints both beside a random policy. About 4 minutes on 2 CPU cores.
set -euo pipefail
cd "$(dirname "$0")/.."

PYTHON=${PYTHON:-python3}
STEPS=${STEPS:-10000}
RUNS=runs-quickstart
ENV_ID=td3-bst/pointmaze-umaze-v1

[ -x .venv/bin/python ] || "$PYTHON" -m venv .venv
. .venv/bin/activate
python -m pip install --quiet --requirement requirements.txt
export OMP_NUM_THREADS=1  # one core for each of the two runs
export MINARI_DATASETS_PATH="$PWD/$RUNS/minari"

rm -rf "$RUNS"
python benchmark/make_dataset.py pointmaze-umaze --steps 100000
train() {  # in a subshell, whose process Python takes over
    exec python td3_bst.py --env-id "$ENV_ID" --runs-dir "$RUNS" --total-timesteps "$STEPS" --morse-steps 5000 "$@"
}
train --exp-name bc --weighting constant --q-weight 0 > "$RUNS/bc.log" 2>&1 &
trap 'kill $! 2> /dev/null || true' EXIT  # not left behind after Ctrl-C or a failure
(train --exp-name td3_bst)
wait $! || { cat "$RUNS/bc.log"; exit 1; }
python benchmark/random_policy.py --env-id "$ENV_ID" --runs-dir "$RUNS"

echo
python benchmark/report.py "$RUNS"
echo
echo "score is the success rate in percent. To look at the curves: .venv/bin/tensorboard --logdir $RUNS"
