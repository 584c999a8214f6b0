"""Recreate D4RL's PointMaze datasets where they cannot be downloaded.

    python benchmark/make_dataset.py pointmaze-umaze
    python td3_bst.py --env-id td3-bst/pointmaze-umaze-v0

As D4RL (Fu et al. 2020, arXiv 2004.07219) and Minari made theirs: a waypoint planner on the maze's grid, a PD
controller with action noise, goals resampled on success. An episode ends with the success step, stored as a
truncation; the next one starts from the same state, and its first observation still shows the old goal.

The result is an ordinary Minari dataset under this project's namespace, td3-bst, in Minari's local folder
(~/.minari/datasets or $MINARI_DATASETS_PATH), with D4RL's evaluation task: random start, one fixed goal.
It is recreated data: never put a score on it beside one on D4RL's own without saying so.
"""

import copy
import shutil
import sys
import time
import warnings
from dataclasses import dataclass
from typing import Annotated, Literal

import gymnasium as gym
import gymnasium_robotics
import minari
import numpy as np
import tyro
from minari.data_collector import EpisodeBuffer
from minari.storage import get_dataset_path

gym.register_envs(gymnasium_robotics)

ENV_IDS = {
    "pointmaze-umaze": "PointMaze_UMaze-v3",
    "pointmaze-medium": "PointMaze_Medium-v3",
    "pointmaze-large": "PointMaze_Large-v3",
}
EVAL_GOALS = {"pointmaze-umaze": (1, 1), "pointmaze-medium": (6, 6), "pointmaze-large": (7, 9)}  # (row, column)


@dataclass
class Args:
    maze: Annotated[Literal["pointmaze-umaze", "pointmaze-medium", "pointmaze-large"], tyro.conf.Positional]
    """the dataset to recreate"""
    steps: int = 1_000_000
    """environment steps to record; D4RL has 1M"""
    seed: int = 0
    """seed of starts, goals, waypoints and action noise"""
    action_noise: float = 0.5
    """standard deviation of the Gaussian noise on the controller's actions, which are in [-1, 1]"""
    p_gain: float = 10.0
    """the controller's force per metre from the waypoint"""
    d_gain: float = -1.0
    """the controller's force per metre a second of velocity"""
    waypoint_radius: float = 0.1
    """distance in metres at which a waypoint counts as reached"""
    waypoint_jitter: float = 0.1
    """waypoints are cell centres plus a uniform offset of up to this many metres per axis"""


def shortest_path(maze_map, start, goal):
    """Cells from `start` to `goal`, both (row, column) and both included, by breadth-first search over free cells."""
    previous, frontier = {goal: None}, [goal]
    for cell in frontier:
        row, column = cell
        for neighbour in ((row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1)):
            if maze_map[neighbour[0]][neighbour[1]] != 1 and neighbour not in previous:
                previous[neighbour] = cell
                frontier.append(neighbour)
    path = [start]
    while path[-1] != goal:
        path.append(previous[path[-1]])
    return path


def plan(maze, obs, goal, jitter, rng):
    """Waypoints in metres from the agent's cell to `goal`: the cells between, then the goal itself; a list of (2,)."""
    start = tuple(maze.cell_xy_to_rowcol(obs["achieved_goal"]))
    cells = shortest_path(maze.maze_map, start, tuple(maze.cell_xy_to_rowcol(goal)))
    return [maze.cell_rowcol_to_xy(cell) + rng.uniform(-jitter, jitter, 2) for cell in cells[1:-1]] + [goal]


def collect(env, args):
    """Yield episodes as Minari `EpisodeBuffer`s until `args.steps` steps are recorded; the last one may be cut short."""
    maze, rng = env.unwrapped.maze, np.random.default_rng(args.seed)
    time_limit = gym.spec(ENV_IDS[args.maze]).max_episode_steps
    obs, _ = env.reset(seed=args.seed)
    remaining = args.steps
    while remaining > 0:
        observations, actions, rewards = [obs], [], []
        goal = env.unwrapped.goal.copy()
        waypoints, success = plan(maze, obs, goal, args.waypoint_jitter, rng), False
        while not success and len(actions) < min(time_limit, remaining):
            offset = waypoints[0] - obs["achieved_goal"]
            if len(waypoints) > 1 and np.linalg.norm(offset) <= args.waypoint_radius:
                waypoints.pop(0)
                offset = waypoints[0] - obs["achieved_goal"]
            action = args.p_gain * offset + args.d_gain * obs["observation"][2:]
            action = np.clip(action + rng.normal(0, args.action_noise, 2), -1, 1).astype(np.float32)
            obs, reward, _, _, info = env.step(action)
            success = info["success"]
            observations.append(obs), actions.append(action), rewards.append(reward)
        length = len(actions)
        yield EpisodeBuffer(
            observations={key: np.stack([o[key] for o in observations]) for key in obs},
            actions=np.stack(actions),
            rewards=np.array(rewards),
            terminations=np.zeros(length, dtype=bool),
            truncations=np.arange(length) == length - 1,
        )
        remaining -= length
        if not success:
            obs, _ = env.reset()


def main(args):
    dataset_id = f"td3-bst/{args.maze}-v0"
    path = get_dataset_path(dataset_id)
    if args.steps < 1:
        sys.exit(f"error: --steps must be at least 1, got {args.steps}")
    if path.exists():
        sys.exit(f"error: {path} exists; to make it anew, delete that folder first")
    env = gym.make(ENV_IDS[args.maze], continuing_task=True, reset_target=True, max_episode_steps=args.steps + 1)
    eval_spec = copy.deepcopy(gym.spec(ENV_IDS[args.maze]))
    eval_spec.kwargs["maze_map"] = [list(row) for row in eval_spec.kwargs["maze_map"]]
    row, column = EVAL_GOALS[args.maze]
    eval_spec.kwargs["maze_map"][row][column] = "g"

    episodes, done, successes, started = [], 0, 0, time.time()
    for episode in collect(env, args):
        episodes.append(episode)
        done += len(episode)
        successes += int(episode.rewards[-1])
        if len(episodes) % 100 == 0 or done == args.steps:
            eta = (time.time() - started) / done * (args.steps - done)
            print(f"\r{done:,} of {args.steps:,} steps, {len(episodes):,} episodes, {eta:.0f} s left ", end="", flush=True)
    print(f"\n{successes:,} of {len(episodes):,} episodes reached their goal; writing {path} ...")
    try:
        warnings.filterwarnings("ignore", category=UserWarning, module="minari")  # author and e-mail, which it has not
        minari.create_dataset_from_buffers(
            dataset_id,
            episodes,
            env=env,
            eval_env=eval_spec,
            algorithm_name="breadth-first waypoints and a PD controller",
            description=f"D4RL's {args.maze}, recreated by benchmark/make_dataset.py with {args}",
        )
    except BaseException:
        shutil.rmtree(path, ignore_errors=True)  # a half-written dataset would be taken for a whole one
        raise
    print(f"done: python td3_bst.py --env-id {dataset_id}")


if __name__ == "__main__":
    try:
        main(tyro.cli(Args, description=__doc__))
    except KeyboardInterrupt:
        sys.exit("\nstopped: nothing was written")
