"""Data semantics on hand-made datasets: episodes, terminations, goals, success, HDF5, downloads, evaluation mazes."""

import io
import json
import shutil
import subprocess
import sys

import gymnasium as gym
import h5py
import minari
import numpy as np
import pytest
import td3_bst
import torch
from conftest import ROOT, box, make_minari, palm_to_object
from minari.storage.remotes import cloud_storage
from td3_bst import Args, UserError, domain_of, load_dataset, resolve

ACTIONS = box(2, low=-1, high=1)
MAZE_SPACE = gym.spaces.Dict({"observation": box(2), "achieved_goal": box(2), "desired_goal": box(2)})


def load(env_id, **kwargs):
    as_is = {"normalize_obs": False, "goal_scale": 1.0, "reward_shift": 0.0, "reward_scale": 1.0}
    args = Args(env_id=env_id, **(as_is | kwargs))
    data, info = load_dataset(resolve(args), torch.device("cpu"))
    return {key: value.numpy() for key, value in data.items()}, info


def episode(start, length, terminated=False, rewards=None):
    """An episode that counts: observation t is [start + t, -(start + t)], action t is that / 10,000."""
    t = start + np.arange(length + 1.0)
    return {
        "observations": np.stack([t, -t], -1),
        "actions": np.stack([t, -t], -1)[:-1] / 10_000,
        "rewards": np.arange(length) * 1.0 if rewards is None else rewards,
        "terminations": np.arange(length) == (length - 1 if terminated else -1),
        "truncations": np.arange(length) == (-1 if terminated else length - 1),
    }


def test_minari_episodes_do_not_run_into_each_other():
    name = make_minari("test/count-v0", [episode(0, 3, terminated=True), episode(100, 2)], box(2), ACTIONS)
    data, info = load(name)
    np.testing.assert_array_equal(data["observations"][:, 0], [0, 1, 2, 100, 101])
    np.testing.assert_array_equal(data["next_observations"][:, 0], [1, 2, 3, 101, 102])
    np.testing.assert_allclose(data["actions"][:, 0], [0, 1e-4, 2e-4, 0.01, 0.0101], atol=1e-7)
    np.testing.assert_array_equal(data["rewards"], [0, 1, 2, 0, 1])
    np.testing.assert_array_equal(data["terminations"], [0, 0, 1, 0, 0])  # the truncation is not one
    assert info["dataset_id"] == name and info["env_spec"] is None
    assert all(value.dtype == np.float32 for value in data.values())


def test_rewards_actions_and_observations_are_scaled():
    space = gym.spaces.Box(np.array([-2.0, 0.0]), np.array([2.0, 10.0]), dtype=np.float64)
    one = episode(0, 4) | {"actions": np.array([[-2, 0], [2, 10], [0, 5], [1, 7.5]])}
    name = make_minari("test/scale-v0", [one], box(2), space)
    data, info = load(name, reward_shift=-1.0, reward_scale=2.0, normalize_obs=True)
    np.testing.assert_allclose(data["actions"], [[-1, -1], [1, 1], [0, 0], [0.5, 0.5]], atol=1e-6)
    np.testing.assert_allclose(data["rewards"], [-2, 0, 2, 4])
    np.testing.assert_allclose(data["observations"][:, 0], (np.arange(4) - 1.5) / np.arange(4).std(), rtol=1e-6)
    np.testing.assert_allclose(data["next_observations"][:, 0], (np.arange(1, 5) - 1.5) / np.arange(4).std(), rtol=1e-6)
    np.testing.assert_allclose(info["obs_mean"], [1.5, -1.5])
    np.testing.assert_allclose(info["action_high"], [2, 10])


def test_constant_observations_are_not_blown_up():
    one = episode(0, 4) | {"observations": np.stack([np.arange(5.0), np.full(5, 7.0)], -1)}
    data, info = load(make_minari("test/constant-v0", [one], box(2), ACTIONS), normalize_obs=True)
    assert info["obs_std"][1] == 1 and (data["observations"][:, 1] == 0).all()


def test_what_varies_little_is_scaled():
    one = episode(0, 4) | {"observations": np.stack([np.arange(5.0), np.arange(5.0) / 500], -1)}
    data, info = load(make_minari("test/little-v0", [one], box(2), ACTIONS), normalize_obs=True)
    np.testing.assert_allclose(info["obs_std"], np.arange(4).std() / np.array([1, 500]), rtol=1e-5)
    np.testing.assert_allclose(data["observations"].std(0), 1, rtol=1e-5)


def test_a_share_of_the_episodes_is_drawn_from_all_over():
    for seed in range(5):
        chosen = td3_bst.choose_episodes(1000, Args(dataset_fraction=0.5, seed=seed))
        assert len(np.unique(chosen)) == 500 and 200 < np.sum(chosen < 500) < 300  # of each half about as many
        assert 150 < np.sum(np.diff(chosen) == 1) < 350  # and not a block of neighbours


