#!/usr/bin/env bash
# Every method on recreated PointMaze data, for machines without a GPU. Before: for maze in medium large, run
# `python benchmark/make_dataset.py pointmaze-$maze`. SEEDS, WORKERS, FILTER, FLAGS and DRY_RUN: see run.sh.
exec bash "$(dirname "$0")/run.sh" <<'COMMANDS'
python td3_bst.py --env-id td3-bst/pointmaze-medium-v1 --total-timesteps 30000 --eval-freq 10000
python td3_bst.py --env-id td3-bst/pointmaze-medium-v1 --total-timesteps 30000 --eval-freq 10000 --weighting constant
python td3_bst.py --env-id td3-bst/pointmaze-medium-v1 --total-timesteps 30000 --eval-freq 10000 --q-weight 0
python td3_bst.py --env-id td3-bst/pointmaze-medium-v1 --total-timesteps 30000 --eval-freq 10000 --weighting constant --q-weight 0
python iql_bst.py --env-id td3-bst/pointmaze-medium-v1 --total-timesteps 30000 --eval-freq 10000
python iql_bst.py --env-id td3-bst/pointmaze-medium-v1 --total-timesteps 30000 --eval-freq 10000 --policy-extraction awr
python td3_bst.py --env-id td3-bst/pointmaze-large-v1 --total-timesteps 30000 --eval-freq 10000
python td3_bst.py --env-id td3-bst/pointmaze-large-v1 --total-timesteps 30000 --eval-freq 10000 --weighting constant
python td3_bst.py --env-id td3-bst/pointmaze-large-v1 --total-timesteps 30000 --eval-freq 10000 --q-weight 0
python td3_bst.py --env-id td3-bst/pointmaze-large-v1 --total-timesteps 30000 --eval-freq 10000 --weighting constant --q-weight 0
python iql_bst.py --env-id td3-bst/pointmaze-large-v1 --total-timesteps 30000 --eval-freq 10000
python iql_bst.py --env-id td3-bst/pointmaze-large-v1 --total-timesteps 30000 --eval-freq 10000 --policy-extraction awr
python iql_bst.py --env-id td3-bst/pointmaze-large-v1 --total-timesteps 30000 --eval-freq 10000 --policy-extraction awr --inverse-temperature 10
COMMANDS
