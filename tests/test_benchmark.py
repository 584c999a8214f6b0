"""The table that is made from results, and the random policy in it."""

import csv
import functools
import json
import re
import shutil
from importlib.util import find_spec
from pathlib import Path

import film
import numpy as np
import pytest
import random_policy
import report
import speed
import td3_bst
import torch
from conftest import ROOT, run_script
from test_data import write_hdf5

MORSE = "python td3_bst.py --env-id td3-bst/x-v0 --seed {} --total-timesteps 100"


def write_result(folder, name, seed, scores, lengths, command, dataset="td3-bst/x-v0", commit="", **args):
    defaults = {"weighting": "morse", "q_weight": 1.0, "temperature": 1.0 if "pointmaze" in dataset else 0.5}
    defaults |= {"kernel_scale_factor": 0.5, "dataset_fraction": 1.0}
    if "pointmaze" in dataset and "policy_extraction" not in args:
        defaults["anneal_actor_learning_rate"] = True  # the default there, else every row would have its flag
    args = defaults | {"env_id": dataset, "seed": seed, "exp_name": name} | args
    evaluations = [
        {"step": 50 * (i + 1), "last": i == len(scores) - 1, "score": score, "return_mean": i, "lengths": lengths}
        for i, score in enumerate(scores)
    ]
    record = {"dataset_id": dataset, "args": args, "command": command.format(seed), "evaluations": evaluations}
    record["commit"] = commit
    (folder / f"{name}{seed}").mkdir(parents=True)
    (folder / f"{name}{seed}" / "results.json").write_text(json.dumps(record))


def tables(capsys, folder, **options):
    """What report.py prints for these runs, in this process: PyTorch takes seconds to import."""
    capsys.readouterr()
    report.main(str(folder), **options)
    return capsys.readouterr().out


def test_report(tmp_path):
    """The last evaluation counts, not the best; seeds of one method share a row; other flags make another row."""
    write_result(tmp_path, "a", 2, [99.0, 50.0], [10, 30], MORSE)
    write_result(tmp_path, "a", 1, [10.0, 70.0], [20, 20], MORSE)
    write_result(tmp_path, "b", 1, [40.0, 40.0], [5], MORSE + " --temperature 2", temperature=2.0)
    cloning = MORSE + " --weighting constant --q-weight 0"
    write_result(tmp_path, "c", 1, [0.0, None], [5], cloning, weighting="constant", q_weight=0.0)
    iql = MORSE.replace("td3_bst", "iql_bst")
    write_result(tmp_path, "d", 1, [30.0], [5], iql, policy_extraction="bst")
    write_result(tmp_path, "e", 1, [20.0], [5], iql + " --policy-extraction awr", policy_extraction="awr")
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- results -->\nold\n<!-- /results -->\nafter\n")
    process = run_script("benchmark/report.py", str(tmp_path), "--into", str(page))
    assert "| td3-bst/x-v0 | TD3-BST | 100 | 1, 2 | 60.0 [50.0, 70.0] | 70, 50 | 54, 60 | 1.00 | 20 |" in process.stdout
    assert "| td3-bst/x-v0 | TD3-BST `--temperature 2` | 100 | 1 | 40.0 | 40 | 40, 40 | 1.00 | 5 |" in process.stdout
    assert "| td3-bst/x-v0 | behaviour cloning | 100 | 1 |  |  |  | 1.00 | 5 |" in process.stdout
    assert "| td3-bst/x-v0 | IQL-BST | 50 | 1 | 30.0 |" in process.stdout
    assert "| td3-bst/x-v0 | IQL | 50 | 1 | 20.0 |" in process.stdout
    assert page.read_text() == f"before\n<!-- results -->\n{process.stdout.strip()}\n<!-- /results -->\nafter\n"


CLONING = MORSE + " --weighting constant --q-weight 0"
CLONED = {"weighting": "constant", "q_weight": 0.0}
ANTMAZE = {"bound_targets": True, "goal_scale": 4.0, "anneal_actor_learning_rate": True}