def test_dataset_fraction_keeps_whole_episodes():
    name = make_minari("test/fraction-v0", [episode(100 * i, 5) for i in range(20)], box(2), ACTIONS)
    halves = [load(name, dataset_fraction=0.5, seed=seed)[0]["observations"][:, 0] for seed in (1, 1, 2)]
    for half in halves:
        assert len(half) == 50 and all((half // 100 == i).sum() in (0, 5) for i in range(20))
    np.testing.assert_array_equal(halves[0], halves[1])
    assert not np.array_equal(halves[0], halves[2])
    assert len(load(name, dataset_fraction=0.001)[0]["rewards"]) == 5


def test_a_share_of_one_episode_is_refused(tmp_path):
    """Such as of a file that has next observations and does not mark its episodes' ends."""
    path = write_hdf5(tmp_path / "a.hdf5", 100, next_observations=np.zeros((100, 2)))
    assert len(load(path)[0]["rewards"]) == 100
    with pytest.raises(UserError, match="has but one episode, .*leave out --dataset-fraction"):
        load(path, dataset_fraction=0.1)


def maze_episode(x, goals, rewards):
    """Positions x on a line and a goal for each of them: len(x) - 1 transitions."""
    zero = np.zeros(len(x))
    positions, goals = np.stack([x, zero], -1), np.stack([goals, zero], -1)
    n = len(x) - 1
    return {
        "observations": {"observation": -positions, "achieved_goal": positions, "desired_goal": goals},
        "actions": np.zeros((n, 2)),
        "rewards": np.array(rewards, float),
        "terminations": np.zeros(n, bool),
        "truncations": np.arange(n) == n - 1,
    }


def test_pointmaze_success_is_terminal_and_the_stale_goal_is_dropped():
    """Minari's PointMaze: success ends the episode as a truncation; the next one starts with the old goal in view."""
    first = maze_episode([0, 1, 2], [2.2, 2.2, 2.2], [0, 1])
    second = maze_episode([2, 3, 4, 5], [2.2, 9, 9, 9], [0, 0, 0])
    data, _ = load(make_minari("test/pointmaze-a-v0", [first, second], MAZE_SPACE, ACTIONS))
    np.testing.assert_array_equal(data["observations"][:, 0], [0, 1, 3, 4])  # achieved_goal's x; 2 -> 3 is dropped
    np.testing.assert_array_equal(data["next_observations"][:, 0], [1, 2, 4, 5])
    np.testing.assert_array_equal(data["observations"][:, 2], np.array([2.2, 2.2, 9, 9], np.float32))  # the goal
    np.testing.assert_array_equal(data["rewards"], [0, 1, 0, 0])
    np.testing.assert_array_equal(data["terminations"], [0, 1, 0, 0])


def test_a_goal_that_moves_onto_the_agent():
    """The transition that sees it move is dropped, and its success with it: the next ones are the new goal's."""
    x, goals = np.array([0, 1, 2, 3.0]), np.array([9, 1.1, 1.1, 1.1])
    obs = {"achieved_goal": np.stack([x, 0 * x], -1), "desired_goal": np.stack([goals, 0 * x], -1)}
    keep, terminations = td3_bst.maze_episode(obs, np.zeros(3, bool))
    assert keep.tolist() == [False, True, True] and not terminations[keep].any()


def test_antmaze_goes_on_at_the_goal():
    """Minari's AntMaze: the episode runs on at the goal; what follows the first success is dropped, until the goal moves."""
    x = [0, 1, 2, 2.1, 5, 6, 7, 8, 9]
    goals = [2, 2, 2, 2, 2, 7, 7, 7, 7]
    one = maze_episode(x, goals, [0, 1, 1, 0, 0, 1, 0, 0])
    data, _ = load(make_minari("test/antmaze-a-v0", [one], MAZE_SPACE, ACTIONS))
    np.testing.assert_array_equal(data["observations"][:, 0], [0, 1, 6])  # 5 -> 6 sees the goal move
    np.testing.assert_array_equal(data["terminations"], [0, 1, 1])
    np.testing.assert_array_equal(data["rewards"], [0, 1, 1])


def test_goal_scale_multiplies_positions_and_goals_only():
    """After the normalising; the policy sees it too, since the statistics of `info` hold it."""
    one = maze_episode([0, 1, 2, 3], [9, 9, 9, 9], [0, 0, 0])
    name = make_minari("test/antmaze-b-v0", [one], MAZE_SPACE, ACTIONS)
    data, info = load(name, goal_scale=4.0)
    np.testing.assert_array_equal(data["observations"][:, [0, 2, 4]], [[0, 36, 0], [4, 36, -1], [8, 36, -2]])
    np.testing.assert_array_equal(data["next_observations"][:, [0, 2, 4]], [[4, 36, -1], [8, 36, -2], [12, 36, -3]])
    np.testing.assert_array_equal(info["obs_std"], [0.25, 0.25, 0.25, 0.25, 1, 1])
    data, info = load(name, goal_scale=4.0, normalize_obs=True)
    deviation = np.std([0, 1, 2])
    np.testing.assert_allclose(data["observations"][:, 0], 4 * np.array([-1, 0, 1]) / deviation, rtol=1e-6)
    np.testing.assert_allclose(data["observations"][:, 4], np.array([1, 0, -1]) / deviation, rtol=1e-6)
    np.testing.assert_allclose(info["obs_std"][[0, 4]], [deviation / 4, deviation], rtol=1e-6)


def test_mazes_are_known_by_their_environment(pointmaze):
    """A PointMaze dataset under another name has a maze's semantics all the same."""
    dataset = minari.load_dataset(pointmaze)
    episodes = [
        {key: getattr(e, key) for key in ("observations", "actions", "rewards", "terminations", "truncations")}
        for e in dataset.iterate_episodes(range(5))
    ]
    env = dataset.recover_environment()
    data, info = load(make_minari("test/navigation-v0", episodes, None, None, env=env, eval_env=env.spec))
    assert info["is_maze"] and data["terminations"].sum() == 5
    assert len(data["rewards"]) == sum(len(e["rewards"]) for e in episodes) - 4  # the stale goals
    reference, _ = load(pointmaze)
    np.testing.assert_array_equal(data["observations"], reference["observations"][: len(data["rewards"])])


def test_goals_of_other_tasks_are_left_alone():
    one = maze_episode([0, 1, 2, 3], [2, 2, 2, 2], [0, 1, 1])
    data, _ = load(make_minari("test/reach-a-v0", [one], MAZE_SPACE, ACTIONS))
    assert len(data["rewards"]) == 3 and not data["terminations"].any()


def test_nested_observations_are_flattened_as_gymnasium_does():
    """Kitchen's goals are a dict within the dict."""
    space = gym.spaces.Dict({"b": box(2), "a": gym.spaces.Dict({"z": box(1), "y": box(2, 2)})})
    stored = [space.sample() for _ in range(3)]
    values = {"b": np.stack([s["b"] for s in stored]), "a": {key: np.stack([s["a"][key] for s in stored]) for key in "zy"}}
    np.testing.assert_allclose(td3_bst.flatten(space, values), [gym.spaces.flatten(space, s) for s in stored], rtol=1e-6)


def test_an_environment_that_is_no_maze():
    """Its own task and its reference scores, as Adroit's have them."""
    env, obs = gym.make("Hopper-v4"), np.random.default_rng(0).normal(size=(4, 11))
    one = episode(0, 3) | {"observations": obs, "actions": np.zeros((3, 3), np.float32)}
    refs = {"ref_min_score": 2.0, "ref_max_score": 10.0}
    _, info = load(make_minari("test/hopper-v0", [one], None, None, env=env, eval_env=env.spec, **refs))
    assert json.loads(info["env_spec"])["id"] == "Hopper-v4" and not info["is_maze"] and info["ref_scores"] == [2, 10]


def test_observations_are_flattened_as_gymnasium_does(pointmaze):
    dataset = minari.load_dataset(pointmaze)
    data, info = load(pointmaze)
    env = gym.wrappers.FlattenObservation(dataset.recover_environment())
    stored = next(iter(dataset.iterate_episodes([0]))).observations
    for t in range(3):
        expected = env.observation({key: value[t] for key, value in stored.items()})
        np.testing.assert_allclose(td3_bst.flatten(dataset.observation_space, stored)[t], expected, rtol=1e-6)
    spec = json.loads(info["env_spec"])
    assert spec["max_episode_steps"] == 300 and spec["kwargs"]["continuing_task"] is False and info["is_maze"]


def test_recreated_pointmaze(pointmaze):
    """As D4RL's: nearly every episode reaches its goal, at its last step; starts there with the old goal; walls hold."""
    dataset = minari.load_dataset(pointmaze)
    assert dataset.total_steps == 20_000
    episodes = list(dataset.iterate_episodes())
    reached = [e.rewards[-1] == 1 for e in episodes]
    assert np.mean(reached) > 0.95
    for before, after in zip(episodes, episodes[1:]):
        assert before.truncations[-1] and not before.terminations.any() and before.rewards[:-1].sum() == 0
        goals = after.observations["desired_goal"]
        assert (goals[1:] == goals[1]).all()
        if before.rewards[-1]:
            np.testing.assert_array_equal(goals[0], before.observations["desired_goal"][-1])
            np.testing.assert_array_equal(after.observations["observation"][0], before.observations["observation"][-1])
    actions = np.concatenate([e.actions for e in episodes])
    assert np.abs(actions).max() <= 1 and 0.3 < actions.std() < 0.9


def test_d4rls_own_antmaze_files_are_known():
    """By their names, wherever they lie: they take AntMaze's arguments."""
    name = "Ant_maze_big-maze_noisy_multistart_True_multigoal_False_sparse_fixed.hdf5"
    assert domain_of(f"/data/hopper/{name}") == "antmaze" and domain_of("mujoco/ant/expert-v0") == "locomotion"


def test_adroits_files_are_known():
    for name in "pen-human-v1.hdf5", "my_pen_cloned.hdf5", "D4RL/pen/human-v2", "pen-human", "relocate_expert.h5":
        assert domain_of(name) == "adroit"
    assert domain_of("carpenter-v0") == domain_of("indoor.hdf5") == "other"


def write_hdf5(path, rows, **fields):
    t = np.arange(float(rows))
    arrays = {"observations": np.stack([t, -t], -1), "actions": np.zeros((rows, 3)), "rewards": t}
    arrays |= {"terminals": np.zeros(rows, bool), "timeouts": np.zeros(rows, bool)} | fields
    with h5py.File(path, "w") as file:
        for key, value in arrays.items():
            if value is not None:
                file[key] = value
    return str(path)


def test_hdf5_without_next_observations(tmp_path):
    """Rows 0-2 end in a terminal, 3-5 in a timeout, 6-7 are cut off: 5 and 7 have no stored successor."""
    flags = np.arange(8)
    path = write_hdf5(tmp_path / "a.hdf5", 8, terminals=flags == 2, timeouts=flags == 5)
    data, info = load(path)
    np.testing.assert_array_equal(data["observations"][:, 0], [0, 1, 2, 3, 4, 6])
    np.testing.assert_array_equal(data["next_observations"][[0, 1, 3, 4, 5], 0], [1, 2, 4, 5, 7])
    np.testing.assert_array_equal(data["terminations"], [0, 0, 1, 0, 0, 0])
    np.testing.assert_array_equal(data["rewards"], [0, 1, 2, 3, 4, 6])
    assert info["env_spec"] is None


def test_hdf5_that_ends_in_a_terminal(tmp_path):
    path = write_hdf5(tmp_path / "a.hdf5", 3, terminals=np.arange(3) == 2)
    data, _ = load(path)
    np.testing.assert_array_equal(data["observations"][:, 0], [0, 1, 2])
    np.testing.assert_array_equal(data["terminations"], [0, 0, 1])


def test_hdf5_with_next_observations(tmp_path):
    """Then nothing need be dropped, and a timeout bootstraps from its own next observation."""
    following = np.stack([np.arange(8) + 0.5] * 2, -1)
    flags = np.arange(8)
    fields = {"next_observations": following, "terminals": (flags == 2)[:, None], "rewards": flags[:, None] * 1.0}
    data, _ = load(write_hdf5(tmp_path / "a.hdf5", 8, timeouts=flags == 5, **fields))
    np.testing.assert_array_equal(data["next_observations"], following)
    np.testing.assert_array_equal(data["terminations"], flags == 2)
    np.testing.assert_array_equal(data["rewards"], flags)
    endless = fields | {"terminals": np.zeros(8, bool), "timeouts": None}  # nothing says where its episodes end
    data, _ = load(write_hdf5(tmp_path / "b.hdf5", 8, **endless))
    np.testing.assert_array_equal(data["next_observations"], following)


@pytest.mark.parametrize("fields, rows", [({}, 27), ({"next_observations": np.zeros((100, 2))}, 30)])
def test_hdf5_fraction_keeps_whole_episodes(tmp_path, fields, rows):
    path = write_hdf5(tmp_path / "a.hdf5", 100, timeouts=np.arange(100) % 10 == 9, **fields)
    starts = load(path, dataset_fraction=0.29)[0]["observations"][:, 0]
    assert len(starts) == rows and len(set(starts // 10)) == 3


@pytest.mark.parametrize("next_obs", [None, np.zeros((100, 2))])
def test_hdf5_fraction_with_terminals(tmp_path, next_obs):
    """An episode ends with a terminal as with a timeout; here with one or the other in turn."""
    row = np.arange(100)
    fields = {"terminals": row % 20 == 9, "timeouts": row % 20 == 19, "next_observations": next_obs}
    data, _ = load(write_hdf5(tmp_path / "a.hdf5", 100, **fields), dataset_fraction=0.5)
    starts = data["observations"][:, 0]
    kept = set((starts // 10).tolist())
    assert len(kept) == 5 and len(starts) == 50 - (next_obs is None) * sum(i % 2 == 1 for i in kept)


def test_a_terminal_at_the_time_limit_is_one(tmp_path):
    row = np.arange(6)
    data, _ = load(write_hdf5(tmp_path / "a.hdf5", 6, terminals=row == 2, timeouts=np.isin(row, (2, 5))))
    np.testing.assert_array_equal(data["observations"][:, 0], [0, 1, 2, 3, 4])
    np.testing.assert_array_equal(data["terminations"], [0, 0, 1, 0, 0])


def test_the_checksum_is_of_every_field(tmp_path):
    shapes = {"observations": (8, 2), "actions": (8, 3), "rewards": (8,), "next_observations": (8, 2), "terminals": (8,)}
    sums = set()
    for changed in (None, *shapes):
        arrays = {key: np.zeros(shape) for key, shape in shapes.items()}
        if changed:
            arrays[changed][3] = 1
        sums.add(load(write_hdf5(tmp_path / "a.hdf5", 8, timeouts=np.arange(8) == 7, **arrays))[1]["checksum"])
    assert len(sums) == 6


def test_hdf5_has_the_bounds_of_its_environment(tmp_path):
    """The file does not say them; Pendulum's actions go from -2 to 2."""
    fields = {"observations": np.zeros((8, 3)), "actions": np.full((8, 1), 1.5), "timeouts": np.arange(8) == 7}
    data, info = load(write_hdf5(tmp_path / "a.hdf5", 8, **fields), eval_env_id="Pendulum-v1")
    assert (data["actions"] == 0.75).all() and (info["action_low"], info["action_high"]) == (-2, 2)


def test_a_termination_away_from_the_goal_stays_one():
    obs = {"achieved_goal": np.zeros((4, 2)), "desired_goal": np.full((4, 2), 9.0)}
    keep, terminations = td3_bst.maze_episode(obs, np.array([False, False, True]))
    assert keep.all() and terminations.tolist() == [False, False, True]


@pytest.mark.parametrize("kind", ["hdf5", "minari"])
def test_loading_takes_at_most_twice_the_data(tmp_path, kind):
    rng = np.random.default_rng(0)
    if kind == "hdf5":
        rows, obs = 300_000, rng.random((300_000, 40))
        fields = {"observations": obs, "actions": np.zeros((rows, 8)), "timeouts": np.arange(rows) % 1000 == 999}
        env_id = write_hdf5(tmp_path / "big.hdf5", rows, **fields)
    else:
        obs = rng.random((101, 60))
        one = episode(0, 100) | {"observations": obs, "actions": np.zeros((100, 2))}
        env_id = make_minari("test/big-v0", [one] * 2000, box(60), ACTIONS)
    code = f"""import re, torch, td3_bst
def peak():
    return int(re.search("VmHWM:\\\\s+(\\\\d+) kB", open("/proc/self/status").read())[1]) * 1024
args = td3_bst.resolve(td3_bst.Args(env_id={env_id!r}))
before = peak()
data, _ = td3_bst.load_dataset(args, torch.device("cpu"))
print((peak() - before) / sum(value.numel() * 4 for value in data.values()))"""
    process = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert 0.9 < float(process.stdout.split()[-1]) < 2.0


def test_locomotion_is_read_where_d4rl_keeps_it(monkeypatch, tmp_path):
    monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path))
    flags = np.arange(20)
    obs = np.random.default_rng(0).normal(size=(20, 11))
    write_hdf5(tmp_path / "hopper_medium_replay-v2.hdf5", 20, observations=obs, timeouts=flags % 10 == 9)
    data, info = load("hopper-medium-replay-v2")
    assert len(data["rewards"]) == 18 and json.loads(info["env_spec"])["id"] == "Hopper-v4"
    other = load("hopper-medium-replay-v2", eval_env_id="Hopper-v5")[1]
    assert json.loads(other["env_spec"])["id"] == "Hopper-v5"
    assert info["ref_scores"] == [-20.272305, 3234.3]
    assert td3_bst.ROBOTS["halfcheetah"] == ("HalfCheetah-v4", -280.178953, 12135.0)
    assert td3_bst.ROBOTS["walker2d"] == ("Walker2d-v4", 1.629008, 4592.3)


def test_locomotion_download(monkeypatch, tmp_path):
    """To a temporary name, checked, then renamed; from a local stand-in for D4RL's address."""
    remote, local = tmp_path / "remote", tmp_path / "local"
    remote.mkdir()
    monkeypatch.setenv("D4RL_DATASET_DIR", str(local))
    monkeypatch.setattr(td3_bst, "D4RL_URL", remote.as_uri())
    file = remote / "hopper_medium-v2.hdf5"
    obs = np.random.default_rng(0).normal(size=(20, 11))
    write_hdf5(file, 20, observations=obs, timeouts=np.arange(20) % 10 == 9)
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="cannot download"):
        load("hopper-medium-v2")
    assert not list(local.iterdir())
    file.write_bytes(whole)
    assert len(load("hopper-medium-v2")[0]["rewards"]) == 18
    assert [path.name for path in local.iterdir()] == ["hopper_medium-v2.hdf5"]


def test_two_downloads_at_once(monkeypatch, tmp_path):
    """A second run that downloads while the first does disturbs neither."""
    monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path / "local"))
    monkeypatch.setattr(td3_bst, "D4RL_URL", tmp_path.as_uri())
    file = write_hdf5(tmp_path / "hopper_medium-v2.hdf5", 20, observations=np.ones((20, 11)), timeouts=np.arange(20) == 19)
    counts = []

    class Slow(io.FileIO):
        def read(self, size=-1):
            if not counts:
                counts.append(0)  # the second run does not start a third
                counts.append(len(load("hopper-medium-v2")[0]["rewards"]))
            return super().read(size)

    monkeypatch.setattr(td3_bst.urllib.request, "urlopen", lambda url, timeout: Slow(file))
    assert len(load("hopper-medium-v2")[0]["rewards"]) == 19 and counts == [0, 19]


class Remote(cloud_storage.CloudStorage):
    """A Minari remote that is a folder; `fail` breaks it at a stage."""

    folder, fail, downloads = None, None, []

    def __init__(self, name, token=None):
        pass

    def list_datasets(self, prefix=None):
        if Remote.fail == "list":
            raise ConnectionError("[Errno -2] Name or service not known")
        names = ("human-v1", "human-v10", "human-v2", "human-old-v19")
        return [f"D4RL/pen/{name}" for name in names if f"D4RL/pen/{name}".startswith(prefix or "")]

    def get_dataset_metadata(self, dataset_id):
        metadata = json.loads((Remote.folder / "data" / "metadata.json").read_text())
        return metadata | {"dataset_id": dataset_id}

    def download_dataset(self, dataset_id, path):
        Remote.downloads.append(dataset_id)
        shutil.copytree(Remote.folder, path / dataset_id, dirs_exist_ok=True)
        if Remote.fail == "download":
            (path / dataset_id / "data" / "main_data.hdf5").unlink()
            raise TimeoutError("the server hung up")
        if Remote.fail == "Ctrl-C":
            raise KeyboardInterrupt
        metadata = path / dataset_id / "data" / "metadata.json"
        metadata.write_text(json.dumps(json.loads(metadata.read_text()) | {"dataset_id": dataset_id}))

    def download_namespace_metadata(self, namespace, path):
        (path / namespace).mkdir(parents=True, exist_ok=True)
        (path / namespace / "namespace_metadata.json").write_text("{}")

    def list_namespaces(self):
        return ["D4RL", "D4RL/pen"]

    def upload_dataset(self, dataset_id):
        raise NotImplementedError

    upload_namespace = upload_dataset


@pytest.fixture
def remote(monkeypatch, tmp_path):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "made"))
    make_minari("test/pen-v0", [episode(0, 3)], box(2), ACTIONS)
    Remote.folder, Remote.fail, Remote.downloads = tmp_path / "made" / "test" / "pen-v0", None, []
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "empty"))
    monkeypatch.setenv("MINARI_REMOTE", "test://somewhere")
    monkeypatch.setitem(minari.storage.remotes._registry, "test", lambda: Remote)
    return tmp_path / "empty"


