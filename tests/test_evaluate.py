"""Evaluation: one complete episode per seed, whatever the number of environments; scores."""

import gymnasium as gym
import numpy as np
import pytest
import td3_bst
import torch
from conftest import palm_to_object
from gymnasium.envs.registration import EnvSpec
from td3_bst import Actor, Args, evaluate, make_policy, resolve, score_policy


class Counting(gym.Env):
    """An episode of 1 to 9 steps, by seed; reward is 10 per unit of action; terminates on an even length."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (2,))
    action_space = gym.spaces.Box(-1, 1, (1,))
    seeds = []

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        Counting.seeds.append(seed)
        self.length, self.time = int(self.np_random.integers(1, 10)), 0
        return np.array([self.length, 0], np.float32), {}

    def step(self, action):
        self.time += 1
        over = self.time == self.length
        even = self.length % 2 == 0
        obs = np.array([self.length, self.time], np.float32)
        return obs, 10 * float(action[0]), over and even, over and not even, {}


SPEC = EnvSpec("Counting-v0", entry_point="test_evaluate:Counting")
SEEDS = np.arange(100, 123)


def lengths_by_seed():
    env = Counting()
    return np.array([int(env.reset(seed=int(seed))[0][0]) for seed in SEEDS])


@pytest.mark.parametrize("threads", [1, 64])
@pytest.mark.parametrize("num_envs", [1, 4, 23, 50])
def test_every_seed_is_played_once(num_envs, threads, monkeypatch):
    """In this process, and with a thread for each in processes of their own."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    expected = lengths_by_seed()
    assert len(set(expected)) > 5
    returns, lengths, terminations = evaluate(lambda obs: obs[:, 1:] / 100, SPEC, SEEDS, num_envs)
    np.testing.assert_array_equal(lengths, expected)
    np.testing.assert_array_equal(terminations, expected % 2 == 0)
    np.testing.assert_allclose(returns, [sum(10 * t / 100 for t in range(n)) for n in expected], rtol=1e-6)


def test_the_figure_does_not_depend_on_the_number_of_environments(monkeypatch):
    """Nor on processes. HalfCheetah amplifies the last bit of an action within a few hundred steps."""
    torch.manual_seed(0)
    info = info_of(obs_mean=torch.zeros(17), obs_std=torch.ones(17))
    info |= {"action_low": -torch.ones(6), "action_high": torch.ones(6)}
    policy, spec = make_policy(Actor(17, 6), info), gym.spec("HalfCheetah-v4")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    one, three = (evaluate(policy, spec, [1, 2, 3], num_envs)[0] for num_envs in (1, 3))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    np.testing.assert_array_equal(one, three)
    np.testing.assert_array_equal(one, evaluate(policy, spec, [1, 2, 3], 3)[0])


@pytest.mark.parametrize("task", ["Door", "Hammer", "Relocate"])
def test_adroit_is_rewarded_as_in_d4rl(task):
    """By the simulation's state; and a random policy has the return that D4RL says it has, a score of 0."""
    low, high = {"Door": (-56.51, 2880.57), "Hammer": (-274.86, 12794.13), "Relocate": (-6.43, 4233.88)}[task]
    spec = gym.spec(f"AdroitHand{task}-v1")
    env, returns = gym.make(spec), np.zeros(10)
    actions = np.random.default_rng(0).uniform(-1, 1, (10, 200, *env.action_space.shape)).astype(np.float32)
    for seed, episode in enumerate(actions):
        env.reset(seed=seed)
        for action in episode:
            returns[seed] += env.step(action)[1] - 0.2 * palm_to_object(env)
    stream = iter(actions.reshape(2000, 1, -1))
    np.testing.assert_allclose(evaluate(lambda obs: next(stream), spec, range(10), 1)[0], returns, rtol=1e-6)
    assert abs(100 * (returns.mean() - low) / (high - low)) < 0.05


def test_pen_ends_where_it_drops():
    """As in D4RL, by the simulation's state."""
    env, returns, lengths = gym.make("AdroitHandPen-v1", max_episode_steps=100), np.zeros(10), np.zeros(10, int)
    actions = np.random.default_rng(0).uniform(-1, 1, (10, 100, *env.action_space.shape)).astype(np.float32)
    for seed, episode in enumerate(actions):
        env.reset(seed=seed)
        for action in episode:
            returns[seed] += env.step(action)[1]
            lengths[seed] += 1
            if env.unwrapped.data.body("Object").xpos[2] < 0.075:
                break
    stream = iter(np.concatenate([episode[:length] for episode, length in zip(actions, lengths)])[:, None])
    played = evaluate(lambda obs: next(stream), env.spec, range(10), 1)
    np.testing.assert_allclose(played[0], returns, rtol=1e-6)
    np.testing.assert_array_equal(played[1], lengths)
    np.testing.assert_array_equal(played[2], lengths < 100)
    assert (lengths < 100).any()


def test_idle_environments_are_not_recorded():
    Counting.seeds.clear()
    _, lengths, _ = evaluate(lambda obs: np.zeros((len(obs), 1)), SPEC, SEEDS, 10)
    played = list(Counting.seeds)
    assert set(SEEDS) == set(played) and len(played) > len(SEEDS)  # those that were left over play on
    np.testing.assert_array_equal(lengths, lengths_by_seed())


def info_of(**kwargs):
    info = {"env_spec": SPEC.to_json(), "is_maze": False, "ref_scores": [None, None]}
    info |= {"obs_mean": torch.zeros(2), "obs_std": torch.ones(2)}
    return info | {"action_low": torch.tensor([-1.0]), "action_high": torch.tensor([1.0])} | kwargs


def test_policy_normalises_and_scales():
    actor = Actor(2, 1)
    info = info_of(
        obs_mean=torch.tensor([1.0, 2.0]),
        obs_std=torch.tensor([2.0, 4.0]),
        action_low=torch.tensor([-3.0]),
        action_high=torch.tensor([1.0]),
    )
    obs = np.random.default_rng(0).normal(size=(5, 2))
    with torch.no_grad():
        expected = -1 + 2 * actor(torch.as_tensor((obs - [1, 2]) / [2, 4], dtype=torch.float32)).numpy()
    np.testing.assert_allclose(make_policy(actor, info)(obs), expected, rtol=1e-5)


def test_scores(monkeypatch):
    """Mazes: success rate, whatever reference scores say. Elsewhere: normalised return where there are references."""
    returns, terminations = np.array([1.0, 0.0, 5.0, 2.0]), np.array([True, False, True, True])
    monkeypatch.setattr(td3_bst, "evaluate", lambda *a: (returns, np.ones(4, int), terminations))
    args = resolve(Args(eval_episodes=4))
    maze = score_policy(Actor(2, 1), info_of(is_maze=True, ref_scores=[0.0, 100.0]), args)
    assert maze["score"] == 75 and maze["return_mean"] == 2 and maze["returns"] == returns.tolist()
    assert score_policy(Actor(2, 1), info_of(ref_scores=[-2.0, 6.0]), args)["score"] == 50
    plain = score_policy(Actor(2, 1), info_of(), args)
    assert plain["score"] is None and plain["return_mean"] == 2


def test_seeds_differ_between_episodes_and_runs(monkeypatch):
    seen = []
    monkeypatch.setattr(td3_bst, "evaluate", lambda p, e, seeds, n: seen.append(list(seeds)) or (np.zeros(4),) * 3)
    for seed in (1, 1, 2):
        score_policy(Actor(2, 1), info_of(), resolve(Args(eval_episodes=4, seed=seed)))
    assert seen[0] == seen[1] and len(set(seen[0] + seen[2])) == 8
