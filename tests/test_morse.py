"""morse_only.py: what the toy shows, its measures against closed forms, its figures, the network that others take."""

import copy
import dataclasses
import json
import runpy
import shutil
from types import SimpleNamespace

import iql_bst
import morse_only
import numpy as np
import pytest
import td3_bst
import torch
from conftest import ROOT, readme_lines, run_script
from matplotlib import image
from morse_only import Actor, Args, at_distance, auroc, fit_policy, four_modes, make_agent, objective_loss, resolve, train_morse
from td3_bst import UserError
from test_run import TINY, train

CPU = torch.device("cpu")


@pytest.mark.parametrize("seed", [1, 2])
def test_who_finds_a_mode(seed):
    """Cloning ends at the mean, where there is no data; with the gradient through the weight a policy goes to a mode."""
    args = resolve(Args(seed=seed))
    data, _ = four_modes(args, CPU)
    torch.manual_seed(seed)
    agent = make_agent(2, 2, args, CPU)
    train_morse(agent, data, args, torch.Generator().manual_seed(seed), after_step=lambda *_: None)
    start = Actor(2, 2, args.policy_hidden_dims)
    states = data["observations"][:500]
    fit_policy(start, lambda actor, batch: (actor(batch["observations"]) - batch["observations"]).square().mean(), data, args)
    assert (start(states) - states).norm(dim=1).mean() < 0.05
    share = {}
    for objective in morse_only.OBJECTIVES:
        policy = fit_policy(copy.deepcopy(start), objective_loss(objective, agent.morse, 1.0), data, args)
        place = morse_only.place_of(policy(states), args)
        share[objective] = float((place < 4).float().mean()), float((place == 4).float().mean())
    for objective in ("behaviour cloning", "weighted cloning, weight detached"):
        assert share[objective][0] == 0 and share[objective][1] > 0.9
    assert share["weighted cloning, gradient through the weight"][0] > 0.9 and share["uncertainty alone"][0] > 0.8


def test_objectives_are_those_of_their_names():
    """Against the equations, on a Morse network with known certainties."""
    torch.manual_seed(0)
    actor, obs, actions = Actor(2, 2, (8,)), torch.randn(50, 2), torch.rand(50, 2) * 2 - 1
    morse = SimpleNamespace(certainty=lambda obs, action: torch.exp(-action.square().sum(-1)))
    pi = actor(obs).detach()
    error, weight = (pi - actions).square().sum(1), torch.exp((1 - torch.exp(-pi.square().sum(1))) / 0.5) - 1
    expected = [error.mean(), (weight * error).mean(), (weight * error).mean(), weight.mean()]
    batch = {"observations": obs, "actions": actions}
    losses = [objective_loss(name, morse, 0.5)(actor, batch) for name in morse_only.OBJECTIVES]
    torch.testing.assert_close(torch.stack(losses), torch.stack(expected))
    gradients = [torch.autograd.grad(loss, actor.net[0].weight)[0] for loss in losses]
    assert not torch.allclose(gradients[1], gradients[2])  # the same value, another gradient


def test_auroc():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 20, 300) / 10, rng.integers(5, 25, 200) / 10  # with ties
    expected = ((a[:, None] > b) + 0.5 * (a[:, None] == b)).mean()
    assert auroc(torch.tensor(a), torch.tensor(b)) == pytest.approx(expected)
    assert auroc(torch.tensor([1.0, 2.0]), torch.tensor([0.0, 0.5])) == 1 and auroc(torch.zeros(5), torch.zeros(3)) == 0.5


def test_at_distance():
    actions = torch.rand(2000, 3) * 2 - 1
    moved, inside = at_distance(actions, 0.5, torch.Generator().manual_seed(0))
    torch.testing.assert_close((moved - actions).norm(dim=1), torch.full((2000,), 0.5))
    assert torch.equal(inside, (moved.abs() <= 1).all(1)) and 0 < inside.float().mean() < 1
    assert (moved - actions).mean(0).abs().max() < 0.03  # in no preferred direction


