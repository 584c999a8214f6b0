#!/usr/bin/env bash
# The kernel scale, k/2 (the default), k/10, k and 2k: on AntMaze, and shorter on recreated data, of which
# `python benchmark/make_dataset.py pointmaze-large` makes what is needed. Variables: see run.sh.
exec bash "$(dirname "$0")/run.sh" <<'COMMANDS'
python td3_bst.py --env-id antmaze-umaze --kernel-scale-factor 0.1
python td3_bst.py --env-id antmaze-umaze
python td3_bst.py --env-id antmaze-umaze --kernel-scale-factor 1
python td3_bst.py --env-id antmaze-umaze --kernel-scale-factor 2
python td3_bst.py --env-id antmaze-medium-diverse --kernel-scale-factor 0.1
python td3_bst.py --env-id antmaze-medium-diverse
python td3_bst.py --env-id antmaze-medium-diverse --kernel-scale-factor 1
python td3_bst.py --env-id antmaze-medium-diverse --kernel-scale-factor 2
python td3_bst.py --env-id antmaze-large-diverse --kernel-scale-factor 0.1
python td3_bst.py --env-id antmaze-large-diverse
python td3_bst.py --env-id antmaze-large-diverse --kernel-scale-factor 1
python td3_bst.py --env-id antmaze-large-diverse --kernel-scale-factor 2
python td3_bst.py --env-id td3-bst/pointmaze-large-v1 --total-timesteps 30000 --eval-freq 10000 --kernel-scale-factor 0.1
python td3_bst.py --env-id td3-bst/pointmaze-large-v1 --total-timesteps 30000 --eval-freq 10000
python td3_bst.py --env-id td3-bst/pointmaze-large-v1 --total-timesteps 30000 --eval-freq 10000 --kernel-scale-factor 1
python td3_bst.py --env-id td3-bst/pointmaze-large-v1 --total-timesteps 30000 --eval-freq 10000 --kernel-scale-factor 2
COMMANDS
