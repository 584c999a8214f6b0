#!/usr/bin/env bash
# TD3-BST on D4RL's Adroit hand, which the paper does not have. SEEDS, WORKERS, FILTER, FLAGS and DRY_RUN: see run.sh.
exec bash "$(dirname "$0")/run.sh" <<'COMMANDS'
python td3_bst.py --env-id pen-human
python td3_bst.py --env-id pen-cloned
python td3_bst.py --env-id pen-expert
python td3_bst.py --env-id door-human
python td3_bst.py --env-id door-cloned
python td3_bst.py --env-id door-expert
python td3_bst.py --env-id hammer-human
python td3_bst.py --env-id hammer-cloned
python td3_bst.py --env-id hammer-expert
python td3_bst.py --env-id relocate-human
python td3_bst.py --env-id relocate-cloned
python td3_bst.py --env-id relocate-expert
COMMANDS
