"""The recreated locomotion data: SAC is stopped and goes on, episodes of its replay buffer and of its policy."""

import fcntl
import json
import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import minari
import numpy as np
import pytest
import torch
from conftest import ROOT, heed_ctrl_c
from test_data import load

pytest.importorskip("stable_baselines3", reason="make_locomotion.py and train_ant.py need it, nothing else does")
import make_locomotion  # noqa: E402


def fill(lengths, cuts=()):
    """A replay buffer of episodes of these lengths; those in `cuts` were not ended but left, others end in a terminal."""
    rows = sum(lengths)
    path = np.arange(rows + len(lengths), dtype=np.float32)[:, None]  # no observation is like another
    first = np.concatenate([np.arange(n) + start for n, start in zip(lengths, np.cumsum([0, *(n + 1 for n in lengths)]))])
    dones = np.zeros((rows, 1), np.float32)
    ends = np.cumsum(lengths) - 1
    dones[[end for i, end in enumerate(ends) if i not in cuts]] = 1
    buffer = SimpleNamespace(observations=path[first][:, None], next_observations=path[first + 1][:, None], dones=dones)
    buffer.timeouts, buffer.size = np.zeros((rows, 1)), lambda: rows
    buffer.actions, buffer.rewards = np.zeros((rows, 1, 3), np.float32), np.arange(rows, dtype=np.float32)[:, None]
    return buffer


def test_episodes_of_the_replay_buffer():
    """Episodes end in a terminal, at the time limit, where SAC was stopped, and at the buffer's end."""
    buffer = fill([3, 2, 4, 2], cuts=(1, 3))
    buffer.timeouts[8] = 1  # the third's end is the time limit's
    episodes = list(make_locomotion.replayed(buffer))
    assert [len(e.rewards) for e in episodes] == [3, 2, 4, 2]
    assert [e.terminations[-1] for e in episodes] == [True, False, False, False]
    assert [e.truncations[-1] for e in episodes] == [False, True, True, True]
    assert [e.observations[:, 0].tolist() for e in episodes] == [[0, 1, 2, 3], [4, 5, 6], [7, 8, 9, 10, 11], [12, 13, 14]]
    for e in episodes:
        assert not e.terminations[:-1].any() and not e.truncations[:-1].any() and e.actions.shape == (len(e.rewards), 3)
    assert np.concatenate([e.rewards for e in episodes]).tolist() == list(range(11))


@pytest.mark.parametrize("cut", [0, 5])
def test_episodes_of_a_policy(tmp_path, cut):
    """HalfCheetah's end at its time limit, the last one where the recording does; each starts elsewhere.

    After a stop in the second, or a kill that cut the file of the first one short, they are the same."""
    act = lambda obs: (torch.rand(6).numpy() / 9, None)  # noqa: E731
    args = make_locomotion.Args("halfcheetah", steps=2100)
    (tmp_path / "whole").mkdir()
    episodes = make_locomotion.played(SimpleNamespace(predict=act), args, tmp_path / "whole")
    assert [len(e.rewards) for e in episodes] == [1000, 1000, 100]
    calls = []

    def stop(obs):
        calls.append(obs)
        if len(calls) == 1500:
            raise KeyboardInterrupt
        return act(obs)

    with pytest.raises(KeyboardInterrupt):
        make_locomotion.played(SimpleNamespace(predict=stop), args, tmp_path)
    file = tmp_path / "medium.pkl"
    os.truncate(file, file.stat().st_size - cut)
    torch.manual_seed(0)
    calls.clear()
    make_locomotion.played(SimpleNamespace(predict=lambda obs: calls.append(obs) or act(obs)), args, tmp_path)
    assert len(calls) == (2100 if cut else 1100)
    again = make_locomotion.played(None, args, tmp_path)  # all of them are in the file
    assert len(again) == 3
    for e, other in zip(episodes, again):
        assert not e.terminations.any() and np.flatnonzero(e.truncations).tolist() == [len(e.rewards) - 1]
        assert e.observations.shape == (len(e.rewards) + 1, 17) and np.array_equal(e.observations, other.observations)
        assert np.array_equal(e.actions, other.actions) and np.array_equal(e.rewards, other.rewards)
    assert len({e.observations[0, 0] for e in episodes}) == 3


