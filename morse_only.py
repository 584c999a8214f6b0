"""The Morse network alone: an uncertainty model over actions, what its certainty looks like, what a policy makes of it.

Dherin et al., "Morse Neural Networks for Uncertainty Quantification", arXiv 2307.00667, as used by Srinivasan &
Knottenbelt, "Offline Reinforcement Learning with Behavioral Supervisor Tuning", arXiv 2404.16399. Its certainty
    M(s, a) = exp(-lambda^2 / 2 * ||f(s, a) - a||^2), with the RQ kernel (1 + lambda^2 / (2 r) * ||f(s, a) - a||^2)^-r,

is near 1 on the data and trained by
    L(f) = E_D[-log M(s, a)] + w * E_{s~D, u~U}[M(s, u)],  w = 1 in the paper, --uniform-weight here.

    python morse_only.py                                             # four modes: landscapes, and who finds a mode
    python morse_only.py --env-id pointmaze-medium --save morse.pt   # how well it knows a dataset; keep the network
    python td3_bst.py --env-id pointmaze-medium --morse-checkpoint morse.pt
"""

import contextlib
import copy
import dataclasses
import difflib
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
import urllib.request
import zlib
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import gymnasium as gym
import h5py
import matplotlib
import minari
import numpy as np
import torch
import tyro
from matplotlib import pyplot as plt
from torch import nn
from torch.utils.tensorboard import SummaryWriter

gym.logger.min_level = gym.logger.ERROR  # hides warnings that the datasets' environments are out of date
with contextlib.redirect_stderr(io.StringIO()):  # hides a notice on Adroit's rewards
    import gymnasium_robotics

gym.register_envs(gymnasium_robotics)


@dataclasses.dataclass
class Args:
    # ---- experiment ----
    env_id: str = "four-modes"
    """dataset: four-modes, made here, or any that td3_bst.py takes"""
    exp_name: str = Path(__file__).stem
    """name of the experiment, part of the run's folder name"""
    eval_env_id: str | None = None
    """Gymnasium id that the data is from, or none; unset: the dataset's; an .hdf5 has its action bounds from it"""
    seed: int = 1
    """seed of data, initial weights and batches"""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    """cpu, cuda or cuda:N; unset: cuda if there is one, else cpu"""
    log_freq: int = 500
    """steps between progress lines"""
    dataset_fraction: float = 1.0
    """share of the dataset's episodes to use, in (0, 1], drawn at random by seed"""
    normalize_obs: bool | None = None
    """whether to standardise each observation dimension over the dataset (ours, as in TD3+BC)"""
    goal_scale: float | None = None
    """multiplies achieved and desired goals, if observations have them, after any normalisation (ours)"""
    runs_dir: str = "runs"
    """parent folder of the run's own folder"""
    save: str | None = None
    """file to keep the Morse network in, for --morse-checkpoint of td3_bst.py and iql_bst.py"""

    # ---- Morse network ----
    morse_steps: int | None = None
    """gradient steps (ours)"""
    morse_batch_size: int = 256
    """states per step of the Morse network (ours)"""
    morse_hidden_dims: tuple[int, ...] | None = None
    """widths of the Morse network's ReLU layers (ours)"""
    morse_learning_rate: float | None = None
    """Adam step size of the Morse network (ours)"""
    num_uniform: int = 1
    """uniform actions per state in the second term of the Morse loss (ours)"""
    uniform_weight: float | None = None
    """weight of the Morse loss's second term; 1 is the paper's, 30 in mazes ours; the larger, the less is trusted"""
    kernel: Literal["rbf", "rq"] = "rbf"
    """M at distance d: rbf exp(-lambda^2 d^2 / 2), the paper's, or rq (1 + lambda^2 d^2 / (2 r))^-r, heavier-tailed"""
    rq_shape: float = 1.0
    """r of the rational quadratic kernel, > 0"""
    kernel_scale_factor: float = 0.5
    """lambda = factor * k, k action dimensions; a larger one is a narrower kernel; k/2 is the paper's for AntMaze"""

    # ---- four modes: the data and the policies trained on it ----
    mode_offset: float = 0.7
    """modes are at (+-offset, +-offset), in (0, 1]"""
    mode_deviation: float = 0.05
    """standard deviation of the data around its mode, per dimension"""
    mode_radius: float = 0.15
    """an action this near to a mode, or to the mean of all modes, counts as there"""
    scale_factors: tuple[float, ...] = (0.1, 0.5, 1.0, 2.0)
    """kernel scales to compare, as factors of k, beside --kernel-scale-factor"""
    num_samples: int = 20_000
    """transitions of the data"""
    temperature: tuple[float, ...] = (0.25, 1.0)
    """mu, >= 1/30: each is tried"""
    policy_hidden_dims: tuple[int, ...] = (64, 64)
    """widths of a policy's ReLU layers"""
    policy_steps: int = 800
    """gradient steps of each policy"""
    policy_batch_size: int = 128
    """states per step"""
    policy_learning_rate: float = 1e-3
    """Adam step size"""

    # ---- other datasets ----
    held_out: float = 0.1
    """share of the transitions, in (0, 1), drawn at random, to hold out from training and measure on, or more if
    landscape_states need it"""
    distances: tuple[float, ...] = (0.1, 0.25, 0.5, 1.0, 1.5, 2.0)
    """how far from the data's actions to measure certainty, in units of an action space of [-1, 1]"""
    action_dims: tuple[int, int] = (0, 1)
    """the landscape's two action dimensions, counted from 0"""
    landscape_states: tuple[int, ...] = (0, 1, 2, 3)
    """held-out states to draw the landscape in, counted from 0"""


# Values for fields left unset, from the first row whose pattern is found in the dataset's name. All ours except a
# uniform_weight of 1, the paper's.
DEFAULTS = dict(
    normalize_obs=True, goal_scale=1.0, morse_steps=20_000, morse_hidden_dims=(256, 256, 256), morse_learning_rate=1e-3,
    uniform_weight=1.0,
)
DOMAINS = {
    "toy": ("^four-modes$", DEFAULTS | dict(morse_steps=2_000, morse_hidden_dims=(128, 128))),
    "antmaze": ("ant_?maze", DEFAULTS | dict(
        normalize_obs=False, goal_scale=4.0, morse_steps=30_000, morse_learning_rate=5e-4, uniform_weight=30.0
    )),
    "pointmaze": ("pointmaze", DEFAULTS | dict(uniform_weight=30.0)),
    "other": ("", DEFAULTS),
}
LIMITS = {  # lowest and highest value; for the rest 1 (integers) or 1e-12 (floats) to 1e12
    "seed": (0, 2**32 - 1), "dataset_fraction": (1e-12, 1), "morse_steps": (0, 1e12), "uniform_weight": (0, 1e12),
    "temperature": (1 / 30, 1e12), "mode_offset": (1e-12, 1), "held_out": (1e-12, 1), "action_dims": (0, 1e12),
    "landscape_states": (0, 1e12),
}
TOY_ONLY = (  # arguments that other datasets than four-modes do nothing with
    "mode_offset", "mode_deviation", "mode_radius", "scale_factors", "num_samples", "temperature",
    "policy_hidden_dims", "policy_steps", "policy_batch_size", "policy_learning_rate",
)
OTHERS_ONLY = (  # arguments that four-modes does nothing with
    "eval_env_id", "dataset_fraction", "normalize_obs", "goal_scale",
    "held_out", "distances", "action_dims", "landscape_states",
)
DATA_KEYS = ("observations", "actions", "rewards", "next_observations", "terminations")


