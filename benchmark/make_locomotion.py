"""Recreate D4RL's locomotion datasets of medium quality where they cannot be downloaded.

    pip install stable-baselines3==2.9.2
    python benchmark/make_locomotion.py halfcheetah    # half an hour to an hour on a CPU core; hopper takes longer
    python td3_bst.py --env-id td3-bst/halfcheetah-medium-replay-v0

Much as D4RL (Fu et al. 2020, arXiv 2004.07219) made theirs: SAC (Haarnoja et al. 2018, arXiv 1801.01290;
Stable-Baselines3's) trains on the robot until its policy has 40 of an expert's 100 points, a choice of ours, since
cloning D4RL's medium ends at 42 to 63. What it has seen until then is medium-replay; episodes of that policy, its
actions drawn as in training, are medium. D4RL's expert and medium-expert, which take SAC far longer, are not made.

The results are ordinary Minari datasets under this project's namespace, td3-bst, in Minari's local folder
(~/.minari/datasets or $MINARI_DATASETS_PATH), with D4RL's reference scores and Gymnasium's v4 robot, as D4RL's own here.
A report lies beside the data. After Ctrl-C the same command goes on, SAC from its last step, whose transition is lost,
medium from its last whole episode.
It is recreated data: never put a score on it beside one on D4RL's own without saying so.
"""

import contextlib
import dataclasses
import fcntl
import io
import json
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
import torch
import tyro
from minari.data_collector import EpisodeBuffer
from minari.storage import get_dataset_path

try:
    from stable_baselines3 import SAC
    from stable_baselines3.common.callbacks import BaseCallback
except ModuleNotFoundError as error:
    sys.exit(f"error: {error}; pip install stable-baselines3==2.9.2")

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from td3_bst import ROBOTS


@dataclasses.dataclass
class Args:
    robot: Annotated[Literal[tuple(ROBOTS)], tyro.conf.Positional]
    """the robot whose datasets to recreate"""
    score: float = 40.0
    """SAC stops where its last 10 episodes have this mean score, 0 a random policy's and 100 an expert's"""
    max_steps: int = 1_000_000
    """environment steps after which SAC gives up"""
    steps: int = 1_000_000
    """transitions of medium; D4RL's has 1M"""
    seed: int = 0
    """seed of SAC and of the episodes"""
    report_freq: int = 10_000
    """environment steps between progress lines, each with a checkpoint"""


def score(returns, robot):
    """Mean of undiscounted returns, as D4RL's normalised score."""
    _, lowest, highest = ROBOTS[robot]
    return float(100 * (np.mean(returns) - lowest) / (highest - lowest))


def recent_score(model, robot):
    """Score of SAC's last 10 episodes, NaN before the tenth has ended."""
    episodes = model.ep_info_buffer or []
    return score([episode["r"] for episode in episodes] if len(episodes) == 10 else np.nan, robot)


class Progress(BaseCallback):
    """Stop SAC at its score or at Ctrl-C, between two steps; every report_freq steps print progress and save everything."""

    def __init__(self, args, folder):
        super().__init__()
        self.args, self.folder, self.stopped, self.started = args, folder, False, time.time()

    def stop(self, *_):
        self.stopped = True

    def _on_training_start(self):
        self.first = self.num_timesteps

    def _on_step(self):
        steps, recent = self.num_timesteps, recent_score(self.model, self.args.robot)
        over = self.stopped or recent >= self.args.score
        if over or steps % self.args.report_freq == 0:
            rate = (steps - self.first) / (time.time() - self.started)
            print(f"SAC: {steps:,} steps, {rate:.0f} per second: score {recent:.1f} of {self.args.score:g}", flush=True)
            save(self.model, self.folder)
        return not over


def save(model, folder):
    """Write SAC and its replay buffer as one file: a kill must not leave one beside an older other."""
    zipped, part = io.BytesIO(), folder / "part-sac.pkl"
    model.save(zipped)
    with open(part, "wb") as file:
        pickle.dump((zipped.getvalue(), model.replay_buffer), file)
    part.replace(folder / "sac.pkl")