def test_short_name_downloads_the_newest_version_once(remote):
    for _ in range(2):
        data, info = load("pen-human")
        assert info["dataset_id"] == "D4RL/pen/human-v10" and len(data["rewards"]) == 3
    assert Remote.downloads == ["D4RL/pen/human-v10"]
    assert load("pen-human-v1")[1]["dataset_id"] == "D4RL/pen/human-v1"
    assert load("D4RL/pen/human-v2")[1]["dataset_id"] == "D4RL/pen/human-v2"
    assert load("pen-human")[1]["dataset_id"] == "D4RL/pen/human-v10"  # of those that are there
    with pytest.raises(UserError, match="there is no dataset 'pen-human-v7'"):
        load("pen-human-v7")


@pytest.mark.parametrize("fail, error", [("download", UserError), ("Ctrl-C", KeyboardInterrupt)])
def test_failed_download_leaves_nothing_behind(remote, fail, error):
    Remote.fail = fail
    with pytest.raises(error, match={"download": "TimeoutError.*the server hung up"}.get(fail)):
        load("pen-human")
    assert not (remote / "D4RL/pen/human-v10").exists()
    Remote.fail = None
    assert len(load("pen-human")[0]["rewards"]) == 3


def test_unreachable_remote_names_the_command_that_helps(remote):
    Remote.fail = "list"
    with pytest.raises(UserError, match="ConnectionError.*benchmark/make_dataset.py pointmaze-umaze"):
        load("pointmaze-umaze")
    for env_id, numbered in ("pointmaze-open", "pointmaze/open-vN"), ("D4RL/pen/human-v2", "pen/human-v2"):
        with pytest.raises(UserError, match=f"`minari download D4RL/{numbered}`"):  # it needs a version
            load(env_id)