def domain_of(env_id):
    """The name of a dataset's row of DOMAINS."""
    text = Path(env_id).name if env_id.endswith((".hdf5", ".h5")) else env_id
    return next(name for name, (pattern, _) in DOMAINS.items() if re.search(pattern, text.lower()))


class UserError(Exception):
    """An error that the user can fix. The message, one line, says what is wrong and what to do about it."""

    def __str__(self):
        return " ".join(super().__str__().split())  # a space or an error that it quotes may have many lines


@contextlib.contextmanager
def explain(problem, advice):
    """Turn any exception raised inside into a UserError that says what failed, why, and what to do about it."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{problem} ({error!r}); {advice}") from error


# ---------------------------------------------------------------- networks

def mlp(*dims):
    """A ReLU network with layers of these widths, input and output included."""
    layers = [layer for i, o in zip(dims, dims[1:]) for layer in (nn.Linear(i, o), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


class Actor(nn.Module):
    """Deterministic policy pi(s): (batch, obs_dim) -> (batch, action_dim) in [-1, 1]."""

    def __init__(self, obs_dim, action_dim, hidden_dims=(256, 256)):
        super().__init__()
        self.net = mlp(obs_dim, *hidden_dims, action_dim)

    def forward(self, obs):
        return torch.tanh(self.net(obs))


class MorseNetwork(nn.Module):
    """Uncertainty model over state-action pairs (Dherin et al. 2023; Srinivasan & Knottenbelt 2024).

    `forward` is f(s, a): (..., obs_dim), (..., action_dim) -> (..., action_dim), whose target is a itself.
    `kernel_scale` is lambda, in units of 1 / action; unset, half the action dimension."""

    def __init__(self, obs_dim, action_dim, hidden_dims=(256, 256, 256), kernel_scale=None, kernel="rbf", rq_shape=1.0):
        super().__init__()
        self.net = mlp(obs_dim + action_dim, *hidden_dims, action_dim)
        self.kernel_scale = action_dim / 2 if kernel_scale is None else kernel_scale
        self.kernel, self.rq_shape = kernel, rq_shape

    def forward(self, obs, action):
        return self.net(torch.cat([obs, action], -1))

    def neg_log_certainty(self, obs, action):
        """-log M(s, a) >= 0 in closed form, (...,): lambda^2 d^2 / 2 (rbf) or r log1p(lambda^2 d^2 / (2 r)) (rq)."""
        half = 0.5 * self.kernel_scale**2 * (self(obs, action) - action).square().sum(-1)
        return half if self.kernel == "rbf" else self.rq_shape * torch.log1p(half / self.rq_shape)

    def certainty(self, obs, action):
        """M(s, a) in (0, 1], (...,)."""
        return torch.exp(-self.neg_log_certainty(obs, action))


# ---------------------------------------------------------------- data

SHORT_NAMES = [  # D4RL's datasets in Minari: "pen-human" is the newest local D4RL/pen/human-vN, else the remote's
    "antmaze-umaze",
    *(f"antmaze-{kind}" for kind in ("umaze-diverse", "medium-play", "medium-diverse", "large-play", "large-diverse")),
    *(f"pointmaze-{maze}{rewards}" for maze in ("open", "umaze", "medium", "large") for rewards in ("", "-dense")),
    *(f"{task}-{source}" for task in ("pen", "door", "hammer", "relocate") for source in ("human", "cloned", "expert")),
    *(f"kitchen-{tasks}" for tasks in ("complete", "partial", "mixed")),
]
ROBOTS = {  # environment to evaluate in, returns of a random and of an expert policy (Fu et al., arXiv 2004.07219)
    "halfcheetah": ("HalfCheetah-v4", -280.178953, 12135.0),
    "hopper": ("Hopper-v4", -20.272305, 3234.3),
    "walker2d": ("Walker2d-v4", 1.629008, 4592.3),
}
QUALITIES = ("random", "medium", "expert", "medium-replay", "medium-expert", "full-replay")
LOCOMOTION = {f"{robot}-{quality}-v2": row for robot, row in ROBOTS.items() for quality in QUALITIES}
D4RL_URL = "http://rail.eecs.berkeley.edu/datasets/offline_rl/gym_mujoco_v2"
GOAL_RADIUS = 0.45  # metres at which Gymnasium-Robotics' mazes count the goal as reached
D4RL_TASKS = {  # time limit, arguments, returns that score 0 and 100: D4RL's, whatever the dataset's are
    "D4RL/pen": (100, {}, (96.262799, 3076.833102)),
    "D4RL/door": (200, {}, (-56.512833, 2880.569309)),
    "D4RL/hammer": (200, {}, (-274.856578, 12794.134825)),
    "D4RL/relocate": (200, {}, (-6.425911, 4233.877798)),
    "D4RL/kitchen": (280, {"remove_task_when_completed": True, "terminate_on_tasks_completed": True}, (0.0, 4.0)),
}
PALM_TO_OBJECT = {  # observations (n, obs_dim) to vectors (n, 3) from palm to object, in metres
    "AdroitHandDoor-v1": lambda obs: obs[:, 35:38],
    "AdroitHandHammer-v1": lambda obs: obs[:, 33:36] - obs[:, 36:39],
    "AdroitHandRelocate-v1": lambda obs: obs[:, 30:33],
}


def how_to_recreate(env_id):
    """For an error's advice: which command recreates a dataset of this name, or its id if that was done; or ""."""
    mazes = "pointmaze-(umaze|medium|large)|antmaze-(umaze(-diverse)?|(medium|large)-(play|diverse))(-one-goal)?"
    if match := re.search(rf"({mazes})(-v\d+)?$", env_id):
        command = "make_dataset.py " + match[1].replace("-one-goal", " --one-goal")
    elif match := re.search(rf"(({'|'.join(ROBOTS)})-medium(-replay)?)(-v\d+)?$", env_id):
        command = f"make_locomotion.py {match[2]}"
    else:
        return ""
    root = Path(os.environ.get("MINARI_DATASETS_PATH", Path.home() / ".minari" / "datasets"))  # not made if missing
    if made := sorted((root / "td3-bst").glob(f"{match[1]}-v*")):
        return f"pass --env-id td3-bst/{made[-1].name}, which is there"
    return f"recreate it: `python benchmark/{command}`, then --env-id td3-bst/{match[1]}"