def test_scores_page(tmp_path, capsys):
    """Last scores and those of the last tenth, intervals, a column per method, published scores, empty cells."""
    maze, hopper = "td3-bst/pointmaze-x-v1", "data/hopper_medium-v2.hdf5"
    for seed, (bst, bc) in enumerate([(90, 50), (70, 10)], 1):
        write_result(tmp_path, "a", seed, [0] * 18 + [95, bst], [1], MORSE + " --device cpu", maze, "c0ffee")
        write_result(tmp_path, "b", seed, [0] * 19 + [bc], [1], CLONING, maze, **CLONED)
        write_result(tmp_path, "c", seed, [33.3 + seed], [1], MORSE, f"/home/{seed}/{hopper}")
    assert report.short("hopper_medium-v2.h5") == report.short("hopper_medium-v2.hdf5") == "hopper-medium"
    elsewhere = "td3-bst/pointmaze-z-v1"  # TD3-BST has no run there, so nothing there is in the aggregates
    write_result(tmp_path, "g", 1, [100], [1], CLONING, elsewhere, **CLONED)
    write_result(tmp_path, "h", 1, [100], [1], MORSE, elsewhere, q_weight=0.0)
    for fraction, end in (0.1, 10), (0.5, 50):
        command = f"{MORSE} --dataset-fraction {fraction}"
        fields = ANTMAZE | {"dataset_fraction": fraction, "temperature": 1.0}
        write_result(tmp_path, f"d{fraction}", 1, [end], [1], command, "td3-bst/antmaze-y-v0", **fields)
    iql = {"policy_extraction": "bst", "policy_frequency": 1}
    write_result(tmp_path, "m", 1, [20], [1], MORSE.replace("td3", "iql"), elsewhere, **CLONED, **iql)
    write_result(tmp_path, "i", 1, [40], [1], MORSE, elsewhere, weighting="constant", constant_weight=2.0)
    write_result(tmp_path, "j", 1, [50], [1], MORSE, elsewhere, temperature=2.0)
    write_result(tmp_path, "k", 1, [60], [1], MORSE, elsewhere, matmul_precision="medium")
    write_result(tmp_path, "k", 2, [64], [1], MORSE, elsewhere, matmul_precision="medium", compile=True)
    write_result(tmp_path, "e", 1, [None], [1], MORSE, "mujoco/ant/expert-v0", total_timesteps=50)
    write_result(tmp_path, "f", 1, [1.0], [1], MORSE, "D4RL/pointmaze/umaze-v2")
    out = tmp_path / "out"
    tables(capsys, tmp_path, out=str(out))
    page = (out / "scores.md").read_text()
    assert f"| {maze} | 1,000 | 30.0 [10.0, 50.0] |  |  | 80.0 [70.0, 90.0] |" in page
    assert "| behaviour cloning | 1 | 2 | 30.0 [10.0, 50.0] | 30.0 [10.0, 50.0] | 1.00 [1.00, 1.00] |" in page
    assert "\n| Morse-weighted" not in page and f"| {elsewhere} | 50 | 100.0 | 100.0 | 40.0 |  |" in page
    assert f"| {elsewhere} | 50 `--matmul-precision medium` |  |  |  | 62.0 [60.0, 64.0] |\n" in page
    assert page.count(f"| {elsewhere} | 50 ") == 2  # nor one of a temperature
    assert "| hopper_medium-v2.hdf5 | 50 | 34.8 [34.3, 35.3] | 53.51 | 60.37 | 67.53 | 102.29 |" in page
    assert "| walker2d-medium |  |  | 63.23 | 82.71 | 80.91 | 85.82 |" in page and "| hopper-medium |" not in page
    recreated = page[page.index("## Recreated PointMaze") :]
    assert "not to be compared with published scores" in recreated[:120] and "published |" not in recreated
    assert "| td3-bst/antmaze-y-v0 | TD3-BST | 50 | 10.0 | 50.0 |" in page and "| 10% of the episodes |" in page
    robots = page[page.index("## Minari MuJoCo") : page.index("## Other datasets")]
    assert "| mujoco/ant/expert-v0 | 50 | 0.0 |" in robots and "interquartile" not in robots
    assert "| D4RL/pointmaze/umaze-v2 | 50 | 1.0 |" in page
    rows = {(row["dataset"], row["method"]): row for row in csv.DictReader((out / "scores.csv").open())}
    row = rows[maze, "TD3-BST"]
    assert [row[key] for key in ("last score", "low", "high")] == ["80.00", "70.00", "90.00"]
    assert [row[key] for key in ("seeds", "commit", "command")] == ["1 2", "c0ffee", MORSE.format(1) + " --device cpu"]
    assert row["mean of the last tenth"] == f"{(0 + 95 + 90 + 0 + 95 + 70) / 6:.2f}"
    part = tmp_path / "part.md"
    part.write_text("<!-- defaults Recreated PointMaze -->\n<!-- /defaults Recreated PointMaze -->\n")
    tables(capsys, tmp_path, into=str(part))
    lines = part.read_text().splitlines()[3:-1]  # without flags but a constant weight's and the precision's
    assert [line.split(" | ")[:5] for line in lines] == [
        [f"| {maze}", "TD3-BST", "1,000", "1, 2", "80.0 [70.0, 90.0]"],
        [f"| {maze}", "behaviour cloning", "1,000", "1, 2", "30.0 [10.0, 50.0]"],
        [f"| {elsewhere}", "Morse-weighted behaviour cloning", "50", "1", "100.0"],
        [f"| {elsewhere}", "TD3+BC `--constant-weight 2`", "50", "1", "40.0"],
        [f"| {elsewhere}", "TD3-BST `--matmul-precision medium`", "50", "1, 2", "62.0 [60.0, 64.0]"],
        [f"| {elsewhere}", "behaviour cloning", "50", "1", "100.0"],
        [f"| {elsewhere}", "behaviour cloning (iql_bst.py)", "50", "1", "20.0"],
    ]
    drawn = {path.stem for path in (out / "figures").iterdir()}
    assert drawn >= {"curves-locomotion", "profiles-locomotion", "curves-minari-mujoco", "curves-recreated-pointmaze"}
    assert "profiles-minari-mujoco" not in drawn


