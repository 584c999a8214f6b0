#!/usr/bin/env bash
# TD3-BST on D4RL's nine locomotion datasets. SEEDS, WORKERS, FILTER, FLAGS and DRY_RUN: see run.sh.
exec bash "$(dirname "$0")/run.sh" <<'COMMANDS'
python td3_bst.py --env-id halfcheetah-medium-v2
python td3_bst.py --env-id halfcheetah-medium-replay-v2
python td3_bst.py --env-id halfcheetah-medium-expert-v2
python td3_bst.py --env-id hopper-medium-v2
python td3_bst.py --env-id hopper-medium-replay-v2
python td3_bst.py --env-id hopper-medium-expert-v2
python td3_bst.py --env-id walker2d-medium-v2
python td3_bst.py --env-id walker2d-medium-replay-v2
python td3_bst.py --env-id walker2d-medium-expert-v2
COMMANDS
