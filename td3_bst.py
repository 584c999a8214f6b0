"""TD3-BST: offline reinforcement learning with Behavioral Supervisor Tuning, from a dataset to an evaluated policy.

Srinivasan & Knottenbelt, "Offline Reinforcement Learning with Behavioral Supervisor Tuning", arXiv 2404.16399, and for
the Morse network Dherin et al., "Morse Neural Networks for Uncertainty Quantification", arXiv 2307.00667.

Train a Morse network, whose certainty M(s, a) = exp(-lambda^2 / 2 * ||f(s, a) - a||^2) is near 1 on the data, by
    L(f) = E_D[-log M(s, a)] + w * E_{s~D, u~U}[M(s, u)],  w = 1 in the paper, --uniform-weight here,

then TD3 with a policy objective that clones behaviour where the policy's action leaves the data's support:
    L(pi) = E_D[-Q_1(s, pi(s)) / mean |Q_1| + (exp((1 - M(s, pi(s))) / mu) - 1) * ||pi(s) - a||^2],

with no gradient through mean |Q_1|, nor, without --no-detach-weight, through the weight exp(...) - 1. lambda is
--kernel-scale-factor times the number of action dimensions, mu is --temperature.

    python td3_bst.py --env-id antmaze-large-diverse                         # the experiment
    python td3_bst.py --env-id hopper-medium-v2 --seed 2                     # the paper's own locomotion data
    python td3_bst.py --env-id pen-human --weighting constant                # TD3+BC's objective
    python td3_bst.py --env-id pen-human --weighting constant --q-weight 0   # behaviour cloning
    python td3_bst.py --env-id pen-human --q-weight 0                        # Morse-weighted behaviour cloning
    python td3_bst.py --resume runs/RUN                                      # go on after Ctrl-C or a kill
    python td3_bst.py --evaluate runs/RUN                                    # evaluate the saved policy again

Arguments whose default is None take the value in the dataset's row of DOMAINS, if any; a run prints all arguments.
"(ours)" marks what the paper does not say and was chosen here.
"""

import contextlib
import copy
import dataclasses
import difflib
import inspect
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
import warnings
import zlib
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import gymnasium as gym
import h5py
import minari
import numpy as np
import torch
import tyro
from torch import nn
from torch.nn import functional as F
from torch.utils.tensorboard import SummaryWriter

warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step")  # `descend` steps without optimizer.step()
gym.logger.min_level = gym.logger.ERROR  # hides warnings that the datasets' environments are out of date
with contextlib.redirect_stderr(io.StringIO()):  # hides a notice on Adroit's rewards
    import gymnasium_robotics

gym.register_envs(gymnasium_robotics)


