"""Recreate D4RL's maze datasets where they cannot be downloaded.

    python benchmark/make_dataset.py pointmaze-umaze            # about a minute
    python benchmark/make_dataset.py antmaze-medium-diverse     # with --workers, one process each
    python td3_bst.py --env-id td3-bst/antmaze-medium-diverse-v0
    python benchmark/make_dataset.py antmaze-medium-diverse --one-goal    # like D4RL's own: one task

Much as D4RL (Fu et al. 2020, arXiv 2004.07219) and Minari made theirs: a waypoint planner on the maze's grid drives a
point by a PD controller or an ant by a trained policy (benchmark/ant.npz; benchmark/train_ant.py has its recipe), with
noise on every action. An episode ends with the success step, at the time limit or where the recording ends, each stored
as a truncation; in D4RL's and Minari's AntMaze it goes on to its limit, so this data has less of an ant at its goal.

PointMaze: after a success the next episode starts from the state that the last one ended in, towards a new random goal,
and its first observation still shows the old one. AntMaze: every episode starts anew, umaze from D4RL's start to D4RL's
goal, play from a chosen cell to another (those that Gymnasium-Robotics chose, and the evaluation's), diverse from any
cell to any. In Minari it is the other way round: its play has any cells, its diverse chosen ones.

Minari's AntMaze keeps each episode's goal in its observations, and so does this. D4RL's own does not: its rewards were
computed anew for the evaluation's goal, wherever an episode was going, and a policy cannot tell (D4RL's
scripts/generation/relabel_antmaze_rewards.py). --one-goal makes that kind, with these differences: the goal stays in
the observation, drawn within its cell for each episode as in the evaluation, where D4RL has one point, unseen; it is
reached at Gymnasium-Robotics' 0.45 m, not 0.5; an episode ends there, and where the ant was heading; the ant is
Gymnasium's, at 0.05 s a step, D4RL's at 0.1; its planner plans once per episode, D4RL's at every step; episodes start in
one pose; and some of play's are the evaluation's own task, from its start cell to its goal's, which D4RL's planner was
not given in medium.

The result is an ordinary Minari dataset under this project's namespace, td3-bst, in Minari's local folder
(~/.minari/datasets or $MINARI_DATASETS_PATH), with the cells of D4RL's evaluation task: one for the goal, from any
start in PointMaze and a fixed one in AntMaze. Within its cell Gymnasium-Robotics draws each anew, by up to 1 m in AntMaze
and 0.25 m in PointMaze, D4RL by less or not at all. A report and a map of its states lie beside the data. AntMaze is
recorded in parts, and Ctrl-C or a kill loses none that is finished.
It is recreated data: never put a score on it beside one on D4RL's own without saying so.
"""

import contextlib
import copy
import dataclasses
import fcntl
import hashlib
import io
import json
import multiprocessing
import pickle
import shutil
import signal
import sys
import time
import warnings
from pathlib import Path
from typing import Annotated, Literal

import gymnasium as gym
import minari
import numpy as np
import tyro
from matplotlib.figure import Figure
from minari.data_collector import EpisodeBuffer
from minari.storage import get_dataset_path

gym.logger.min_level = gym.logger.ERROR  # hides warnings that the ant that D4RL's data needs is out of date
with contextlib.redirect_stderr(io.StringIO()):  # hides a notice on Adroit's rewards
    import gymnasium_robotics

gym.register_envs(gymnasium_robotics)

MAZES = {  # environment; the evaluation's start, (row, column), None where it is random, and goal
    "pointmaze-umaze": ("PointMaze_UMaze-v3", None, (1, 1)),
    "pointmaze-medium": ("PointMaze_Medium-v3", None, (6, 6)),
    "pointmaze-large": ("PointMaze_Large-v3", None, (7, 9)),
    "antmaze-umaze": ("AntMaze_UMaze-v4", (3, 1), (1, 1)),
    "antmaze-umaze-diverse": ("AntMaze_UMaze-v4", (3, 1), (1, 1)),
    "antmaze-medium-play": ("AntMaze_Medium-v4", (1, 1), (6, 6)),
    "antmaze-medium-diverse": ("AntMaze_Medium-v4", (1, 1), (6, 6)),
    "antmaze-large-play": ("AntMaze_Large-v4", (1, 1), (7, 9)),
    "antmaze-large-diverse": ("AntMaze_Large-v4", (1, 1), (7, 9)),
}
CONTROL_FIELDS = ("action_noise", "waypoint_radius", "waypoint_jitter")
CONTROL = {"pointmaze": (0.5, 0.1, 0.1), "antmaze": (0.2, 1.0, 0.5)}
ANT = Path(__file__).with_name("ant.npz")