def test_what_has_not_ended_is_compared_with_nothing(tmp_path, capsys):
    """It is in the table of every row alone; another method's longer runs leave TD3-BST's datasets what they are."""
    for maze, end in ("x", 10), ("y", 90):
        write_result(tmp_path, maze, 1, [end], [1], MORSE, f"td3-bst/pointmaze-{maze}-v0", total_timesteps=50)
    longer = "td3-bst/pointmaze-x-v1"
    write_result(tmp_path, "longer", 1, [0, 100], [1], CLONING, longer, total_timesteps=100, device="cuda", **CLONED)
    write_result(tmp_path, "part", 1, [76.54], [1], CLONING, "td3-bst/pointmaze-y-v1", total_timesteps=100, **CLONED)
    tables(capsys, tmp_path, out=str(tmp_path / "out"))
    page, _, every = (tmp_path / "out/scores.md").read_text().partition("## Every row")
    assert "| TD3-BST | 2 | 2 | 50.0 | 50.0 |" in page and "| behaviour cloning | 1 |" not in page
    assert "| td3-bst/pointmaze-x-v1 | 100 | 100.0 |" in page and "76.5" not in page
    assert "| behaviour cloning | 50 of 100 |  | 1 | 76.54 |" in every
    assert "| behaviour cloning | 100 | cuda | 1 | 100.00 |" in every


def test_runs_that_are_no_row(tmp_path, capsys):
    """The same seed twice or other data in the same row is an error; another evaluation interval is not. An unfinished
    run of more steps has a row of its own."""
    write_result(tmp_path / "x", "a", 1, [1.0, 2.0], [1], MORSE)
    write_result(tmp_path / "x", "a", 2, [4.0], [1], MORSE)
    (tmp_path / "x/a2/results.json").write_text((tmp_path / "x/a2/results.json").read_text().replace("50", "100"))
    assert "| td3-bst/x-v0 | TD3-BST | 100 | 1, 2 | 3.0 [2.0, 4.0] | 2, 4 | 3 |" in tables(capsys, tmp_path)
    write_result(tmp_path / "y", "a", 1, [1.0, 3.0], [1], MORSE)
    with pytest.raises(SystemExit, match=f"have a seed twice; move away .*{tmp_path}/x/a1, {tmp_path}/y/a1, {tmp_path}/x/a2"):
        report.main(str(tmp_path))
    shutil.rmtree(tmp_path / "y")
    write_result(tmp_path / "y", "a", 3, [1.0, 3.0], [1], MORSE, total_timesteps=300)
    shown = tables(capsys, tmp_path)
    assert "| TD3-BST | 100 | 1, 2 | 3.0 [2.0, 4.0] |" in shown and "| TD3-BST | 100 of 300 | 3 | 3.0 |" in shown
    shutil.rmtree(tmp_path / "y")
    for seed, fraction, transitions in (1, 1.0, 100), (2, 1.0, 99), (3, 0.5, 51), (4, 0.5, 49):
        write_result(tmp_path / "z", "a", seed, [1.0], [1], MORSE, dataset_fraction=fraction)
        file = tmp_path / f"z/a{seed}/results.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"transitions": transitions}))
    with pytest.raises(SystemExit, match="seeds .1, 2., were on data that differs; move away"):
        report.main(str(tmp_path / "z"))
    file = tmp_path / "z/a2/results.json"  # now of as much data as the first, but other
    file.write_text(file.read_text().replace('"transitions": 99', '"transitions": 100, "checksum": 2'))
    report.main(str(tmp_path / "z"))
    file = tmp_path / "z/a1/results.json"
    file.write_text(file.read_text().replace('"transitions": 100', '"transitions": 100, "checksum": 1'))
    with pytest.raises(SystemExit, match="seeds .1, 2., were on data that differs; move away"):
        report.main(str(tmp_path / "z"))
    shutil.rmtree(tmp_path / "z/a2")
    assert "`--dataset-fraction 0.5` | 50 | 3, 4 |" in tables(capsys, tmp_path / "z")  # the share's size is by seed


