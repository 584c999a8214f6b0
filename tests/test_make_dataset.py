"""The recreated mazes: who starts where, when an episode ends, worker processes, going on after Ctrl-C, the report."""

import contextlib
import dataclasses
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import gymnasium as gym
import make_dataset
import minari
import numpy as np
import planner_policy
import pytest
import rank_actions
import td3_bst
import torch
from conftest import ROOT, heed_ctrl_c, run_script
from td3_bst import domain_of, evaluation_env
from test_data import load

SMALL = ("antmaze-medium-diverse", "--steps", "1500", "--part-steps", "600")
DATASET = "td3-bst/antmaze-medium-diverse-v0"


@pytest.fixture(scope="module")
def antmaze(tmp_path_factory):
    """Folder with a small recreated AntMaze of three parts, made by two processes."""
    folder = tmp_path_factory.mktemp("ant")
    run_script("benchmark/make_dataset.py", *SMALL, "--workers", "2", MINARI_DATASETS_PATH=str(folder))
    return folder


def read(folder):
    """Everything in the dataset below a folder, episodes in order."""
    dataset = minari.MinariDataset(folder / DATASET / "data")
    return [(e.observations["observation"], e.actions, e.rewards, e.truncations) for e in dataset.iterate_episodes()]


def test_recreated_antmaze(antmaze, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(antmaze))
    dataset = minari.load_dataset(DATASET)
    space = dataset.observation_space
    assert {key: space[key].shape for key in space} == {"observation": (27,), "achieved_goal": (2,), "desired_goal": (2,)}
    assert dataset.total_steps == 1500 and not [path for path in antmaze.rglob(".*")]
    assert [dataset.storage.metadata[key] for key in ("ref_min_score", "ref_max_score")] == [0, 1]
    assert dataset.env_spec.id == "AntMaze_Medium-v4"
    for episode in dataset.iterate_episodes():
        assert not episode.terminations.any() and episode.truncations.tolist() == [False] * (len(episode) - 1) + [True]
        assert (episode.rewards[:-1] == 0).all() and (np.abs(episode.actions) <= 1).all()
        assert len(np.unique(episode.observations["desired_goal"], axis=0)) == 1
    reached = [episode for episode in dataset.iterate_episodes() if episode.rewards[-1]]
    last = [episode.observations["achieved_goal"][-1] - episode.observations["desired_goal"][-1] for episode in reached]
    assert reached and (np.linalg.norm(last, axis=-1) <= 0.45).all()
    assert dataset.env_spec.max_episode_steps == 1000
    starts = [episode.observations["achieved_goal"][0] for episode in dataset.iterate_episodes()]
    assert len(np.unique(starts, axis=0)) == dataset.total_episodes  # no part is like another
    data, info = load(DATASET)
    assert data["observations"].shape == (1500, 31) and info["is_maze"]
    report = json.loads((antmaze / DATASET / "report.json").read_text())
    assert report["steps"] == 1500 and report["episodes"] == dataset.total_episodes
    assert (antmaze / DATASET / "coverage.png").stat().st_size > 1000


def test_report_counts_whole_episodes(tmp_path):
    """One reaches its goal, one runs into the time limit of 300, one is cut where its part ends: half succeed."""
    episodes = []
    for length, reward in (20, 1.0), (300, 0.0), (7, 0.0):
        rewards = np.zeros(length)
        rewards[-1] = reward
        obs = {key: np.ones((length + 1, 2)) for key in ("achieved_goal", "desired_goal", "observation")}
        episodes.append(minari.data_collector.EpisodeBuffer(observations=obs, actions=np.zeros((length, 2)), rewards=rewards))
    report = make_dataset.describe(make_dataset.Args("pointmaze-umaze"), episodes, tmp_path)
    assert report.items() < json.loads((tmp_path / "report.json").read_text()).items()
    assert (report["episodes"], report["steps"], report["success rate"]) == (3, 327, 0.5)
    assert (report["mean length"], report["mean length of successes"], report["mean return"]) == (160, 20, 0.5)


def test_report_of_nothing_whole(tmp_path):
    episode = minari.data_collector.EpisodeBuffer(
        observations={"achieved_goal": np.zeros((6, 2))}, actions=np.zeros((5, 8)), rewards=np.zeros(5)
    )
    report = make_dataset.describe(make_dataset.Args("antmaze-umaze"), [episode], tmp_path)
    assert report["success rate"] is None and "NaN" not in (tmp_path / "report.json").read_text()


