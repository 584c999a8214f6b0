#!/usr/bin/env bash
# TD3-BST, TD3+BC and cloning on recreated locomotion data of medium quality: shorter than the default's million steps.
# Before: for robot in halfcheetah hopper walker2d, run `python benchmark/make_locomotion.py $robot`. SEEDS, WORKERS,
# FILTER, FLAGS and DRY_RUN: see run.sh.
exec bash "$(dirname "$0")/run.sh" <<'COMMANDS'
python td3_bst.py --env-id td3-bst/halfcheetah-medium-replay-v0 --total-timesteps 200000
python td3_bst.py --env-id td3-bst/halfcheetah-medium-replay-v0 --total-timesteps 200000 --weighting constant
python td3_bst.py --env-id td3-bst/halfcheetah-medium-replay-v0 --total-timesteps 200000 --weighting constant --q-weight 0
python td3_bst.py --env-id td3-bst/halfcheetah-medium-v0 --total-timesteps 200000
python td3_bst.py --env-id td3-bst/halfcheetah-medium-v0 --total-timesteps 200000 --weighting constant
python td3_bst.py --env-id td3-bst/halfcheetah-medium-v0 --total-timesteps 200000 --weighting constant --q-weight 0
python td3_bst.py --env-id td3-bst/hopper-medium-replay-v0 --total-timesteps 200000
python td3_bst.py --env-id td3-bst/hopper-medium-replay-v0 --total-timesteps 200000 --weighting constant
python td3_bst.py --env-id td3-bst/hopper-medium-replay-v0 --total-timesteps 200000 --weighting constant --q-weight 0
python td3_bst.py --env-id td3-bst/hopper-medium-v0 --total-timesteps 200000
python td3_bst.py --env-id td3-bst/hopper-medium-v0 --total-timesteps 200000 --weighting constant
python td3_bst.py --env-id td3-bst/hopper-medium-v0 --total-timesteps 200000 --weighting constant --q-weight 0
python td3_bst.py --env-id td3-bst/walker2d-medium-replay-v0 --total-timesteps 200000
python td3_bst.py --env-id td3-bst/walker2d-medium-replay-v0 --total-timesteps 200000 --weighting constant
python td3_bst.py --env-id td3-bst/walker2d-medium-replay-v0 --total-timesteps 200000 --weighting constant --q-weight 0
python td3_bst.py --env-id td3-bst/walker2d-medium-v0 --total-timesteps 200000
python td3_bst.py --env-id td3-bst/walker2d-medium-v0 --total-timesteps 200000 --weighting constant
python td3_bst.py --env-id td3-bst/walker2d-medium-v0 --total-timesteps 200000 --weighting constant --q-weight 0
COMMANDS