def locate_minari(env_id):
    """Id of a local Minari dataset for a short name or a Minari id, downloaded if it is not there. Raises UserError."""
    if Path(env_id).is_absolute() or Path(env_id).is_file():
        raise UserError(f"{env_id} is a path, but does not end in .hdf5 or .h5; rename the file if it is one of these")
    is_short = re.sub(r"-v\d+$", "", env_id) in SHORT_NAMES
    name = "D4RL/" + env_id.replace("-", "/", 1) if is_short else env_id

    def pick(dataset_ids):  # the exact match or, if `name` has no version, the newest
        matches = [i for i in dataset_ids if name in (i, i.rpartition("-v")[0])]
        return max(matches, key=lambda i: int(i.rpartition("-v")[2]), default=None)

    with explain("cannot list Minari's datasets", "set MINARI_DATASETS_PATH to a folder of nothing but such datasets"):
        root = minari.storage.get_dataset_path()
        local = minari.list_local_datasets(compatible_minari_version=True)
    if dataset_id := pick(local):
        return dataset_id
    of_all_versions = minari.list_local_datasets()
    if old := pick(of_all_versions):
        made_by = of_all_versions[old].get("minari_version")
        raise UserError(f"{root / old} is of Minari {made_by}, which this one cannot read; delete it to get it anew")
    recreate = how_to_recreate(env_id)
    names = sorted({*SHORT_NAMES, *LOCOMOTION, *local} - {env_id})
    near = ", ".join(difflib.get_close_matches(env_id, names, n=3, cutoff=0.5))
    if "/" in name:
        numbered = name if re.search(r"-v\d+$", name) else f"{name}-vN"  # Minari's command needs a version
        advice = f"download it elsewhere (`minari download {numbered}`) and copy its folder below {root}"
        advice = recreate or advice + (f"; near matches: {near}" if near else "")
        print(f"{name} is not in {root}: asking Minari's remote ...", flush=True)
        with explain(f"{name} is not in {root} and cannot be downloaded", advice):
            if dataset_id := pick(minari.list_remote_datasets(prefix=name, compatible_minari_version=True)):
                try:
                    minari.download_dataset(dataset_id, force_download=True)
                except BaseException:
                    shutil.rmtree(root / dataset_id, ignore_errors=True)  # a half would be taken for a whole one
                    raise
                return dataset_id
    near = near or "none; see the README"
    raise UserError(f"there is no dataset {env_id!r}; near matches: {near}{recreate and '; or ' + recreate}")


def locate_locomotion(env_id):
    """Path of this D4RL dataset in the D4RL package's own folder, downloaded if missing. Raises UserError."""
    folder = Path(os.environ.get("D4RL_DATASET_DIR", Path.home() / ".d4rl" / "datasets"))
    path = folder / (env_id.removesuffix("-v2").replace("-", "_") + "-v2.hdf5")
    if not path.exists():
        url, part = f"{D4RL_URL}/{path.name}", path.with_suffix(f".{time.time_ns()}.part")  # a name of this run's own
        print(f"downloading {url} to {path} ...", flush=True)
        recreate = how_to_recreate(env_id)
        with explain(f"cannot download {url}", f"put the file at {path} by hand{recreate and ', or ' + recreate}"):
            folder.mkdir(parents=True, exist_ok=True)
            try:
                with urllib.request.urlopen(url, timeout=30) as response, open(part, "wb") as file:
                    shutil.copyfileobj(response, file)
                h5py.File(part, "r").close()  # a file cut short does not open
                part.replace(path)
            finally:
                part.unlink(missing_ok=True)
    return path


def choose_episodes(num_episodes, args):
    """Sorted indices of a `dataset_fraction` of the episodes, at least one, drawn by seed. Raises UserError."""
    if not num_episodes:
        raise UserError(f"{args.env_id} has no complete episode; an .hdf5 marks their ends in terminals and timeouts")
    if num_episodes == 1 and args.dataset_fraction < 1:
        raise UserError(f"{args.env_id} has but one episode, or does not mark their ends; leave out --dataset-fraction")
    count = max(1, round(args.dataset_fraction * num_episodes))
    return np.sort(np.random.default_rng(args.seed).permutation(num_episodes)[:count])


def read_hdf5(path, args):
    """Transitions of a D4RL-format file: DATA_KEYS to float32 arrays with a row each. Raises UserError.

    Without next_observations, a row's is the following row's observation; a terminal row gets its own, which is never
    used, and the last row of an episode that ended otherwise is dropped, as what followed it is not stored."""
    with h5py.File(path, "r") as file:
        if file["actions"].dtype.kind != "f":
            raise UserError(f"{path} has actions of type {file['actions'].dtype}; only continuous ones are supported")
        if not {"next_observations", "timeouts"} & file.keys():
            raise UserError(f"{path} has neither next_observations nor timeouts to tell where episodes end; add one")
        for key in ("terminals", "timeouts"):
            if key in file and not np.isin(file[key], (0, 1)).all():
                raise UserError(f"{path} has {key} other than 0 and 1; repair them")
        has_next = "next_observations" in file
        ends = terminals = file["terminals"][:].reshape(-1).astype(bool)
        if "timeouts" in file:
            ends = terminals | file["timeouts"][:].reshape(-1).astype(bool)
        episode = np.cumsum(ends) - ends  # (length,), number of each row's episode
        num_episodes = len(np.unique(episode)) if has_next or ends.any() else 0  # 0: nothing marks an episode's end
        keep = np.isin(episode, choose_episodes(num_episodes, args))
        if not has_next:
            keep &= terminals | ~np.append(ends[:-1], True)  # the last row ends one, marked or not
        rows = np.flatnonzero(keep)

        def read(key, *shape):  # converted while read: no copy in the file's own precision
            if len(file[key]) != len(ends):
                raise UserError(f"{path} has {len(file[key])} rows of {key}, but {len(ends)} of terminals; repair it")
            return file[key].astype(np.float32)[:].reshape(len(ends), *shape)

        obs = read("observations", -1)
        if has_next:
            next_obs = read("next_observations", *obs.shape[1:])[rows]
        else:
            next_obs = obs[np.where(terminals[rows], rows, rows + 1)]
        dones = terminals[rows].astype(np.float32)
        return dict(zip(DATA_KEYS, (obs[rows], read("actions", -1)[rows], read("rewards")[rows], next_obs, dones)))


def flatten(space, values):
    """Stored values of a space to (length, dim), in the order of Gymnasium's FlattenObservation. Raises UserError."""
    if isinstance(space, gym.spaces.Dict):
        return np.concatenate([flatten(subspace, values[key]) for key, subspace in space.items()], -1)
    if not isinstance(space, gym.spaces.Box):
        raise UserError(f"{space} is not supported: it is not continuous (a Box, or a Dict of Boxes)")
    return np.asarray(values, np.float32).reshape(len(values), -1)


def maze_episode(obs, terminations):
    """Which transitions of a goal maze's episode to keep, and which of those are terminal: boolean arrays (length,).

    The first success is terminal, and what follows it is dropped until the goal or the episode changes. A transition
    within which the goal changes starts from an observation with the old goal, and is dropped as well."""
    goal = np.asarray(obs["desired_goal"])  # (length + 1, 2)
    stale = (goal[1:] != goal[:-1]).any(-1)  # (length,)
    success = np.linalg.norm(obs["achieved_goal"][1:] - goal[1:], axis=-1) <= GOAL_RADIUS  # (length,)
    keep, reached = np.empty(len(stale), bool), False  # reached: whether the present goal has been
    for t in range(len(stale)):
        keep[t] = not (stale[t] or reached)
        reached = not stale[t] and (reached or success[t])
    return keep, success | terminations


def mend_rewards(rewards, obs, env_spec):
    """Rewards (n,) of the steps that led to obs (n, obs_dim), with D4RL's sign of Adroit's distance term.

    In Gymnasium-Robotics' v1, with which Minari's data was made, they rise by a tenth of the palm's distance to the
    object; in D4RL they fall by it (https://github.com/Farama-Foundation/Gymnasium-Robotics/pull/220)."""
    if not env_spec or env_spec.id not in PALM_TO_OBJECT or env_spec.kwargs.get("reward_type") == "sparse":
        return rewards
    return rewards - 0.2 * np.linalg.norm(PALM_TO_OBJECT[env_spec.id](obs), axis=-1)