def test_map_has_the_agent_between_the_walls():
    """Positions along a way through large-play are in squares of the picture where the picture has no wall."""
    args = make_dataset.Args("antmaze-large-play")
    maze = make_dataset.make_env(args).unwrapped.maze
    path = make_dataset.shortest_path(maze.maze_map, (1, 1), (7, 9))
    way = [maze.cell_rowcol_to_xy(np.array(cell)) for cell in path]
    report = {"dataset": "x", "episodes": 1, "success rate": 1.0}
    counts, walls = make_dataset.draw_coverage(args, report, np.array(way)).axes[0].images
    assert counts.origin == "lower" and walls.origin == "upper" and counts.get_extent() == walls.get_extent()
    seen = np.isfinite(counts.get_array().filled(np.nan))[::-1].reshape(9, 8, 12, 8).any((1, 3))  # by cell, row 0 on top
    assert {tuple(cell) for cell in np.argwhere(seen).tolist()} == set(path)
    assert not (seen & np.isfinite(walls.get_array().filled(np.nan))).any()


def test_a_worker_that_dies(tmp_path):
    """Ends in one line, and what is finished stays."""
    command = [sys.executable, str(ROOT / "benchmark/make_dataset.py"), "antmaze-umaze", "--part-steps", "200"]
    env = os.environ | {"MINARI_DATASETS_PATH": str(tmp_path)}
    process = subprocess.Popen([*command, "--workers", "1"], env=env, stderr=subprocess.PIPE, text=True)
    deadline = time.time() + 120
    while not list(tmp_path.rglob("1.pkl")):
        assert process.poll() is None and time.time() < deadline
        time.sleep(0.01)
    workers = subprocess.run(["pgrep", "-P", str(process.pid), "-f", "spawn_main"], capture_output=True, text=True)
    os.kill(int(workers.stdout.split()[-1]), signal.SIGKILL)
    assert "a worker process died" in process.communicate(timeout=60)[1] and process.returncode == 1
    assert list(tmp_path.rglob("0.pkl"))


@pytest.mark.parametrize(
    "name, value",
    [(name, -1) for name in ("seed", "action_noise", "workers", "part_steps", "waypoint_jitter")]
    + [(name, value) for name in ("p_gain", "d_gain", "ant_gain") for value in (np.nan, np.inf)],
)
def test_bad_arguments_leave_nothing(tmp_path, monkeypatch, name, value):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    maze = "pointmaze-umaze" if name in ("p_gain", "d_gain") else "antmaze-umaze"
    with pytest.raises(SystemExit, match=f"^error: --{name.replace('_', '-')} must be at least"):
        make_dataset.main(make_dataset.Args(maze, **{name: value}))
    assert not list(tmp_path.iterdir())


def test_evaluation_task_is_d4rls(antmaze, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(antmaze))
    env = evaluation_env(None, minari.load_dataset(DATASET))
    maze = env.unwrapped.maze
    for seed in range(3):
        obs, _ = env.reset(seed=seed)
        assert tuple(maze.cell_xy_to_rowcol(obs["achieved_goal"])) == (1, 1)
        assert tuple(maze.cell_xy_to_rowcol(obs["desired_goal"])) == (6, 6)
    assert env.spec.max_episode_steps == 1000 and not env.spec.kwargs["continuing_task"]


def test_the_data_does_not_depend_on_workers_or_on_being_stopped(antmaze, tmp_path):
    """Stopped by Ctrl-C after its first part, called again with one worker: the same data."""
    command = [sys.executable, str(ROOT / "benchmark/make_dataset.py"), *SMALL, "--workers", "1"]
    env = os.environ | {"MINARI_DATASETS_PATH": str(tmp_path)}
    own_group = {"start_new_session": True, "preexec_fn": heed_ctrl_c}
    process = subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True, **own_group)
    deadline = time.time() + 120
    while not list(tmp_path.rglob("0.pkl")):
        assert process.poll() is None and time.time() < deadline
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers as well
    message = process.communicate(timeout=60)[1]
    assert process.returncode == 1 and "to go on from the finished parts" in message and "Traceback" not in message
    assert len(list(tmp_path.rglob("*.pkl"))) < 3
    other = run_script("benchmark/make_dataset.py", *SMALL[:-1], "700", MINARI_DATASETS_PATH=str(tmp_path), ok=False)
    assert other.returncode == 1 and "made with other arguments" in other.stderr and "Traceback" not in other.stderr
    first = next(tmp_path.rglob("0.pkl")).stat().st_mtime_ns
    resumed = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)
    stamps = set()
    while resumed.poll() is None:
        with contextlib.suppress(FileNotFoundError):  # deleted in between
            stamps |= {path.stat().st_mtime_ns for path in tmp_path.rglob("0.pkl")}
        time.sleep(0.01)
    assert resumed.returncode == 0 and stamps == {first}  # that part was not recorded again
    for old, new in zip(read(antmaze), read(tmp_path), strict=True):
        assert all(np.array_equal(x, y) for x, y in zip(old, new))


