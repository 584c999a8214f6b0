#!/usr/bin/env bash
# Every method on recreated AntMaze, for where Minari's cannot be downloaded: shorter than the default's million steps.
# Before: for maze in umaze medium-diverse large-diverse "umaze-diverse --one-goal" "medium-play --one-goal", run
# `python benchmark/make_dataset.py antmaze-$maze`. SEEDS, WORKERS, FILTER, FLAGS and DRY_RUN: see run.sh.
exec bash "$(dirname "$0")/run.sh" <<'COMMANDS'
python td3_bst.py --env-id td3-bst/antmaze-umaze-v0 --total-timesteps 200000
python td3_bst.py --env-id td3-bst/antmaze-umaze-v0 --total-timesteps 200000 --weighting constant --constant-weight 2
python td3_bst.py --env-id td3-bst/antmaze-umaze-v0 --total-timesteps 200000 --weighting constant --q-weight 0
python td3_bst.py --env-id td3-bst/antmaze-umaze-diverse-one-goal-v0 --total-timesteps 200000
python td3_bst.py --env-id td3-bst/antmaze-umaze-diverse-one-goal-v0 --total-timesteps 200000 --weighting constant --constant-weight 2
python td3_bst.py --env-id td3-bst/antmaze-umaze-diverse-one-goal-v0 --total-timesteps 200000 --weighting constant --q-weight 0
python td3_bst.py --env-id td3-bst/antmaze-umaze-diverse-one-goal-v0 --total-timesteps 200000 --kernel-scale-factor 0.1
python td3_bst.py --env-id td3-bst/antmaze-umaze-diverse-one-goal-v0 --total-timesteps 200000 --kernel-scale-factor 1
python td3_bst.py --env-id td3-bst/antmaze-umaze-diverse-one-goal-v0 --total-timesteps 200000 --kernel-scale-factor 2
python td3_bst.py --env-id td3-bst/antmaze-medium-play-one-goal-v0 --total-timesteps 200000
python td3_bst.py --env-id td3-bst/antmaze-medium-play-one-goal-v0 --total-timesteps 200000 --weighting constant --constant-weight 2
python td3_bst.py --env-id td3-bst/antmaze-medium-play-one-goal-v0 --total-timesteps 200000 --weighting constant
python td3_bst.py --env-id td3-bst/antmaze-medium-play-one-goal-v0 --total-timesteps 200000 --weighting constant --q-weight 0
python iql_bst.py --env-id td3-bst/antmaze-medium-play-one-goal-v0 --total-timesteps 200000 --policy-extraction awr --inverse-temperature 1 --discount 0.998
python td3_bst.py --env-id td3-bst/antmaze-medium-diverse-v0 --total-timesteps 300000 --eval-freq 100000
python td3_bst.py --env-id td3-bst/antmaze-medium-diverse-v0 --total-timesteps 300000 --eval-freq 100000 --weighting constant --constant-weight 2
python td3_bst.py --env-id td3-bst/antmaze-medium-diverse-v0 --total-timesteps 300000 --eval-freq 100000 --weighting constant
python td3_bst.py --env-id td3-bst/antmaze-medium-diverse-v0 --total-timesteps 300000 --eval-freq 100000 --weighting constant --q-weight 0
python iql_bst.py --env-id td3-bst/antmaze-medium-diverse-v0 --total-timesteps 300000 --eval-freq 100000
python iql_bst.py --env-id td3-bst/antmaze-medium-diverse-v0 --total-timesteps 300000 --eval-freq 100000 --policy-extraction awr
python iql_bst.py --env-id td3-bst/antmaze-medium-diverse-v0 --total-timesteps 300000 --eval-freq 100000 --policy-extraction awr --inverse-temperature 1
python iql_bst.py --env-id td3-bst/antmaze-medium-diverse-v0 --total-timesteps 300000 --eval-freq 100000 --policy-extraction awr --inverse-temperature 1 --actor-hidden-dims 256 256 256 --actor-learning-rate 1e-3
python td3_bst.py --env-id td3-bst/antmaze-large-diverse-v0 --total-timesteps 300000 --eval-freq 100000
python td3_bst.py --env-id td3-bst/antmaze-large-diverse-v0 --total-timesteps 300000 --eval-freq 100000 --weighting constant --constant-weight 2
python td3_bst.py --env-id td3-bst/antmaze-large-diverse-v0 --total-timesteps 300000 --eval-freq 100000 --weighting constant --q-weight 0
python iql_bst.py --env-id td3-bst/antmaze-large-diverse-v0 --total-timesteps 300000 --eval-freq 100000 --policy-extraction awr
COMMANDS