def read_minari(dataset, args):
    """Transitions of a Minari dataset: DATA_KEYS to float32 arrays with a row each. Raises UserError.

    Episodes hold one observation more than actions; no next observation is built across an episode's end."""
    obs_space, action_space = dataset.observation_space, dataset.action_space
    names_maze = domain_of(f"{args.env_id} {dataset.env_spec}") in ("antmaze", "pointmaze")
    has_goals = isinstance(obs_space, gym.spaces.Dict) and {"achieved_goal", "desired_goal"} <= set(obs_space)
    if names_maze and not has_goals:
        print("a maze without goals in its observations: a success is terminal only where the data says so")
    obs_dim, action_dim = gym.spaces.flatdim(obs_space), gym.spaces.flatdim(action_space)
    shapes = (obs_dim,), (action_dim,), (), (obs_dim,), ()
    data = {key: np.empty((dataset.total_steps, *shape), np.float32) for key, shape in zip(DATA_KEYS, shapes)}
    chosen = choose_episodes(dataset.total_episodes, args)
    # In parts that each open and close the file: HDF5 frees what it has read only on closing.
    parts = np.array_split(dataset.episode_indices[chosen], len(chosen) // 50 + 1)
    episodes = (e for part in parts for e in dataset.iterate_episodes(part))
    used = recorded = 0  # rows filled so far, and transitions read
    for count, episode in enumerate(episodes, 1):
        obs, actions = flatten(obs_space, episode.observations), flatten(action_space, episode.actions)
        keep, terminations = np.ones(len(actions), bool), episode.terminations
        if names_maze and has_goals:
            keep, terminations = maze_episode(episode.observations, terminations)
        rewards = mend_rewards(episode.rewards, obs[1:], dataset.env_spec)
        recorded += len(actions)
        end = used + np.count_nonzero(keep)
        for key, values in zip(DATA_KEYS, (obs[:-1], actions, rewards, obs[1:], terminations)):
            data[key][used:end] = values[keep]
        used = end
        if count % 500 == 0 or count == len(chosen):
            print(f"\rread {count:,} of {len(chosen):,} episodes", end="\n" if count == len(chosen) else "", flush=True)
    if args.dataset_fraction == 1 and recorded != dataset.total_steps:  # Minari's Arrow cuts long episodes
        wrong = f"{args.env_id} has {dataset.total_steps:,} transitions, of which only {recorded:,} can be read"
        raise UserError(f"{wrong}; record it in the HDF5 format")
    return {key: values[:used] for key, values in data.items()}


def evaluation_env(env_id, dataset=None, task=None):
    """Environment to evaluate in: `env_id`, else the Minari dataset's, if any; None for "none". Raises UserError.

    In a maze, episodes end at the first success or the registered time limit, and the walls are the data's: Minari's
    AntMaze umaze evaluates on the data's map turned by half (Minari issue 304), which is turned back. `task`, a row of
    D4RL_TASKS, makes Adroit and kitchen D4RL's: Minari gives pen twice the time (issue 303), and rewards a finished
    kitchen task at every later step."""
    metadata = dataset.storage.metadata if dataset else {}
    if env_id == "none" or not (env_id or metadata.get("eval_env_spec") or metadata.get("env_spec")):
        return None
    with explain("cannot make the evaluation environment", "pass another --eval-env-id, or none to do without"):
        spec = (gym.make(env_id) if env_id else dataset.recover_environment(eval_env=True)).spec
        if task and (not env_id or dataset.env_spec and env_id == dataset.env_spec.id):
            spec.max_episode_steps, kwargs, _ = task
            spec.kwargs |= kwargs
        if "maze_map" in spec.kwargs:
            maze = np.array(spec.kwargs["maze_map"], dtype=object)
            data_kwargs = dataset.env_spec.kwargs if dataset and dataset.env_spec else {}
            walls = np.array(data_kwargs.get("maze_map", maze), dtype=object) == 1
            if not np.array_equal(maze == 1, walls):
                maze = maze[::-1, ::-1]
                if not np.array_equal(maze == 1, walls):
                    raise UserError("the evaluation maze has other walls than the data's; pass another --eval-env-id")
                print("the evaluation maze is turned by half, start and goal with it, to have the data's walls")
            spec.kwargs |= {"maze_map": maze.tolist(), "continuing_task": False}
            spec.max_episode_steps = gym.registry.get(spec.id, spec).max_episode_steps  # its own, if not registered
        spec.kwargs.pop("render_mode", None)  # a recorded "human" would open windows
        if spec.max_episode_steps is None:
            print(f"{spec.id} has no time limit: evaluations wait for its episodes to end by themselves", flush=True)
        spec.to_json()  # raises if it cannot be stored with the run
        return gym.make(spec)


def check(dataset_id, arrays, obs_space, action_space, env):
    """Raise UserError unless there is data, finite, its actions in bounds, and `env`, if any, has the same spaces."""

    def outline(space):
        return [(k, outline(v)) for k, v in space.items()] if isinstance(space, gym.spaces.Dict) else space.shape

    if not len(arrays["rewards"]):
        raise UserError(f"{dataset_id} is empty: it has no transition that can be used")
    for key, array in arrays.items():
        if bad := np.count_nonzero(~np.isfinite(array)):
            raise UserError(f"{dataset_id} has {bad} NaN or infinite values in {key}; repair or drop those rows")
    is_box = isinstance(action_space, gym.spaces.Box) and action_space.dtype.kind == "f" and action_space.is_bounded()
    if not (is_box and len(action_space.shape) == 1 and (action_space.low < action_space.high).all()):
        raise UserError(f"actions of {dataset_id} are {action_space}, not continuous vectors with finite bounds")
    advice = "pass --eval-env-id of the environment that the data is from"
    if env and outline(env.observation_space) != outline(obs_space):
        raise UserError(f"{env.spec.id} observes {env.observation_space}, the data {obs_space}; {advice}, or none")
    if env and not (
        isinstance(env.action_space, gym.spaces.Box)
        and env.action_space.shape == action_space.shape
        and np.allclose([env.action_space.low, env.action_space.high], [action_space.low, action_space.high])
    ):
        raise UserError(f"{env.spec.id} takes actions {env.action_space}, the data {action_space}; {advice}, or none")
    lowest, highest = arrays["actions"].min(0), arrays["actions"].max(0)  # (k,)
    excess = np.maximum(action_space.low - lowest, highest - action_space.high)  # (k,)
    if (excess > 1e-4 * (action_space.high - action_space.low)).any():  # more than rounding
        wrong = f"{dataset_id} has actions up to {excess.max():.3g} outside {action_space}"
        raise UserError(f"{wrong}; scale or clip them or, for an .hdf5, which does not say its bounds, {advice}")


def load_dataset(args, device):
    """The transitions to train on, and what acting and scoring need to know. Raises UserError.

    Returns `data`, float32 tensors on the device: observations and next_observations (N, obs_dim), normalised if so
    asked; actions (N, k) in [-1, 1]; rewards (N,), shifted and scaled; terminations (N,), 1 where the return ends. And
    `info`: dataset_id; obs_mean and obs_std (obs_dim,); action_low and action_high (k,); env_spec, the evaluation
    environment's as JSON, or None; is_maze, whether it is a maze; ref_scores, the returns that score 0 and 100, None if
    unknown; transitions, N; checksum, of the data as read."""
    if args.env_id.endswith((".hdf5", ".h5")) or args.env_id in LOCOMOTION:
        robot_env_id, *ref_scores = LOCOMOTION.get(args.env_id, (None, None, None))
        dataset_id = str(locate_locomotion(args.env_id) if robot_env_id else args.env_id)
        if not Path(dataset_id).is_file():
            raise UserError(f"there is no file {dataset_id}; check the path")
        with explain(f"cannot read {dataset_id}", "if it is cut short or of another format, get it again"):
            arrays = read_hdf5(dataset_id, args)
        env = evaluation_env(args.eval_env_id or robot_env_id)
        obs_space = gym.spaces.Box(-np.inf, np.inf, arrays["observations"].shape[1:])
        action_space = gym.spaces.Box(-1, 1, arrays["actions"].shape[1:])
        if env and env.action_space.shape == action_space.shape:
            action_space = env.action_space
        else:
            print("the file does not say its actions' bounds, and no environment does: they are taken as -1 and 1")
    else:
        dataset_id = locate_minari(args.env_id)
        path = minari.storage.get_dataset_path(dataset_id)
        with explain(f"cannot read {dataset_id}", f"if it is damaged, delete {path} and get it again"):
            dataset = minari.load_dataset(dataset_id)
            obs_space, action_space = dataset.observation_space, dataset.action_space
            task = D4RL_TASKS.get(dataset_id.rpartition("/")[0])
            metadata = dataset.storage.metadata
            ref_scores = task[2] if task else [metadata.get(key) for key in ("ref_min_score", "ref_max_score")]
            env = evaluation_env(args.eval_env_id, dataset, task)
            arrays = read_minari(dataset, args)
    check(dataset_id, arrays, obs_space, action_space, env)
    checksum = 0  # of the data as read
    for array in arrays.values():
        checksum = zlib.crc32(array, checksum)

    data = {key: torch.from_numpy(array).to(device) for key, array in arrays.items()}
    low, high = (torch.as_tensor(x, dtype=torch.float32, device=device) for x in (action_space.low, action_space.high))
    data["actions"].sub_(low).mul_(2 / (high - low)).sub_(1).clamp_(-1, 1)
    data["rewards"].add_(args.reward_shift).mul_(args.reward_scale)
    std, mean = torch.std_mean(data["observations"], dim=0, correction=0)  # (obs_dim,)
    std = torch.where(std < 1e-3, 1.0, std)  # what hardly varies in the data, such as a fixed goal, is not scaled
    if not args.normalize_obs:
        std, mean = torch.ones_like(std), torch.zeros_like(mean)
    parts = obs_space if isinstance(obs_space, gym.spaces.Dict) else {"observation": obs_space}
    keys = np.repeat(list(parts), [gym.spaces.flatdim(part) for part in parts.values()])  # (obs_dim,)
    goals = np.isin(keys, ("achieved_goal", "desired_goal"))
    if goals.any():
        std[goals] /= args.goal_scale
    elif args.goal_scale != 1:
        if args.goal_scale != DOMAINS[domain_of(args.env_id)][1]["goal_scale"]:  # not the default
            raise UserError(f"the observations of {dataset_id} have no goals for --goal-scale to scale; leave it out")
        print("the observations have no goals: goal_scale does nothing")
    for key in ("observations", "next_observations"):
        data[key].sub_(mean).div_(std)
    return data, {
        "dataset_id": dataset_id, "obs_mean": mean, "obs_std": std, "action_low": low, "action_high": high,
        "env_spec": env.spec.to_json() if env else None, "is_maze": bool(env and "maze_map" in env.spec.kwargs),
        "ref_scores": ref_scores, "transitions": len(data["rewards"]), "checksum": checksum,
    }


# ---------------------------------------------------------------- Morse training

def morse_loss(morse, obs, action, uniform_action, uniform_weight=1.0):
    """L(f) and its metrics, on obs (batch, obs_dim), action (batch, k), uniform_action (batch, num_uniform, k)."""
    neg_log_certainty = morse.neg_log_certainty(obs, action)  # (batch,)
    states = obs.unsqueeze(1).expand(-1, uniform_action.shape[1], -1)  # (batch, num_uniform, obs_dim)
    uniform_certainty = morse.certainty(states, uniform_action)  # (batch, num_uniform)
    loss = neg_log_certainty.mean() + uniform_weight * uniform_certainty.mean()  # E_D[-log M] + w E_D,U[M(s, u)]
    metrics = {"certainty/data": torch.exp(-neg_log_certainty), "certainty/uniform": uniform_certainty}
    return loss, metrics | {"loss/morse": loss}


def sample(data, batch_size, generator, keys):
    """A uniform batch of these fields of the data, each (batch_size, ...), drawn on the data's device."""
    actions = data["actions"]
    index = torch.randint(len(actions), (batch_size,), device=actions.device, generator=generator)
    return {key: data[key].index_select(0, index) for key in keys}


def repeat(step, generator):
    """Yield what step() returns, for ever. On a GPU, from the fourth step on, by replaying a CUDA graph of it.

    A replay launches all kernels of a step at once; at these batch sizes launches are the bottleneck. `step` must draw
    its random numbers from `generator` and not wait for the device. The tensors it returns must be detached, or their
    autograd graph would tie the recorded step to the one before; each replay overwrites them.
    https://docs.pytorch.org/docs/stable/notes/cuda.html#whole-network-capture"""
    if generator.device.type == "cuda":
        stream = torch.cuda.Stream()
        for _ in range(3):  # warm-up: ordinary steps, on a side stream, in which optimisers and libraries allocate
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                result = step()
            torch.cuda.current_stream().wait_stream(stream)
            yield result
        main_stream = torch.cuda.current_stream()
        try:
            graph = torch.cuda.CUDAGraph()
            graph.register_generator_state(generator)
            with torch.cuda.graph(graph):
                result = step()  # recorded, not run
        except RuntimeError as error:
            torch.cuda.set_stream(main_stream)  # a recording that fails may leave its own stream current
            cause = error.__context__ or error  # what went wrong first: ending a failed recording raises too
            print(f"no CUDA graph, so steps are launched one kernel at a time, which is slower: {cause}", flush=True)
        else:
            while True:
                graph.replay()
                yield result
    while True:
        yield step()


def train_morse(agent, data, args, generator, start=0, after_step=lambda *_: None):
    """Train `agent.morse` from step `start` to `args.morse_steps`, calling after_step("morse", step, metrics)."""

    def update_morse():
        obs, action = sample(data, args.morse_batch_size, generator, ["observations", "actions"]).values()
        shape = (args.morse_batch_size, args.num_uniform, action.shape[-1])  # (batch, num_uniform, k)
        uniform_action = torch.rand(shape, device=action.device, generator=generator) * 2 - 1  # U on [-1, 1]^k
        loss, metrics = morse_loss(agent.morse, obs, action, uniform_action, args.uniform_weight)
        agent.morse_optimizer.zero_grad()
        loss.backward()
        agent.morse_optimizer.step()
        return {name: value.detach() for name, value in metrics.items()}

    agent.morse.requires_grad_(True)
    updates = repeat(update_morse, generator)
    for step in range(start + 1, args.morse_steps + 1):
        after_step("morse", step, next(updates))
    agent.morse.requires_grad_(False)


# ---------------------------------------------------------------- four modes

OBJECTIVES = (
    "behaviour cloning", "weighted cloning, weight detached", "weighted cloning, gradient through the weight",
    "uncertainty alone",
)


def make_agent(obs_dim, action_dim, args, device):
    """The Morse network and its optimiser."""
    agent = SimpleNamespace()
    kernel = args.kernel_scale_factor * action_dim, args.kernel, args.rq_shape
    agent.morse = MorseNetwork(obs_dim, action_dim, args.morse_hidden_dims, *kernel).to(device)
    kind = {"fused": device.type in ("cpu", "cuda"), "capturable": device.type == "cuda"}
    agent.morse_optimizer = torch.optim.Adam(agent.morse.parameters(), args.morse_learning_rate, **kind)
    return agent


def four_modes(args, device):
    """States uniform on [-1, 1]^2 and, independent of them, actions from four modes, each (num_samples, 2), and info.

    A state is also the action that a policy starts with there: see study_modes."""
    generator = torch.Generator().manual_seed(args.seed)
    obs = torch.rand(args.num_samples, 2, generator=generator) * 2 - 1
    modes = torch.randint(2, obs.shape, generator=generator) * 2 - 1  # (N, 2), -1 or 1
    actions = args.mode_offset * modes + args.mode_deviation * torch.randn(obs.shape, generator=generator)
    data = {"observations": obs, "actions": actions.clamp(-1, 1)}
    info = {"dataset_id": args.env_id, "obs_mean": torch.zeros(2), "obs_std": torch.ones(2)}
    info |= {"action_low": -torch.ones(2), "action_high": torch.ones(2), "transitions": args.num_samples}
    info["checksum"] = zlib.crc32(data["actions"].numpy(), zlib.crc32(obs.numpy()))
    return {key: value.to(device) for key, value in data.items()}, info


def fit_policy(actor, loss, data, args):
    """Train a policy, in place, on loss(actor, batch)."""
    generator = torch.Generator(data["actions"].device).manual_seed(args.seed)
    optimizer = torch.optim.Adam(actor.parameters(), args.policy_learning_rate, fused=True)
    for _ in range(args.policy_steps):
        batch = sample(data, args.policy_batch_size, generator, ["observations", "actions"])
        optimizer.zero_grad()
        loss(actor, batch).backward()
        optimizer.step()
    return actor


def objective_loss(objective, morse, temperature):
    """One of OBJECTIVES as a function of policy and batch."""

    def loss(actor, batch):
        obs = batch["observations"]
        pi = actor(obs)
        error = (pi - batch["actions"]).square().sum(-1)  # ||pi(s) - a||^2, (batch,)
        if objective == "behaviour cloning":
            return error.mean()
        is_detached = objective == "weighted cloning, weight detached"
        certainty = morse.certainty(obs, pi.detach() if is_detached else pi)  # M(s, pi(s)), (batch,)
        weight = torch.expm1((1 - certainty) / temperature)  # exp((1 - M) / mu) - 1, (batch,)
        return weight.mean() if objective == "uncertainty alone" else (weight * error).mean()

    return loss


def place_of(actions, args):
    """Of each action, (n, 2): 0 to 3 for the mode that it is at, 4 for the mean of all modes, 5 for none."""
    signs = torch.tensor([[-1, -1], [1, -1], [-1, 1], [1, 1], [0, 0]], device=actions.device)
    distance = torch.cdist(actions, args.mode_offset * signs)  # (n, 5)
    nearest = distance.min(1)
    return torch.where(nearest.values <= args.mode_radius, nearest.indices, 5)


def study_modes(data, info, args, device, save_figure):
    """Morse networks of several kernels and scales, and policies of each objective.

    Returns entries of results.json, and the network of --kernel and --kernel-scale-factor.

    A policy starts as the identity, so that each state has a starting action of its own: where its action ends, against
    where it started, shows the basins of the modes and of their mean."""
    torch.manual_seed(args.seed)
    start = fit_policy(
        Actor(2, 2, args.policy_hidden_dims).to(device),
        lambda actor, batch: (actor(batch["observations"]) - batch["observations"]).square().sum(-1).mean(),
        data,
        args,
    )
    axis = torch.linspace(-0.95, 0.95, 39, device=device)
    starts = torch.cartesian_prod(axis, axis)  # (39 * 39, 2)
    own = args.kernel, args.kernel_scale_factor
    kernels = [*(("rbf", factor) for factor in args.scale_factors), ("rbf", own[1]), ("rq", own[1])]
    entries, morses, ends = [], {}, {}

    def try_objective(objective, kernel, temperature):
        loss = objective_loss(objective, morses.get(kernel), temperature)
        policy = fit_policy(copy.deepcopy(start), loss, data, args)
        with torch.no_grad():
            ends[objective, kernel, temperature] = policy(starts)
        place = place_of(ends[objective, kernel, temperature], args)
        share = {"at a mode": float((place < 4).float().mean()), "at the mean": float((place == 4).float().mean())}
        share["modes reached"] = len(place[place < 4].unique())
        words = {"objective": objective, "kernel": kernel and kernel[0], "factor": kernel and kernel[1]}
        entries.append(words | {"temperature": temperature} | share)
        print(f"{objective}, kernel {kernel}, mu {temperature}: {share}", flush=True)

    try_objective("behaviour cloning", None, None)
    for kernel in dict.fromkeys(kernels):
        torch.manual_seed(args.seed)
        agent = make_agent(2, 2, dataclasses.replace(args, kernel=kernel[0], kernel_scale_factor=kernel[1]), device)
        generator = torch.Generator(device).manual_seed(args.seed)
        train_morse(agent, data, args, generator, after_step=progress(args, f"{kernel[0]}, lambda = {kernel[1]:g} k: "))
        morses[kernel] = agent.morse
        for objective in OBJECTIVES[1:]:
            for temperature in args.temperature:
                try_objective(objective, kernel, temperature)
    draw_modes(data, morses, ends, starts, args, save_figure)
    return entries, morses[own]


# ---------------------------------------------------------------- any dataset

def auroc(positive, negative):
    """Probability that a draw of the first, (n,), is above one of the second, (m,), ties counting half."""
    negative = negative.sort().values
    below, up_to = (torch.searchsorted(negative, positive, right=right).double().mean() for right in (False, True))
    return float((below + up_to) / 2 / len(negative))


def at_distance(actions, distance, generator):
    """Rows of `actions`, (n, k), moved that far in a random direction; which of them are still in [-1, 1]^k, (n,)."""
    direction = torch.randn(actions.shape, device=actions.device, generator=generator)
    moved = actions + distance * direction / direction.norm(dim=-1, keepdim=True)
    return moved, (moved.abs() <= 1).all(-1)


@torch.no_grad()
def study_dataset(morse, held_out, info, args, generator, save_figure):
    """Certainty on held-out transitions, on other actions in the same states, and near them, with figures.

    Returns the entry of results.json: mean certainties, AUROC of the data's own actions against the others."""
    obs, actions = held_out["observations"], held_out["actions"]
    shuffled = actions[torch.randperm(len(actions), device=actions.device, generator=generator)]
    uniform = torch.rand(actions.shape, device=actions.device, generator=generator) * 2 - 1
    certainty = {"held-out data": morse.certainty(obs, actions), "uniform actions": morse.certainty(obs, uniform)}
    certainty["actions of other states"] = morse.certainty(obs, shuffled)
    near, inside_share, near_auroc, own = {}, {}, {}, certainty["held-out data"]
    for distance in args.distances:
        moved, inside = at_distance(actions, distance, generator)
        if inside.any():
            near[distance] = morse.certainty(obs[inside], moved[inside])
            near_auroc[distance] = auroc(own[inside], near[distance])
            inside_share[distance] = float(inside.float().mean())
    entry = {"certainty": {name: float(values.mean()) for name, values in certainty.items()}}
    entry["certainty at distance"] = {distance: float(values.mean()) for distance, values in near.items()}
    entry["AUROC against"] = {name: auroc(own, values) for name, values in certainty.items() if values is not own}
    entry |= {"AUROC against distance": near_auroc, "share inside at distance": inside_share}
    draw_dataset(morse, held_out, info, certainty, near, args, save_figure)
    return entry


# ---------------------------------------------------------------- figures

def draw_certainty(axes, values, title, labels=("action 1", "action 2")):
    """An image of certainties over [-1, 1]^2, values[i, j] at the i-th place of the first axis. Returns the image."""
    image = axes.imshow(values.T.cpu(), origin="lower", extent=(-1, 1, -1, 1), vmin=0, vmax=1, cmap="viridis")
    axes.set(title=title, xlabel=labels[0], ylabel=labels[1])
    return image


def certainty_grid(morse, state, action, dims, n=101):
    """Certainty in a state, (obs_dim,), over two dimensions of the action, the others being as in `action`, (k,)."""
    axis = torch.linspace(-1, 1, n, device=state.device)
    actions = action.repeat(n * n, 1)
    actions[:, list(dims)] = torch.cartesian_prod(axis, axis)
    return morse.certainty(state.expand(n * n, -1), actions).reshape(n, n)


def draw_modes(data, morses, ends, starts, args, save_figure):
    """Landscape with data and policies; landscapes by scale, by kernel; the basins of each objective."""
    state, kernel = torch.zeros(2, device=starts.device), (args.kernel, args.kernel_scale_factor)
    names = {key: f"{key[0].upper()}, $\\lambda$ = {key[1]:g} k" for key in morses}

    figure, axes = plt.subplots(figsize=(6, 6), layout="constrained")
    title = f"certainty, {names[kernel]}; policies, $\\mu$ = {args.temperature[-1]:g}"
    image = draw_certainty(axes, certainty_grid(morses[kernel], state, state, (0, 1)), title)
    axes.scatter(*data["actions"][:500].T.cpu(), s=6, color="white", edgecolor="gray", lw=0.2, label="data")
    looks = zip(OBJECTIVES, "xsDo", (12, 60, 20, 60), ("red", "tab:orange", "magenta", "cyan"), strict=True)
    for objective, marker, size, color in reversed(list(looks)):
        key = (objective, None, None) if objective == "behaviour cloning" else (objective, kernel, args.temperature[-1])
        look = {"color": color} if marker == "x" else {"facecolor": "none", "edgecolor": color}
        axes.scatter(*ends[key][::7].T.cpu(), s=size, marker=marker, label=objective, **look)
    figure.colorbar(image, label="certainty M")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.15), fontsize=8, facecolor="lightgray")
    save_figure("landscape", figure)

    for name, keys in {
        "scales": [("rbf", factor) for factor in args.scale_factors],
        "kernels": [("rbf", args.kernel_scale_factor), ("rq", args.kernel_scale_factor)],
    }.items():
        size = (3.2 * len(keys) + 0.8, 3.4)
        figure, grid = plt.subplots(1, len(keys), figsize=size, sharey=True, squeeze=False, layout="constrained")
        for axes, key in zip(grid[0], keys):
            image = draw_certainty(axes, certainty_grid(morses[key], state, state, (0, 1)), names[key])
        figure.colorbar(image, ax=grid, label="certainty M")
        save_figure(name, figure)

    colors = matplotlib.colors.ListedColormap(["tab:blue", "tab:orange", "tab:green", "tab:red", "black", "lightgray"])
    n = round(len(starts) ** 0.5)
    for temperature in args.temperature:
        rows, size = OBJECTIVES[1:], (2.6 * len(morses) + 1.4, 8.2)
        figure, grid = plt.subplots(len(rows), len(morses), figsize=size, squeeze=False, layout="constrained")
        for objective, line in zip(rows, grid):
            for key, axes in zip(morses, line):
                place = place_of(ends[objective, key, temperature], args).reshape(n, n).T.cpu()
                image = axes.imshow(place, origin="lower", extent=(-1, 1, -1, 1), cmap=colors, vmin=-0.5, vmax=5.5)
                axes.set_title(names[key] if objective == rows[0] else "", fontsize=10)
            line[0].set_ylabel(objective.replace(", ", ",\n") + "\n\nstarting action 2", fontsize=9)
        for axes in grid[-1]:
            axes.set_xlabel("starting action 1", fontsize=9)
        bar = figure.colorbar(image, ax=grid, ticks=range(6), shrink=0.6, label="where the policy's action ends")
        bar.ax.set_yticklabels(["mode (-, -)", "mode (+, -)", "mode (-, +)", "mode (+, +)", "the mean", "elsewhere"])
        figure.suptitle(f"where a policy ends by where it starts, $\\mu$ = {temperature:g}")
        save_figure(f"basins_{temperature:g}", figure)