def cells(name, n=300):
    """Starts and goals that are drawn for a dataset, as a set of pairs."""
    args, rng = make_dataset.Args(name), np.random.default_rng(0)
    maze = make_dataset.make_env(args).unwrapped.maze
    drawn = [make_dataset.draw_cells(args, maze, rng) for _ in range(n)]
    return {(tuple(cell["reset_cell"].tolist()), tuple(cell["goal_cell"].tolist())) for cell in drawn}


def test_starts_and_goals():
    assert cells("antmaze-umaze") == {((3, 1), (1, 1))}
    free = {(1, 1), (1, 2), (1, 3), (2, 3), (3, 1), (3, 2), (3, 3)}
    assert cells("antmaze-umaze-diverse") == {(a, b) for a in free for b in free if a != b}
    chosen = {(1, 1), (2, 6), (5, 1), (6, 5), (6, 6)}  # Gymnasium-Robotics' and the evaluation's goal
    assert cells("antmaze-medium-play") == {(a, b) for a in chosen for b in chosen if a != b}
    assert {a for pair in cells("antmaze-large-play") for a in pair} >= {(1, 1), (7, 9), (3, 5)}
    assert len({a for pair in cells("antmaze-large-diverse", 1000) for a in pair}) == 46


def test_the_planner_takes_the_shortest_way():
    maze = gym.spec("AntMaze_Medium-v4").kwargs["maze_map"]
    path = make_dataset.shortest_path(maze, (1, 1), (6, 6))
    assert path[0] == (1, 1) and path[-1] == (6, 6) and len(path) == 11  # as if there were no walls
    assert all(abs(a - c) + abs(b - d) == 1 and maze[c][d] != 1 for (a, b), (c, d) in zip(path, path[1:]))


def test_waypoints_are_jittered():
    maze = make_dataset.make_env(make_dataset.Args("antmaze-large-play")).unwrapped.maze
    path = make_dataset.shortest_path(maze.maze_map, (1, 1), (7, 9))
    centres = np.array([maze.cell_rowcol_to_xy(np.array(cell)) for cell in path])
    *between, end = make_dataset.plan(maze, {"achieved_goal": centres[0]}, centres[-1], 0.5, np.random.default_rng(0))
    offsets = between - centres[1:-1]
    assert 0.4 < np.abs(offsets).max() <= 0.5 and abs(offsets.mean()) < 0.2 and np.array_equal(end, centres[-1])


def test_the_walking_policy():
    """Half the action at half the gain, and the network's float64 arithmetic."""
    obs, _ = make_dataset.make_env(make_dataset.Args("antmaze-umaze")).reset(seed=0)
    w = {name: values.astype(np.float64) for name, values in np.load(make_dataset.ANT).items()}
    x = np.append(obs["observation"], [0.6, -0.8])  # the direction of the offset
    hidden = np.clip(np.clip(x @ w["w0"] + w["b0"], 0, None) @ w["w1"] + w["b1"], 0, None)
    for gain in 1.0, 0.35:
        controller = make_dataset.make_controller(make_dataset.Args("antmaze-umaze", ant_gain=gain))
        action = controller(obs, np.array([3.0, -4.0]))
        assert action == pytest.approx(gain * np.tanh(hidden @ w["w2"] + w["b2"]), abs=1e-12)


