#!/usr/bin/env bash
# TD3-BST on Minari's own MuJoCo datasets, which the paper does not have. Variables: see run.sh.
exec bash "$(dirname "$0")/run.sh" <<'COMMANDS'
python td3_bst.py --env-id mujoco/halfcheetah/simple-v0
python td3_bst.py --env-id mujoco/halfcheetah/medium-v0
python td3_bst.py --env-id mujoco/halfcheetah/expert-v0
python td3_bst.py --env-id mujoco/hopper/simple-v0
python td3_bst.py --env-id mujoco/hopper/medium-v0
python td3_bst.py --env-id mujoco/hopper/expert-v0
python td3_bst.py --env-id mujoco/walker2d/simple-v0
python td3_bst.py --env-id mujoco/walker2d/medium-v0
python td3_bst.py --env-id mujoco/walker2d/expert-v0
python td3_bst.py --env-id mujoco/ant/simple-v0
python td3_bst.py --env-id mujoco/ant/medium-v0
python td3_bst.py --env-id mujoco/ant/expert-v0
COMMANDS