def test_where():
    places = torch.tensor([[-0.7, -0.7], [0.7, -0.6], [-0.8, 0.7], [0.7, 0.84], [0.1, 0.1], [0.4, 0.4], [0.7, 0.86]])
    assert morse_only.place_of(places, resolve(Args())).tolist() == [0, 1, 2, 3, 4, 5, 5]


def test_figures_show_where_policies_end():
    """Each cell of each basin figure against ends that differ by cell; the landscape's policies; each network's image."""
    args = resolve(Args(temperature=(0.5, 1.0), scale_factors=(0.5, 2.0)))
    axis = torch.linspace(-1, 1, 5)
    starts = torch.cartesian_prod(axis, axis)  # (25, 2)
    places = torch.tensor([[-0.7, -0.7], [0.7, -0.7], [-0.7, 0.7], [0.7, 0.7], [0, 0], [0.4, 0.4]])
    kernels, ends, kinds = [("rbf", 0.5), ("rbf", 2.0), ("rq", 0.5)], {}, {}
    ends["behaviour cloning", None, None] = places[[4] * 25]
    for objective in morse_only.OBJECTIVES[1:]:
        for kernel in kernels:
            for temperature in args.temperature:
                shift = 7 * len(kinds) // 6  # no two objectives alike
                kind = kinds[objective, kernel, temperature] = (3 * torch.arange(5)[:, None] + torch.arange(5) + shift) % 6
                ends[objective, kernel, temperature] = places[kind.flatten()]
    levels = dict(zip(kernels, (0.2, 0.4, 0.6)))
    certainties = {k: lambda obs, action, level=level: level + action[:, 0] / 10 for k, level in levels.items()}
    morses = {kernel: SimpleNamespace(certainty=certainty) for kernel, certainty in certainties.items()}
    drawn = {}
    morse_only.draw_modes({"actions": places}, morses, ends, starts, args, drawn.__setitem__)

    assert drawn.keys() == {"landscape", "scales", "kernels", "basins_0.5", "basins_1"}
    for temperature in args.temperature:
        cells = iter(drawn[f"basins_{temperature:g}"].axes)
        for objective in morse_only.OBJECTIVES[1:]:
            for kernel in kernels:  # an image's rows are the second action's, from below
                (image,) = next(cells).images
                assert image.origin == "lower"
                np.testing.assert_array_equal(image.get_array(), kinds[objective, kernel, temperature].T)
    for name, shown in ("scales", kernels[:2]), ("kernels", kernels[::2]), ("landscape", kernels[:1]):
        for axes, kernel in zip(drawn[name].axes, shown):
            assert axes.images[0].get_array().mean() == pytest.approx(levels[kernel], abs=1e-5)
    dots = {dot.get_label(): dot.get_offsets() for dot in drawn["landscape"].axes[0].collections}
    np.testing.assert_allclose(dots["data"], places, rtol=1e-6)
    for objective in morse_only.OBJECTIVES:
        key = (objective, None, None) if objective == "behaviour cloning" else (objective, kernels[0], 1.0)
        np.testing.assert_allclose(dots[objective], ends[key][::7], rtol=1e-6)


def test_every_policy_starts_alike_on_a_network_of_its_own(monkeypatch):
    """And the share at a mode is of where the policies end."""
    args, starts, losses = resolve(Args(temperature=(0.5, 2.0), scale_factors=(0.5, 2.0), morse_steps=1)), [], []

    def fit(actor, loss, *_):
        starts.append([p.detach().clone() for p in actor.parameters()])
        for p in actor.parameters():
            torch.nn.init.zeros_(p)
        actor.net[-1].bias.data[:] = torch.tensor([0.0, 0.0] if len(starts) == 1 else [9.0, 9.0])  # all at tanh(9)
        return actor

    def objective(name, morse, temperature):
        losses.append((name, morse and (morse.kernel, morse.kernel_scale), temperature))

    monkeypatch.setattr(morse_only, "fit_policy", fit)
    monkeypatch.setattr(morse_only, "objective_loss", objective)
    monkeypatch.setattr(morse_only, "draw_modes", lambda *_: None)
    monkeypatch.setattr(morse_only, "train_morse", lambda *_, **__: None)
    data, info = four_modes(args, CPU)
    entries, morse = morse_only.study_modes(data, info, dataclasses.replace(args, mode_offset=1.0), CPU, None)
    assert all(not p.any() for start in starts[1:] for p in start)  # what the first call left, all of them
    kernels = [entry["kernel"] and (entry["kernel"], 2 * entry["factor"]) for entry in entries]
    assert losses == [(entry["objective"], kernel, entry["temperature"]) for entry, kernel in zip(entries, kernels)]
    assert len(set(losses)) == 1 + 3 * 3 * 2
    assert {kernel for _, kernel, _ in losses} == {None, ("rbf", 1.0), ("rbf", 4.0), ("rq", 1.0)}
    assert all((entry["at a mode"], entry["at the mean"], entry["modes reached"]) == (1, 0, 1) for entry in entries)


