"""Runs from the command line: what they leave, seeds, resuming, evaluating again, a lone copy of the file."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import td3_bst
import torch
from conftest import ROOT, heed_ctrl_c, readme_lines, run_script
from td3_bst import Args, UserError, main, parse_args, resolve
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_data import write_hdf5

TINY = {
    "device": "cpu",  # tests count steps, which a GPU's graph hides from Python
    "morse_steps": 30,
    "total_timesteps": 60,
    "eval_freq": 30,
    "eval_episodes": 3,
    "log_freq": 10,
    "batch_size": 32,
    "morse_batch_size": 32,
    "actor_hidden_dims": (16,),
    "critic_hidden_dims": (16,),
    "morse_hidden_dims": (16,),
}


def flags(**kwargs):
    return [
        word
        for name, value in kwargs.items()
        for word in ["--" + name.replace("_", "-"), *(map(str, value) if isinstance(value, tuple) else [str(value)])]
    ]


def train(env_id, folder, **kwargs):
    """A tiny run in this process, with a schedule to be resumed; returns its folder."""
    own = {"env_id": env_id, "runs_dir": str(folder), "anneal_actor_learning_rate": True}
    main(resolve(Args(**(TINY | own | kwargs))))
    return max(Path(folder).iterdir(), key=lambda path: path.stat().st_mtime)


def weights(run):
    """Every tensor of a run's checkpoint: networks, targets, optimisers, generator."""
    tensors = {}

    def collect(prefix, value):
        if isinstance(value, torch.Tensor):
            tensors[prefix] = value
        elif isinstance(value, (dict, list)):
            for key, part in value.items() if isinstance(value, dict) else enumerate(value):
                collect(f"{prefix}/{key}", part)

    collect("", torch.load(run / "checkpoint.pt", weights_only=True))
    return tensors


def same(a, b):
    a, b = weights(a), weights(b)
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.fixture(scope="module")
def run(pointmaze, tmp_path_factory):
    return train(pointmaze, tmp_path_factory.mktemp("runs"))