def test_flags_are_what_differs_from_todays_defaults(tmp_path, capsys):
    """Whatever the command was: a default that has changed since shows in older runs, one written out does not."""
    fields = vars(td3_bst.resolve(td3_bst.Args(env_id="td3-bst/antmaze-x-v0")))
    del fields["seed"], fields["total_timesteps"]
    command = MORSE + " --temperature 1"
    changes = {
        "": {"device": "cuda", "eval_freq": 7},
        " `--normalize-obs True`": {"normalize_obs": True},
        " `--actor-hidden-dims 64` `--temperature 0.5`": {"temperature": 0.5, "actor_hidden_dims": [64]},
        " `--no-detach-weight` `--no-such-field 3`": {"detach_weight": False, "no_such_field": 3},
        " `--q-weight 2`": {"q_weight": 2.0},
    }
    for number, change in enumerate(changes.values()):
        write_result(tmp_path, f"run{number}", 1, [5.0], [1], command, "td3-bst/antmaze-x-v0", **fields | change)
    old = {name: fields[name] for name in fields if name not in report.BEFORE}  # of before there were such fields
    write_result(tmp_path, "old", 1, [5.0], [1], command, "td3-bst/antmaze-x-v0", **old)
    write_result(tmp_path, "iql", 1, [5.0], [1], MORSE, "td3-bst/pointmaze-x-v1", policy_extraction="bst")
    out = tables(capsys, tmp_path)
    assert out.count("| TD3-BST") == 6 and "| IQL-BST | 50 |" in out
    for flags in [*changes, " `--goal-scale 1` `--bound-targets False` `--anneal-actor-learning-rate False`"]:
        assert f"| TD3-BST{flags} | 50 |" in out, out


def test_fields_that_are_newer_than_a_run(tmp_path, capsys, monkeypatch):
    """It did what there was before the field, whatever the default is now."""
    monkeypatch.setattr(td3_bst.Args, "__init__", functools.partialmethod(td3_bst.Args.__init__, goal_scale=4.0))
    write_result(tmp_path, "old", 1, [5.0], [1], MORSE)
    write_result(tmp_path, "new", 1, [6.0], [1], MORSE, goal_scale=4.0)
    out = tables(capsys, tmp_path)
    assert "| TD3-BST `--goal-scale 1` | 50 | 1 | 5.0 |" in out and "| TD3-BST | 50 | 1 | 6.0 |" in out
    write_result(tmp_path / "x", "old", 1, [5.0], [1], MORSE, tau=0.5)
    write_result(tmp_path / "x", "new", 2, [6.0], [1], MORSE, goal_scale=1.0, tau=0.5)
    assert "`--goal-scale 1` `--tau 0.5` | 50 | 1, 2 |" in tables(capsys, tmp_path / "x")  # whichever was recorded first


def test_a_row_may_differ_in_what_its_method_does_not_read(tmp_path, capsys):
    """Cloning reads neither the discount nor the temperature; the critic's runs read the one, cloning by M the other."""
    for seed, value in (1, 0.9), (2, 0.5):
        fields = ANTMAZE | {"discount": value, "temperature": value}
        if seed == 1:
            del fields["bound_targets"]
        write_result(tmp_path / "x", "a", seed, [5.0], [1], CLONING, "td3-bst/antmaze-x-v0", **CLONED, **fields)
    assert "| behaviour cloning | 50 | 1, 2 | 5.0 [5.0, 5.0] |" in tables(capsys, tmp_path)
    for seed in 1, 2:
        fields = {"policy_extraction": "awr", "weighting": "constant", "constant_weight": seed, "temperature": seed}
        fields |= {"q_weight": seed + 1.0}
        write_result(tmp_path / "awr", "a", seed, [5.0], [1], MORSE, **fields)
        fields = CLONED | {"policy_extraction": "bst", "expectile": seed, "inverse_temperature": seed}
        write_result(tmp_path / "bst", "a", seed, [5.0], [1], MORSE, **fields)
        write_result(tmp_path / "rbf", "a", seed, [5.0], [1], MORSE, kernel="rbf", rq_shape=seed, constant_weight=seed)
    assert "| IQL | 50 | 1, 2 | 5.0 [5.0, 5.0] |" in tables(capsys, tmp_path / "awr")
    assert "| behaviour cloning (iql_bst.py) | 50 | 1, 2 | 5.0 [5.0, 5.0] |" in tables(capsys, tmp_path / "bst")
    assert "| TD3-BST | 50 | 1, 2 | 5.0 [5.0, 5.0] |" in tables(capsys, tmp_path / "rbf")
    for seed in 1, 2:
        write_result(tmp_path / "saved", "a", seed, [5.0], [1], MORSE, morse_checkpoint=f"morse-{seed}.pt")
    assert "| TD3-BST `--morse-checkpoint` | 50 | 1, 2 | 5.0 [5.0, 5.0] |" in tables(capsys, tmp_path / "saved")
    reads = {"discount": CLONED | {"q_weight": 1.0}, "temperature": CLONED | {"weighting": "morse"}, "tau": {}, "kernel": {}}
    reads |= {"actor_learning_rate": CLONED, "bound_targets": {}}
    for name, args in reads.items():
        for seed in 1, 2:
            write_result(tmp_path / name, "a", seed, [5.0], [1], MORSE, **args, **{name: seed + 1})
        out = tables(capsys, tmp_path / name)
        assert all(f"`--{name.replace('_', '-')} {seed + 1}` | 50 | {seed} |" in out for seed in (1, 2)), out