def test_a_loss_that_is_not_finite_ends_it():
    with pytest.raises(morse_only.UserError, match="not finite at step 1,000"):
        morse_only.progress(resolve(Args()))("morse", 1000, {"loss/morse": torch.tensor(float("nan"))})


def not_blank(path):
    pixels = image.imread(path)[..., :3]
    return len(np.unique(pixels.reshape(-1, 3), axis=0)) > 100 and pixels.std() > 0.05


def test_four_modes_from_a_copy_of_the_file_alone(tmp_path):
    shutil.copy(ROOT / "morse_only.py", tmp_path)
    words = ["--morse-steps", "20", "--policy-steps", "5", "--temperature", "0.5", "--scale-factors", "0.5", "2"]
    run_script(str(tmp_path / "morse_only.py"), *words, cwd=tmp_path)
    (run,) = (tmp_path / "runs").iterdir()
    entries = json.loads((run / "results.json").read_text())["morse"]
    assert [entry["objective"] for entry in entries].count("uncertainty alone") == 3 and len(entries) == 1 + 3 * 3
    assert {path.stem for path in run.glob("*.png")} == {"landscape", "scales", "kernels", "basins_0.5"}
    assert all(map(not_blank, run.glob("*.png"))) and list(run.glob("events*"))


SAVED = {  # arguments of the network below
    "morse_steps": 500,
    "morse_hidden_dims": (32,),
    "morse_batch_size": 256,
    "uniform_weight": 1.0,
}


@pytest.fixture(scope="module")
def saved(pointmaze, tmp_path_factory):
    """A short study of a maze, and the network that it saved."""
    folder = tmp_path_factory.mktemp("morse")
    words = ["--morse-steps", "500", "--morse-hidden-dims", "32", "--uniform-weight", "1", "--landscape-states", "5", "7"]
    words += ["--save", str(folder / "morse.pt"), "--runs-dir", str(folder)]
    run_script("morse_only.py", "--env-id", pointmaze, *words)
    return next(folder.glob("*__morse_only__*")), folder / "morse.pt"


def test_study_of_a_maze(saved):
    run, _ = saved
    result = json.loads((run / "results.json").read_text())["morse"]
    certainty = result["certainty"]
    assert certainty["held-out data"] > max(certainty["uniform actions"], certainty["actions of other states"])
    near = list(result["certainty at distance"].values())
    assert near == sorted(near, reverse=True) and near[0] < certainty["held-out data"]
    assert 0.5 < result["AUROC against"]["uniform actions"] < 1
    assert {path.stem for path in run.glob("*.png")} == {"certainty", "landscape", "map"}
    assert all(map(not_blank, run.glob("*.png")))


