"""Every bad input ends in one clear line and a non-zero exit."""

import collections
import contextlib
import json
import runpy
import sys
from types import SimpleNamespace

import gymnasium as gym
import iql_bst
import minari
import numpy as np
import pytest
import td3_bst
import torch
from conftest import ROOT, box, make_minari, run_script
from td3_bst import Args, UserError, check, main, parse_args, resolve, write_file
from test_data import ACTIONS, episode, load, write_hdf5


@pytest.mark.parametrize(
    "name, value",
    [
        *[(name, x) for name in ("kernel_scale_factor", "rq_shape", "actor_learning_rate") for x in (0.0, -1.0, np.nan)],
        *[(name, 0) for name in "batch_size morse_batch_size num_uniform eval_episodes num_eval_envs log_freq".split()],
        *[("temperature", value) for value in (0.0, -1.0, 0.01, np.inf)],
        *[("dataset_fraction", value) for value in (0.0, 1.1)],
        *[("discount", value) for value in (-0.1, 1.0)],
        *[("tau", value) for value in (0.0, 2.0)],
        ("total_timesteps", -1),
        ("critic_hidden_dims", (256, 0)),
        ("q_weight", -1.0),
        ("reward_shift", np.inf),
        ("reward_scale", 0.0),
    ],
)
def test_arguments_out_of_range(name, value):
    with pytest.raises(UserError, match="--" + name.replace("_", "-")):
        resolve(Args(**{name: value}))


@pytest.mark.parametrize("name", ["total_timesteps", "eval_freq", "log_freq"])
def test_policy_frequency_divides_them(name):
    with pytest.raises(UserError, match=f"--{name.replace('_', '-')} must be a multiple of --policy-frequency, 2"):
        main(Args(**{name: 61}))


@pytest.mark.parametrize(
    "script, flags, needed",
    [
        (td3_bst, "--constant-weight 2", "--weighting constant"),
        (td3_bst, "--rq-shape 2", "--kernel rq"),
        (td3_bst, "--morse-checkpoint a.pt --weighting constant", "--weighting morse"),
        (iql_bst, "--inverse-temperature 1", "--policy-extraction awr"),
        (iql_bst, "--q-weight 0 --policy-extraction awr", "--policy-extraction bst"),
        (td3_bst, "--no-detach-weight --weighting constant", "--weighting morse"),
        (iql_bst, "--rq-shape 2 --kernel rq --policy-extraction awr", "--policy-extraction bst"),
        (iql_bst, "--no-detach-weight --policy-extraction awr", "--policy-extraction bst"),
        (td3_bst, "--temperature 3 --weighting constant", "--weighting morse"),
        (iql_bst, "--temperature 3 --policy-extraction awr", "--policy-extraction bst"),  # not IQL's, which is inverse
    ],
)
def test_arguments_that_would_do_nothing(script, flags, needed):
    with pytest.raises(script.UserError, match=f"^{flags.split()[0]} does nothing without {needed}; "):
        script.parse_args(flags.split())
    script.parse_args([*flags.split(), *needed.split()])  # the later of two holds


@pytest.mark.parametrize("script", [td3_bst, iql_bst])
def test_arguments_that_need_another_one(script):
    names = vars(script.Args()).keys()
    assert all(name in names and other in names for name, other, _ in script.NEEDS)


def test_smallest_values_are_fine():
    resolve(Args(temperature=1 / 30, q_weight=0.0, policy_noise=0.0, reward_shift=-1.0, seed=0, detach_weight=False))


@pytest.mark.parametrize(
    "env_id, near",
    [
        ("antmaze-larg-diverse", "antmaze-large-diverse"),
        ("hoper-medium-v2", "hopper-medium-v2"),
        ("pen-humans", "pen-human"),
    ],
)
def test_unknown_id(env_id, near):
    with pytest.raises(UserError, match=f"no dataset '{env_id}'; near matches: .*{near}"):
        load(env_id)


@pytest.mark.parametrize("env_id, near", [("td3-bst/pointmaz-umaze-v1", "td3-bst/pointmaze-umaze-v1"), ("qqqqqqqq/zzzzzzzz", "")])
def test_unknown_minari_id(pointmaze, env_id, near):
    """Where the remote cannot be asked, what is known without it is named."""
    with pytest.raises(UserError, match=f"{env_id} is not in .* copy its folder below .*") as error:
        load(env_id)
    assert str(error.value).partition("; near matches: ")[2].startswith(near)
    assert ("near matches" in str(error.value)) == bool(near)