def test_statistics():
    """Against closed forms: which runs the interquartile mean takes, ties, a bootstrap of two seeds and of many."""
    scores = [np.array([0.0, 1.0]), np.array([2.0, 100.0])]
    assert report.iqm(scores) == 1.5 and report.mean(scores) == 25.75
    assert report.iqm([np.arange(12.0)[::-1] ** 2]) == np.mean([9, 16, 25, 36, 49, 64])
    assert report.iqm([np.arange(6.0) ** 2]) == np.mean([1, 4, 9, 16])  # a quarter of 6, rounded down, at each end
    assert report.improvement([np.array([1, 2])], [np.array([1, 0])]) == 3.5 / 4
    assert report.interval(report.mean, [[0, 100]]) == (50, 0, 100)  # 0 and 100 have a chance of a quarter each
    assert report.estimate(report.mean, [[7], [9, 11]]) == "8.5"  # one seed has no interval
    rng = np.random.default_rng(0)
    many = [rng.normal(mean, 1, 400) for mean in (0, 1000)]  # strata that are mixed would give an interval of hundreds
    value, low, high = report.interval(report.mean, many)
    error = np.sqrt(sum(x.var() / 400 for x in many)) / 2
    assert [low, high] == pytest.approx([value - 1.96 * error, value + 1.96 * error], abs=0.15 * error)
    a, b = [rng.normal(1, 1, 200)], [rng.normal(0, 1, 300)]
    value, low, high = report.interval(report.improvement, a, b, reps=500)
    assert low < 0.760 < high and high - low < 0.12  # the normal distribution at 1 / sqrt(2)
    same = [np.arange(5.0)]
    value, low, high = report.interval(report.improvement, same, same)
    assert value == 0.5 and low < 0.3 and high > 0.7  # the two are drawn apart, else these would be 0.5 as well


def test_methods_are_compared_at_the_most_steps(tmp_path):
    for name, scores in ("a", [10.0]), ("b", [10.0, 90.0]):
        write_result(tmp_path, name, 1, scores, [1], MORSE, "td3-bst/pointmaze-x-v1")
    rows = report.group_rows(report.rows_of(report.read(tmp_path)), "Recreated PointMaze")
    assert report.longest(rows) == {"TD3-BST": {"td3-bst/pointmaze-x-v1": [90.0]}}


def test_figures_of_scores(tmp_path):
    """A curve is the mean, its band from the lowest seed to the highest; a profile the share above tau."""
    for seed, end in (1, 30), (2, 50), (3, 100):
        write_result(tmp_path, "a", seed, [10.0 * seed, end], [1], MORSE, "td3-bst/pointmaze-x-v1")
    rows = report.group_rows(report.rows_of(report.read(tmp_path)), "Recreated PointMaze")
    (axes,) = report.draw_curves(rows).axes
    assert axes.lines[0].get_xydata().tolist() == [[0.05, 20], [0.1, 60]]
    band = axes.collections[0].get_paths()[0].vertices.tolist()
    assert {tuple(point) for point in band} == {(0.05, 10), (0.05, 30), (0.1, 30), (0.1, 100)}
    (line,) = report.draw_profiles(report.longest(rows)).axes[0].lines
    share = dict(line.get_xydata().tolist())
    assert [share[tau] for tau in (0, 30, 49.75, 50, 100)] == pytest.approx([1, 2 / 3, 2 / 3, 1 / 3, 0])