def test_what_is_measured(monkeypatch):
    """Against the same measures of a network with known certainties, on actions drawn in the same order.

    Certainty depends on the state, so that it matters whose action it is."""
    monkeypatch.setattr(morse_only, "draw_dataset", lambda *_: None)
    morse = SimpleNamespace(certainty=lambda obs, action: torch.exp(-(action - obs).square().sum(-1)))
    obs = torch.rand(400, 2, generator=torch.Generator().manual_seed(1)) * 2 - 1
    actions, args = obs * 0.9, resolve(Args(distances=(0.5, 1.0)))
    data = {"observations": obs, "actions": actions}
    found = morse_only.study_dataset(morse, data, {}, args, torch.Generator().manual_seed(0), None)
    rng = torch.Generator().manual_seed(0)
    others = {"actions of other states": actions[torch.randperm(400, generator=rng)]}
    others["uniform actions"] = torch.rand(400, 2, generator=rng) * 2 - 1
    own = torch.exp(-(actions - obs).square().sum(-1))
    assert found["certainty"]["held-out data"] == pytest.approx(own.mean().item())
    for name, action in others.items():
        values = torch.exp(-(action - obs).square().sum(-1))
        assert found["certainty"][name] == pytest.approx(values.mean().item())
        above = (own[:, None] > values).float().mean().item()
        assert found["AUROC against"][name] == pytest.approx(above, abs=1e-3)
    for distance in args.distances:
        moved, inside = at_distance(actions, distance, rng)
        near = torch.exp(-(moved - obs)[inside].square().sum(-1))
        assert 0.1 < inside.float().mean() < 0.9
        assert found["share inside at distance"][distance] == pytest.approx(inside.float().mean().item())
        assert found["certainty at distance"][distance] == pytest.approx(near.mean().item())
        above = (own[inside][:, None] > near).float().mean().item()
        assert found["AUROC against distance"][distance] == pytest.approx(above, abs=1e-3)


def test_landscape_has_its_actions_on_their_axes():
    """values[i, j] is at place i of the first dimension asked for, j of the second; an image has rows from below."""
    morse = SimpleNamespace(certainty=lambda obs, action: action @ torch.tensor([0.1, 0.2, 0.3]))
    values = morse_only.certainty_grid(morse, torch.zeros(2), torch.tensor([9.0, 0.5, 9.0]), (2, 0), n=5)
    axis = torch.linspace(-1, 1, 5)
    torch.testing.assert_close(values, 0.3 * axis[:, None] + 0.1 * axis + 0.1)
    _, axes = morse_only.plt.subplots()
    image = morse_only.draw_certainty(axes, values, "")
    assert image.origin == "lower" and np.array_equal(image.get_array(), values.T.numpy())


def test_figures_show_what_was_measured():
    """Maps in metres, with each place's mean certainty; the curve; each state's own action on its landscape."""
    generator = torch.Generator().manual_seed(0)
    place = torch.rand(5_000, 2, generator=generator)  # (n, 2), in units of the deviation
    actions = torch.rand(5_000, 3, generator=generator) * 2 - 1
    info = {"dataset_id": "a", "is_maze": True, "obs_mean": torch.tensor([10.0, -20.0]), "obs_std": torch.tensor([2.0, 8.0])}
    certainty = {"held-out data": place[:, 0], "uniform actions": place[:, 1]}
    near = {0.5: torch.tensor([0.2, 0.4]), 1.0: torch.tensor([0.1])}
    args = resolve(Args(landscape_states=(7, 3), action_dims=(2, 0)))
    morse = SimpleNamespace(certainty=lambda obs, action: obs[:, 0] * (action[:, 1] + 1) / 2)
    drawn = {}
    data = {"observations": place, "actions": actions}
    morse_only.draw_dataset(morse, data, info, certainty, near, args, drawn.__setitem__)

    for axes, dimension in zip(drawn["map"].axes, (0, 1)):  # here certainty is the place in [0, 1] along a dimension
        (mesh,) = axes.collections
        corners = mesh.get_coordinates()  # (61, 61, 2)
        means, metres = mesh.get_array(), (corners[1:, 1:] + corners[:-1, :-1]) / 2
        expected = (metres - info["obs_mean"].numpy()) / info["obs_std"].numpy()
        assert 0 < means.mask.mean() < 0.5  # places without data stay empty
        np.testing.assert_allclose(means.compressed(), expected[..., dimension][~means.mask], atol=0.02)
    left, right = drawn["certainty"].axes
    curve, uniform = right.lines
    np.testing.assert_allclose(curve.get_xydata(), [(0, place[:, 0].mean()), (0.5, 0.3), (1, 0.1)], rtol=1e-5)
    np.testing.assert_allclose(uniform.get_ydata(), place[:, 1].mean())
    assert [text.get_text() for text in left.get_legend().texts] == list(certainty)
    for axes, state in zip(drawn["landscape"].axes, args.landscape_states):
        np.testing.assert_array_equal(axes.lines[0].get_xydata(), actions[state][None, [2, 0]])
        np.testing.assert_allclose(axes.images[0].get_array().max(), place[state, 0] * (actions[state, 1] + 1) / 2)