def draw_dataset(morse, held_out, info, certainty, near, args, save_figure):
    """Histograms; certainty against distance; landscapes in some states; in mazes, maps over positions."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for name, values in certainty.items():
        left.hist(values.cpu(), bins=50, range=(0, 1), histtype="step", density=True, label=name)
    left.set(xlabel="certainty M", ylabel="density", yscale="log", title=info["dataset_id"])
    left.legend(fontsize=8)
    right.plot([0, *near], [certainty["held-out data"].mean().cpu(), *(v.mean().cpu() for v in near.values())], "o-")
    right.axhline(certainty["uniform actions"].mean().cpu(), color="gray", ls="--", label="uniform actions")
    right.set(xlabel="distance from the data's action", ylabel="mean certainty", ylim=(0, 1))
    right.legend(fontsize=8)
    save_figure("certainty", figure)

    obs, actions = held_out["observations"], held_out["actions"]
    if actions.shape[1] > 1:
        columns = len(args.landscape_states)
        size = (3.2 * columns + 0.8, 3.4)
        figure, grid = plt.subplots(1, columns, figsize=size, sharey=True, squeeze=False, layout="constrained")
        labels = [f"action dimension {i}" for i in args.action_dims]
        for number, axes in zip(args.landscape_states, grid[0]):
            values = certainty_grid(morse, obs[number], actions[number], args.action_dims)
            image = draw_certainty(axes, values, f"held-out state {number}", labels)
            axes.plot(*actions[number, list(args.action_dims)].cpu(), "r*", ms=12)
        figure.colorbar(image, ax=grid, label="certainty M")
        save_figure("landscape", figure)

    if info["is_maze"]:  # its observation starts with the position: achieved_goal is the first key
        x, y = (obs[:, :2] * info["obs_std"][:2] + info["obs_mean"][:2]).T.cpu().numpy()
        figure, grid = plt.subplots(1, 2, figsize=(11, 4.4), sharey=True, layout="constrained")
        for axes, name in zip(grid, ("held-out data", "uniform actions")):
            total, *edges = np.histogram2d(x, y, 60, weights=certainty[name].cpu().numpy())
            count, *_ = np.histogram2d(x, y, edges)
            mean = np.where(count > 0, total / np.maximum(count, 1), np.nan)
            image = axes.pcolormesh(*edges, mean.T, vmin=0, vmax=1)
            axes.set(title=f"mean certainty, {name}", xlabel="x (m)", ylabel="y (m)", aspect="equal")
        figure.colorbar(image, ax=grid, label="certainty M")
        save_figure("map", figure)


# ---------------------------------------------------------------- a run: arguments, files, main

def resolve(args):
    """The arguments, unset ones filled from the dataset's row of DOMAINS. Raises UserError if any is out of range."""
    _, row = DOMAINS[domain_of(args.env_id)]
    args = dataclasses.replace(args, **{name: value for name, value in row.items() if getattr(args, name) is None})
    for name, value in vars(args).items():
        for x in value if isinstance(value, tuple) else [value]:
            floor, ceiling = LIMITS.get(name, (1 if isinstance(x, int) else 1e-12, 1e12))
            if type(x) in (int, float) and not floor <= x <= ceiling:  # or NaN
                raise UserError(f"--{name.replace('_', '-')} must be from {floor:.10g} to {ceiling:.10g}, got {x}")
    return args


