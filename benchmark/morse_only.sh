#!/usr/bin/env bash
# Morse networks on the toy set with four modes and on AntMaze, the latter by kernel scale. Variables: see run.sh.
exec bash "$(dirname "$0")/run.sh" <<'COMMANDS'
python morse_only.py
python morse_only.py --env-id antmaze-umaze --kernel-scale-factor 0.1
python morse_only.py --env-id antmaze-umaze --kernel-scale-factor 0.5
python morse_only.py --env-id antmaze-umaze --kernel-scale-factor 1
python morse_only.py --env-id antmaze-umaze --kernel-scale-factor 2
python morse_only.py --env-id antmaze-medium-diverse --kernel-scale-factor 0.1
python morse_only.py --env-id antmaze-medium-diverse --kernel-scale-factor 0.5
python morse_only.py --env-id antmaze-medium-diverse --kernel-scale-factor 1
python morse_only.py --env-id antmaze-medium-diverse --kernel-scale-factor 2
python morse_only.py --env-id antmaze-large-diverse --kernel-scale-factor 0.1
python morse_only.py --env-id antmaze-large-diverse --kernel-scale-factor 0.5
python morse_only.py --env-id antmaze-large-diverse --kernel-scale-factor 1
python morse_only.py --env-id antmaze-large-diverse --kernel-scale-factor 2
COMMANDS