@pytest.mark.parametrize("page, runs", [("README.md", "."), ("benchmark/results.md", "."), ("benchmark/antmaze.md", "antmaze")])
def test_tables_are_those_of_the_committed_results(tmp_path, capsys, page, runs):
    copy = tmp_path / "page.md"
    shutil.copy(ROOT / page, copy)
    tables(capsys, ROOT / "benchmark/results" / runs, into=str(copy))
    assert copy.read_text() == (ROOT / page).read_text()


def test_the_score_page_is_that_of_the_committed_results(tmp_path, capsys):
    committed = ROOT / "benchmark/results"
    tables(capsys, committed, out=str(tmp_path))
    assert (tmp_path / "scores.csv").read_text() == (committed / "scores.csv").read_text()
    new, old = ((folder / "scores.md").read_text().partition("A score is") for folder in (tmp_path, committed))
    assert new[1:] == old[1:] and old[2]
    for name in re.findall(r"\((figures/.*?)\)", old[2]):
        assert (committed / name).exists()


def test_report_of_morse_networks(tmp_path, capsys):
    """Percent at a mode and certainties are means over seeds and columns in the order of the run."""
    words = {"objective": "uncertainty alone", "kernel": "rbf", "factor": 0.5}
    toy = {"env_id": "four-modes", "kernel": "rbf", "kernel_scale_factor": 0.5, "num_uniform": 1}
    for seed, share in (1, 0.5), (2, 0.9):
        entries = [{"objective": "behaviour cloning", "kernel": None, "factor": None, "temperature": None, "at a mode": 0.0}]
        entries += [words | {"temperature": t, "at a mode": share if t == 1 else 0.25} for t in (0.25, 1.0)]
        write_morse(tmp_path, f"toy{seed}", entries, seed, **toy)
    study = {"certainty": {"held-out data": 0.9, "uniform actions": 0.1, "actions of other states": 0.6}}
    study |= {"certainty at distance": {"0.5": 0.7}, "AUROC against": {"uniform actions": 0.99, "actions of other states": 0.8}}
    write_morse(tmp_path, "maze", study)
    for seed, value in (2, 0.2), (3, 0.4):
        study["certainty"]["uniform actions"] = value
        write_morse(tmp_path, f"{seed}/maze.hdf5", study, seed)  # where a file lies makes no other row
    out = tables(capsys, tmp_path)
    assert "| 2 seeds, mu = 0.25 / 1 | RBF, 0.5 k |" in out and "| behaviour cloning | 0 |" in out
    assert "| uncertainty alone | 25 / 70 |" in out
    assert "| maze | RQ, 2 k `--num-uniform 4` | 1 | 0.90 | 0.70 | 0.60 | 0.10 | 0.80 | 0.99 |" in out
    assert "| maze.hdf5 | RQ, 2 k `--num-uniform 4` | 2, 3 | 0.90 | 0.70 | 0.60 | 0.30 | 0.80 | 0.99 |" in out
    write_morse(tmp_path, "4/maze.hdf5", study, 3)
    with pytest.raises(SystemExit, match="maze.hdf5 with RQ.*, seeds .2, 3, 3., have a seed twice.*4/maze.hdf5"):
        report.main(str(tmp_path))
    shutil.rmtree(tmp_path / "4")
    write_morse(tmp_path, "trial", entries, 2, **toy, morse_steps=10)
    out = tables(capsys, tmp_path)
    assert "| 2 seeds, mu = 0.25 / 1 | RBF, 0.5 k |" in out and "| 1 seed, mu = 0.25 / 1 `--morse-steps 10` |" in out
    write_morse(tmp_path, "again", entries, 2, **toy)
    with pytest.raises(SystemExit, match="four modes .*, seeds .*have a seed twice.*again"):
        report.main(str(tmp_path))


def write_morse(folder, name, study, seed=1, **args):
    (folder / name).mkdir(parents=True)
    command = "python morse_only.py --env-id maze --kernel rq --kernel-scale-factor 2 --num-uniform 4 --seed 1"
    args = {"env_id": "maze", "kernel": "rq", "kernel_scale_factor": 2.0, "num_uniform": 4} | args
    record = {"dataset_id": name, "args": args | {"seed": seed}, "morse": study, "command": command}
    (folder / name / "results.json").write_text(json.dumps(record))


PAGE = "<!-- results -->\n<!-- /results -->\n<!-- aggregates X -->\n<!-- /aggregates X -->"


@pytest.mark.parametrize("text", ["no markers", PAGE, None])
def test_report_that_cannot_be_made(tmp_path, text):
    page = tmp_path / "page.md"
    page.write_text(str(text))
    if text:
        write_result(tmp_path, "a", 1, [1.0], [1], MORSE)
    process = run_script("benchmark/report.py", str(tmp_path), "--into", str(page), ok=False)
    assert text != PAGE or "has places for aggregates X;" in process.stderr
    error = process.stderr.splitlines()[-1]
    assert process.returncode == 1 and error.startswith("error: ") and "Traceback" not in process.stderr
    assert page.read_text() == str(text)