def test_a_remote_without_the_dataset_names_the_command_that_helps(remote):
    for name in ("td3-bst/antmaze-umaze-diverse-one-goal-v0", "antmaze-umaze-diverse"):
        advice = "near matches: .*; or recreate it: .*make_dataset.py antmaze-umaze-diverse"
        with pytest.raises(UserError, match=f"no dataset '{name}'; {advice}"):
            load(name)
    with pytest.raises(UserError, match="'antmaze-umaze-v2'; near matches: antmaze-umaze, .*; or recreate it"):
        load("antmaze-umaze-v2")  # D4RL's name, to be asked for without the version
    with pytest.raises(UserError, match="'td3-bst/pointmaze-umaze-one-goal-v0'; near matches: [^;]*$"):
        load("td3-bst/pointmaze-umaze-one-goal-v0")  # make_dataset.py makes one goal for AntMaze only
    advice = "recreate it: .*make_locomotion.py hopper`, then --env-id td3-bst/hopper-medium-replay$"
    with pytest.raises(UserError, match=advice):
        load("td3-bst/hopper-medium-replay-v0")
    with pytest.raises(UserError, match="hopper-expert-v2[^;]*$"):  # not made by it
        load("td3-bst/hopper-expert-v0")


def test_incomplete_dataset_is_named(remote):
    load("pen-human")
    file = remote / "D4RL/pen/human-v10/data/main_data.hdf5"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(UserError, match=f"damaged, delete {remote}/D4RL/pen/human-v10"):
        load("pen-human")


