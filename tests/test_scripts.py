"""The shell scripts of benchmark/: every command in them, a tiny run of each script, kill and restart, failures, SLURM."""

import fcntl
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from multiprocessing.pool import ThreadPool
from pathlib import Path

import iql_bst
import morse_only
import pytest
import td3_bst
import tyro
from conftest import ROOT, heed_ctrl_c

PATH = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # has this Python first
OTHER = ("run", "run_one", "slurm", "quickstart")  # not an experiment's list of commands
EXPERIMENTS = sorted(file.stem for file in (ROOT / "benchmark").glob("*.sh") if file.stem not in OTHER)
TINY = "--morse-steps 20 --morse-batch-size 32 --log-freq 10 --device cpu"
TINY_POLICY = TINY + " --total-timesteps 40 --eval-freq 20 --eval-episodes 2 --num-eval-envs 1 --batch-size 32"
MORE = {"ablation_weighting": "hopper-medium-v2( --q-weight 0)? --env", "iql_bst_antmaze": "umaze( --policy.*)? --env"}


@pytest.fixture
def project(tmp_path):
    """A copy of the scripts, whose runs/ is not the user's."""
    for file in (*ROOT.glob("*.py"), *(ROOT / "benchmark").glob("*.sh")):
        target = tmp_path / file.relative_to(ROOT)
        target.parent.mkdir(exist_ok=True)
        shutil.copy(file, target)
    return tmp_path


def start(project, script, *args, **env):
    command = ["bash", f"benchmark/{script}.sh", *args]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "stdin": subprocess.DEVNULL}
    env = os.environ | {"PATH": PATH, "SEEDS": "1"} | env
    return subprocess.Popen(command, cwd=project, env=env, start_new_session=True, preexec_fn=heed_ctrl_c, **pipes)


def run(project, script, *args, **env):
    """(stderr, stdout, exit status) of a script, with one seed where nothing else is said."""
    process = start(project, script, *args, **env)
    return *process.communicate(timeout=900)[::-1], process.returncode