@dataclasses.dataclass
class Args:
    maze: Annotated[Literal[tuple(MAZES)], tyro.conf.Positional]
    """the dataset to recreate"""
    steps: int = 1_000_000
    """environment steps to record; D4RL's AntMaze datasets have 1M"""
    seed: int = 0
    """seed of starts, goals, waypoints and action noise"""
    workers: int = 2
    """processes for AntMaze; does not change the data"""
    part_steps: int = 25_000
    """AntMaze is recorded in parts of this many steps, each with its own seed; the last episode of each may be cut"""
    action_noise: float | None = None
    """standard deviation of the Gaussian noise on the controller's actions; both these and the sum are in [-1, 1]"""
    waypoint_radius: float | None = None
    """distance in metres at which a waypoint counts as reached"""
    waypoint_jitter: float | None = None
    """waypoints are cell centres plus a uniform offset of up to this many metres per axis"""
    p_gain: float = 10.0
    """PointMaze: the controller's force per metre from the waypoint"""
    d_gain: float = -1.0
    """PointMaze: the controller's force per metre a second of velocity"""
    one_goal: bool = False
    """AntMaze: every episode's goal in the evaluation's goal cell, with rewards to match, much as in D4RL's own data"""
    ant_gain: float = 0.7
    """AntMaze: scales the walking policy's actions; below 1 it is slower but reaches its goal more often"""


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


def next_offset(waypoints, obs, radius):
    """Offset (2,) from the agent to its waypoint, in metres; drops the first of the list where that is reached."""
    if len(waypoints) > 1 and np.linalg.norm(waypoints[0] - obs["achieved_goal"]) <= radius:
        waypoints.pop(0)
    return waypoints[0] - obs["achieved_goal"]


def make_controller(args):
    """A function of an observation and the offset to the waypoint, (2,) in metres, to an action without noise."""
    if args.maze.startswith("pointmaze"):
        return lambda obs, offset: np.clip(args.p_gain * offset + args.d_gain * obs["observation"][2:], -1, 1)
    weights = {name: array.astype(np.float64) for name, array in np.load(ANT).items()}

    def walk(obs, offset):
        x = np.concatenate([obs["observation"], offset / np.linalg.norm(offset)])  # (29,)
        for i in range(2):
            x = np.maximum(x @ weights[f"w{i}"] + weights[f"b{i}"], 0)
        return np.clip(args.ant_gain * np.tanh(x @ weights["w2"] + weights["b2"]), -1, 1)

    return walk


def draw_cells(args, maze, rng):
    """Start and goal of an AntMaze episode as options of the environment's reset; other mazes draw their own."""
    env_id, start, goal = MAZES[args.maze]
    if args.maze == "antmaze-umaze":
        return {"reset_cell": np.array(start), "goal_cell": np.array(goal)}
    cells = np.argwhere(np.array(maze.maze_map, dtype=object) != 1)
    if args.maze.endswith("play"):
        chosen = gym.spec(env_id.replace("-v4", "_Diverse_GR-v4")).kwargs["maze_map"]
        chosen = {tuple(cell) for cell in np.argwhere(np.array(chosen, dtype=object) == "c").tolist()}
        cells = np.array(sorted(chosen | {start, goal}))
    return dict(zip(("reset_cell", "goal_cell"), rng.choice(cells, 2, replace=False)))