def train_sac(args, folder):
    """SAC, trained until it has the score that is asked for, from its checkpoint if there is one.

    Raises KeyboardInterrupt where it was stopped; exits if max_steps are not enough."""
    env = gym.make(ROBOTS[args.robot][0])
    if (folder / "sac.pkl").exists():
        with open(folder / "sac.pkl", "rb") as file:
            zipped, replay_buffer = pickle.load(file)
        model = SAC.load(io.BytesIO(zipped), env, device="cpu")
        model.replay_buffer = replay_buffer
        model.set_random_seed(args.seed + model.num_timesteps)  # loading has set all to args.seed, as at the first step
    else:
        size = {"buffer_size": args.max_steps, "stats_window_size": 10}
        model = SAC("MlpPolicy", env, learning_starts=10_000, seed=args.seed, device="cpu", **size)
    if not recent_score(model, args.robot) >= args.score:
        progress = Progress(args, folder)
        handlers = [(number, signal.signal(number, progress.stop)) for number in (signal.SIGINT, signal.SIGTERM)]
        model.learn(args.max_steps - model.num_timesteps, progress, log_interval=None, reset_num_timesteps=False)
        for number, handler in handlers:
            signal.signal(number, handler)
        if progress.stopped:
            raise KeyboardInterrupt
    if not recent_score(model, args.robot) >= args.score:
        sys.exit(f"error: after {args.max_steps:,} steps SAC is below {args.score:g}; delete {folder}, try another --seed")
    return model


def replayed(buffer):
    """The episodes of SAC's replay buffer, in the order in which they were played; yields Minari `EpisodeBuffer`s."""
    count = buffer.size()
    obs, next_obs = buffer.observations[:count, 0], buffer.next_observations[:count, 0]
    dones, truncated = buffer.dones[:count, 0] > 0, buffer.timeouts[:count, 0] > 0
    cut = np.append((next_obs[:-1] != obs[1:]).any(-1), True)  # where SAC was stopped and resumed, and at its end
    ends = np.flatnonzero(dones | cut) + 1
    for first, end in zip([0, *ends[:-1]], ends):
        steps, over = slice(first, end), np.arange(first, end) == end - 1  # (length,)
        terminations = dones[steps] & ~truncated[steps]
        yield EpisodeBuffer(
            observations=np.concatenate([obs[steps], next_obs[end - 1 : end]]),
            actions=buffer.actions[steps, 0],  # scaled to [-1, 1], which are these robots' own bounds
            rewards=buffer.rewards[steps, 0],
            terminations=terminations,
            truncations=over & ~terminations,
        )


def played(model, args, folder):
    """Episodes of SAC's policy, actions drawn as in training, of `steps` transitions; a list of `EpisodeBuffer`s.

    Each is written to medium.pkl as it ends, and seeded by its number: after a stop the rest are what they would have
    been."""
    env, episodes, end = gym.make(ROBOTS[args.robot][0]), [], 0
    with open(folder / "medium.pkl", "a+b") as file:
        file.seek(0)
        with contextlib.suppress(EOFError, pickle.UnpicklingError):  # at the end, which a kill may have cut short
            while True:
                episodes.append(pickle.load(file))
                end = file.tell()
        file.truncate(end)
        left = args.steps - sum(len(episode.rewards) for episode in episodes)
        while left:
            seed = args.seed + len(episodes)
            obs, _ = env.reset(seed=seed)
            torch.manual_seed(seed)  # the policy's draws
            observations, steps, over = [obs], [], False
            while left and not over:
                action, _ = model.predict(obs)
                obs, reward, terminated, truncated, _ = env.step(action)
                left, over = left - 1, terminated or truncated
                observations.append(obs)
                steps.append((action, reward, terminated, not terminated and (truncated or not left)))
            actions, rewards, terminations, truncations = map(np.array, zip(*steps))
            episode = EpisodeBuffer(
                observations=np.array(observations),
                actions=actions,
                rewards=rewards,
                terminations=terminations,
                truncations=truncations,
            )
            pickle.dump(episode, file)
            episodes.append(episode)
            if len(episodes) % 20 == 0 or not left:
                print(f"\rmedium: {args.steps - left:,} of {args.steps:,} steps", end="" if left else "\n", flush=True)
    return episodes