def results(project):
    return [json.loads(file.read_text()) for file in (project / "runs").glob("*/results.json")]


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_command_is_one(experiment):
    """Each is in the form that a run stores, known to its script, in range; seeds are added to it; none is there twice."""
    _, out, code = run(ROOT, experiment, DRY_RUN="1", SEEDS="1 7")
    lines = out.splitlines()
    assert code == 0 and len(lines) == len(set(lines)) >= 8
    assert [line.replace("--seed 1", "--seed 7") for line in lines[: len(lines) // 2]] == lines[len(lines) // 2 :]
    for line in lines:
        assert shlex.join(shlex.split(line)) == line
        python, script, *words = shlex.split(line)
        module = {"td3_bst.py": td3_bst, "iql_bst.py": iql_bst, "morse_only.py": morse_only}[script]
        args = module.resolve(tyro.cli(module.Args, args=words))
        assert python == "python" and args.seed in (1, 7)
        assert experiment == "morse_only" or args.env_id == "hopper-medium-v2" or module.domain_of(args.env_id) != "other"


def test_every_script_end_to_end(project, pointmaze):
    """A few steps on a tiny dataset: the first command of each, or those that MORE picks. Runs again: nothing is left."""

    def few(experiment):
        tiny = TINY if experiment == "morse_only" else TINY_POLICY
        first = subprocess.run(["grep", "-m1", "^python", ROOT / f"benchmark/{experiment}.sh"], capture_output=True, text=True)
        picked = MORE.get(experiment, f"^{first.stdout.strip()} --env-id")
        return run(project, experiment, FILTER=picked, FLAGS=f"--env-id {pointmaze} {tiny}", WORKERS="2")

    with ThreadPool(2) as pool:
        for error, out, code in pool.map(few, EXPERIMENTS):
            assert code == 0, out + error
        runs = results(project)
        assert len(runs) >= len(EXPERIMENTS) and {record["dataset_id"] for record in runs} == {pointmaze}
        for error, out, code in pool.map(few, EXPERIMENTS):
            assert code == 0 and "start:" not in out and "finished before: python " in out
    assert len(list((project / "runs").glob("*/args.json"))) == len(runs)


def test_kill_and_restart(project, pointmaze):
    """Killed, stopped with Ctrl-C, started again: both runs go on from their checkpoints, in their folders, to the end."""
    flags = f"--env-id {pointmaze} {TINY_POLICY} --total-timesteps 2000 --eval-freq 2000"
    env = {"FILTER": "umaze --env-id", "FLAGS": flags, "WORKERS": "2", "SEEDS": "1 2"}
    for stop in (signal.SIGKILL, signal.SIGINT):
        before = {file: file.stat().st_mtime_ns for file in (project / "runs").glob("*/checkpoint.pt")}
        process, deadline = start(project, "td3_bst_antmaze", **env), time.time() + 120
        while True:  # until both runs have got further than they were
            files = list((project / "runs").glob("*/checkpoint.pt"))
            if len(files) == 2 and all(before.get(file) != file.stat().st_mtime_ns for file in files):
                break
            assert time.time() < deadline and process.poll() is None
            time.sleep(0.05)
        os.killpg(process.pid, stop)
        error = process.communicate(timeout=60)[1]
        assert process.returncode and not results(project)
    assert "rerun the command to resume" in error
    error, out, code = run(project, "td3_bst_antmaze", **env)
    assert code == 0 and out.count(" --resume runs/") == 2 and out.count(" finished: ") == 2, out + error
    assert len(files) == len(list((project / "runs").glob("*/args.json"))) == 2
    for record in results(project):
        assert [entry["step"] for entry in record["evaluations"]] == [2000]


def test_failures_are_listed(project, pointmaze):
    """One run of two fails: the other one is done, the list has the command, why and where, and the exit is not zero."""
    flags = f"--env-id {pointmaze} {TINY_POLICY}"
    env = {"FILTER": "pointmaze-medium.*q-weight 0 --env", "FLAGS": flags, "SEEDS": "1 -1"}
    error, out, code = run(project, "pointmaze", **env)
    assert code == 1 and out.count(" finished: ") == 2
    listed = error[error.index("failed:\n") :].splitlines()[1:]
    assert len(listed) == 2 and all("--seed -1: status 1, error: --seed must be" in line for line in listed)
    for line in listed:
        log = line.partition("all of it in ")[2].strip(")")
        assert "error: --seed must be" in (project / log).read_text()
    error, out, code = run(project, "pointmaze", **env)
    assert code == 1 and out.count("finished before: ") == 2 and error.count("--seed -1: status 1") == 4
    assert out.count(" start: ") == 2  # those that failed
    error, out, code = run(project, "pointmaze", **env | {"FILTER": "medium.*constant --q-weight 0", "FLAGS": "--no-such-flag 3"})
    assert code == 1 and "--seed 1: status 2, Unrecognized options: --no-such-flag, 3 (all of it in " in error


def stub(project, name, text):
    """A program of this name in the project's bin/, and the PATH that has it first."""
    file = project / "bin" / name
    file.parent.mkdir(exist_ok=True)
    file.write_text(text)
    file.chmod(0o755)
    return f"{file.parent}:{PATH}"


def test_a_command_waits_for_the_process_that_is_at_it(project):
    path = stub(project, "python", "#!/bin/bash\necho ran\n")
    one = project / "benchmark" / "run_one.sh"
    assert subprocess.run(["bash", one, "python x.py"], env=os.environ | {"PATH": path}).returncode == 0
    (log,) = (project / "runs/logs").glob("*.log")
    with open(f"{log}.lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        process = subprocess.Popen(["bash", one, "python x.py"], env=os.environ | {"PATH": path})
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1.5)
        assert log.read_text() == "ran\n"
    assert process.wait(10) == 0 and log.read_text() == "ran\nran\n"


def test_a_killed_worker_is_not_success(project):
    path = stub(project, "python", "#!/bin/bash\nkill -9 $PPID\n")
    error, out, code = run(project, "pointmaze", PATH=path)
    assert code == 1 and "all finished" not in out and "rerun the command for what is left" in error
    path = stub(project, "python", "#!/bin/bash\n[[ \"$*\" == *\"seed 1\" ]] && exit 1\nkill -9 $PPID\n")
    error, out, code = run(project, "pointmaze", PATH=path, SEEDS="1 2")  # some fail, and then one is killed
    assert code == 1 and "--seed 1: status 1" in error and "rerun the command for what is left" in error


@pytest.mark.parametrize("workers, threads", [(1, 8), (3, 2), (16, 1)])
def test_workers_share_the_cores(project, workers, threads):
    path = stub(project, "nproc", "#!/bin/bash\necho 8\n")
    stub(project, "python", "#!/bin/bash\necho threads: $OMP_NUM_THREADS\n")
    run(project, "pointmaze", PATH=path, OMP_NUM_THREADS="", WORKERS=str(workers), FILTER="iql_bst")
    logs = [log.read_text() for log in (project / "runs/logs").glob("*.log")]
    assert logs and set(logs) == {f"threads: {threads}\n"}


@pytest.mark.parametrize("flag", ["--runs-dir=here", "--runs_dir here"])
def test_a_finished_run_is_known_wherever_it_is(project, flag):
    record = {"command": f"python td3_bst.py {flag}", "args": {"total_timesteps": 40}}
    (project / "here/run").mkdir(parents=True)
    (project / "here/run/args.json").write_text(json.dumps(record, indent=1))
    (project / "here/run/results.json").write_text(json.dumps({"evaluations": [{"step": 40, "last": True}]}))
    command = ["bash", project / "benchmark/run_one.sh", record["command"]]
    assert "finished before" in subprocess.run(command, capture_output=True, text=True).stdout


def test_a_finished_run_without_evaluations_is_known(project, pointmaze):
    command = f"python td3_bst.py --env-id {pointmaze} --eval-env-id none {TINY} --total-timesteps 40"
    command = ["bash", project / "benchmark/run_one.sh", command]
    outs = [subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PATH": PATH}).stdout for _ in "12"]
    assert "finished before" not in outs[0] and outs[1].startswith("finished before") and not results(project)


BAD = [({"FILTER": "nothing"}, "no command matches"), ({"WORKERS": "0"}, "WORKERS must"), ({"FLAGS": "--a 'b'"}, "plain words")]


@pytest.mark.parametrize("env, message", BAD)
def test_bad_variables(project, env, message):
    error, out, code = run(project, "pointmaze", **env)
    assert code == 1 and error.startswith("error: ") and message in error and len(error.splitlines()) == 1
    assert not (project / "runs").exists()


def test_slurm(project, pointmaze):
    """sbatch gets an array of as many tasks as there are commands, and task i runs command i."""
    path = stub(
        project,
        "sbatch",
        f"#!{sys.executable}\nimport os, subprocess, sys\nopen('sbatch.txt', 'w').write(' '.join(sys.argv[1:-1]))\n"
        "for i in '12': subprocess.run(sys.argv[-1], shell=True, check=True, env=os.environ | {'SLURM_ARRAY_TASK_ID': i})",
    )
    env = {"FILTER": "medium.*weighting constant --env", "FLAGS": f"--env-id {pointmaze} {TINY_POLICY}", "SEEDS": "1 2"}
    env |= {"SLURM_CPUS_PER_TASK": "1", "PATH": path}
    error, out, code = run(project, "slurm", "benchmark/pointmaze.sh", "--partition", "gpu", **env)
    assert code == 0, error
    words = (project / "sbatch.txt").read_text()
    assert "--array 1-2 " in words and "--requeue" in words and words.endswith("--partition gpu --wrap")
    assert sorted(record["args"]["seed"] for record in results(project)) == [1, 2]
    error, out, code = run(project, "slurm", "nowhere.sh", PATH=path)
    assert code == 1 and error.startswith("error: ")
