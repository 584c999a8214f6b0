#!/usr/bin/env bash
# TD3-BST on D4RL's six AntMaze datasets. SEEDS, WORKERS, FILTER, FLAGS and DRY_RUN: see run.sh.
exec bash "$(dirname "$0")/run.sh" <<'COMMANDS'
python td3_bst.py --env-id antmaze-umaze
python td3_bst.py --env-id antmaze-umaze-diverse
python td3_bst.py --env-id antmaze-medium-play
python td3_bst.py --env-id antmaze-medium-diverse
python td3_bst.py --env-id antmaze-large-play
python td3_bst.py --env-id antmaze-large-diverse
COMMANDS