def test_unknown_id_without_near_matches():
    with pytest.raises(UserError, match="near matches: none"):
        load("xyzzy")


@pytest.mark.parametrize("maze", ["pointmaze-large", "antmaze-umaze", "antmaze-large-diverse"])
@pytest.mark.parametrize("form", ["{}", "{}-v1", "td3-bst/{}-v0"])
def test_absent_dataset_and_unreachable_remote(maze, form):
    advice = f"recreate it: `python benchmark/make_dataset.py {maze}`, then --env-id td3-bst/{maze}$"
    name = form.format(maze)
    name = name if name.startswith("td3-bst/") else "D4RL/" + name.replace("-", "/", 1)  # as Minari has it
    with pytest.raises(UserError, match=f"^{name} is not in .* cannot be downloaded .*; {advice}"):
        load(form.format(maze))


@pytest.mark.parametrize("form", ["{}", "td3-bst/{}-v7"])
def test_absent_dataset_that_was_recreated(form, pointmaze):
    with pytest.raises(UserError, match=f"cannot be downloaded .*; pass --env-id {pointmaze}, which is there$"):
        load(form.format("pointmaze-umaze"))


def test_absent_dataset_with_one_goal():
    name = "td3-bst/antmaze-umaze-diverse-one-goal-v0"
    advice = f"`python benchmark/make_dataset.py antmaze-umaze-diverse --one-goal`, then --env-id {name[:-3]}$"
    with pytest.raises(UserError, match=f"cannot be downloaded .*; recreate it: {advice}"):
        load(name)