def describe_morse(morse, info, args):
    """What must match before a Morse network's weights are reused: data and its scaling, the network, its training."""
    dataset = info["dataset_id"]
    dataset = Path(dataset).name if dataset.endswith((".hdf5", ".h5")) else dataset  # wherever the file lies
    settings = ("normalize_obs", "goal_scale", "uniform_weight", "num_uniform")
    settings += ("morse_steps", "morse_batch_size", "morse_learning_rate")
    return {
        "dataset": dataset,
        "number of transitions": info["transitions"],
        "shapes": [list(p.shape) for p in morse.parameters()],
        "kernel": [morse.kernel, morse.rq_shape if morse.kernel == "rq" else None, morse.kernel_scale],
        "action scale": [info[key].tolist() for key in ("action_low", "action_high")],
        "checksum of the data": info["checksum"],  # tells two draws of --dataset-fraction apart, too
    } | {name: getattr(args, name) for name in settings}


def commit():
    """Commit of this file's repository, with -dirty if tracked files have changed since; "" if there is none."""
    git = ["git", "-C", Path(__file__).resolve().parent, "describe", "--always", "--dirty", "--exclude", "*"]
    return subprocess.run(git, capture_output=True, text=True).stdout.strip() if shutil.which("git") else ""


def write_file(path, content):
    """Write text, or anything else by torch.save, so that the path never holds half of it. Raises UserError."""
    part = path.with_name(path.name + ".part")
    with explain(f"cannot write {path}", "see to space and permissions; what was there before is kept"):
        try:
            if isinstance(content, str):
                part.write_text(content)
            else:
                torch.save(content, part)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)


