#!/usr/bin/env bash
# What the dynamic weight does: TD3-BST, TD3+BC, Morse-weighted behaviour cloning, behaviour cloning. Variables: see run.sh.
exec bash "$(dirname "$0")/run.sh" <<'COMMANDS'
python td3_bst.py --env-id hopper-medium-v2
python td3_bst.py --env-id hopper-medium-v2 --weighting constant
python td3_bst.py --env-id hopper-medium-v2 --q-weight 0
python td3_bst.py --env-id hopper-medium-v2 --weighting constant --q-weight 0
python td3_bst.py --env-id walker2d-medium-replay-v2
python td3_bst.py --env-id walker2d-medium-replay-v2 --weighting constant
python td3_bst.py --env-id walker2d-medium-replay-v2 --q-weight 0
python td3_bst.py --env-id walker2d-medium-replay-v2 --weighting constant --q-weight 0
python td3_bst.py --env-id antmaze-umaze
python td3_bst.py --env-id antmaze-umaze --weighting constant
python td3_bst.py --env-id antmaze-umaze --q-weight 0
python td3_bst.py --env-id antmaze-umaze --weighting constant --q-weight 0
python td3_bst.py --env-id antmaze-medium-diverse
python td3_bst.py --env-id antmaze-medium-diverse --weighting constant
python td3_bst.py --env-id antmaze-medium-diverse --q-weight 0
python td3_bst.py --env-id antmaze-medium-diverse --weighting constant --q-weight 0
python td3_bst.py --env-id antmaze-large-diverse
python td3_bst.py --env-id antmaze-large-diverse --weighting constant
python td3_bst.py --env-id antmaze-large-diverse --q-weight 0
python td3_bst.py --env-id antmaze-large-diverse --weighting constant --q-weight 0
COMMANDS