def test_runs_that_start_together_have_folders_of_their_own(pointmaze, tmp_path, monkeypatch):
    stamps = iter(range(1_795_486_596_678_000_000, 1_795_486_596_679_000_000))
    monkeypatch.setattr(time, "time_ns", lambda: next(stamps))
    for _ in range(2):
        train(pointmaze, tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("path", ["./a.hdf5", "../here/a.hdf5", "/here/a.hdf5"])
def test_a_runs_folder_lies_in_runs_dir_is_shown_and_is_not_hidden(path, tmp_path, monkeypatch, capsys):
    """Else neither `ls` nor run_one.sh sees it."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    write_hdf5("a.hdf5", 100, timeouts=np.arange(100) == 99)
    path = path.replace("/here", f"{tmp_path}/here") if path.startswith("/") else path
    run = train(path, tmp_path / "runs", exp_name="my/own")
    assert (run / "args.json").exists() and re.fullmatch(r"(\w.*)?a\.hdf5__my-own__1__\d+", run.name)
    out = capsys.readouterr().out
    assert f"run_dir                  {run}\n" in out and out.endswith(f"\ndone: {run}\n")


def test_what_a_run_leaves(run, pointmaze):
    names = {path.name for path in run.iterdir()}
    assert {"args.json", "results.json", "model.pt", "checkpoint.pt"} <= names and not any(".part" in n for n in names)
    assert run.name.startswith("td3-bst-pointmaze-umaze-v1__td3_bst__1__")
    record = json.loads((run / "args.json").read_text())
    assert record["dataset_id"] == pointmaze and record["versions"]["torch"].startswith(torch.__version__.split("+")[0])
    head = subprocess.run(["git", "-C", ROOT, "rev-parse", "HEAD"], capture_output=True, text=True).stdout
    assert bool(record["commit"]) == bool(head) and head.startswith(record["commit"].removesuffix("-dirty"))
    assert record["args"]["discount"] == 0.99 and record["args"]["reward_shift"] == -1  # filled from the domain's row
    evaluations = json.loads((run / "results.json").read_text())["evaluations"]
    assert [(e["step"], e["last"]) for e in evaluations] == [(30, False), (60, True)]
    for entry in evaluations:
        assert len(entry["returns"]) == len(entry["lengths"]) == 3
        assert entry["score"] == pytest.approx(100 * np.mean(entry["terminations"]))
        assert entry["return_mean"] == pytest.approx(np.mean(entry["returns"]))
    events = EventAccumulator(str(run)).Reload()
    tags = set(events.Tags()["scalars"])
    assert tags >= {"loss/morse", "loss/critic", "loss/actor", "policy/q", "policy/weight", "policy/bc_error"}
    assert tags >= {"certainty/data", "certainty/uniform", "certainty/policy", "evaluation/score", "evaluation/return"}
    assert [e.step for e in events.Scalars("loss/critic")] == [10, 20, 30, 40, 50, 60]


def test_seeds(run, pointmaze, tmp_path):
    assert same(run, train(pointmaze, tmp_path / "same"))
    assert not same(run, train(pointmaze, tmp_path / "other", seed=2))
    other = train(pointmaze, tmp_path / "logs", log_freq=14, eval_freq=20, num_eval_envs=2)
    assert same(run, other)
    evaluations = json.loads((other / "results.json").read_text())["evaluations"]
    assert [entry["step"] for entry in evaluations] == [20, 40, 60]


@pytest.mark.parametrize("phase, step", [("morse", 17), ("policy", 25), ("policy", 30), ("policy", 59)])
def test_resume_gives_the_same_weights(run, pointmaze, tmp_path, monkeypatch, phase, step):
    """Stopped in either phase and gone on with, a run ends as one that was not stopped, bit for bit."""
    calls = {"n": 0}
    name = "morse_loss" if phase == "morse" else "critic_loss"
    original = getattr(td3_bst, name)

    def stop(*args):
        calls["n"] += 1
        if calls["n"] == step:
            raise KeyboardInterrupt
        return original(*args)

    monkeypatch.setattr(td3_bst, name, stop)
    with pytest.raises(SystemExit, match="--resume"):
        train(pointmaze, tmp_path)
    monkeypatch.setattr(td3_bst, name, lambda *args: calls.update(n=calls["n"] + 1) or original(*args))
    (stopped,) = tmp_path.iterdir()
    assert not same(run, stopped)
    if phase == "morse":
        with pytest.raises(UserError, match="has no policy that can be evaluated"):
            main(parse_args(["--evaluate", str(stopped)]))
    main(parse_args(["--resume", str(stopped)]))
    assert same(run, stopped)
    assert calls["n"] - step == {"morse": 30, "policy": 60}[phase] - (step - 1) // 10 * 10  # from the last multiple of log_freq
    ours, theirs = (json.loads((path / "results.json").read_text())["evaluations"] for path in (run, stopped))
    assert ours == theirs


def train_until_stopped(pointmaze, tmp_path, monkeypatch):
    """The folder of a run that a patch interrupts, once the patches are taken back."""
    with pytest.raises(SystemExit, match="--resume"):
        train(pointmaze, tmp_path)
    monkeypatch.undo()
    (stopped,) = tmp_path.iterdir()
    return stopped


def test_stop_before_the_first_checkpoint(run, pointmaze, tmp_path, monkeypatch):
    monkeypatch.setattr(td3_bst, "morse_loss", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
    stopped = train_until_stopped(pointmaze, tmp_path, monkeypatch)
    main(parse_args(["--resume", str(stopped)]))
    assert same(run, stopped)


def test_stop_while_a_checkpoint_is_written(run, pointmaze, tmp_path, monkeypatch):
    """Half a file never takes the place of a whole one."""
    original, calls = torch.save, []

    def stop(content, path):
        calls.append(path)
        original(content, path)
        if len(calls) == 7:  # 3 in Morse training, then two in each log entry, the model's first
            path.write_bytes(path.read_bytes()[:100])
            raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", stop)
    stopped = train_until_stopped(pointmaze, tmp_path, monkeypatch)
    assert torch.load(stopped / "checkpoint.pt", weights_only=True)["done"] == {"morse": 30, "policy": 10}
    main(parse_args(["--resume", str(stopped)]))
    assert same(run, stopped)


def test_stop_while_results_are_written(run, pointmaze, tmp_path, monkeypatch):
    """They stay whole, and the policy that they are of is there before them, as they make a run count as finished."""
    original, calls = Path.write_text, []

    def stop(path, text):
        original(path, text[:100] if len(calls) == 2 else text)
        calls.append(path)  # args.json, then results.json at steps 30 and 60
        if len(calls) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_text", stop)
    stopped = train_until_stopped(pointmaze, tmp_path, monkeypatch)
    assert [e["step"] for e in json.loads((stopped / "results.json").read_text())["evaluations"]] == [30]
    saved, whole = (torch.load(folder / "model.pt", weights_only=True)["actor"] for folder in (stopped, run))
    assert all(torch.equal(saved[name], whole[name]) for name in whole)


def test_steps_per_second(pointmaze, tmp_path, monkeypatch):
    """Of the steps since the last entry, evaluations and their like apart."""
    clock = [0.0]

    def taking(seconds, function):
        def timed(*args):
            clock[0] += seconds
            return function(*args)

        return timed

    monkeypatch.setattr(td3_bst, "time", SimpleNamespace(time=lambda: clock[0], time_ns=time.time_ns))
    monkeypatch.setattr(td3_bst, "update", taking(0.5, td3_bst.update))
    monkeypatch.setattr(td3_bst, "evaluate", taking(9, td3_bst.evaluate))
    run = train(pointmaze, tmp_path, weighting="constant")
    rates = [e.value for e in EventAccumulator(str(run)).Reload().Scalars("speed/policy_steps_per_second")]
    assert rates == [4.0] * 6


def test_stop_during_an_evaluation(run, pointmaze, tmp_path, monkeypatch):
    monkeypatch.setattr(td3_bst, "evaluate", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
    stopped = train_until_stopped(pointmaze, tmp_path, monkeypatch)
    main(parse_args(["--resume", str(stopped)]))
    assert same(run, stopped)
    evaluations = json.loads((stopped / "results.json").read_text())["evaluations"]
    assert [e["step"] for e in evaluations] == [30, 60]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_signals(pointmaze, tmp_path, number):
    """Ctrl-C and a kill of the real process, with another run as the reference."""
    kwargs = TINY | {"env_id": pointmaze, "morse_steps": 200, "total_timesteps": 2000, "eval_freq": 1000, "log_freq": 50}
    own = {"runs_dir": tmp_path / "a b", "anneal_actor_learning_rate": True}  # as `train` has it
    command = [sys.executable, str(ROOT / "td3_bst.py"), *flags(**kwargs, **own)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command, **pipes, text=True, preexec_fn=heed_ctrl_c)
    deadline = time.time() + 120
    while not list(tmp_path.glob("a b/*/checkpoint.pt")) and time.time() < deadline:
        time.sleep(0.05)
    time.sleep(0.5)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode != 0
    (stopped,) = (tmp_path / "a b").iterdir()
    if number == signal.SIGINT:
        assert f"--resume '{stopped}'" in err and "Traceback" not in err
    run_script("td3_bst.py", "--resume", str(stopped))
    whole = train(pointmaze, tmp_path / "b", **{key: value for key, value in kwargs.items() if key != "env_id"})
    assert same(whole, stopped)


def test_evaluating_again_gives_the_same_figure(run):
    last = json.loads((run / "results.json").read_text())["evaluations"][-1]
    process = run_script("td3_bst.py", "--evaluate", str(run))
    assert process.stdout.splitlines()[-1] == f"score {last['score']}, return {last['return_mean']}"


def test_the_policy_is_what_is_evaluated_saved_and_logged(pointmaze, tmp_path, monkeypatch):
    """Not its target, say; and figures are means over the batch. `--evaluate` takes the saved one, on its own seed."""
    seen = []

    def score(actor, info, args):
        seen.append((actor.state_dict(), args.seed))
        return {"score": 12.0, "return_mean": 3.0, "returns": [3.0], "lengths": [1], "terminations": [False]}

    def update(*args, original=td3_bst.update):
        return original(*args) | {"figure": torch.tensor([1.0, 2.0, 6.0])}

    monkeypatch.setattr(td3_bst, "score_policy", score)
    monkeypatch.setattr(td3_bst, "update", update)
    run = train(pointmaze, tmp_path, matmul_precision="medium", tau=0.3)
    assert torch.get_float32_matmul_precision() == "medium"
    torch.set_float32_matmul_precision("highest")
    saved = torch.load(run / "checkpoint.pt", weights_only=True)["actor"]
    main(parse_args(["--evaluate", str(run), "--seed", "5"]))
    model = torch.load(run / "model.pt", weights_only=True)["actor"]
    for state in (seen[-2][0], seen[-1][0], model):
        assert state.keys() == saved.keys() and all(torch.equal(state[key], saved[key]) for key in saved)
    assert [seed for _, seed in seen] == [1, 1, 5]
    events = EventAccumulator(str(run)).Reload()
    logged = {"figure": [3] * 6, "evaluation/score": [12, 12], "evaluation/return": [3, 3]}
    assert {tag: [e.value for e in events.Scalars(tag)] for tag in logged} == logged


def test_the_seed_is_of_weights_and_of_draws(pointmaze, tmp_path, monkeypatch):
    seen = []

    def spy(agent, data, args, generator, *_):
        seen.append((agent.actor.net[0].weight[0, 0].item(), generator.initial_seed()))

    monkeypatch.setattr(td3_bst, "train", spy)
    for seed in (1, 1, 2):
        train(pointmaze, tmp_path, seed=seed)
    assert seen[0] == seen[1] and seen[0][0] != seen[2][0] and seen[0][1] != seen[2][1]


def test_model_acts_without_this_repository(run, monkeypatch):
    """The snippet of the README, as it stands there."""
    monkeypatch.chdir(run)
    names = {}
    exec(readme_lines("model.pt"), names)
    obs, model, info = torch.randn(8), names["model"], names["info"]
    actor = td3_bst.Actor(8, 2, model["args"]["actor_hidden_dims"])
    actor.load_state_dict(names["state"])
    np.testing.assert_allclose(td3_bst.make_policy(actor, info)(obs.numpy()), names["act"](obs), rtol=1e-5, atol=1e-6)


def test_resume_refuses_other_arguments(run):
    for changed in (["--seed", "2"], ["--temperature", "0.3"], ["--total-timesteps", "90"]):
        with pytest.raises(UserError, match=changed[0].strip("-").replace("-", "_")):
            main(parse_args(["--resume", str(run), *changed]))


@pytest.mark.parametrize("name, value", [("dataset_id", "td3-bst/pointmaze-umaze-v7"), ("transitions", 7), ("terminal", 7)])
def test_resume_refuses_another_dataset(run, tmp_path, name, value):
    """A short name can come to mean a newer version of its dataset, and a dataset can be made anew."""
    old = shutil.copytree(run, tmp_path / "old")
    record = json.loads((old / "args.json").read_text())
    (old / "args.json").write_text(json.dumps(record | {name: value}))
    had, here = ({name: x} for x in (value, record[name]))
    files = sorted(old.iterdir())
    with pytest.raises(UserError, match=re.escape(f"was on data with {had}, here {here}; start a new run")):
        main(parse_args(["--resume", str(old)]))
    assert sorted(old.iterdir()) == files  # no events of a run that was not


@pytest.mark.parametrize("key", ["observations", "actions", "rewards"])
def test_resume_refuses_other_values(tmp_path, key):
    """As of a file that was repaired meanwhile: as many rows, and ends at the same ones."""
    arrays = {"observations": np.zeros((200, 4)), "actions": np.zeros((200, 3)), "rewards": np.zeros(200)}
    fields = {"timeouts": np.arange(200) % 20 == 19}
    run = train(write_hdf5(tmp_path / "a.hdf5", 200, **arrays, **fields), tmp_path / "runs")
    main(parse_args(["--resume", str(run)]))
    arrays[key][7] = 0.5
    write_hdf5(tmp_path / "a.hdf5", 200, **arrays, **fields)
    with pytest.raises(UserError, match="was on data with {'checksum': .*}; start a new run"):
        main(parse_args(["--resume", str(run)]))
    record = json.loads((run / "args.json").read_text())
    del record["checksum"]  # of a version that did not know it
    (run / "args.json").write_text(json.dumps(record))
    main(parse_args(["--resume", str(run)]))


def test_evaluate_does_not_blame_the_policy_for_the_environment(run, monkeypatch):
    def fail(*args):
        raise RuntimeError("the simulator is unstable")

    monkeypatch.setattr(td3_bst, "evaluate", fail)
    with pytest.raises(RuntimeError, match="unstable"):
        main(parse_args(["--evaluate", str(run)]))


def test_evaluate_says_so_if_the_environment_cannot_be_made(run, tmp_path):
    old = shutil.copytree(run, tmp_path / "old")
    model = torch.load(old / "model.pt", weights_only=True)
    model["info"]["env_spec"] = json.dumps(json.loads(model["info"]["env_spec"]) | {"entry_point": "gone.away:Env"})
    torch.save(model, old / "model.pt")
    with pytest.raises(UserError, match="cannot make the evaluation environment .*'gone'.*; install the package"):
        main(parse_args(["--evaluate", str(old)]))


def test_resume_refuses_a_run_of_an_older_version(run, tmp_path):
    """Its record lacks an argument, whose default need not be what the run did. Its policy can be evaluated."""
    old = shutil.copytree(run, tmp_path / "old")
    record = json.loads((old / "args.json").read_text())
    del record["args"]["tau"]
    (old / "args.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match="of a version without tau; .*start a new run"):
        parse_args(["--resume", str(old)])
    parse_args(["--evaluate", str(old)])


def test_resume_keeps_the_runs_own_record(pointmaze, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["td3_bst.py", "--the", "first command"])
    run = train(pointmaze, tmp_path)
    monkeypatch.setattr(sys, "argv", ["td3_bst.py", "--resume", "x"])
    before = (run / "args.json").read_text()
    main(parse_args(["--resume", str(run)]))
    assert (run / "args.json").read_text() == before
    assert json.loads(before)["command"] == "python td3_bst.py --the 'first command'"


def test_evaluate_takes_only_what_concerns_it(run):
    parse_args(["--evaluate", str(run), "--eval-episodes", "2", "--num-eval-envs", "1", "--seed", "5"])
    for changed in (["--env-id", "pen-human"], ["--actor-hidden-dims", "8"]):
        with pytest.raises(UserError, match=changed[0].strip("-").replace("-", "_")):
            parse_args(["--evaluate", str(run), *changed])


def test_damaged_files_of_a_run(run, tmp_path):
    for name, flag, problem in (
        ("checkpoint.pt", "--resume", "cannot read .*checkpoint.pt"),
        ("model.pt", "--evaluate", "has no policy"),
        ("args.json", "--resume", "is not the folder of a run"),
    ):
        copy = tmp_path / name
        shutil.copytree(run, copy)
        (copy / name).write_bytes((copy / name).read_bytes()[:100])
        with pytest.raises(UserError, match=problem):
            main(parse_args([flag, str(copy)]))


def test_losses_that_are_not_finite_stop_the_run(pointmaze, tmp_path, monkeypatch):
    original, calls = td3_bst.critic_loss, []

    def overflow(*args):
        calls.append(1)
        loss, metrics = original(*args)
        factor = float("nan") if len(calls) > 24 else 1
        return loss * factor, {name: value * factor for name, value in metrics.items()}

    monkeypatch.setattr(td3_bst, "critic_loss", overflow)
    with pytest.raises(UserError, match="loss/critic is nan.* at policy step 30"):
        train(pointmaze, tmp_path)
    (stopped,) = tmp_path.iterdir()
    assert torch.load(stopped / "checkpoint.pt", weights_only=True)["done"]["policy"] == 20
    assert all(torch.isfinite(value).all() for value in weights(stopped).values())


def test_a_loss_that_is_infinite_stops_the_run(pointmaze, tmp_path, monkeypatch):
    """And not only one that is NaN; the weights are still finite then."""
    original = td3_bst.update
    monkeypatch.setattr(td3_bst, "update", lambda *a: original(*a) | {"loss/critic": torch.tensor(float("inf"))})
    with pytest.raises(UserError, match="loss/critic is inf at policy step 10"):
        train(pointmaze, tmp_path, morse_steps=1)


@pytest.mark.parametrize("name", ["actor", "critic", "target_actor", "target_critic", "morse"])
def test_weights_that_are_not_finite_are_not_saved(pointmaze, tmp_path, monkeypatch, name):
    """The losses of a step are those before its weights changed."""
    original, calls = td3_bst.update, []

    def spoil(agent, *args):
        metrics = original(agent, *args)
        calls.append(1)
        if len(calls) == 5:
            next(getattr(agent, name).parameters()).data.view(-1)[0] = float("inf")
        return metrics

    monkeypatch.setattr(td3_bst, "update", spoil)
    with pytest.raises(UserError, match=f"a weight of the {name} is not finite at policy step 10"):
        train(pointmaze, tmp_path)
    (stopped,) = tmp_path.iterdir()
    assert all(torch.isfinite(value).all() for value in weights(stopped).values())


def test_hdf5_without_environment_trains_and_evaluates_nothing(tmp_path, capsys):
    obs = np.random.default_rng(0).normal(size=(200, 4))
    path = write_hdf5(tmp_path / "mine.hdf5", 200, observations=obs, timeouts=np.arange(200) % 20 == 19)
    run = train(path, tmp_path / "runs")
    assert not (run / "results.json").exists() and (run / "model.pt").exists()
    assert "so the policy is not evaluated; --eval-env-id names one" in capsys.readouterr().out
    train(path, tmp_path / "runs", eval_env_id="none")
    assert "not evaluated" not in capsys.readouterr().out  # it was asked for
    with pytest.raises(UserError, match="has no environment to evaluate in; .*--eval-env-id"):
        main(parse_args(["--evaluate", str(run)]))


def test_a_copy_of_the_file_alone_trains(pointmaze, tmp_path):
    shutil.copy(ROOT / "td3_bst.py", tmp_path)
    command = [sys.executable, "td3_bst.py", *flags(**TINY, env_id=pointmaze)]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    process = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert process.returncode == 0, process.stderr
    (run,) = (tmp_path / "runs").iterdir()
    record = json.loads((run / "results.json").read_text())
    assert record["evaluations"][-1]["step"] == 60 and record["commit"] == ""  # of no repository