def progress(args, prefix=""):
    """What to do after a step of train_morse: every log_freq steps, a line."""

    def after_step(phase, step, metrics):
        if step % args.log_freq and step < args.morse_steps:
            return
        values = {name: value.mean().item() for name, value in metrics.items()}
        if not all(map(np.isfinite, values.values())):
            raise UserError(f"a loss is not finite at step {step:,}: {values}; try a lower --morse-learning-rate")
        figures = ", ".join(f"{name} {value:.3g}" for name, value in values.items())
        print(f"{prefix}{phase} {step:,} of {args.morse_steps:,}: {figures}", flush=True)

    return after_step


def main(args):
    """Train a Morse network on a dataset and measure it; on four-modes, policies too. Raises UserError."""
    is_toy = args.env_id == "four-modes"
    for name in OTHERS_ONLY if is_toy else TOY_ONLY:
        if getattr(args, name) != getattr(Args, name):
            raise UserError(f"--{name.replace('_', '-')} does nothing with --env-id {args.env_id}; leave it out")
    args = resolve(args)
    for name in ("temperature", "scale_factors", "landscape_states"):
        if not getattr(args, name):
            raise UserError(f"--{name.replace('_', '-')} is empty; pass at least one value")
    if args.rq_shape != Args.rq_shape and args.kernel != "rq":
        raise UserError("--rq-shape does nothing without --kernel rq; leave it out or pass that too")
    with explain(f"--device {args.device} cannot be used here", "pass --device cpu"):
        device = torch.zeros(1, device=args.device).device  # "cuda" becomes cuda:0, say
        if device.type not in ("cpu", "cuda"):
            raise UserError(f"--device must be cpu, cuda or cuda:N, got {args.device}")
        if device.type == "cuda":
            torch.cuda.set_device(device)
    if is_toy:
        data, info = four_modes(args, device)
    else:
        data, info = load_dataset(SimpleNamespace(**vars(args), reward_shift=0, reward_scale=1), device)  # unused here
        dims, (first, second) = data["actions"].shape[1], args.action_dims
        if dims > 1 and (first == second or max(first, second) >= dims):
            raise UserError(f"--action-dims must be two that differ, below {dims}, got {first} and {second}")
        cut = max(round(args.held_out * len(data["actions"])), 1 + max(args.landscape_states))
        if cut >= len(data["actions"]):
            cause = f"--held-out {args.held_out} or --landscape-states {args.landscape_states}"
            raise UserError(f"{cause} leaves none to train on of {len(data['actions'])} transitions; lower it")
    print("\n".join(f"{name:24} {value}" for name, value in vars(args).items()), flush=True)
    run_name = f"{args.env_id}__{args.exp_name}__{args.seed}__{time.time_ns()}".lstrip("./").replace("/", "-")
    run_dir = Path(args.runs_dir) / run_name
    save = args.save and Path(args.save)
    if save and (save.is_dir() or not os.access(save.absolute().parent, os.W_OK)):
        raise UserError(f"cannot write to {save}; pass another --save")
    with explain(f"cannot write to {run_dir}", "pass another --runs-dir"):
        writer = SummaryWriter(run_dir)
        origin = {"versions": {p: version(p) for p in ("torch", "numpy")}, "commit": commit()}
        origin["command"] = shlex.join(["python", *sys.argv])
        record = {"args": vars(args), "dataset_id": info["dataset_id"]} | origin
        write_file(run_dir / "args.json", json.dumps(record, indent=1))

    def save_figure(name, figure):
        """Into the run's folder and TensorBoard."""
        with explain(f"cannot write {run_dir / name}.png", "see to space and permissions"):
            figure.savefig(run_dir / f"{name}.png", dpi=150)
            writer.add_figure(name, figure)

    if is_toy:
        results, morse = study_modes(data, info, args, device, save_figure)
    else:
        torch.manual_seed(args.seed)
        generator = torch.Generator(device).manual_seed(args.seed)
        order = torch.randperm(len(data["actions"]), device=device, generator=generator)
        train, held_out = ({key: value[part] for key, value in data.items()} for part in (order[cut:], order[:cut]))
        agent = make_agent(data["observations"].shape[1], data["actions"].shape[1], args, device)
        train_morse(agent, train, args, generator, after_step=progress(args))
        morse = agent.morse
        results = study_dataset(morse, held_out, info, args, generator, save_figure)
        print(json.dumps(results, indent=1))
    writer.close()
    if save:
        write_file(save, {"facts": describe_morse(morse, info, args), "morse": morse.state_dict()})
        print(f"the network is in {save}")
    write_file(run_dir / "results.json", json.dumps(record | {"morse": results}))  # now the run counts as finished
    print(f"figures are in {run_dir}")


if __name__ == "__main__":
    matplotlib.use("Agg")  # figures go to files
    try:
        main(tyro.cli(Args, description=__doc__))
    except UserError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