@dataclasses.dataclass
class Args:
    # ---- experiment ----
    env_id: str = "pointmaze-umaze"
    """dataset: a D4RL name (antmaze-large-diverse, hopper-medium-v2, pen-human), a Minari id, or a D4RL-format .hdf5"""
    eval_env_id: str | None = None
    """Gymnasium id to evaluate in, or none; unset: the dataset's; an .hdf5 has none, and takes its bounds from this"""
    exp_name: str = Path(__file__).stem
    """name of the experiment, part of the run's folder name"""
    seed: int = 1
    """seed of initial weights, batches, noise, a dataset_fraction's episodes and evaluation episodes"""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    """cpu, cuda or cuda:N; unset: cuda if there is one, else cpu"""
    matmul_precision: Literal["highest", "high", "medium"] = "high"
    """internal precision of float32 matrix products, if supported: medium bfloat16, high TF32, highest float32"""
    compile: bool = False
    """whether torch.compile compiles the update, optimisers included: faster after a minute; needs a C++ compiler"""
    total_timesteps: int = 1_000_000
    """critic steps after Morse pre-training; after each policy_frequency of them the policy takes one"""
    eval_freq: int = 50_000
    """steps between evaluations; the last step is always evaluated"""
    eval_episodes: int | None = None
    """complete episodes per evaluation, each with a seed of its own"""
    num_eval_envs: int = 10
    """environments in an evaluation, in parallel if PyTorch has a thread for each; does not change its results"""
    log_freq: int = 1_000
    """steps between log entries, each with a checkpoint and a check that losses and weights are finite"""
    dataset_fraction: float = 1.0
    """share of the dataset's episodes to train on, in (0, 1], drawn at random by seed"""
    runs_dir: str = "runs"
    """parent folder of the run's own folder"""
    resume: str | None = None
    """run folder to resume; all other arguments are taken from it, and cannot be changed"""
    evaluate: str | None = None
    """run folder whose score to print anew; only seed, device, eval_episodes and num_eval_envs may differ"""

    # ---- data ----
    normalize_obs: bool | None = None
    """whether to standardise each observation dimension over the dataset (ours, as in TD3+BC)"""
    goal_scale: float | None = None
    """multiplies achieved and desired goals, if observations have them, after any normalisation (ours)"""
    reward_shift: float | None = None
    """added to every reward of the data (ours)"""
    reward_scale: float | None = None
    """multiplies every reward of the data, after the shift (ours)"""

    # ---- TD3 (arXiv 1802.09477; defaults are those of TD3+BC, arXiv 2106.06860, where not said otherwise) ----
    discount: float | None = None
    """gamma, in [0, 1)"""
    bound_targets: bool | None = None
    """whether to clip the critics' targets to the range of returns that the data's rewards allow (ours)"""
    tau: float = 0.005
    """Polyak step of the target networks, in (0, 1]"""
    batch_size: int = 256
    """transitions per gradient step"""
    actor_learning_rate: float | None = None
    """Adam step size of the policy"""
    anneal_actor_learning_rate: bool | None = None
    """whether a cosine takes the policy's step size to 0 over total_timesteps, as IQL's does (ours)"""
    critic_learning_rate: float = 3e-4
    """Adam step size of the critics"""
    actor_hidden_dims: tuple[int, ...] | None = None
    """widths of the policy's ReLU layers"""
    critic_hidden_dims: tuple[int, ...] = (256, 256)
    """widths of each critic's ReLU layers"""
    critic_layernorm: bool = True
    """LayerNorm, without affine parameters, before each ReLU of the critics (ours)"""
    policy_noise: float = 0.2
    """deviation of the Gaussian noise on target actions, in units of an action space of [-1, 1]"""
    noise_clip: float = 0.5
    """bound of the noise on target actions"""
    policy_frequency: int = 2
    """critic steps per step of policy and target networks"""

    # ---- Morse network ----
    morse_checkpoint: str | None = None
    """file of `morse_only.py --save` to take the Morse network from; it was not trained on the --held-out share"""
    morse_steps: int | None = None
    """gradient steps of the Morse network's pre-training (ours)"""
    morse_batch_size: int = 256
    """states per step of the Morse network (ours)"""
    morse_hidden_dims: tuple[int, ...] = (256, 256, 256)
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

    # ---- policy objective ----
    weighting: Literal["morse", "constant"] = "morse"
    """weight of the squared error: exp((1 - M) / mu) - 1, the paper's, or a constant one"""
    temperature: float | None = None
    """mu, at least 1/30 lest Adam overflow; the weight is 0 where M is 1, exp(1/mu) - 1 where M is 0 (values ours)"""
    detach_weight: bool = True
    """whether to stop the gradient through the weight (ours: the paper does not say)"""
    constant_weight: float = 0.4
    """with constant weighting, the weight of the squared error averaged over action dimensions; 1/2.5 is TD3+BC's"""
    q_weight: float = 1.0
    """weight of the critic's term; 1 is the paper's; 0 leaves cloning alone: no critic is trained"""