def collect(args, steps, seed):
    """Yield episodes as Minari `EpisodeBuffer`s until `steps` steps are recorded; the last one may be cut short."""
    env, rng, controller = make_env(args), np.random.default_rng(seed), make_controller(args)
    maze, is_ant = env.unwrapped.maze, args.maze.startswith("antmaze")
    time_limit = gym.spec(MAZES[args.maze][0]).max_episode_steps
    obs, _ = env.reset(seed=seed)
    remaining = steps
    while remaining > 0:
        if is_ant:
            obs, _ = env.reset(options=draw_cells(args, maze, rng))
        observations, actions, rewards = [obs], [], []
        goal = env.unwrapped.goal.copy()
        waypoints, success = plan(maze, obs, goal, args.waypoint_jitter, rng), False
        while not success and len(actions) < min(time_limit, remaining):
            action = controller(obs, next_offset(waypoints, obs, args.waypoint_radius))
            action = np.clip(action + rng.normal(0, args.action_noise, len(action)), -1, 1).astype(np.float32)
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
        if not success and not is_ant:
            obs, _ = env.reset()
    env.close()


def relabel(args, episodes):
    """Yield the AntMaze `episodes` with goals drawn as the evaluation draws its own, and with rewards to match.

    A goal is uniform round the centre of the evaluation's goal cell. An episode that was going there keeps its own, which
    was drawn in the same way. One that comes upon its goal ends there, and what follows is an episode with a new goal.
    That may be where the ant already stands; such an episode has one step."""
    env, rng = make_env(args).unwrapped, np.random.default_rng([args.seed, 1])
    goal_cell = MAZES[args.maze][2]
    reach = env.position_noise_range * env.maze.maze_size_scaling
    for episode in episodes:
        goal, start, length = episode.observations["desired_goal"][0], 0, len(episode)
        while start < length:
            if start or tuple(env.maze.cell_xy_to_rowcol(goal)) != goal_cell:
                goal = env.maze.cell_rowcol_to_xy(np.array(goal_cell)) + rng.uniform(-reach, reach, 2)
            rewards = env.compute_reward(episode.observations["achieved_goal"][start + 1 :], goal, {})  # (length - start,)
            stop = start + (int(rewards.argmax()) + 1 if rewards.any() else len(rewards))
            observations = {key: values[start : stop + 1] for key, values in episode.observations.items()}
            yield EpisodeBuffer(
                observations=observations | {"desired_goal": np.tile(goal, (stop - start + 1, 1))},
                actions=episode.actions[start:stop],
                rewards=rewards[: stop - start],
                terminations=episode.terminations[start:stop],
                truncations=np.arange(start, stop) == stop - 1,
            )
            start = stop


def make_env(args):
    """The environment that the data comes from; in PointMaze its goal moves on when it is reached, without an end."""
    is_point = args.maze.startswith("pointmaze")
    limit = args.steps + 1 if is_point else None  # None: the registered one
    return gym.make(MAZES[args.maze][0], continuing_task=True, reset_target=is_point, max_episode_steps=limit)


def evaluation_spec(args):
    """Spec of the environment with D4RL's evaluation start and goal."""
    env_id, start, goal = MAZES[args.maze]
    spec = copy.deepcopy(gym.spec(env_id))
    spec.kwargs["maze_map"] = [list(row) for row in spec.kwargs["maze_map"]]
    for letter, cell in ("r", start), ("g", goal):
        if cell:
            spec.kwargs["maze_map"][cell[0]][cell[1]] = letter
    return spec


def start_worker(counter):
    """Share the counter of steps with `record`."""
    global recorded
    recorded = counter


def record(job):
    """Write one part, given as (args, steps, seed, path). Runs in a worker process."""
    args, steps, seed, path = job
    episodes = []
    for episode in collect(args, steps, seed):
        episodes.append(episode)
        with recorded.get_lock():
            recorded.value += len(episode)
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_bytes(pickle.dumps(episodes))
    unfinished.replace(path)