def clean_and_stored(maze, steps):
    """Actions without noise, where the waypoint is the goal itself, and as they are stored: two arrays (n, k)."""
    args = make_dataset.resolve(make_dataset.Args(maze, steps=steps))
    controller, pairs = make_dataset.make_controller(args), []
    args.waypoint_radius = 1e9  # each step drops a waypoint
    for episode in make_dataset.collect(args, steps, 0):
        for t in range(10, len(episode)):
            obs = {key: values[t] for key, values in episode.observations.items()}
            pairs.append((controller(obs, obs["desired_goal"] - obs["achieved_goal"]), episode.actions[t]))
    return map(np.array, zip(*pairs))


def test_actions_are_the_controllers_with_noise():
    """Without the controller's own actions, what is left has the deviation asked for."""
    clean, stored = clean_and_stored("antmaze-umaze", 400)
    left = (stored - clean)[(np.abs(stored) < 1) & (np.abs(clean) < 0.3)]
    assert len(left) > 100 and np.std(left) == pytest.approx(0.2, rel=0.15) and abs(np.mean(left)) < 0.05


def test_noise_moves_actions_at_the_bound_too():
    """PointMaze's controller keeps to [-1, 1] before the noise: half of its full forces are stored as smaller ones."""
    clean, stored = clean_and_stored("pointmaze-umaze", 2000)
    assert np.abs(clean).max() <= 1
    full = (clean * stored)[np.abs(clean) == 1]
    assert len(full) > 500 and np.mean(full == 1) == pytest.approx(0.5, abs=0.05)
    assert np.mean(1 - full[full < 1]) == pytest.approx(0.5 * np.sqrt(2 / np.pi), rel=0.1)


@pytest.mark.parametrize("maze", ["pointmaze-umaze", "antmaze-umaze-diverse"])
def test_stored_actions_play_the_episode_again(maze):
    """From the same start they lead to the stored observations and rewards: none is scaled, clipped or a step late."""
    args = make_dataset.resolve(make_dataset.Args(maze, steps=60))
    episode = next(make_dataset.collect(args, 60, 3))
    env = make_dataset.make_env(args)
    obs, _ = env.reset(seed=3)
    if maze.startswith("ant"):
        cells = make_dataset.draw_cells(args, env.unwrapped.maze, np.random.default_rng(3))
        obs, _ = env.reset(options=cells)
    for t, action in enumerate(episode.actions):
        assert np.array_equal(obs["observation"], episode.observations["observation"][t])
        obs, reward, *_ = env.step(action)
        assert reward == episode.rewards[t]


def test_the_time_limit_ends_an_episode():
    """A point that stands still is moved on after 300 steps, to a new start; the next episode is cut where the part ends."""
    still = {"p_gain": 0.0, "d_gain": 0.0, "action_noise": 0.0}
    first, second = make_dataset.collect(make_dataset.resolve(make_dataset.Args("pointmaze-umaze", **still)), 350, 0)
    assert (len(first), len(second)) == (300, 50) and first.truncations[-1]
    places = first.observations["achieved_goal"][-1], second.observations["achieved_goal"][0]
    assert not np.array_equal(*places)