# Values for fields left unset, from the first row whose pattern is found in the dataset's name. From the paper: a
# uniform_weight of 1; from TD3+BC: normalising, a discount of 0.99, (256, 256) and 3e-4; the rest is ours.
DEFAULTS = dict(
    normalize_obs=True, goal_scale=1.0, discount=0.99, reward_shift=0.0, reward_scale=1.0, bound_targets=False,
    actor_hidden_dims=(256, 256), actor_learning_rate=3e-4, anneal_actor_learning_rate=False,
    morse_steps=20_000, morse_learning_rate=1e-3, uniform_weight=1.0, temperature=0.5, eval_episodes=10,
)
DOMAINS = {
    "antmaze": ("ant_?maze", DEFAULTS | dict(
        normalize_obs=False, goal_scale=4.0, discount=0.998, reward_scale=10.0, bound_targets=True,
        actor_hidden_dims=(256, 256, 256), actor_learning_rate=1e-3, anneal_actor_learning_rate=True,
        morse_steps=30_000, morse_learning_rate=5e-4, uniform_weight=30.0, temperature=1.0, eval_episodes=100,
    )),
    "pointmaze": ("pointmaze", DEFAULTS | dict(
        reward_shift=-1.0, anneal_actor_learning_rate=True, uniform_weight=30.0, temperature=1.0, eval_episodes=100,
    )),
    "adroit": ("(?<![a-z])(pen|door|hammer|relocate)(?![a-z])", DEFAULTS),
    "locomotion": ("halfcheetah|hopper|walker2d|mujoco", DEFAULTS),
    "other": ("", DEFAULTS),
}
LIMITS = {  # lowest and highest value; for the rest 1 (integers) or 1e-12 (floats) to 1e12
    "seed": (0, 2**32 - 1), "dataset_fraction": (1e-12, 1), "morse_steps": (0, 1e12), "uniform_weight": (0, 1e12),
    "temperature": (1 / 30, 1e12), "total_timesteps": (0, 1e12), "reward_shift": (-1e12, 1e12), "tau": (1e-12, 1),
    "discount": (0, 0.999999), "constant_weight": (0, 1e12), "q_weight": (0, 1e12), "policy_noise": (0, 1e12),
    "noise_clip": (0, 1e12),
}
NEEDS = [  # some arguments that do nothing unless another one has this value
    ("rq_shape", "kernel", "rq"),
    ("constant_weight", "weighting", "constant"),
    *((name, "weighting", "morse") for name in ("temperature", "detach_weight", "morse_checkpoint")),
]
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


class Critic(nn.Module):
    """Twin Q(s, a), both in one batched product: (batch, obs_dim), (batch, action_dim) -> (2, batch)."""

    def __init__(self, obs_dim, action_dim, hidden_dims=(256, 256), layernorm=True):
        super().__init__()
        dims = [obs_dim + action_dim, *hidden_dims, 1]
        pairs = list(zip(dims, dims[1:]))  # each layer starts as nn.Linear does, uniform up to 1 / sqrt(inputs)
        self.weights = nn.ParameterList(torch.empty(2, i, o).uniform_(-(i**-0.5), i**-0.5) for i, o in pairs)
        self.biases = nn.ParameterList(torch.empty(2, 1, o).uniform_(-(i**-0.5), i**-0.5) for i, o in pairs)
        self.layernorm = layernorm
        identity = torch.stack([torch.ones(max(dims)), torch.zeros(max(dims))])  # scale and offset of any LayerNorm
        self.register_buffer("identity", identity, persistent=False)

    def forward(self, obs, action, twins=2):
        """Values of the first `twins` critics, (twins, batch)."""
        x = torch.cat([obs, action], -1).expand(twins, -1, -1)  # (twins, batch, obs_dim + action_dim)
        layers = zip(self.weights, self.biases)
        if twins < 2:  # both need no slice, whose gradient is copied
            layers = ((w[:twins], b[:twins]) for w, b in layers)
        *hidden, (weight, bias) = layers
        for w, b in hidden:
            x = torch.baddbmm(b, x, w)  # (twins, batch, width)
            if self.layernorm:  # scaled by 1, offset by 0: PyTorch's kernel without them is slower
                x = F.layer_norm(x, x.shape[-1:], *self.identity[:, : x.shape[-1]])
            x = F.relu(x)
        return (x * weight.mT).sum(-1) + bias[:, 0]  # (twins, batch), as baddbmm but faster


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


# ---------------------------------------------------------------- evaluation

def make_policy(actor, info):
    """The policy as a function of numpy arrays: raw observations (n, obs_dim) to actions (n, k) of the environment.

    It runs in float64: float32 rounding varies with the number of environments, and a simulation amplifies that."""
    actor = copy.deepcopy(actor).double()
    mean, std, low, high = (info[key].double() for key in ("obs_mean", "obs_std", "action_low", "action_high"))

    @torch.no_grad()
    def policy(obs):
        action = actor((torch.as_tensor(obs, dtype=torch.float64, device=mean.device) - mean) / std)  # in [-1, 1]
        return (low + (action + 1) / 2 * (high - low)).float().cpu().numpy()

    return policy