def test_what_is_measured_on_was_not_trained_on(pointmaze, tmp_path, monkeypatch):
    seen = {}
    monkeypatch.setattr(morse_only, "train_morse", lambda agent, data, *_, **__: seen.update(train=data))
    monkeypatch.setattr(morse_only, "study_dataset", lambda morse, data, *_: seen.update(held_out=data))
    morse_only.main(Args(env_id=pointmaze, held_out=0.2, runs_dir=str(tmp_path)))
    pairs = {name: torch.cat([data["observations"], data["actions"]], 1) for name, data in seen.items()}
    rows = {name: {tuple(row) for row in pair.tolist()} for name, pair in pairs.items()}
    assert not rows["train"] & rows["held_out"]
    assert len(rows["held_out"]) / sum(map(len, rows.values())) == pytest.approx(0.2, abs=0.01)


@pytest.mark.parametrize("script", [td3_bst, iql_bst], ids=["td3_bst", "iql_bst"])
def test_a_saved_network_is_taken_as_it_is(script, saved, pointmaze, tmp_path, monkeypatch):
    path, calls = saved[1], []
    monkeypatch.setattr(script, "morse_loss", lambda *_: calls.append(0))
    kwargs = TINY | SAVED | {"morse_checkpoint": str(path), "env_id": pointmaze, "runs_dir": str(tmp_path)}
    script.main(script.resolve(script.Args(**kwargs)))
    (run,) = tmp_path.iterdir()
    ours, theirs = torch.load(run / "checkpoint.pt")["morse"], torch.load(path)["morse"]
    assert not calls and ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.mark.parametrize(
    "kwargs, name",
    [
        ({"kernel": "rq"}, "kernel"),
        ({"kernel_scale_factor": 2.0}, "kernel"),
        ({"morse_hidden_dims": (16,)}, "shapes"),
        ({"dataset_fraction": 0.5}, "number of transitions"),
        ({"normalize_obs": False}, "normalize_obs"),
        ({"morse_steps": 499}, "morse_steps"),
        ({"uniform_weight": 30.0}, "uniform_weight"),
    ],
)
def test_a_saved_network_of_another_kind_is_refused(kwargs, name, saved, pointmaze, tmp_path):
    with pytest.raises(UserError, match=f"differs in {name}: .*train one with these arguments"):
        train(pointmaze, tmp_path, **(SAVED | {"morse_checkpoint": str(saved[1])} | kwargs))


def test_a_saved_network_of_another_dataset_is_refused(saved):
    facts = torch.load(saved[1])["facts"]
    info = {"dataset_id": "another"}
    info |= {"action_low": -torch.ones(2), "action_high": torch.ones(2), "transitions": 9, "checksum": 5}
    assert facts["dataset"] == "td3-bst/pointmaze-umaze-v1"
    args = td3_bst.resolve(td3_bst.Args(morse_checkpoint=str(saved[1])))
    with pytest.raises(UserError, match="differs in dataset: td3-bst/pointmaze-umaze-v1, here another"):
        td3_bst.load_morse(td3_bst.MorseNetwork(8, 2, (32,)), info, args)