@pytest.mark.parametrize("option", ["into", "out"])
def test_report_that_goes_nowhere(tmp_path, option):
    write_result(tmp_path, "a", 1, [1.0], [1], MORSE)
    place = {"into": tmp_path / "absent.md", "out": tmp_path / "a1/results.json"}[option]
    with pytest.raises(SystemExit, match="^error: .*(no page|not a folder)"):
        report.main(str(tmp_path), **{option: str(place)})


def test_random_actions_are_uniform():
    actions = random_policy.RandomActor(2, seed=0)(torch.zeros(1000, 3))
    assert actions.shape == (1000, 2) and actions.min() < -0.95 and actions.max() > 0.95 and abs(actions.mean()) < 0.1


def test_random_policy(pointmaze, tmp_path, capsys):
    run_script("benchmark/random_policy.py", "--env-id", pointmaze, "--runs-dir", str(tmp_path))
    (file,) = tmp_path.glob("*/results.json")
    (entry,) = json.loads(file.read_text())["evaluations"]
    assert len(entry["returns"]) == 100 and entry["score"] == sum(entry["terminations"]) < 75
    assert "random policy" in tables(capsys, tmp_path)


def test_random_policy_of_a_robot(tmp_path, monkeypatch):
    """Its score is D4RL's normalised one, about 0 by definition; a place that cannot be written to is said before."""
    monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path))
    write_hdf5(tmp_path / "hopper_medium-v2.hdf5", 20, observations=np.zeros((20, 11)), timeouts=np.arange(20) % 10 == 9)
    monkeypatch.setattr(td3_bst, "evaluate", lambda *_: pytest.fail("played"))
    with pytest.raises(td3_bst.UserError, match="another --runs-dir"):
        random_policy.main("hopper-medium-v2", runs_dir="/proc/x")
    with pytest.raises(td3_bst.UserError, match="no environment"):
        random_policy.main(str(tmp_path / "hopper_medium-v2.hdf5"), runs_dir=str(tmp_path))
    played = np.array([-20.272305, 3234.3]), np.ones(2, int), np.zeros(2, bool)  # D4RL's random and expert policy
    monkeypatch.setattr(td3_bst, "evaluate", lambda *_: played)
    random_policy.main("hopper-medium-v2", runs_dir=str(tmp_path))
    (file,) = tmp_path.glob("*/results.json")
    assert json.loads(file.read_text())["evaluations"][0]["score"] == pytest.approx(50)


class Camera:
    """In place of MuJoCo's renderer, which needs OpenGL: its pictures are black, but for the agent's place."""

    def __init__(self, model, height, width):
        self.shape = height, width, 3

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def update_scene(self, data, camera):
        self.place = data.qpos[:2].copy()

    def render(self):
        picture = np.zeros(self.shape)
        picture[0, :2, 0] = self.place
        return picture