@pytest.mark.parametrize("name", ["D4RL/pen/human-v7", "pen-human"])
def test_dataset_of_another_minari(name, tmp_path, monkeypatch):
    """It is there, so that it could be downloaded, or copied there, is no advice."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    path = tmp_path / make_minari("D4RL/pen/human-v7", [episode(0, 3)], box(2), ACTIONS)
    file = path / "data" / "metadata.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"minari_version": "0.3.1"}))
    with pytest.raises(UserError, match=f"^{path} is of Minari 0.3.1, which .* cannot read; delete it"):
        load(name)


def test_absent_locomotion_file(monkeypatch, tmp_path):
    monkeypatch.setattr("td3_bst.D4RL_URL", (tmp_path / "nothing").as_uri())
    with pytest.raises(UserError, match="cannot download .*walker2d_medium-v2.hdf5.*by hand, or recreate it: "):
        load("walker2d-medium-v2")
    monkeypatch.setenv("MINARI_DATASETS_PATH", "/proc/nowhere")  # not needed for this
    with pytest.raises(UserError, match="cannot download .*by hand, or recreate it: "):
        load("walker2d-medium-v2")
    (tmp_path / "td3-bst" / "walker2d-medium-v0").mkdir(parents=True)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    with pytest.raises(UserError, match="by hand, or pass --env-id td3-bst/walker2d-medium-v0, which is there"):
        load("walker2d-medium-v2")


@pytest.mark.parametrize("content", [b"", b"not HDF5", None])
def test_corrupt_hdf5(tmp_path, content):
    path = tmp_path / "a.hdf5"
    write_hdf5(path, 1000, timeouts=np.arange(1000) % 10 == 9)
    path.write_bytes(path.read_bytes()[:5000] if content is None else content)
    with pytest.raises(UserError, match=f"cannot read {path}"):
        load(str(path))


def test_missing_hdf5(tmp_path):
    with pytest.raises(UserError, match="there is no file .*none.hdf5"):
        load(str(tmp_path / "none.hdf5"))


def test_file_of_another_name(tmp_path, monkeypatch):
    """HDF5 files are told by their suffix; others, and folders, are not taken for Minari ids."""
    path = write_hdf5(tmp_path / "FULL.HDF5", 8, timeouts=np.arange(8) == 7)
    monkeypatch.chdir(tmp_path)
    for name in (path, "FULL.HDF5", str(tmp_path)):
        with pytest.raises(UserError, match=f"^{name} is a path, but does not end in .hdf5"):
            load(name)


def test_hdf5_fields(tmp_path):
    timeouts = np.arange(8) == 7
    for fields, problem in [
        ({"rewards": None, "timeouts": timeouts}, "'rewards' doesn't exist"),
        ({"actions": np.zeros((7, 3)), "timeouts": timeouts}, "7 rows of actions, but 8 of terminals"),
        ({"timeouts": None}, "neither next_observations nor timeouts"),
        ({"terminals": None, "timeouts": timeouts}, "'terminals' doesn't exist"),
        ({"terminals": np.where(timeouts, np.nan, 0), "timeouts": timeouts}, "terminals other than 0 and 1"),
        ({"terminals": -1.0 * timeouts, "timeouts": timeouts}, "terminals other than 0 and 1"),
        ({"timeouts": np.where(timeouts, np.nan, 0)}, "timeouts other than 0 and 1"),
        ({"actions": np.zeros((8, 3), int), "timeouts": timeouts}, "actions of type int64; only continuous"),
        ({"actions": np.full((8, 3), 1.5), "timeouts": timeouts}, "up to 0.5 outside .*for an .hdf5.* pass --eval-env-id"),
        ({}, "no complete episode"),
    ]:
        with pytest.raises(UserError, match=problem):
            load(write_hdf5(tmp_path / "a.hdf5", 8, **fields))
    with pytest.raises(UserError, match="no complete episode"):
        load(write_hdf5(tmp_path / "a.hdf5", 0))


def test_values_that_are_not_finite(tmp_path):
    shapes = {"observations": (8, 2), "actions": (8, 3), "rewards": (8,), "next_observations": (8, 2)}
    for key, shape in shapes.items():
        array = np.zeros(shape)
        array[3] = np.nan
        array[4] = np.inf
        count = int(2 * np.prod(shape[1:]))
        with pytest.raises(UserError, match=f"{count} NaN or infinite values in {key}"):
            load(write_hdf5(tmp_path / "a.hdf5", 8, timeouts=np.arange(8) == 7, **{key: array}))


def test_action_spaces():
    one = episode(0, 3)
    discrete = make_minari("bad/discrete-v0", [one | {"actions": np.array([0, 1, 0])}], box(2), gym.spaces.Discrete(2))
    with pytest.raises(UserError, match="Discrete.*not continuous"):
        load(discrete)
    with pytest.raises(UserError, match="not continuous vectors with finite bounds"):
        load(make_minari("bad/unbounded-v0", [one], box(2), box(2)))
    for version, value in enumerate((2.0, -2.0)):
        with pytest.raises(UserError, match="actions up to 1 outside"):
            load(make_minari(f"bad/outside-v{version}", [one | {"actions": np.full((3, 2), value)}], box(2), ACTIONS))
    rounded = one | {"actions": np.full((3, 2), 1 + 1e-6)}
    assert (load(make_minari("bad/rounded-v0", [rounded], box(2), ACTIONS))[0]["actions"] == 1).all()
    small = gym.spaces.Box(-1e-3, 1e-3, (2,))  # what counts as rounding depends on the bounds
    with pytest.raises(UserError, match="actions up to 9e-05 outside"):
        load(make_minari("bad/small-v0", [one | {"actions": np.full((3, 2), 1.09e-3)}], box(2), small))


def test_a_file_with_rows_missing_is_refused(tmp_path):
    path = write_hdf5(tmp_path / "a.hdf5", 8, timeouts=np.arange(8) == 7, observations=np.zeros((16, 2)))
    with pytest.raises(UserError, match="16 rows of observations, but 8 of terminals"):
        load(path)


def test_a_dataset_that_is_read_in_part_is_refused():
    """Minari loses what follows the first 32,768 steps of an episode that it stored in Arrow's format."""
    name = make_minari("bad/short-v0", [episode(0, 3), episode(10, 4)], box(2), ACTIONS)
    file = minari.storage.get_dataset_path(name) / "data" / "metadata.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"total_steps": 9}))
    with pytest.raises(UserError, match="has 9 transitions, of which only 7 can be read"):
        load(name)


def test_observation_spaces():
    one = episode(0, 3) | {"observations": np.arange(4)}
    with pytest.raises(UserError, match="Discrete.*not supported"):
        load(make_minari("bad/observation-v0", [one], gym.spaces.Discrete(5), ACTIONS))


def test_goal_scale_without_goals(tmp_path, capsys):
    """Refused if asked for. AntMaze's default is one, and D4RL's own files there are flat: nothing is scaled."""
    one = episode(0, 3)
    parts = {"observations": {"position": one["observations"]}}
    for name in (
        write_hdf5(tmp_path / "a.hdf5", 8, timeouts=np.arange(8) == 7),
        make_minari("bad/goalless-v0", [one], box(2), ACTIONS),
        make_minari("bad/goalless-dict-v0", [one | parts], gym.spaces.Dict({"position": box(2)}), ACTIONS),
    ):
        load(name, goal_scale=1.0)
        with pytest.raises(UserError, match=f"{name} have no goals for --goal-scale"):
            load(name, goal_scale=4.0)
    name = make_minari("bad/ant_maze-flat-v0", [episode(0, 3)], box(2), ACTIONS)
    as_is = load(name, goal_scale=1.0)[0]
    out = capsys.readouterr().out
    assert "goal_scale" not in out and out.count("a maze without goals in its observations") == 1  # the last one
    default = load(name, goal_scale=None)[0]
    assert "goal_scale does nothing" in capsys.readouterr().out
    np.testing.assert_array_equal(default["observations"], as_is["observations"])
    with pytest.raises(UserError, match="have no goals for --goal-scale"):
        load(name, goal_scale=2.0)