def collect(name, env, steps, after_step=lambda env: None, **kwargs):
    """A Minari dataset of random actions in an environment of its own. Returns its id and after_step's results."""

    def stack(values):
        return {key: stack([v[key] for v in values]) for key in values[0]} if isinstance(values[0], dict) else np.stack(values)

    shape = (steps, *env.action_space.shape)
    actions = np.random.default_rng(0).uniform(-1, 1, shape).astype(env.action_space.dtype)
    obs, rewards, results = [env.reset(seed=0)[0]], [], []
    for action in actions:
        next_obs, reward, *_ = env.step(action)
        obs.append(next_obs), rewards.append(reward), results.append(after_step(env.unwrapped))
    ends = {"terminations": np.zeros(steps, bool), "truncations": np.arange(steps) == steps - 1}
    one = {"observations": stack(obs), "actions": actions, "rewards": np.array(rewards)} | ends
    return make_minari(name, [one], None, None, env=env, **kwargs), results


def antmaze(name, eval_map=None, version=4):
    env = gym.make(f"AntMaze_UMaze-v{version}", continuing_task=True, reset_target=False, max_episode_steps=12345)
    spec = gym.spec("AntMaze_UMaze-v4")
    if eval_map:
        spec = gym.envs.registration.EnvSpec.from_json(spec.to_json())
        spec.kwargs["maze_map"] = eval_map
        spec.max_episode_steps = 12345
    return collect(name, env, 3, eval_env=spec)[0]


