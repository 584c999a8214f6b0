"""Train the walking policy that drives the ant of the recreated AntMaze datasets.

    pip install stable-baselines3==2.9.2
    python benchmark/train_ant.py --save ant.npz     # hours on one core

SAC (Haarnoja et al. 2018, arXiv 1801.01290; Stable-Baselines3's) on the ant of AntMaze v4, without walls: walk towards a
point, wherever it is. The weights in benchmark/ant.npz come from a prototype of this script with these settings.

The file holds float32 arrays of a ReLU network: w0 (29, h), b0, w1 (h, h), b1, w2 (h, 8), b2, with x @ w + b before tanh.
Its input is qpos[2:] (13), qvel (14) and the unit vector from the torso to the target (2); its output an action in
[-1, 1]^8.
"""

import sys
import time
from dataclasses import dataclass
from pathlib import Path

import gymnasium as gym
import numpy as np
import tyro

try:
    from stable_baselines3 import SAC
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.env_util import make_vec_env
except ModuleNotFoundError as error:
    sys.exit(f"error: {error}; pip install stable-baselines3==2.9.2")


@dataclass
class Args:
    save: str
    """file to write the weights to, repeatedly while training"""
    seed: int = 0
    """seed of weights, headings and targets"""
    total_steps: int = 900_000
    """environment steps"""
    num_envs: int = 8
    """bodies stepped together"""
    updates: int = 4
    """gradient steps after each step of all bodies"""
    learning_rate: float = 3e-4
    """Adam step size of policy, critics and entropy coefficient"""
    hidden_dim: int = 128
    """width of the policy's two layers; the critics' are twice as wide"""
    max_speed: float = 3.0
    """metres a second towards the target beyond which speed is not rewarded"""
    report_freq: int = 10_000
    """environment steps between progress lines, each with a file of the weights"""


class WalkingAnt(gym.Wrapper):
    """Rewarded for speed towards a target, (29,) observed as the module says; an episode ends where the ant falls."""

    def __init__(self, max_speed):
        layout = {"include_cfrc_ext_in_observation": False, "exclude_current_positions_from_observation": False}
        super().__init__(gym.make("Ant-v5", max_episode_steps=500, terminate_when_unhealthy=False, **layout))
        self.max_speed = max_speed
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (29,), np.float32)

    def observe(self, obs):
        """(29,): the ant's own without its place, and the direction to the target, which is drawn anew where it is near."""
        self.position = obs[:2]
        while np.linalg.norm(self.target - self.position) < 0.5:
            angle, distance = self.np_random.uniform(-np.pi, np.pi), self.np_random.uniform(2, 8)
            self.target = self.position + distance * np.array([np.cos(angle), np.sin(angle)])
        offset = self.target - self.position
        return np.concatenate([obs[2:], offset / np.linalg.norm(offset)]).astype(np.float32)

    def reset(self, **kwargs):
        _, info = super().reset(**kwargs)
        ant, yaw = self.unwrapped, self.np_random.uniform(-np.pi, np.pi)
        qpos, qvel = ant.data.qpos.copy(), ant.data.qvel.copy()
        qpos[3:7] = np.cos(yaw / 2), 0, 0, np.sin(yaw / 2)
        ant.set_state(qpos, qvel)
        self.target = qpos[:2]
        return self.observe(np.concatenate([qpos, qvel])), info

    def step(self, action):
        before, target = self.position, self.target
        obs, _, _, truncated, info = self.env.step(action)
        speed = (np.linalg.norm(target - before) - np.linalg.norm(target - obs[:2])) / self.unwrapped.dt
        upright = 1 - 2 * np.square(obs[4:6]).sum()  # of the quaternion: cosine of the tilt
        fallen = bool(upright < 0.3 or not 0.25 < obs[2] < 1.1)
        reward = min(speed, self.max_speed) + 0.5 - 0.0625 * np.square(action).sum() - 2 * fallen
        return self.observe(obs), reward, fallen, truncated, info


def save(actor, path):
    """Write the weights of the policy as the module says."""
    layers = {"0": actor.latent_pi[0], "1": actor.latent_pi[2], "2": actor.mu}
    arrays = {f"w{name}": layer.weight.detach().numpy().T for name, layer in layers.items()}
    np.savez(path, **arrays, **{f"b{name}": layer.bias.detach().numpy() for name, layer in layers.items()})


class Report(BaseCallback):
    """Every report_freq steps, print progress and write the weights."""

    def __init__(self, args):
        super().__init__()
        self.args, self.started = args, time.time()

    def _on_step(self):
        done = self.num_timesteps
        if done % self.args.report_freq < self.args.num_envs:
            save(self.model.actor, self.args.save)
            length, total = (
                np.mean([info[key] for info in self.model.ep_info_buffer] or [np.nan])
                for key in ("l", "r")  # Monitor's names of length and return
            )
            left = (time.time() - self.started) / done * (self.args.total_steps - done) / 60
            print(f"{done:,} steps, {left:.0f} min left: return {total:.0f} in {length:.0f} steps", flush=True)
        return True


def main(args):
    file = Path(args.save).absolute()
    if file.suffix != ".npz" or file.is_dir() or not file.parent.is_dir():
        sys.exit(f"error: --save must be an .npz in a folder that exists, got {args.save}")
    for name, value in vars(args).items():
        if name != "save" and not (0 if name == "seed" else 1e-9) <= value < np.inf:
            sys.exit(f"error: --{name.replace('_', '-')} must be positive, got {value}")
    env = make_vec_env(WalkingAnt, args.num_envs, args.seed, env_kwargs={"max_speed": args.max_speed})
    widths = {"pi": [args.hidden_dim] * 2, "qf": [args.hidden_dim * 2] * 2}
    settings = {"learning_starts": 10_000, "gradient_steps": args.updates, "policy_kwargs": {"net_arch": widths}}
    model = SAC("MlpPolicy", env, args.learning_rate, seed=args.seed, device="cpu", **settings)
    try:
        model.learn(args.total_steps, Report(args), log_interval=None)
    except KeyboardInterrupt:
        sys.exit(f"\nstopped; the weights so far are in {args.save}")
    finally:
        save(model.actor, args.save)


if __name__ == "__main__":
    try:
        main(tyro.cli(Args, description=__doc__))
    except KeyboardInterrupt:
        sys.exit(130)