def test_both_datasets(tmp_path, monkeypatch):
    """Their episodes are the robot's own; scores are D4RL's; td3_bst.py takes them; they are not made twice."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    make_locomotion.main(make_locomotion.Args("hopper", score=-100, steps=700))
    for kind in "medium", "medium-replay":
        dataset = minari.load_dataset(f"td3-bst/hopper-{kind}-v0")
        assert [dataset.storage.metadata[key] for key in ("ref_min_score", "ref_max_score")] == [-20.272305, 3234.3]
        episodes = list(dataset.iterate_episodes())
        env = dataset.recover_environment(eval_env=True).unwrapped
        for e in episodes:
            assert (e.terminations[-1] ^ e.truncations[-1]) and not (e.terminations | e.truncations)[:-1].any()
            env.reset()
            for t in range(len(e.rewards) - 1):  # the simulation, from what was observed, gives what was recorded
                env.set_state(np.append(env.data.qpos[0], e.observations[t, :5]), e.observations[t, 5:])
                obs, reward, terminated, _, _ = env.step(e.actions[t])
                if np.abs(e.observations[t, 5:]).max() < 10 and t > 0:  # observed velocities are not clipped
                    assert obs == pytest.approx(e.observations[t + 1], abs=1e-2)
                    assert reward == pytest.approx(e.rewards[t], abs=1e-2) and terminated == e.terminations[t]
        report = json.loads((tmp_path / f"td3-bst/hopper-{kind}-v0/report.json").read_text())
        returns = [e.rewards.sum() for e in episodes if e.terminations[-1]]  # none is as long as the time limit
        assert report["score"] == pytest.approx(100 * (np.mean(returns) + 20.272305) / 3254.572305, rel=1e-4)
        assert (report["steps"], report["episodes"]) == (dataset.total_steps, dataset.total_episodes)
    assert minari.load_dataset("td3-bst/hopper-medium-v0").total_steps == 700
    data, info = load("td3-bst/hopper-medium-v0")
    assert info["ref_scores"] == [-20.272305, 3234.3] and data["observations"].shape[1] == 11
    with pytest.raises(SystemExit, match="exists; to make"):
        make_locomotion.main(make_locomotion.Args("hopper", score=-100, steps=700))


def test_stop_and_go_on(tmp_path):
    """After Ctrl-C the same command goes on from where SAC was; other arguments are refused; nothing half is left."""
    script = str(ROOT / "benchmark/make_locomotion.py")
    command = [sys.executable, script, "hopper", "--report-freq", "200", "--max-steps", "5000"]
    env = {**os.environ, "MINARI_DATASETS_PATH": str(tmp_path)}
    quiet = {"env": env, "text": True, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "preexec_fn": heed_ctrl_c}
    process = subprocess.Popen([*command, "--score", "99", "--steps", "300"], **quiet)
    first = int(process.stdout.readline().split()[1].replace(",", ""))
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    assert process.returncode == 1 and err.splitlines()[-1] == "stopped; rerun the command to go on" and first == 200
    folder = tmp_path / "td3-bst/.hopper-sac"
    with open(folder / "lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "another process is making" in subprocess.run(command, **quiet).stderr
    other = subprocess.run([*command, "--score", "98", "--steps", "300"], **quiet)
    assert other.returncode == 1 and "other arguments" in other.stderr
    half = tmp_path / "td3-bst/hopper-medium-v0/data"
    half.mkdir(parents=True)
    (folder / "args.json").write_text(json.dumps(json.loads((folder / "args.json").read_text()) | {"score": -100.0}))
    done = subprocess.run([*command, "--score", "-100", "--steps", "300"], **quiet)
    assert done.returncode == 0, done.stderr
    reached = int(done.stdout.splitlines()[0].split()[1].replace(",", ""))
    assert reached > first and sorted(p.name for p in (tmp_path / "td3-bst").iterdir() if p.is_dir()) == [
        "hopper-medium-replay-v0",
        "hopper-medium-v0",
    ]
    dataset = minari.MinariDataset(tmp_path / "td3-bst/hopper-medium-replay-v0/data")
    starts = [e.observations[0, 0] for e in dataset.iterate_episodes()]
    assert dataset.total_steps > first and len(set(starts)) == len(starts)  # what was before the stop is not played again
    assert minari.MinariDataset(half).total_steps == 300


def test_a_score_that_is_not_reached(tmp_path, monkeypatch, capsys):
    """SAC takes max_steps in all, however often the command is run."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    for lines in 2, 0:
        with pytest.raises(SystemExit, match="error: after 600 steps SAC is below 99; delete"):
            make_locomotion.main(make_locomotion.Args("hopper", score=99, max_steps=600, steps=10, report_freq=300))
        assert capsys.readouterr().out.count("SAC: ") == lines
    for name, value in ("steps", 0), ("seed", -1), ("score", float("nan")):
        with pytest.raises(SystemExit, match=f"error: --{name} must be in .*, got {value}"):
            make_locomotion.main(make_locomotion.Args("hopper", **{name: value}))
    monkeypatch.setenv("MINARI_DATASETS_PATH", "/proc/nowhere")
    with pytest.raises(SystemExit, match="error: cannot write datasets .*; set MINARI_DATASETS_PATH"):
        make_locomotion.main(make_locomotion.Args("hopper"))