def test_antmaze_is_evaluated_on_the_datas_walls(capsys):
    """Minari's umaze evaluation map is the data's turned by half (issue 304): start and goal turn with the walls.

    They are then the data's own, (3, 1) and (1, 1). A flip would have the same walls, but swap start and goal."""
    eval_map = [[1, 1, 1, 1, 1], [1, 0, 0, "r", 1], [1, 0, 1, 1, 1], [1, 0, 0, "g", 1], [1, 1, 1, 1, 1]]
    turned = [[1, 1, 1, 1, 1], [1, "g", 0, 0, 1], [1, 1, 1, 0, 1], [1, "r", 0, 0, 1], [1, 1, 1, 1, 1]]
    for name, given, said in (("test/antmaze-umaze-v0", eval_map, True), ("test/antmaze-umaze-v1", turned, False)):
        _, info = load(antmaze(name, given))
        spec = json.loads(info["env_spec"])
        assert spec["kwargs"]["maze_map"] == turned and spec["max_episode_steps"] == 700
        assert spec["kwargs"]["continuing_task"] is False and info["is_maze"]
        assert ("turned" in capsys.readouterr().out) == said
    with pytest.raises(UserError, match="other walls than the data's"):
        load(antmaze("test/antmaze-umaze-v2", [[1, 1, 1], [1, "g", 1], [1, "r", 1], [1, 1, 1]]))