def test_empty_dataset():
    with pytest.raises(UserError, match="no complete episode"):
        load(make_minari("bad/empty-v0", [], box(2), ACTIONS))


def test_environment_that_differs(tmp_path):
    path = write_hdf5(tmp_path / "a.hdf5", 8, timeouts=np.arange(8) == 7)
    with pytest.raises(UserError, match="Hopper-v4 observes .*--eval-env-id"):
        load(path, eval_env_id="Hopper-v4")
    path = write_hdf5(tmp_path / "b.hdf5", 8, observations=np.zeros((8, 3)), timeouts=np.arange(8) == 7)
    name = make_minari("bad/pendulum-v0", [episode(0, 3) | {"observations": np.zeros((4, 3))}], box(3), ACTIONS)
    with pytest.raises(UserError, match="Pendulum-v1 takes actions"):
        load(name, eval_env_id="Pendulum-v1")
    wide = make_minari("bad/cartpole-v0", [episode(0, 3) | {"observations": np.zeros((4, 4))}], box(4), ACTIONS)
    with pytest.raises(UserError, match="CartPole-v1 takes actions Discrete"):
        load(wide, eval_env_id="CartPole-v1")
    with pytest.raises(UserError, match="cannot make the evaluation environment"):
        load(path, eval_env_id="NoSuchEnvironment-v4")


@pytest.mark.parametrize("high, ok", [(0.4, True), (0.41, False)])
def test_bounds_that_differ_in_precision_only(high, ok):
    """As those of a simulator in float32 and of data recorded through a wrapper in float64."""
    arrays = {"rewards": np.zeros(3), "actions": np.zeros((3, 2))}
    single, double = gym.spaces.Box(-0.4, 0.4, (2,), np.float32), gym.spaces.Box(-high, high, (2,), np.float64)
    env = SimpleNamespace(observation_space=box(2), action_space=single, spec=gym.spec("Humanoid-v5"))
    with contextlib.nullcontext() if ok else pytest.raises(UserError, match="Humanoid-v5 takes actions"):
        check("a/b-v0", arrays, box(2), double, env)


class Unsorted(gym.Env):
    """Its observations' keys are in another order than Minari stores them in."""

    observation_space = gym.spaces.Dict(collections.OrderedDict(b=box(2), a=box(2)))
    action_space = ACTIONS


def test_environment_whose_observations_have_another_order(monkeypatch):
    """The policy would see them permuted."""
    spec = gym.envs.registration.EnvSpec("Unsorted-v0", entry_point="test_bad_input:Unsorted", disable_env_checker=True)
    monkeypatch.setitem(gym.registry, "Unsorted-v0", spec)
    obs = {key: np.zeros((4, 2), np.float32) for key in "ab"}
    space = gym.spaces.Dict(a=box(2), b=box(2))
    name = make_minari("bad/order-v0", [episode(0, 3) | {"observations": obs}], space, ACTIONS)
    with pytest.raises(UserError, match="Unsorted-v0 observes"):
        load(name, eval_env_id="Unsorted-v0")


def test_environment_that_cannot_be_stored(monkeypatch, tmp_path):
    """An entry point that is a class has no name to find it by in another process."""
    monkeypatch.setitem(gym.registry, "Class-v0", gym.envs.registration.EnvSpec("Class-v0", entry_point=Unsorted))
    path = write_hdf5(tmp_path / "a.hdf5", 8, timeouts=np.arange(8) == 7)
    with pytest.raises(UserError, match="cannot make the evaluation environment"):
        load(path, eval_env_id="Class-v0")


def test_environment_that_cannot_be_made():
    """A dataset's own, of a package that is not installed: the data can be trained on without evaluation."""
    spec = gym.envs.registration.EnvSpec("Absent-v0", entry_point="no_such_package:Env")
    name = make_minari("bad/absent-v0", [episode(0, 3)], box(2), ACTIONS)
    minari.load_dataset(name).storage.update_metadata({"env_spec": spec.to_json()})
    with pytest.raises(UserError, match="No module named 'no_such_package'.*--eval-env-id, or none"):
        load(name)
    assert load(name, eval_env_id="none")[1]["env_spec"] is None