WRONG_SIGN = version("gymnasium-robotics") in ("1.3.0", "1.3.1", "1.4.0", "1.4.1", "1.4.2")  # see mend_rewards


def evaluate(policy, env_spec, seeds, num_envs):
    """Play one complete episode per seed. Gives undiscounted returns, lengths and terminations, each (len(seeds),).

    An environment that is done takes the next seed, so results do not depend on `num_envs`; once no seed is left, it
    plays on unrecorded. Environments run in processes of their own if PyTorch has a thread for each. Adroit's rewards,
    and its end where the pen drops, are D4RL's."""
    num_envs = min(num_envs, len(seeds))
    make_envs = [lambda: gym.wrappers.FlattenObservation(gym.make(env_spec))] * num_envs
    vector_env = gym.vector.AsyncVectorEnv if 1 < num_envs <= torch.get_num_threads() else gym.vector.SyncVectorEnv
    envs = vector_env(make_envs, autoreset_mode=gym.vector.AutoresetMode.DISABLED)
    returns, lengths, terminations = np.zeros(len(seeds)), np.zeros(len(seeds), int), np.zeros(len(seeds), bool)
    episode = np.arange(num_envs)  # (num_envs,), which seed each environment plays
    obs, _ = envs.reset(seed=[int(seed) for seed in seeds[:num_envs]])
    while (recorded := episode < len(seeds)).any():
        obs, rewards, terminated, truncated, _ = envs.step(policy(obs))
        if env_spec.name == "AdroitHandPen":
            terminated = terminated | (obs[:, 26] < 0.075)  # its height in metres
        if WRONG_SIGN:
            rewards = mend_rewards(rewards, obs, env_spec)
        returns[episode[recorded]] += rewards[recorded]
        lengths[episode[recorded]] += 1
        terminations[episode[recorded]] = terminated[recorded]
        done = terminated | truncated
        if done.any():
            episode[done] = episode.max() + 1 + np.arange(done.sum())
            obs, _ = envs.reset(seed=[int(seeds[e % len(seeds)]) for e in episode], options={"reset_mask": done})
    envs.close()
    return returns, lengths, terminations


def score_policy(actor, info, args):
    """Evaluate, as an entry of results.json: score, mean return and, per episode, returns, lengths and terminations.

    The score is 100 x success rate in mazes, else 100 x normalised return, None without returns to normalise by."""
    seeds = np.random.SeedSequence(args.seed).generate_state(args.eval_episodes)
    env_spec = gym.envs.registration.EnvSpec.from_json(info["env_spec"])
    returns, lengths, terminations = evaluate(make_policy(actor, info), env_spec, seeds, args.num_eval_envs)
    score = None
    low, high = info["ref_scores"]
    if info["is_maze"]:  # there an episode terminates at success, and nowhere else
        score = 100 * float(terminations.mean())
    elif None not in (low, high):
        score = 100 * float((returns.mean() - low) / (high - low))
    episodes = {"returns": returns.tolist(), "lengths": lengths.tolist(), "terminations": terminations.tolist()}
    return {"score": score, "return_mean": float(returns.mean())} | episodes


# ---------------------------------------------------------------- Morse pre-training

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


# ---------------------------------------------------------------- update

def return_bounds(data, discount):
    """Smallest and largest discounted return that is possible with the data's rewards, two scalar tensors.

    A return is a weighted average: of r / (1 - gamma), with weight (1 - gamma) gamma^t, at every non-terminal step t,
    and of r, with weight gamma^T, at the terminal step T, if any. So it lies between the extremes of these numbers."""
    worth = torch.where(data["terminations"] > 0, data["rewards"], data["rewards"] / (1 - discount))  # (N,)
    return worth.aminmax()