def test_a_maze_that_nobody_registered_keeps_its_own_time_limit(monkeypatch):
    """As its data is on a machine on which the script that registered it for the recording did not run."""
    env_id, entry_point = "PointMaze_Mine-v0", "gymnasium_robotics.envs.maze.point_maze:PointMazeEnv"
    gym.register(env_id, entry_point, max_episode_steps=123, kwargs={"maze_map": [[1] * 4, [1, "r", "g", 1], [1] * 4]})
    collect("test/pointmaze-mine-v0", gym.make(env_id), 3)
    monkeypatch.delitem(gym.registry, env_id)
    _, info = load("test/pointmaze-mine-v0")
    assert info["is_maze"]
    env = gym.make(gym.envs.registration.EnvSpec.from_json(info["env_spec"]))  # as an evaluation does
    env.reset(seed=0)
    assert [env.step(env.action_space.sample())[3] for _ in range(123)].index(True) == 122


def test_a_dict_without_goals_is_no_goal_maze():
    """Whatever its name: nothing in it says what a success is."""
    space = gym.spaces.Dict(state=gym.spaces.Box(-1, 1, (2,), np.float32))
    one = {"observations": {"state": np.zeros((4, 2), np.float32)}, "actions": np.zeros((3, 1), np.float32)}
    one |= {"rewards": np.arange(3.0), "terminations": np.arange(3) == 2, "truncations": np.zeros(3, bool)}
    data, _ = load(make_minari("test/antmaze-state-v0", [one], space, gym.spaces.Box(-1, 1, (1,), np.float32)))
    assert data["terminations"].tolist() == [0, 0, 1]


