"""Evaluate make_dataset.py's planner, without noise, on a dataset's evaluation task: what to hope for.

    python benchmark/planner_policy.py antmaze-large-play
"""

import sys
from typing import Literal

import gymnasium as gym
import numpy as np
import tyro
from make_dataset import MAZES, Args, evaluation_spec, make_controller, name_dataset, next_offset, plan, resolve
from random_policy import UserError, make_folder, write_results


def main(maze: tyro.conf.Positional[Literal[tuple(MAZES)]], seed: int = 1, episodes: int = 100, runs_dir: str = "runs"):
    """Write RUNS_DIR/.../results.json in td3_bst.py's format, with a single evaluation, at step 0.

    Args:
        maze: dataset, as make_dataset.py takes it
        seed: of the evaluation episodes, the first of which are td3_bst.py's with this seed
        episodes: number of evaluation episodes
        runs_dir: parent folder of the run's own folder
    """
    if seed < 0 or episodes < 1:
        sys.exit(f"error: --seed must be >= 0 and --episodes >= 1, got {seed} and {episodes}")
    args = resolve(Args(maze))
    folder = make_folder(runs_dir, f"{maze}__planner__{seed}")
    spec = evaluation_spec(args)
    spec.kwargs["continuing_task"] = False
    env, controller, rng = gym.make(spec), make_controller(args), np.random.default_rng(seed)
    returns, lengths, terminations = [], [], []
    for episode_seed in np.random.SeedSequence(seed).generate_state(episodes):
        obs, _ = env.reset(seed=int(episode_seed))
        waypoints = plan(env.unwrapped.maze, obs, obs["desired_goal"], args.waypoint_jitter, rng)
        total, length, terminated, truncated = 0.0, 0, False, False
        while not (terminated or truncated):
            action = controller(obs, next_offset(waypoints, obs, args.waypoint_radius))
            obs, reward, terminated, truncated, _ = env.step(action.astype(np.float32))
            total, length = total + reward, length + 1
        returns.append(total), lengths.append(length), terminations.append(terminated)
        print(f"\r{len(returns)} of {episodes} episodes, {np.mean(terminations):.0%} at their goal", end="", flush=True)
    score = 100 * float(np.mean(terminations))
    record = {"seed": seed, "exp_name": "planner"}
    write_results(folder, record, name_dataset(args), score, returns, lengths, terminations)
    print(f"\nplanner: score {score}, mean length {np.mean(lengths):.0f}")


if __name__ == "__main__":
    try:
        tyro.cli(main)
    except UserError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("\nstopped: there are no results")