def record_parts(args, folder):
    """All episodes, from parts in `folder` that are there already and from those that worker processes add."""
    size = args.steps if args.maze.startswith("pointmaze") else args.part_steps  # PointMaze is one chain of episodes
    lengths = [min(size, args.steps - start) for start in range(0, args.steps, size)]
    seeds = np.random.SeedSequence(args.seed).generate_state(len(lengths)).tolist() if len(lengths) > 1 else [args.seed]
    jobs = [(args, *job, folder / f"{i}.pkl") for i, job in enumerate(zip(lengths, seeds))]
    missing = [job for job in jobs if not job[-1].exists()]
    before, started = args.steps - sum(steps for _, steps, *_ in missing), time.time()
    context = multiprocessing.get_context("spawn")
    counter = context.Value("l", before)
    heed = signal.signal(signal.SIGINT, signal.SIG_IGN)  # workers inherit it: Ctrl-C is for this process
    with context.Pool(max(1, min(args.workers, len(missing))), start_worker, [counter]) as pool:
        workers, results = multiprocessing.active_children(), pool.imap_unordered(record, missing)
        signal.signal(signal.SIGINT, heed)
        finished = 0
        while finished < len(missing):
            with contextlib.suppress(multiprocessing.TimeoutError):
                results.next(timeout=1)
                finished += 1
            if not all(worker.is_alive() for worker in workers):
                sys.exit("\nerror: a worker process died, perhaps out of memory; rerun the command to go on")
            rate = (counter.value - before) / (time.time() - started)
            left = f", {(args.steps - counter.value) / rate:.0f} s left   " if rate else ""
            print(f"\r{counter.value:,} of {args.steps:,} steps{left}", end="", flush=True)
    print()
    return [episode for *_, path in jobs for episode in pickle.loads(path.read_bytes())]


def describe(args, episodes, folder):
    """Write report.json and coverage.png, a map of where the agent was, into `folder`. Returns the report.

    Rates and means are over whole episodes, those that were not cut at the end of a part; None where there is none. With
    one goal they are over all: most of them end at the goal that they were going to, and that is not in the data."""
    time_limit = gym.spec(MAZES[args.maze][0]).max_episode_steps
    success = np.array([episode.rewards[-1] > 0 for episode in episodes])
    lengths = np.array([len(episode) for episode in episodes])
    whole = success | (lengths == time_limit) | args.one_goal
    returns = np.array([np.sum(episode.rewards) for episode in episodes])
    report = {"dataset": name_dataset(args), "steps": int(lengths.sum()), "episodes": len(episodes)}
    for name, values in {
        "success rate": success[whole],
        "mean return": returns[whole],
        "mean length": lengths[whole],
        "mean length of successes": lengths[success],
    }.items():
        report[name] = float(values.mean()) if len(values) else None
    positions = np.concatenate([episode.observations["achieved_goal"] for episode in episodes])
    draw_coverage(args, report, positions).savefig(folder / "coverage.png", dpi=100)
    report_file = folder / "report.json"  # last: a dataset without it is half of one
    report_file.write_text(json.dumps(report | {"arguments": describe_arguments(args)}, indent=1))
    return report