@pytest.mark.parametrize("task", ["Door", "Hammer", "Relocate"])
def test_adroit_is_trained_on_d4rls_rewards(task):
    """Minari's have the wrong sign of the palm's distance to the object, as the environment that it recorded."""
    name, distances = collect(f"test/{task.lower()}-v0", gym.make(f"AdroitHand{task}-v1"), 20, palm_to_object)
    recorded = next(iter(minari.load_dataset(name).iterate_episodes())).rewards
    np.testing.assert_allclose(load(name)[0]["rewards"], recorded - 0.2 * np.array(distances), rtol=1e-5)
    sparse = gym.make(f"AdroitHand{task}-v1", reward_type="sparse").spec
    assert td3_bst.mend_rewards(recorded, load(name)[0]["observations"], sparse) is recorded


def test_pen_is_evaluated_for_d4rls_100_steps():
    """For which the reference scores are; Minari's datasets say 200 (issues 286 and 303). Other datasets keep their own."""
    for name, steps, scores in (("D4RL/pen/ours-v0", 100, (96.262799, 3076.833102)), ("test/pen-v0", 200, (1, 2))):
        collect(name, gym.make("AdroitHandPen-v1"), 3, ref_min_score=1.0, ref_max_score=2.0)
        _, info = load(name)
        assert json.loads(info["env_spec"])["max_episode_steps"] == steps
        np.testing.assert_allclose(info["ref_scores"], scores)
    gym.register("PenForTwoSteps-v0", gym.spec("AdroitHandPen-v1").entry_point, max_episode_steps=2)
    for own, steps in ("AdroitHandPen-v1", 100), ("PenForTwoSteps-v0", 2):  # the data's own, by name, and another
        _, info = load("D4RL/pen/ours-v0", eval_env_id=own)
        assert json.loads(info["env_spec"])["max_episode_steps"] == steps


@pytest.mark.parametrize(
    "task, zero, full",
    [("door", -56.512833, 2880.569309), ("hammer", -274.856578, 12794.134825), ("relocate", -6.425911, 4233.877798)],
)
def test_the_other_adroit_tasks_have_d4rls_200_steps_and_scores(task, zero, full):
    """Some of Minari's scripts record door for 300 steps and relocate for 530, and name no reference scores."""
    collect(f"D4RL/{task}/ours-v0", gym.make(f"AdroitHand{task.title()}-v1", max_episode_steps=530), 3)
    _, info = load(f"D4RL/{task}/ours-v0")
    assert json.loads(info["env_spec"])["max_episode_steps"] == 200
    np.testing.assert_allclose(info["ref_scores"], (zero, full))


def test_an_environment_without_a_time_limit_is_told_of(capsys):
    gym.register("PendulumForEver-v0", gym.spec("Pendulum-v1").entry_point)
    for env_id, is_told in ("PendulumForEver-v0", True), ("Pendulum-v1", False):
        assert td3_bst.evaluation_env(env_id).spec.id == env_id
        assert (f"{env_id} has no time limit" in capsys.readouterr().out) == is_told


def test_recorded_render_mode_opens_no_window():
    """A dataset recorded with a window, render_mode "human", is evaluated without."""
    name, _ = collect("test/rendered-v0", gym.make("AdroitHandPen-v1"), 3)
    file = minari.storage.get_dataset_path(name) / "data" / "metadata.json"
    metadata = json.loads(file.read_text())
    spec = json.loads(metadata["env_spec"])
    spec["kwargs"]["render_mode"] = "rgb_array"
    file.write_text(json.dumps(metadata | {"env_spec": json.dumps(spec)}))
    assert minari.load_dataset(name).recover_environment(eval_env=True).spec.kwargs["render_mode"] == "rgb_array"
    _, info = load(name)
    assert "render_mode" not in json.loads(info["env_spec"])["kwargs"]


def test_kitchen_counts_a_task_once():
    """A return is the number of finished tasks, as in D4RL; Minari's own environment rewards each at every step."""
    tasks = ["microwave", "kettle", "light switch", "slide cabinet"]
    as_minari = {"remove_task_when_completed": False, "terminate_on_tasks_completed": False, "tasks_to_complete": tasks}
    env = gym.make("FrankaKitchen-v1", max_episode_steps=450, **as_minari)
    name, _ = collect("D4RL/kitchen/ours-v0", env, 3)
    _, info = load(name)
    env = gym.make(gym.envs.registration.EnvSpec.from_json(info["env_spec"]))
    obs, _ = env.reset(seed=0)
    for task in tasks[:3]:  # finished from the start
        env.unwrapped.goal[task] = np.array(obs["achieved_goal"][task])
    first, second = env.step(np.zeros(9)), env.step(np.zeros(9))
    assert (first[1], second[1]) == (3, 0) and not first[2]
    env.unwrapped.goal[tasks[3]] = np.array(second[0]["achieved_goal"][tasks[3]])
    _, reward, terminated, _, _ = env.step(np.zeros(9))
    assert reward == 1 and terminated
    assert env.spec.max_episode_steps == 280 and tuple(info["ref_scores"]) == (0, 4)


def test_antmaze_versions_are_not_mixed():
    """AntMaze v5's ant observes contact forces, 105 numbers; v4's, as the datasets, 27."""
    with pytest.raises(UserError, match="AntMaze_UMaze-v4 observes"):
        load(antmaze("test/antmaze-five-v0", version=5))
