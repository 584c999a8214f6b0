#!/usr/bin/env bash
# TD3-BST and TD3+BC on shares of the episodes. SEEDS, WORKERS, FILTER, FLAGS and DRY_RUN: see run.sh.
exec bash "$(dirname "$0")/run.sh" <<'COMMANDS'
python td3_bst.py --env-id hopper-medium-replay-v2 --dataset-fraction 0.03
python td3_bst.py --env-id hopper-medium-replay-v2 --dataset-fraction 0.1
python td3_bst.py --env-id hopper-medium-replay-v2 --dataset-fraction 0.3
python td3_bst.py --env-id hopper-medium-replay-v2
python td3_bst.py --env-id hopper-medium-replay-v2 --dataset-fraction 0.03 --weighting constant
python td3_bst.py --env-id hopper-medium-replay-v2 --dataset-fraction 0.1 --weighting constant
python td3_bst.py --env-id hopper-medium-replay-v2 --dataset-fraction 0.3 --weighting constant
python td3_bst.py --env-id hopper-medium-replay-v2 --weighting constant
python td3_bst.py --env-id antmaze-medium-diverse --dataset-fraction 0.03
python td3_bst.py --env-id antmaze-medium-diverse --dataset-fraction 0.1
python td3_bst.py --env-id antmaze-medium-diverse --dataset-fraction 0.3
python td3_bst.py --env-id antmaze-medium-diverse
python td3_bst.py --env-id antmaze-medium-diverse --dataset-fraction 0.03 --weighting constant
python td3_bst.py --env-id antmaze-medium-diverse --dataset-fraction 0.1 --weighting constant
python td3_bst.py --env-id antmaze-medium-diverse --dataset-fraction 0.3 --weighting constant
python td3_bst.py --env-id antmaze-medium-diverse --weighting constant
COMMANDS