def test_what_makes_another_network(tmp_path):
    """Each setting of its training, the data, its scaling and the kernel do, but not where an HDF5 file lies."""
    morse = morse_only.MorseNetwork(3, 2, (4,), kernel="rq", rq_shape=1.5)
    info = {"dataset_id": "here/a.hdf5", "transitions": 9, "checksum": 5}
    info |= {"action_low": -torch.ones(2), "action_high": torch.ones(2)}
    args = td3_bst.resolve(td3_bst.Args(morse_checkpoint=str(tmp_path / "mine.pt")))
    facts = morse_only.describe_morse(morse, info, args)
    torch.save({"facts": facts, "morse": morse.state_dict()}, args.morse_checkpoint)

    def refused(name, info=info, args=args, **kwargs):
        other = td3_bst.MorseNetwork(3, 2, **({"hidden_dims": (4,), "kernel": "rq", "rq_shape": 1.5} | kwargs))
        with pytest.raises(UserError, match=f"differs in {name}"):
            td3_bst.load_morse(other, info, args)

    other = td3_bst.MorseNetwork(3, 2, (4,), kernel="rq", rq_shape=1.5)
    td3_bst.load_morse(other, info | {"dataset_id": "/there/a.hdf5"}, args)
    assert all(torch.equal(p, q) for p, q in zip(morse.parameters(), other.parameters()))
    settings = "normalize_obs", "goal_scale", "uniform_weight", "num_uniform"
    settings += "morse_steps", "morse_batch_size", "morse_learning_rate"
    for name in settings:
        refused(name, args=dataclasses.replace(args, **{name: 7}))
    for key in "action_low", "action_high":
        refused("action scale", info | {key: 2 * info[key]})
    refused("dataset", info | {"dataset_id": "b"})
    refused("number of transitions", info | {"transitions": 8})
    refused("checksum of the data", info | {"checksum": 6})
    refused("shapes", hidden_dims=(5,))
    for kwargs in {"rq_shape": 2.0}, {"kernel_scale": 3.0}, {"kernel": "rbf"}:
        refused("kernel", **kwargs)


def test_bad_input(tmp_path, pointmaze, monkeypatch):
    (tmp_path / "no.pt").write_text("nothing")
    with pytest.raises(UserError, match="cannot read .*no.pt"):
        train(pointmaze, tmp_path / "runs", morse_checkpoint=str(tmp_path / "no.pt"))
    for words, message in (
        (["--env-id", pointmaze, "--held-out", "1"], "leaves none to train on"),
        (["--env-id", pointmaze, "--landscape-states", "99999"], "--landscape-states (99999,) leaves none to train on"),
        (["--temperature"], "--temperature is empty"),
        (["--rq-shape", "2"], "--rq-shape does nothing without --kernel rq"),
        (["--env-id", pointmaze, "--action-dims", "1", "1"], "--action-dims must be two that differ"),
        (["--mode-offset", "1.5"], "--mode-offset must be from"),
        (["--dataset-fraction", "0.1"], "--dataset-fraction does nothing with --env-id four-modes"),
        (["--env-id", pointmaze, "--policy-steps", "9"], f"--policy-steps does nothing with --env-id {pointmaze}"),
        (["--env-id", "pen-humans"], "near matches: pen-human"),
        (["--env-id", pointmaze, "--action-dims", "0", "2"], "--action-dims must be two that differ, below 2"),
        (["--temperature", "0.5", "0.001"], "--temperature must be from 0.0333"),
        (["--save", "/nowhere/morse.pt"], "cannot write"),
    ):
        monkeypatch.setattr("sys.argv", ["morse_only.py", *words, "--runs-dir", str(tmp_path)])
        with pytest.raises(SystemExit) as stopped:
            runpy.run_path(str(ROOT / "morse_only.py"), run_name="__main__")
        text = stopped.value.code  # a text, so the exit status is 1
        assert text.startswith("error: ") and message in text and text.count("error: ") == 1 and "\n" not in text
    process = run_script("morse_only.py", *words, "--runs-dir", str(tmp_path), ok=False)
    assert process.returncode == 1 and message in process.stderr and process.stderr.count("error: ") == 1
    assert "Traceback" not in process.stderr


def test_the_readmes_uncertainty_model():
    """The lines under "Copy it" run as they stand, on observations and actions alone, and learn the data's actions."""
    obs = torch.rand(500, 2, generator=torch.Generator().manual_seed(0)) * 2 - 1
    names = {"observations": obs, "actions": obs / 2, "obs_dim": 2, "k": 2}
    torch.manual_seed(0)
    exec(readme_lines("train_morse").replace("20_000", "300"), names)
    with torch.no_grad():
        elsewhere = names["morse"].certainty(obs, -obs.sign() / 2)
    assert names["certainty"].shape == (500,) and names["certainty"].mean() > 0.8 > 0.5 > elsewhere.mean()