def write(dataset_id, episodes, args):
    """Write a Minari dataset and, last, a report beside it, whose score is of the episodes that ended by themselves."""
    path, (env_id, lowest, highest) = get_dataset_path(dataset_id), ROBOTS[args.robot]
    limit = gym.spec(env_id).max_episode_steps
    shutil.rmtree(path, ignore_errors=True)  # what a kill left of it
    print(f"writing {path} ...", flush=True)
    try:
        minari.create_dataset_from_buffers(
            dataset_id,
            episodes,
            env=env_id,
            eval_env=env_id,
            ref_min_score=lowest,
            ref_max_score=highest,
            algorithm_name="Stable-Baselines3's SAC",
            description=f"a D4RL dataset of {args.robot}, recreated by benchmark/make_locomotion.py with {args}",
        )
        whole = [e for e in episodes if e.terminations[-1] or len(e.rewards) == limit]
        report = {"dataset": dataset_id, "steps": sum(len(e.rewards) for e in episodes), "episodes": len(episodes)}
        report |= {"score": score([sum(e.rewards) for e in whole], args.robot) if whole else None}
        (path / "report.json").write_text(json.dumps(report | {"arguments": dataclasses.asdict(args)}, indent=1))
    except BaseException:
        shutil.rmtree(path, ignore_errors=True)  # a half-written dataset would be taken for a whole one
        raise
    print(", ".join(f"{name} {value}" for name, value in report.items()))


def main(args):
    ranges = {"score": (-1e3, 1e3), "seed": (0, 2**31), **dict.fromkeys(("max_steps", "steps", "report_freq"), (1, 1e8))}
    for name, (low, high) in ranges.items():
        if not low <= getattr(args, name) <= high:
            sys.exit(f"error: --{name.replace('_', '-')} must be in [{low:g}, {high:g}], got {getattr(args, name)}")
    ids = [f"td3-bst/{args.robot}-{kind}-v0" for kind in ("medium", "medium-replay")]
    try:
        paths = [get_dataset_path(dataset_id) for dataset_id in ids]
        folder = paths[0].with_name(f".{args.robot}-sac")  # hidden, or Minari would take it for a dataset
        if (there := [path for path in paths if path.exists()]) and not folder.exists():
            sys.exit(f"error: {there[0]} exists; to make {' and '.join(ids)} anew, delete the folders of both first")
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        sys.exit(f"error: cannot write datasets ({error}); set MINARI_DATASETS_PATH to a folder of yours")
    lock = open(folder / "lock", "w")  # held until this process ends
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.exit(f"error: another process is making {ids[0]}; wait for it, or stop it first")
    settings, file = dataclasses.asdict(args) | {"report_freq": None}, folder / "args.json"
    if not (folder / "sac.pkl").exists():
        file.write_text(json.dumps(settings))
    elif json.loads(file.read_text()) != settings:
        sys.exit(f"error: {folder} is of other arguments; go on with those, or delete that folder first")

    if missing := [i for i, path in zip(ids, paths) if not (path / "report.json").exists()]:
        model = train_sac(args, folder)
        warnings.filterwarnings("ignore", category=UserWarning, module="minari")  # author and e-mail, which it has not
        for dataset_id in missing:
            is_medium = dataset_id == ids[0]
            episodes = played(model, args, folder) if is_medium else list(replayed(model.replay_buffer))
            write(dataset_id, episodes, args)
    shutil.rmtree(folder)
    print("done: " + " or ".join(f"python td3_bst.py --env-id {dataset_id}" for dataset_id in ids))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends like Ctrl-C: nothing is lost
    try:
        main(tyro.cli(Args, description=__doc__))
    except KeyboardInterrupt:
        sys.exit("\nstopped; rerun the command to go on")