def critic_loss(critic, target_critic, target_actor, batch, noise, discount, bounds=None):
    """TD3's critic loss, summed over the twins, and its metrics.

    `noise` (batch, k), already clipped, is added to the target action; targets are clipped to `bounds`, if any."""
    with torch.no_grad():
        next_action = (target_actor(batch["next_observations"]) + noise).clamp(-1, 1)
        next_q = target_critic(batch["next_observations"], next_action).min(0).values  # (batch,)
        target = batch["rewards"] + discount * (1 - batch["terminations"]) * next_q  # r + gamma (1 - d) min Qi'(s', a')
        if bounds is not None:
            target = target.clamp(*bounds)
    q = critic(batch["observations"], batch["actions"])  # (2, batch), against a target of (batch,)
    loss = (q - target).square().mean(1).sum()  # sum_i E_D[(Q_i(s, a) - target)^2]
    return loss, {"loss/critic": loss}


def actor_loss(actor, critic, morse, batch, args):
    """L(pi) of BST, see the top, or of TD3+BC or cloning by args.weighting and args.q_weight, and its metrics.

    `batch` has observations (batch, obs_dim) and actions (batch, k) in [-1, 1]."""
    obs, action = batch["observations"], batch["actions"]
    pi = actor(obs)
    error = (pi - action).square().sum(-1)  # ||pi(s) - a||^2, (batch,)
    metrics = {"policy/bc_error": error}
    if args.weighting == "morse":
        certainty = morse.certainty(obs, pi.detach() if args.detach_weight else pi)  # M(s, pi(s)), (batch,)
        weight = torch.expm1((1 - certainty) / args.temperature)  # exp((1 - M) / mu) - 1, (batch,)
        metrics |= {"certainty/policy": certainty, "policy/weight": weight}
    else:
        weight = args.constant_weight / action.shape[-1]  # error sums over k dimensions, TD3+BC's is their mean
    loss = (weight * error).mean()  # E_D[weight * ||pi(s) - a||^2]
    if args.q_weight > 0:
        q = critic(obs, pi, twins=1)[0]  # (batch,)
        loss = loss - args.q_weight * q.mean() / q.abs().mean().detach()  # q_weight E_D[-Q_1 / mean |Q_1|]
        metrics["policy/q"] = q
    return loss, metrics | {"loss/actor": loss}


