#!/usr/bin/env bash
# IQL-BST and IQL on D4RL's six AntMaze datasets. SEEDS, WORKERS, FILTER, FLAGS and DRY_RUN: see run.sh.
exec bash "$(dirname "$0")/run.sh" <<'COMMANDS'
python iql_bst.py --env-id antmaze-umaze
python iql_bst.py --env-id antmaze-umaze-diverse
python iql_bst.py --env-id antmaze-medium-play
python iql_bst.py --env-id antmaze-medium-diverse
python iql_bst.py --env-id antmaze-large-play
python iql_bst.py --env-id antmaze-large-diverse
python iql_bst.py --env-id antmaze-umaze --policy-extraction awr
python iql_bst.py --env-id antmaze-umaze-diverse --policy-extraction awr
python iql_bst.py --env-id antmaze-medium-play --policy-extraction awr
python iql_bst.py --env-id antmaze-medium-diverse --policy-extraction awr
python iql_bst.py --env-id antmaze-large-play --policy-extraction awr
python iql_bst.py --env-id antmaze-large-diverse --policy-extraction awr
COMMANDS
