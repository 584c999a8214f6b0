"""Shared by the tests: the script as a module, a Minari folder of the test run's own, small hand-made datasets."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import minari
import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmark")]
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture(scope="session", autouse=True)
def minari_folder(tmp_path_factory):
    """No test reads or writes the user's datasets, and none reaches the network."""
    folder = tmp_path_factory.mktemp("minari")
    os.environ["MINARI_DATASETS_PATH"] = str(folder)
    os.environ["MINARI_REMOTE"] = "unreachable://nowhere"  # a storage type that is not registered
    os.environ["D4RL_DATASET_DIR"] = str(tmp_path_factory.mktemp("d4rl"))
    return folder


@pytest.fixture(scope="session")
def pointmaze(minari_folder):
    """A recreated pointmaze-umaze of 20,000 steps, made by the command that the README gives."""
    run_script("benchmark/make_dataset.py", "pointmaze-umaze", "--steps", "20000")
    return "td3-bst/pointmaze-umaze-v1"


def heed_ctrl_c():
    """In a child process: what is started in the background by a shell ignores Ctrl-C, and so would its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def run_script(script, *args, cwd=None, ok=True, **env):
    """Run a script of the project; fail where it does, unless that is what the test wants. Returns the process."""
    command = [sys.executable, str(ROOT / script), *args]
    process = subprocess.run(command, cwd=cwd, env=os.environ | env, capture_output=True, text=True, timeout=300)
    assert not ok or process.returncode == 0, process.stdout + process.stderr
    return process


def readme_lines(word):
    """The one block of Python in the README with this word in it."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    (lines,) = [block for block in blocks if word in block]
    return lines


def box(*shape, low=-np.inf, high=np.inf):
    return gym.spaces.Box(low, high, shape, np.float64)


def make_minari(name, episodes, obs_space, action_space, **kwargs):
    """A Minari dataset of these episodes, dicts of arrays as EpisodeBuffer takes them. Returns its id."""
    buffers = [minari.data_collector.EpisodeBuffer(**episode) for episode in episodes]
    if not kwargs.get("env"):
        kwargs |= {"observation_space": obs_space, "action_space": action_space}
    minari.create_dataset_from_buffers(name, buffers, **kwargs)
    return name


def palm_to_object(env):
    """Metres from the palm to what it is to take hold of in Adroit's door, hammer or relocate, from the simulation."""
    data = env.unwrapped.data
    thing = data.site("S_handle") if "Door" in env.spec.id else data.body("Object")
    return np.linalg.norm(data.site("S_grasp").xpos - thing.xpos)