def make_agent(obs_dim, action_dim, args, device):
    """Networks, target networks, optimisers and a schedule, if any, in one namespace; each has a state_dict."""
    agent = SimpleNamespace()
    agent.actor = Actor(obs_dim, action_dim, args.actor_hidden_dims).to(device)
    agent.critic = Critic(obs_dim, action_dim, args.critic_hidden_dims, args.critic_layernorm).to(device)
    agent.target_actor = copy.deepcopy(agent.actor).requires_grad_(False)
    agent.target_critic = copy.deepcopy(agent.critic).requires_grad_(False)
    kernel = args.kernel_scale_factor * action_dim, args.kernel, args.rq_shape
    agent.morse = MorseNetwork(obs_dim, action_dim, args.morse_hidden_dims, *kernel).to(device)
    eager = {"fused": device.type in ("cpu", "cuda"), "capturable": device.type == "cuda"}
    kind = {"foreach": True, "capturable": True} if args.compile else eager  # foreach is what torch.compile can fuse
    rate = args.actor_learning_rate
    if args.anneal_actor_learning_rate and kind["capturable"]:
        rate = torch.tensor(rate, device=device)  # a CUDA graph freezes a number, torch.compile compiles for each
    agent.actor_optimizer = torch.optim.Adam(agent.actor.parameters(), rate, **kind)
    agent.critic_optimizer = torch.optim.Adam(agent.critic.parameters(), args.critic_learning_rate, **kind)
    agent.morse_optimizer = torch.optim.Adam(agent.morse.parameters(), args.morse_learning_rate, **eager)
    for parameter in [*agent.actor.parameters(), *agent.critic.parameters()]:
        parameter.grad = torch.zeros_like(parameter)  # `descend` overwrites it
    if args.anneal_actor_learning_rate:
        steps = max(args.total_timesteps // args.policy_frequency, 1)
        agent.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(agent.actor_optimizer, steps)
    return agent


adam_step = inspect.unwrap(torch.optim.Adam.step)  # the bare step: its wrappers would end a graph of torch.compile


def descend(loss, optimizer):
    """One Adam step of the optimiser's own parameters: the policy's loss, say, adds no gradient to the critics'.

    As zero_grad, loss.backward(inputs=parameters) and optimizer.step(), but in a form that torch.compile takes into one
    graph: gradients go into the tensors that are there."""
    parameters = optimizer.param_groups[0]["params"]
    gradients = torch.autograd.grad(loss, parameters)
    with torch.no_grad():
        torch._foreach_copy_([parameter.grad for parameter in parameters], gradients)
        adam_step(optimizer)


def draw(data, args, generator):
    """A list of `policy_frequency` batches, one for each step of the critics: every field of the data and, unless it is
    cloning, the noise (batch, k) of the target actions, clipped."""
    batches = []
    for _ in range(args.policy_frequency):
        batch = sample(data, args.batch_size, generator, DATA_KEYS)
        if args.q_weight > 0:
            noise = torch.randn(batch["actions"].shape, device=batch["actions"].device, generator=generator)
            batch["noise"] = (noise * args.policy_noise).clamp(-args.noise_clip, args.noise_clip)
        batches.append(batch)
    return batches


def update(agent, batches, args, bounds=None):
    """One update of TD3-BST: a step of the critics on each batch, then one of the policy and both target networks.

    `batches` are from `draw`, `bounds` those of the critics' targets. Returns metrics of the last of these steps as
    tensors, scalars or (batch,): nothing waits for the device."""
    metrics = {}
    if args.q_weight > 0:
        for batch in batches:
            networks = agent.critic, agent.target_critic, agent.target_actor
            loss, metrics = critic_loss(*networks, batch, batch["noise"], args.discount, bounds)
            descend(loss, agent.critic_optimizer)
    loss, policy_metrics = actor_loss(agent.actor, agent.critic, agent.morse, batches[-1], args)  # as in TD3
    descend(loss, agent.actor_optimizer)
    with torch.no_grad():  # target <- (1 - tau) target + tau network
        for target, network in (agent.target_actor, agent.actor), (agent.target_critic, agent.critic):
            torch._foreach_lerp_(list(target.parameters()), list(network.parameters()), args.tau)
    return {name: value.detach() for name, value in (metrics | policy_metrics).items()}


def choose_update(args):
    """`update` or, with --compile, its compiled form: one graph of losses, gradients and steps."""
    if not args.compile:
        return update
    torch._dynamo.config.trace_autograd_ops = True  # else autograd.grad would end the graph
    options = {}
    if args.device.startswith("cpu"):  # C++ calls the kernels, and Adam's bias corrections are not computed per weight
        options = {"cpp_wrapper": True, "realize_opcount_threshold": 4}
    return torch.compile(update, fullgraph=True, options=options)


def train(agent, data, args, generator, done, after_step):
    """Run both phases, each from its step in `done`, calling after_step(phase, step, metrics)."""
    if args.weighting == "morse":
        train_morse(agent, data, args, generator, done["morse"], after_step)
    bounds = return_bounds(data, args.discount) if args.bound_targets and args.q_weight > 0 else None
    if bounds is not None:
        print("critic targets are kept from {:.6g} to {:.6g}".format(*bounds), flush=True)
    run_update = choose_update(args)
    updates = repeat(lambda: run_update(agent, draw(data, args, generator), args, bounds), generator)
    for step in range(done["policy"], args.total_timesteps, args.policy_frequency):
        metrics = next(updates)
        if args.anneal_actor_learning_rate:
            agent.schedule.step()
        after_step("policy", step + args.policy_frequency, metrics)


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


def parse_args(argv=None):
    """Command-line arguments; --resume and --evaluate take the run's own as defaults. Raises UserError."""
    args = tyro.cli(Args, args=argv, description=__doc__)
    if None not in (args.resume, args.evaluate):
        raise UserError("--resume and --evaluate exclude each other; pass one of them")
    run = args.evaluate if args.resume is None else args.resume
    if run is None:
        for name, other, value in NEEDS:
            if getattr(args, name) != getattr(Args, name) and getattr(args, other) != value:
                flag, needed = name.replace("_", "-"), other.replace("_", "-")
                flag = f"no-{flag}" if getattr(args, name) is False else flag
                raise UserError(f"--{flag} does nothing without --{needed} {value}; leave it out or pass that too")
        return args
    with explain(f"{run!r} is not the folder of a run of this script", "look for one in --runs-dir"):
        record = json.loads((Path(run) / "args.json").read_text())["args"]
        stored = Args(**{name: tuple(value) if isinstance(value, list) else value for name, value in record.items()})
    if args.resume and (new := sorted(vars(stored).keys() - record.keys())):
        raise UserError(f"{run} is of a version without {', '.join(new)}; use that version or start a new run")
    stored = dataclasses.replace(stored, resume=args.resume, evaluate=args.evaluate)
    args = tyro.cli(Args, args=argv, description=__doc__, default=stored)
    free = ("seed", "device", "eval_episodes", "num_eval_envs") if args.evaluate else ()
    for name, own in vars(stored).items():
        if name not in free and getattr(args, name) != own:
            raise UserError(f"{run} was started with {name} {own}; for {getattr(args, name)}, start a new run")
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


def load_morse(morse, info, args):
    """Fill `morse` from --morse-checkpoint. Raises UserError if that is of another network, data or training."""
    needed, path = describe_morse(morse, info, args), args.morse_checkpoint
    with explain(f"cannot read {path}", "pass a file of this version's `morse_only.py --save`"):
        saved = torch.load(path, map_location="cpu", weights_only=True)
        weights, facts = saved["morse"], {name: saved["facts"][name] for name in needed}
    for name, own in needed.items():
        if facts[name] != own:
            differs = f"{path} differs in {name}: {facts[name]!s:.80}, here {own!s:.80}"
            raise UserError(f"{differs}; train one with these arguments")
    morse.load_state_dict(weights)


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


def main(args):
    """Train, resume or evaluate a run, as the arguments say. Raises UserError."""
    args = resolve(args)
    for flag in ("total-timesteps", "eval-freq", "log-freq"):
        if getattr(args, flag.replace("-", "_")) % args.policy_frequency:
            raise UserError(f"--{flag} must be a multiple of --policy-frequency, {args.policy_frequency}")
    with explain(f"--device {args.device} cannot be used here", "new runs and --evaluate take --device cpu"):
        device = torch.zeros(1, device=args.device).device  # "cuda" becomes cuda:0, say
        if device.type not in ("cpu", "cuda"):
            raise UserError(f"--device must be cpu, cuda or cuda:N, got {args.device}")
        if device.type == "cuda":
            torch.cuda.set_device(device)
    torch.set_float32_matmul_precision(args.matmul_precision)
    if args.compile and not args.evaluate:
        with explain("--compile cannot be used here", "start a new run without it"):
            if torch._dynamo.config.disable:
                raise RuntimeError("TORCH_COMPILE_DISABLE is set")
            torch.compile(torch.sin)(torch.zeros(1, device=device))
    if args.evaluate:
        with explain(f"{args.evaluate} has no policy that can be evaluated", "train one first"):
            model = torch.load(Path(args.evaluate) / "model.pt", map_location=device, weights_only=True)
            info = model["info"]
            if not info["env_spec"]:
                raise UserError(f"{args.evaluate} has no environment to evaluate in; start a run with --eval-env-id")
            actor = Actor(len(info["obs_mean"]), len(info["action_low"]), args.actor_hidden_dims).to(device)
            actor.load_state_dict(model["actor"])
        with explain("cannot make the evaluation environment", "install the package that it is from"):
            gym.make(gym.envs.registration.EnvSpec.from_json(info["env_spec"])).close()
        result = score_policy(actor, info, args)
        print(f"score {result['score']}, return {result['return_mean']}")
        return
    data, info = load_dataset(args, device)
    facts = {
        "domain": domain_of(args.env_id), "dataset_id": info["dataset_id"], "transitions": info["transitions"],
        "terminal": int(data["terminations"].sum()), "checksum": info["checksum"],
    }
    run_name = f"{args.env_id}__{args.exp_name}__{args.seed}__{time.time_ns()}".lstrip("./").replace("/", "-")
    run_dir = Path(args.resume or Path(args.runs_dir) / run_name)
    shown = vars(args) | facts | {"run_dir": run_dir}
    print("\n".join(f"{name:24} {value}" for name, value in shown.items()), flush=True)
    if not info["env_spec"] and args.eval_env_id != "none":
        print("the data names no environment, so the policy is not evaluated; --eval-env-id names one", flush=True)
    if args.resume:
        record = json.loads((run_dir / "args.json").read_text())
        if new := {name: value for name, value in facts.items() if name in record and record[name] != value}:
            had = {name: record[name] for name in new}
            raise UserError(f"{run_dir} was on data with {had}, here {new}; start a new run")
    else:
        packages = ("torch", "numpy", "gymnasium", "gymnasium-robotics", "mujoco", "minari")
        record = {"args": vars(args)} | facts | {"versions": {p: version(p) for p in packages}, "commit": commit()}
        record["command"] = shlex.join(["python", *sys.argv])
    checkpoint_file = run_dir / "checkpoint.pt"
    with explain(f"cannot write to {run_dir}", "see to its permissions; a new run may have another --runs-dir"):
        writer = SummaryWriter(run_dir)
        if not args.resume:
            write_file(run_dir / "args.json", json.dumps(record, indent=1))

    torch.manual_seed(args.seed)
    generator = torch.Generator(device).manual_seed(args.seed)
    agent = make_agent(data["observations"].shape[1], data["actions"].shape[1], args, device)
    done, evaluations = {"morse": 0, "policy": 0}, []  # last logged step of each phase, entries of results.json
    if checkpoint_file.exists():
        with explain(f"cannot read {checkpoint_file}", "start a new run"):
            checkpoint = torch.load(checkpoint_file, map_location=device, weights_only=True)
            done, evaluations = checkpoint["done"], checkpoint["evaluations"]
            generator.set_state(checkpoint["generator"].cpu())
            for name, part in vars(agent).items():
                part.load_state_dict(checkpoint[name])
    elif args.morse_checkpoint:
        load_morse(agent.morse, info, args)
        done["morse"] = args.morse_steps
    logged_at = time.time()

    def after_step(phase, step, metrics):
        """Check, evaluate, log and save at the steps that are due; the others do not wait for the device."""
        nonlocal logged_at
        total = args.morse_steps if phase == "morse" else args.total_timesteps
        is_eval = phase == "policy" and (step % args.eval_freq == 0 or step == total)
        if step % args.log_freq and step < total and not is_eval:
            return
        values = {name: value.mean().item() for name, value in metrics.items()}
        bad = [f"{name} is {value}" for name, value in values.items() if not np.isfinite(value)]
        for name, part in vars(agent).items():
            if isinstance(part, nn.Module) and not nn.utils.get_total_norm(part.parameters()).isfinite():
                bad.append(f"a weight of the {name} is not finite")
        if bad:
            raise UserError(f"{', '.join(bad)} at {phase} step {step:,}; start a new run with a lower learning rate")
        rate = values[f"speed/{phase}_steps_per_second"] = (step - done[phase]) / (time.time() - logged_at)
        done[phase] = step
        states = {name: part.state_dict() for name, part in vars(agent).items()}
        if phase == "policy":
            write_file(run_dir / "model.pt", {"actor": states["actor"], "info": info, "args": record["args"]})
        if is_eval and info["env_spec"]:
            result = {"step": step, "last": True} | score_policy(agent.actor, info, args)
            evaluations[:] = [entry | {"last": False} for entry in evaluations] + [result]
            write_file(run_dir / "results.json", json.dumps(record | {"evaluations": evaluations}))
            values["evaluation/return"] = result["return_mean"]
            if result["score"] is not None:
                values["evaluation/score"] = result["score"]
        left = f"{(total - step) / rate / 60:.0f} min of steps left"
        figures = ", ".join(f"{name} {value:.3g}" for name, value in values.items())
        print(f"{phase} {step:,} of {total:,}, {left}: {figures}", flush=True)
        for name, value in values.items():
            writer.add_scalar(name, value, step)
        states |= {"generator": generator.get_state(), "done": done, "evaluations": evaluations}
        write_file(checkpoint_file, states)
        logged_at = time.time()

    try:
        train(agent, data, args, generator, done, after_step)
        print(f"done: {run_dir}")
    except KeyboardInterrupt:
        command = shlex.join(["python", sys.argv[0], "--resume", str(run_dir)])
        sys.exit(f"stopped; to go on from the last checkpoint: {command}")
    finally:
        writer.close()


if __name__ == "__main__":
    try:
        main(parse_args())
    except UserError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