def draw_coverage(args, report, positions):
    """A figure of the maze with the number of `positions`, (n, 2) in metres, in each of 8 x 8 squares per cell."""
    maze = make_env(args).unwrapped.maze
    size, (rows, columns) = maze.maze_size_scaling, np.shape(maze.maze_map)
    extent = np.array([-columns, columns, -rows, rows]) * size / 2
    counts, *_ = np.histogram2d(*positions.T, (columns * 8, rows * 8), extent.reshape(2, 2))
    figure = Figure(figsize=(max(columns / 2, 5) + 1, max(rows / 2, 4)), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(np.log10(np.where(counts > 0, counts, np.nan)).T, origin="lower", extent=extent)
    walls = np.where(np.array(maze.maze_map, dtype=object) == 1, 0.4, np.nan).astype(float)
    axes.imshow(walls, cmap="gray", vmin=0, vmax=1, extent=extent)
    for letter, cell in zip("SG", MAZES[args.maze][1:]):
        if cell:
            look = {"color": "red", "weight": "bold", "ha": "center", "va": "center"}
            axes.text(*maze.cell_rowcol_to_xy(np.array(cell)), letter, **look)
    rate = "none of them whole" if report["success rate"] is None else f"{report['success rate']:.0%} reach their goal"
    axes.set(title=f"{report['dataset']}\n{report['episodes']:,} episodes, {rate}", xlabel="metres", ylabel="metres")
    figure.colorbar(image, label=f"log10 of states in {size / 8:g} m squares")
    return figure


def name_dataset(args):
    """The dataset's id in Minari. In PointMaze's v0 the controller's action was not clipped before noise was added to it,
    so that the clip of the sum took most of the noise."""
    version = 1 if args.maze.startswith("pointmaze") else 0
    return f"td3-bst/{args.maze}{'-one-goal' if args.one_goal else ''}-v{version}"


def describe_arguments(args):
    """What decides the data: the arguments but for the number of workers, and which walking policy it is."""
    settings = {name: value for name, value in dataclasses.asdict(args).items() if name != "workers"}
    if args.maze.startswith("antmaze"):
        settings["ant.npz"] = hashlib.sha256(ANT.read_bytes()).hexdigest()
    return settings


def resolve(args):
    """The arguments with unset fields filled from the table CONTROL."""
    control = zip(CONTROL_FIELDS, CONTROL[args.maze.partition("-")[0]])
    return dataclasses.replace(args, **{name: value for name, value in control if getattr(args, name) is None})


def main(args):
    for name in ("p_gain", "d_gain") if args.maze.startswith("antmaze") else ("part_steps", "one_goal", "ant_gain"):
        if getattr(args, name) != getattr(Args, name):
            sys.exit(f"error: --{name.replace('_', '-')} does nothing for {args.maze}; leave it out")
    args = resolve(args)
    floors = dict.fromkeys(("steps", "workers", "part_steps"), 1) | {"d_gain": -1e6}
    floors |= dict.fromkeys(("seed", *CONTROL_FIELDS, "p_gain", "ant_gain"), 0)
    for name, floor in floors.items():
        value = getattr(args, name)
        if not floor <= value < np.inf:
            sys.exit(f"error: --{name.replace('_', '-')} must be at least {floor} and finite, got {value}")
    dataset_id = name_dataset(args)
    try:
        path = get_dataset_path(dataset_id)
        folder = path.with_name(f".{path.name}-parts")  # hidden, or Minari would take it for a dataset
        is_half = folder.exists() and path.exists() and not (path / "report.json").exists()  # left by a kill
        if path.exists() and not is_half:
            sys.exit(f"error: {path} exists; to make it anew, delete that folder first")
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        sys.exit(f"error: cannot write datasets ({error}); set MINARI_DATASETS_PATH to a folder of yours")
    lock = open(folder / "lock", "w")  # held until this process ends
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.exit(f"error: another process is making {dataset_id}; wait for it, or stop it first")
    settings, file = describe_arguments(args), folder / "args.json"
    if not list(folder.glob("*.pkl")):
        file.write_text(json.dumps(settings))
    if not file.exists() or json.loads(file.read_text()) != settings:
        sys.exit(f"error: {folder} has parts made with other arguments; go on with those, or delete that folder first")
    if is_half and not (path / "report.json").exists():  # nor has another process made it anew meanwhile
        shutil.rmtree(path)
    episodes = record_parts(args, folder)
    if args.one_goal:
        episodes = list(relabel(args, episodes))

    if path.exists():
        sys.exit(f"error: {path} exists by now, another process made it or is at it; this one has left it as it is")
    print(f"writing {path} ...", flush=True)
    try:
        warnings.filterwarnings("ignore", category=UserWarning, module="minari")  # author and e-mail, which it has not
        minari.create_dataset_from_buffers(
            dataset_id,
            episodes,
            env=make_env(args),
            eval_env=evaluation_spec(args),
            ref_min_score=0.0,
            ref_max_score=1.0,
            algorithm_name="breadth-first waypoints and a PD controller or walking policy",
            description=f"D4RL's {args.maze}, recreated by benchmark/make_dataset.py with {args}",
        )
        report = describe(args, episodes, path)
    except BaseException:
        shutil.rmtree(path, ignore_errors=True)  # a half-written dataset would be taken for a whole one
        raise
    shutil.rmtree(folder)
    print(", ".join(f"{name} {value}" for name, value in report.items()))
    print(f"report and map: {path}/report.json, coverage.png\ndone: python td3_bst.py --env-id {dataset_id}")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends like Ctrl-C: no workers and no half dataset left
    try:
        main(tyro.cli(Args, description=__doc__))
    except KeyboardInterrupt:
        sys.exit("\nstopped; rerun the command to go on from the finished parts")