@pytest.mark.parametrize("content", ["text", {"weights": torch.zeros(100_000)}])
def test_full_disk(tmp_path, content):
    """One clear line; the file of before is kept, and nothing half written is left."""
    path = tmp_path / "file"
    path.write_text("before")
    (tmp_path / "file.part").symlink_to("/dev/full")  # where writing fails as on a full disk
    with pytest.raises(UserError, match=f"cannot write {path} .*space"):
        write_file(path, content)
    assert [p.name for p in tmp_path.iterdir()] == ["file"] and path.read_text() == "before"


def test_cuda_without_cuda(pointmaze):
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    with pytest.raises(UserError, match="--device cuda"):
        main(Args(env_id=pointmaze, device="cuda"))


def test_device_that_holds_no_data(pointmaze):
    with pytest.raises(UserError, match="--device must be cpu, cuda or cuda:N, got meta"):
        main(Args(env_id=pointmaze, device="meta"))


def test_folder_that_cannot_be_written(pointmaze, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write to .*--runs-dir"):
        main(Args(env_id=pointmaze, runs_dir=str(tmp_path / "file")))


def test_resume_or_evaluate(tmp_path):
    with pytest.raises(UserError, match="exclude each other"):
        parse_args(["--resume", str(tmp_path), "--evaluate", str(tmp_path)])


def test_dataset_folder_that_cannot_be_made(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "file" / "below"))
    with pytest.raises(UserError, match="cannot list Minari's datasets"):
        load("pen-human")


def test_folder_that_is_no_run(tmp_path):
    for flag in ("--resume", "--evaluate"):
        with pytest.raises(UserError, match="is not the folder of a run"):
            parse_args([flag, str(tmp_path)])
        with pytest.raises(UserError, match="'' is not the folder of a run"):  # of an unset variable, say
            parse_args([flag, ""])


def test_command_line(tmp_path):
    """One line on standard error, no traceback, a non-zero exit, nothing left behind."""
    process = run_script("td3_bst.py", "--env-id", "antmaze-larg-diverse", cwd=tmp_path, ok=False)
    assert process.returncode == 1 and "Traceback" not in process.stderr
    assert process.stderr.splitlines()[-1].startswith("error: there is no dataset 'antmaze-larg-diverse'")
    assert not list(tmp_path.iterdir())
    assert run_script("td3_bst.py", "--no-such-flag", cwd=tmp_path, ok=False).returncode == 2


def test_compile_without_a_compiler(pointmaze, tmp_path):
    """Said at the start, not after the Morse network's training. An evaluation compiles nothing."""
    flags = ("--env-id", pointmaze, "--compile", "--device", "cpu", "--runs-dir", str(tmp_path / "runs"))
    without = {"CXX": "/none", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    process = run_script("td3_bst.py", *flags, ok=False, **without)
    assert process.returncode == 1 and not (tmp_path / "runs").exists()
    assert process.stderr.splitlines()[-1].startswith("error: --compile cannot be used here")
    process = run_script("td3_bst.py", *flags, ok=False, TORCH_COMPILE_DISABLE="1")
    assert process.returncode == 1 and "error: --compile cannot be used here" in process.stderr
    run = tmp_path / "run"
    run.mkdir()
    (run / "args.json").write_text(json.dumps({"args": {"env_id": pointmaze, "device": "cpu", "compile": True}}))
    process = run_script("td3_bst.py", "--evaluate", str(run), ok=False, **without)
    assert process.stderr.splitlines()[-1].startswith(f"error: {run} has no policy that can be evaluated")


def test_dataset_maker(pointmaze):
    process = run_script("benchmark/make_dataset.py", "pointmaze-umaze", ok=False)
    assert process.returncode == 1 and "delete that folder first" in process.stderr
    process = run_script("benchmark/make_dataset.py", "pointmaze-large", "--steps", "0", ok=False)
    assert process.returncode == 1 and "--steps must be at least 1" in process.stderr


def test_ctrl_c_while_loading(pointmaze, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(minari, "load_dataset", stop)
    monkeypatch.setattr(sys, "argv", ["td3_bst.py", "--env-id", pointmaze, "--device", "cpu"])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(ROOT / "td3_bst.py"), run_name="__main__")
    assert stopped.value.code == 130