def test_two_processes_at_one_dataset(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    folder, args = tmp_path / "td3-bst/.pointmaze-umaze-v1-parts", make_dataset.Args("pointmaze-umaze", steps=20)
    folder.mkdir(parents=True)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(SystemExit, match="another process is making td3-bst/pointmaze-umaze-v1"):
            make_dataset.main(args)
        assert [path.name for path in folder.iterdir()] == ["lock"]
    make_dataset.main(args)
    assert not folder.exists() and (tmp_path / "td3-bst/pointmaze-umaze-v1").exists()


def test_a_folder_that_cannot_be(monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", "/proc/nowhere")
    with pytest.raises(SystemExit, match="error: cannot write datasets .*; set MINARI_DATASETS_PATH"):
        make_dataset.main(make_dataset.Args("pointmaze-umaze"))


def test_half_a_dataset_is_removed_and_another_processs_is_not(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    path, args = tmp_path / "td3-bst/pointmaze-umaze-v1", make_dataset.Args("pointmaze-umaze", steps=20)
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(make_dataset, "describe", lambda *_: 1 / 0)  # once it is written
        make_dataset.main(args)
    assert not path.exists() and list(tmp_path.rglob("0.pkl"))  # the finished parts stay
    path.mkdir()  # as a kill leaves it, which removes nothing
    make_dataset.main(args)
    assert len(minari.load_dataset("td3-bst/pointmaze-umaze-v1")) == 1
    with pytest.raises(SystemExit, match="exists; to make it anew"):
        make_dataset.main(args)
    shutil.rmtree(path)
    record = make_dataset.record_parts
    monkeypatch.setattr(make_dataset, "record_parts", lambda *_: path.mkdir() or record(*_))  # meanwhile
    with pytest.raises(SystemExit, match="exists by now"):
        make_dataset.main(args)
    assert path.exists()


def test_the_planner_plays_an_evaluations_episodes(tmp_path, monkeypatch):
    """Those that a run of td3_bst.py with its seed does."""
    seeds, played = [], []
    make = planner_policy.gym.make

    def make_watched(spec):
        env = make(spec)
        reset = env.reset
        env.reset = lambda seed: seeds.append(seed) or reset(seed=seed)
        return env

    monkeypatch.setattr(planner_policy.gym, "make", make_watched)
    planner_policy.main("pointmaze-umaze", seed=3, episodes=5, runs_dir=str(tmp_path))
    monkeypatch.undo()
    spec = make_dataset.evaluation_spec(make_dataset.Args("pointmaze-umaze"))
    info = {"env_spec": spec.to_json(), "is_maze": True, "ref_scores": (0, 1)}
    monkeypatch.setattr(td3_bst, "make_policy", lambda *_: None)
    monkeypatch.setattr(td3_bst, "evaluate", lambda _, __, seeds, ___: played.extend(seeds) or (np.zeros(5),) * 3)
    td3_bst.score_policy(None, info, td3_bst.Args(seed=3, eval_episodes=5))
    assert seeds == [int(seed) for seed in played] and len(set(seeds)) == 5


def test_planner_policy(tmp_path):
    args = ("pointmaze-umaze", "--episodes", "5", "--runs-dir", str(tmp_path))
    run_script("benchmark/planner_policy.py", *args)
    (file,) = tmp_path.glob("*/results.json")
    (entry,) = json.loads(file.read_text())["evaluations"]
    assert entry["terminations"] == [True] * 5 and entry["score"] == 100 and max(entry["lengths"]) < 300
    assert "the data's planner without noise" in run_script("benchmark/report.py", str(tmp_path)).stdout


def test_ways_turn_the_direction():
    """With a controller that returns the offset itself: towards the next cell, left, right and back."""
    maze = make_dataset.make_env(make_dataset.Args("antmaze-umaze")).unwrapped.maze
    obs = np.zeros(31)
    obs[:2], obs[2:4], obs[5] = maze.cell_rowcol_to_xy(np.array((3, 1))), maze.cell_rowcol_to_xy(np.array((1, 1))), 1
    offsets = rank_actions.ways(obs, maze, lambda _, offset: offset)
    assert offsets == pytest.approx(np.array([[4, 0], [0, 4], [0, -4], [-4, 0]]), abs=1e-9)  # the next cell is to the east
    obs[:2] = obs[2:4] + (0.5, 0)
    assert rank_actions.ways(obs, maze, lambda _, offset: offset)[0] == pytest.approx([-0.5, 0])  # the goal itself
    obs[:2] = obs[2:4]
    assert rank_actions.ways(obs, maze, lambda _, offset: offset) is None
    obs[:2], obs[5:7] = maze.cell_rowcol_to_xy(np.array((3, 1))), (0, 1)
    assert rank_actions.ways(obs, maze, lambda _, offset: offset) is None  # on its back


def test_rank_actions(antmaze, tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(antmaze))
    args = ("--env-id", DATASET, "--total-timesteps", "20", "--morse-steps", "20", "--eval-episodes", "1")
    run_script("td3_bst.py", *args, "--runs-dir", str(tmp_path))
    (run,) = tmp_path.iterdir()
    wrong = run_script("benchmark/rank_actions.py", str(tmp_path), ok=False)
    assert wrong.returncode == 1 and wrong.stderr.splitlines()[-1].startswith("error: ") and "Traceback" not in wrong.stderr
    rows = [line.split(" | ") for line in run_script("benchmark/rank_actions.py", str(run)).stdout.splitlines()]
    table = {row[0].strip("| "): row[1:] for row in rows if len(row) == 5}
    assert list(table) == ["action", "---", "onward", "left", "right", "back", "the data's", "uniform", "the policy's"]
    assert 0.3 < float(table["the data's"][2]) < 1.5 < float(table["uniform"][2])  # 0.57 is the noise
    assert all(0 <= float(table[name][3].strip("| ")) <= 1 for name in list(table)[2:])

    stored = json.loads((run / "args.json").read_text())
    for changes, message in (
        ({"weighting": "constant", "q_weight": 0.0}, "trains no critic"),
        ({"weighting": "morse", "policy_extraction": "awr"}, None),  # IQL has no Morse network
    ):
        (run / "args.json").write_text(json.dumps(stored | {"args": stored["args"] | changes}))
        process = run_script("benchmark/rank_actions.py", str(run), "--states", "500", ok=message is None)
        assert message is None or message in process.stderr.splitlines()[-1]
    assert process.stdout.count("|  |\n") == 7, process.stdout
    assert "error: pass at least one" in run_script("benchmark/rank_actions.py", ok=False).stderr


def test_ranks_are_of_the_runs_critic(antmaze, tmp_path, monkeypatch, capsys):
    """With values that fall by 1 from action to action: the first is above all, by that much; the weights are the run's."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(antmaze))
    args = td3_bst.resolve(td3_bst.Args(env_id=DATASET))
    agent = td3_bst.make_agent(31, 8, args, torch.device("cpu"))
    (tmp_path / "args.json").write_text(json.dumps({"dataset_id": DATASET, "args": vars(args)}))
    states = {name: getattr(agent, name).state_dict() for name in ("critic", "actor", "morse")}
    for done in 0, 10:  # a run that was stopped in Morse training has no critic yet
        torch.save(states | {"done": {"morse": 9, "policy": done}}, tmp_path / "checkpoint.pt")
        if not done:
            with pytest.raises(SystemExit, match="was stopped before its critic had a step"):
                rank_actions.main((str(tmp_path),), states=200)
    values, seen = iter(range(10, 0, -1)), []

    def forward(critic, obs, action, twins):
        seen.append((critic, obs, action))
        return torch.full((1, len(obs)), float(next(values)))

    monkeypatch.setattr(td3_bst.Critic, "forward", forward)
    rank_actions.main((str(tmp_path),), states=200)
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")][2:]
    assert [row[1:3] for row in rows[1:]] == [["100%", f"{i}.000"] for i in range(1, 7)]
    critic, obs, action = seen[-1]
    assert all(torch.equal(p, q) for p, q in zip(critic.parameters(), agent.critic.parameters()))
    torch.testing.assert_close(action, agent.actor(obs))


def test_weights_of_the_walking_policy(tmp_path, monkeypatch):
    """What train_ant.py writes is what make_dataset.py reads; its ant observes what AntMaze's does."""
    pytest.importorskip("stable_baselines3", reason="train_ant.py needs it, nothing else does")
    import train_ant

    file = tmp_path / "ant.npz"
    train_ant.main(train_ant.Args(str(file), total_steps=64, report_freq=32, hidden_dim=16))
    monkeypatch.setattr(make_dataset, "ANT", file)
    obs, _ = make_dataset.make_env(make_dataset.Args("antmaze-umaze")).reset(seed=0)
    action = make_dataset.make_controller(make_dataset.Args("antmaze-umaze"))(obs, np.array([1.0, 0.0]))
    assert action.shape == (8,) and (np.abs(action) <= 0.7).all()
    env = train_ant.WalkingAnt(3.0)
    start, _ = env.reset(seed=0)
    assert start.shape == (29,) and np.linalg.norm(start[-2:]) == pytest.approx(1, abs=1e-6)
    assert start[:13] == pytest.approx(env.unwrapped.data.qpos[2:], abs=1e-6)
    before = np.linalg.norm(env.target - env.unwrapped.data.qpos[:2])
    _, reward, fallen, _, _ = env.step(np.zeros(8, np.float32))
    speed = (before - np.linalg.norm(env.target - env.unwrapped.data.qpos[:2])) / 0.05
    assert not fallen and reward == pytest.approx(speed + 0.5)


def test_one_goal_for_all_episodes():
    """Every transition is kept; goals are the evaluation's, episodes end where they come upon theirs."""
    args = make_dataset.Args("antmaze-medium-diverse", one_goal=True)
    maze, rng = make_dataset.make_env(args).unwrapped.maze, np.random.default_rng(0)
    centre = maze.cell_rowcol_to_xy(np.array((6, 6)))
    walk = np.cumsum(rng.uniform(-0.3, 0.3, (301, 2)), axis=0)

    def episode(goal, path):
        length = len(path) - 1
        return minari.data_collector.EpisodeBuffer(
            observations={"achieved_goal": path, "desired_goal": np.tile(goal, (length + 1, 1))},
            actions=rng.uniform(-1, 1, (length, 8)),
            rewards=np.zeros(length),
            terminations=np.zeros(length, dtype=bool),
            truncations=np.arange(length) == length - 1,
        )

    own = centre + [0.9, -0.9]
    recorded = [episode(own, centre + walk), episode(centre - 12, centre + walk), episode(centre - 12, centre - 12 + walk)]
    made = list(make_dataset.relabel(args, recorded))
    assert np.array_equal(made[0].observations["desired_goal"][0], own)
    goals = np.stack([e.observations["desired_goal"][0] for e in made])
    assert (abs(goals - centre) <= 1).all() and len(np.unique(goals, axis=0)) == len(made) > 6
    assert np.array_equal(np.concatenate([e.actions for e in made]), np.concatenate([e.actions for e in recorded]))
    for e in made:
        distance = np.linalg.norm(e.observations["achieved_goal"] - e.observations["desired_goal"], axis=-1)[1:]
        assert np.array_equal(e.rewards, distance <= 0.45) and not e.rewards[:-1].any() and not e.terminations.any()
        assert len(e.observations["achieved_goal"]) == len(e) + 1 and np.flatnonzero(e.truncations).tolist() == [len(e) - 1]
        assert (e.observations["desired_goal"] == e.observations["desired_goal"][0]).all()
    assert not made[-1].rewards.any() and np.array_equal(made[-1].observations["achieved_goal"], centre - 12 + walk)
    ends = {tuple(e.observations["achieved_goal"][-1]) for e in made}
    starts = [tuple(e.observations["achieved_goal"][0]) for e in made]
    assert sum(start in ends for start in starts) == len(made) - 3  # what follows a success goes on from it


def test_one_goal_is_drawn_from_the_whole_range():
    args, zero = make_dataset.Args("antmaze-medium-diverse", one_goal=True), np.zeros((2, 2))
    one = make_dataset.EpisodeBuffer(
        observations={"achieved_goal": zero, "desired_goal": zero - 12},
        actions=np.zeros((1, 8)),
        rewards=[0.0],
        terminations=[False],
        truncations=[True],
    )
    centre = make_dataset.make_env(args).unwrapped.maze.cell_rowcol_to_xy(np.array((6, 6)))
    goals = [episode.observations["desired_goal"][0] for episode in make_dataset.relabel(args, [one] * 300)]
    assert 0.95 < np.abs(goals - centre).max() <= 1  # metres


def test_another_walking_policy_makes_another_dataset(tmp_path, monkeypatch):
    args = make_dataset.resolve(make_dataset.Args("antmaze-umaze"))
    settings = make_dataset.describe_arguments(args)
    assert make_dataset.describe_arguments(dataclasses.replace(args, workers=5)) == settings
    (tmp_path / "ant.npz").write_bytes(b"another")
    monkeypatch.setattr(make_dataset, "ANT", tmp_path / "ant.npz")
    assert make_dataset.describe_arguments(args) != settings


def test_one_goal_is_a_dataset_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    process = run_script("benchmark/make_dataset.py", "pointmaze-umaze", "--one-goal", ok=False)
    assert process.returncode == 1 and process.stderr == "error: --one-goal does nothing for pointmaze-umaze; leave it out\n"
    process = run_script("benchmark/make_dataset.py", "antmaze-umaze", "--p-gain", "5", ok=False)
    assert process.returncode == 1 and process.stderr == "error: --p-gain does nothing for antmaze-umaze; leave it out\n"
    assert not list(tmp_path.iterdir())
    output = run_script("benchmark/make_dataset.py", "antmaze-umaze-diverse", "--one-goal", "--steps", "600").stdout
    name = "td3-bst/antmaze-umaze-diverse-one-goal-v0"
    dataset = minari.load_dataset(name)
    maze = dataset.recover_environment().unwrapped.maze
    goals = [episode.observations["desired_goal"] for episode in dataset.iterate_episodes()]
    assert dataset.total_steps == 600 and f"python td3_bst.py --env-id {name}" in output
    assert {tuple(maze.cell_xy_to_rowcol(goal[0]).tolist()) for goal in goals} == {(1, 1)}
    assert domain_of(name) == "antmaze"