def test_film(pointmaze, tmp_path, monkeypatch):
    """The first episode that is said to have reached its goal is played again, from its own seed, and shown at even steps."""
    monkeypatch.setattr(film.mujoco, "Renderer", Camera)
    run_script("td3_bst.py", "--env-id", pointmaze, "--runs-dir", str(tmp_path), "--total-timesteps", "2", "--morse-steps", "1",
               "--eval-episodes", "3", "--seed", "4")  # fmt: skip
    (run,) = tmp_path.iterdir()
    record = json.loads((run / "results.json").read_text())
    last = record["evaluations"][-1] | {"lengths": [7, 300, 300], "terminations": [False, True, True]}

    def write(**changes):
        (run / "results.json").write_text(json.dumps(record | {"evaluations": [last | changes]}))

    shown = []
    play = film.film
    monkeypatch.setattr(film, "film", lambda *args: shown.append(args) or play(*args))
    played = []
    monkeypatch.setattr(td3_bst, "evaluate", lambda _, __, seeds, ___: played.extend(seeds) or (np.zeros(3),) * 3)
    td3_bst.main(td3_bst.parse_args(["--evaluate", str(run)]))
    write()
    film.main(str(run), pictures=4)
    assert (run / "film.png").stat().st_size > 1000
    ((env, policy, seed, steps),) = shown
    assert steps.tolist() == [0, 100, 200, 300] and seed == played[1]  # an evaluation's own
    saved = torch.load(run / "model.pt", weights_only=True)
    actor = td3_bst.Actor(8, 2, record["args"]["actor_hidden_dims"])
    actor.load_state_dict(saved["actor"])
    some = np.random.default_rng(0).normal(size=(5, 8))
    np.testing.assert_array_equal(policy(some), td3_bst.make_policy(actor, saved["info"])(some))
    pictures, length = play(env, policy, seed, steps)
    assert len(pictures) == 4 and length == 300
    obs, _ = env.reset(seed=seed)
    for step in range(300):
        if step in steps:
            assert pictures[step // 100][0, :2, 0] == pytest.approx(obs[:2])
        obs = env.step(policy(obs[None])[0])[0]
    assert pictures[-1][0, :2, 0] == pytest.approx(obs[:2])

    model = torch.load(run / "model.pt", weights_only=True)
    model["info"]["env_spec"] = json.dumps(json.loads(model["info"]["env_spec"]) | {"max_episode_steps": 3})
    torch.save(model, run / "model.pt")
    write(lengths=[7, 3, 3])
    film.main(str(run))
    assert shown[-1][3].tolist() == [0, 1, 2, 3]  # as many pictures as there are steps

    (run / "film.png").unlink()
    for changes, message in (
        ({"terminations": [False] * 3}, "no episode .* reached a goal"),
        ({"lengths": [7, 2, 3]}, "took 3 steps, not 2"),
        ({"step": 1}, "not finished"),
    ):
        write(**changes)
        with pytest.raises(SystemExit, match=message):
            film.main(str(run))
    with pytest.raises(SystemExit, match="no model.pt"):
        film.main(str(tmp_path))
    with pytest.raises(SystemExit, match="at least 2"):
        film.main(str(run), pictures=1)
    assert not (run / "film.png").exists()


def test_what_is_no_record_of_a_run(tmp_path, capsys):
    """Another program's results.json is passed over, half of one is named."""
    (tmp_path / "other").mkdir()
    (tmp_path / "other/results.json").write_text("{}")
    with pytest.raises(SystemExit, match="there is no results.json of a run below"):
        report.main(str(tmp_path))
    write_result(tmp_path, "a", 1, [1.0], [1], MORSE)
    assert "| TD3-BST | 50 | 1 |" in tables(capsys, tmp_path)
    (tmp_path / "other/results.json").write_text('{"args":')
    with pytest.raises(SystemExit, match="^error: .*other/results.json is no JSON"):
        report.main(str(tmp_path))


@pytest.mark.skipif(bool(find_spec("stable_baselines3")), reason="it is here")
@pytest.mark.parametrize("command", [["make_locomotion.py", "hopper"], ["train_ant.py", "--save", "ant.npz"]])
def test_without_stable_baselines(command):
    process = run_script("benchmark/" + command[0], *command[1:], ok=False)
    assert process.returncode == 1 and process.stderr.count("\n") == 1
    assert process.stderr.startswith("error: ") and "pip install stable-baselines3==2.9.2" in process.stderr


def test_bytes_of_operations():
    """Of ones in place too, which return nothing: of a step to a target, two reads and a write. Of a table, two rows."""
    target, network = [torch.zeros(10)], [torch.ones(10)]
    with speed.Bytes() as moved:
        torch._foreach_lerp_(target, network, 0.5)
    assert moved.total == 3 * 40
    with speed.Bytes() as moved:
        target[0] + network[0]
    assert moved.total == 3 * 40
    for take in (lambda table, index: table[index], lambda table, index: table.index_select(0, index)):
        table, index = torch.zeros(100, 3), torch.tensor([7, 8])
        with speed.Bytes() as moved:
            take(table, index)
        assert moved.total == 2 * 24


def test_speed_of_nothing():
    for fields, wrong in ({"threads": 0}, "--threads must be"), ({"precisions": ()}, "not empty"), ({"corl": Path("no")}, "clone"):
        with pytest.raises(SystemExit, match=f"^error: .*{wrong}"):
            speed.main(speed.Args(**fields))


def test_speed():
    """The operations that it counts are those of the shapes, and every mode has a row."""
    process = run_script("benchmark/speed.py", "--dims", "hopper", "--precisions", "highest", "--steps", "8", "--turns", "1")
    rows = [line.split() for line in process.stdout.splitlines() if line.endswith(", highest")]
    assert len(rows) == 5 and all(float(row[0]) > 0 for row in rows)
    b, o, k, h = 256, 11, 3, 256
    actor, critic, morse = (o + h + k) * h, (o + k + h) * h, (o + k + 2 * h + k) * h  # multiply-adds of a row, forward
    critic_step = actor + 2 * critic + 2 * (2 * critic + h * h)  # targets; forward, gradients of weights and of hidden input
    policy_step = 2 * actor + (h + k) * h + morse + 2 * critic
    assert float(rows[0][2]) == round(2 * b * (critic_step + policy_step / 2) / 1e6)
