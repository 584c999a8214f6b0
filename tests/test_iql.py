"""iql_bst.py: its losses against float64 code, its schedule, what its policies leave alone, a run of each kind."""

import copy
import json
import math
import shutil

import iql_bst
import numpy as np
import pytest
import torch
from conftest import ROOT, run_script
from iql_bst import (
    Actor,
    Args,
    Critic,
    UserError,
    awr_loss,
    critic_loss,
    draw,
    main,
    make_agent,
    mlp,
    parse_args,
    resolve,
    update,
    value_loss,
)
from test_losses import K, OBS, batch, critic_values, forward, gradient_matches, numbers  # noqa: F401
from test_run import TINY, weights

ENV = "td3-bst/x-v0"


@pytest.fixture
def networks():
    torch.manual_seed(1)
    return Critic(OBS, K, (8, 8)).double(), mlp(OBS, 8, 8, 1).double(), Actor(OBS, K, (8, 8)).double()


@pytest.mark.parametrize("expectile", [0.5, 0.7, 0.9])
def test_value_loss(networks, batch, expectile):  # noqa: F811
    critic, value, _ = networks
    obs, action, *_ = numbers(batch)
    u = critic_values(critic, obs, action).min(0) - forward(value, obs)[:, 0]
    assert (u < 0).any() and (u > 0).any()
    expected = np.mean(np.abs(expectile - (u < 0)) * u**2)
    loss, metrics = value_loss(value, critic, batch, expectile)
    assert metrics == {"loss/value": loss}
    assert loss.item() == pytest.approx(expected, rel=1e-12)
    loss.backward()
    gradient_matches(lambda: value_loss(value, critic, batch, expectile)[0], value)
    assert all(p.grad is None for p in critic.parameters())


def test_the_value_goes_to_the_expectile(networks):
    """Of Q over the actions of one state: the minimiser solves E[|tau - 1(u < 0)| u] = 0."""
    critic, value, _ = networks
    torch.manual_seed(0)
    data = {"observations": torch.zeros(200, OBS, dtype=torch.float64), "actions": torch.rand(200, K, dtype=torch.float64) * 2 - 1}
    optimizer = torch.optim.Adam(value.parameters(), 1e-2)
    for _ in range(500):
        optimizer.zero_grad()
        value_loss(value, critic, data, 0.9)[0].backward()
        optimizer.step()
    u = critic_values(critic, *(data[key].numpy() for key in data)).min(0) - forward(value, np.zeros((1, OBS)))[0, 0]
    weighted = np.abs(0.9 - (u < 0)) * u
    assert abs(weighted.mean()) < 0.01 * np.abs(weighted).mean() and (u < 0).mean() > 0.6


def test_critic_loss(networks, batch):  # noqa: F811
    critic, value, _ = networks
    obs, action, rewards, next_obs, terminations = numbers(batch)
    target = rewards + 0.9 * (1 - terminations) * forward(value, next_obs)[:, 0]
    expected = ((critic_values(critic, obs, action) - target) ** 2).mean(1).sum()
    loss, metrics = critic_loss(critic, value, batch, 0.9)
    assert metrics == {"loss/critic": loss}
    assert loss.item() == pytest.approx(expected, rel=1e-12)
    loss.backward()
    gradient_matches(lambda: critic_loss(critic, value, batch, 0.9)[0], critic)
    assert all(p.grad is None for p in value.parameters())


@pytest.mark.parametrize("beta, bound", [(3.0, 100.0), (10.0, 1.5)])
def test_awr_loss(networks, batch, beta, bound):  # noqa: F811
    critic, value, actor = networks
    log_std = torch.tensor([-0.5, 3.0, -7.0], dtype=torch.float64, requires_grad=True)  # held at 2 and at -5
    args = resolve(Args(env_id=ENV, inverse_temperature=beta, max_awr_weight=bound))
    obs, action, *_ = numbers(batch)
    weight = np.exp(beta * (critic_values(critic, obs, action).min(0) - forward(value, obs)[:, 0]))
    assert (weight > bound).any() == (bound == 1.5)
    mean, std = np.tanh(forward(actor.net, obs)), np.exp([-0.5, 2.0, -5.0])
    log_density = -0.5 * ((action - mean) / std) ** 2 - np.log(std * np.sqrt(2 * np.pi))
    expected = -np.mean(np.minimum(weight, bound) * log_density.sum(1))

    def loss():
        return awr_loss(actor, log_std, value, critic, batch, args)[0]

    assert loss().item() == pytest.approx(expected, rel=1e-10)
    gradient_matches(loss, actor)
    loss().backward()
    assert all(p.grad is None for network in (critic, value) for p in network.parameters())
    assert log_std.grad[0] != 0 and not log_std.grad[1:].any()


def make(**kwargs):
    args = resolve(Args(env_id=ENV, batch_size=16, actor_hidden_dims=(8,), morse_hidden_dims=(8,), **kwargs))
    torch.manual_seed(0)
    data = {
        "observations": torch.randn(100, OBS),
        "actions": torch.rand(100, K) * 2 - 1,
        "rewards": torch.randn(100),
        "next_observations": torch.randn(100, OBS),
        "terminations": (torch.rand(100) < 0.1).float(),
    }
    return make_agent(OBS, K, args, torch.device("cpu")), data, args, torch.Generator().manual_seed(0)


def test_the_gaussian_starts_with_a_deviation_of_one():
    agent, *_ = make(policy_extraction="awr")
    assert agent.log_std[0].tolist() == [0] * K


def step(agent, data, args, generator):
    return update(agent, draw(data, args, generator), args)


@pytest.mark.parametrize("extraction", ["bst", "awr"])
def test_the_policy_leaves_values_and_critics_alone(extraction, monkeypatch):
    """They move as without its step: IQL is the same whatever its policy improvement is."""
    agents, descend = [], iql_bst.descend
    for still in (True, False):
        agent, data, args, generator = make(policy_extraction=extraction, tau=0.25)
        before = copy.deepcopy([agent.target_critic, agent.actor, agent.log_std])
        fixed = agent.actor_optimizer if still else None
        monkeypatch.setattr(iql_bst, "descend", lambda loss, optimizer: optimizer is fixed or descend(loss, optimizer))
        step(agent, data, args, generator)
        agents.append(agent)
        for old, now, network in zip(*(n.parameters() for n in (before[0], agent.target_critic, agent.critic))):
            torch.testing.assert_close(now, 0.75 * old + 0.25 * network)
        moved = [
            any(not torch.equal(p, q) for p, q in zip(old.parameters(), now.parameters()))
            for old, now in zip(before[1:], (agent.actor, agent.log_std))
        ]
        assert moved == [not still, not still and extraction == "awr"]
    for name in ("value", "critic"):
        for p, q in zip(*(getattr(agent, name).parameters() for agent in agents)):
            assert torch.equal(p, q) and torch.equal(p.grad, q.grad) and p.grad.any()


@pytest.mark.parametrize("extraction", ["bst", "awr"])
def test_updates_are_the_steps_of_their_losses(extraction):
    """Two of them, of two steps of values and critics each: a target critic is its network at first."""
    rates = {"actor_learning_rate": 0.01, "critic_learning_rate": 0.02, "value_learning_rate": 0.03}
    kwargs = rates | {"policy_extraction": extraction, "policy_frequency": 2, "tau": 0.25, "discount": 0.9, "expectile": 0.8}
    (agent, data, args, generator), (own, *_, rng) = make(**kwargs), make(**kwargs)

    def own_step(name, loss):
        optimizer = getattr(own, f"{name}_optimizer")
        optimizer.zero_grad()
        loss[0].backward()
        optimizer.step()

    for _ in range(2):
        step(agent, data, args, generator)
        for _ in range(2):
            one = iql_bst.sample(data, 16, rng, iql_bst.DATA_KEYS)
            own_step("value", value_loss(own.value, own.target_critic, one, 0.8))
            own_step("critic", critic_loss(own.critic, own.value, one, 0.9))
            for target, p in zip(own.target_critic.parameters(), own.critic.parameters()):
                target.lerp_(p.detach(), 0.25)
        if extraction == "bst":
            own_step("actor", iql_bst.actor_loss(own.actor, own.critic, own.morse, one, args))
        else:
            own_step("actor", awr_loss(own.actor, own.log_std[0], own.value, own.target_critic, one, args))
    for name in ("value", "critic", "target_critic", "actor", "log_std"):
        for p, q in zip(getattr(agent, name).parameters(), getattr(own, name).parameters()):
            assert torch.equal(p, q), name


def test_the_policy_leaves_no_gradient_on_the_critics():
    """Its objective goes through them, but they keep the gradient of their own loss, as where it has no such term."""
    agents = []
    for q_weight in (1.0, 0.0):
        agent, data, args, generator = make(q_weight=q_weight)
        step(agent, data, args, generator)
        agents.append(agent)
    assert not torch.equal(agents[0].actor.net[0].weight, agents[1].actor.net[0].weight)
    for p, q in zip(*(agent.critic.parameters() for agent in agents)):
        assert torch.equal(p.grad, q.grad) and p.grad.any()


@pytest.mark.parametrize("extraction", ["bst", "awr"])
def test_policies_go_to_the_better_actions(extraction):
    """One-step episodes of uniform actions, whose reward falls with the distance from one that depends on the state."""
    kwargs = {"total_timesteps": 1500, "morse_steps": 200, "inverse_temperature": 5.0, "policy_extraction": extraction}
    widths = dict.fromkeys(("actor_hidden_dims", "critic_hidden_dims", "value_hidden_dims", "morse_hidden_dims"), (32, 32))
    rates = dict.fromkeys(("actor_learning_rate", "critic_learning_rate", "value_learning_rate"), 3e-3)
    args = resolve(Args(env_id=ENV, **kwargs, **widths, **rates))
    torch.manual_seed(0)
    obs, actions = torch.randn(4000, OBS), torch.rand(4000, K) * 2 - 1
    best = 0.8 * torch.tanh(obs[:, :K])
    data = {"observations": obs, "actions": actions, "rewards": -(actions - best).square().sum(1), "next_observations": obs}
    data["terminations"] = torch.ones(4000)
    agent = make_agent(OBS, K, args, torch.device("cpu"))
    iql_bst.train(agent, data, args, torch.Generator().manual_seed(0), {"morse": 0, "policy": 0}, lambda *_: None)
    missed = (agent.actor(obs) - best).square().sum(1).mean() / best.square().sum(1).mean()  # 1: cloning, their mean
    assert missed < 0.3


def test_rewards_are_scaled_where_asked():
    for asked in (False, True):
        agent, data, args, generator = make(normalize_returns=asked, total_timesteps=2, morse_steps=1)
        before = data["rewards"].clone()
        iql_bst.train(agent, data, args, generator, {"morse": 0, "policy": 0}, lambda *_: None)
        assert torch.equal(data["rewards"], before) == (not asked)


@pytest.mark.parametrize("extraction, weighting", [("bst", "morse"), ("bst", "constant"), ("awr", "morse")])
@pytest.mark.parametrize("frequency", [1, 2])
def test_learning_rate_of_the_policy_follows_a_cosine(extraction, weighting, frequency, monkeypatch):
    own = {"policy_extraction": extraction, "weighting": weighting, "policy_frequency": frequency}
    agent, data, args, generator = make(total_timesteps=40, morse_steps=1, log_freq=40, **own)
    rates, original = [], iql_bst.update

    def spy(agent, *args):
        rates.append(agent.actor_optimizer.param_groups[0]["lr"])
        return original(agent, *args)

    monkeypatch.setattr(iql_bst, "update", spy)
    calls = []
    iql_bst.train(agent, data, args, generator, {"morse": 0, "policy": 0}, lambda phase, step, _: calls.append((phase, step)))
    expected = [3e-4 * 0.5 * (1 + math.cos(math.pi * t / 40)) for t in range(0, 40, frequency)]
    np.testing.assert_allclose(rates, expected, rtol=1e-4)
    needed = (extraction, weighting) == ("bst", "morse")  # IQL and a constant weight need no Morse network
    assert calls == [("morse", 1)] * needed + [("policy", step) for step in range(frequency, 41, frequency)]


@pytest.mark.parametrize("extraction", ["bst", "awr"])
def test_update_runs_on_meta(extraction):
    """No host synchronisation and no data-dependent shape."""
    args = resolve(Args(env_id=ENV, policy_extraction=extraction))
    agent = make_agent(OBS, K, args, torch.device("meta"))
    data = {key: value.to("meta") for key, value in make()[1].items()}
    assert all(value.is_meta for value in step(agent, data, args, torch.Generator()).values())


def test_optimiser_of_the_policy_on_a_gpu(monkeypatch):
    """A rate that changes must be a tensor, or a CUDA graph would keep its first value."""
    seen = []
    original = torch.optim.Adam

    def adam(parameters, lr, fused, capturable):
        seen.append((lr, fused, capturable))
        return original(parameters, lr)

    monkeypatch.setattr(torch.nn.Module, "to", lambda self, device: self)
    monkeypatch.setattr(torch, "tensor", lambda value, device, t=torch.tensor: t(value))
    monkeypatch.setattr(torch.optim, "Adam", adam)
    make_agent(OBS, K, resolve(Args(env_id=ENV)), torch.device("cuda"))
    assert isinstance(seen[0][0], torch.Tensor) and all(fused and capturable for _, fused, capturable in seen)


def test_normalize_returns():
    """Episodes of returns 3 (ends in a terminal), 7 (ends where the next row starts elsewhere) and -1: spread 8."""
    obs = torch.tensor([0.0, 1, 2, 3, 9, 10])[:, None]
    data = {
        "observations": obs,
        "next_observations": torch.tensor([1.0, 2, 3, 4, 10, 11])[:, None],
        "rewards": torch.tensor([1.0, 2, 3, 4, -2, 1]),
        "terminations": torch.tensor([0.0, 1, 0, 0, 0, 0]),
    }
    data["next_observations"] += 5e-4  # rounding, where next observations are stored apart
    iql_bst.normalize_returns(data)
    torch.testing.assert_close(data["rewards"], torch.tensor([1.0, 2, 3, 4, -2, 1]) * 125)
    one = {key: value[:2] for key, value in data.items()}  # a single episode has no spread to scale by
    before = one["rewards"].clone()
    iql_bst.normalize_returns(one)
    assert torch.equal(one["rewards"], before)


def test_expectile_out_of_range():
    for value in (0.0, 1.0, 1.5):
        with pytest.raises(UserError, match="--expectile must be from"):
            resolve(Args(expectile=value))


def test_published_settings():
    values = {
        "antmaze-large-play": (0.9, 10.0, -1.0, False),
        "hopper-medium-v2": (0.7, 3.0, 0.0, True),
        "mujoco/hopper/medium-v0": (0.7, 3.0, 0.0, True),
        "pen-human": (0.7, 0.5, 0.0, False),
        "kitchen-mixed": (0.7, 0.5, 0.0, False),
    }
    for env_id, expected in values.items():
        args = resolve(Args(env_id=env_id))
        assert (args.expectile, args.inverse_temperature, args.reward_shift, args.normalize_returns) == expected


@pytest.mark.parametrize("extraction", ["bst", "awr"])
def test_a_run_that_was_stopped_goes_on_to_the_same_weights(extraction, pointmaze, tmp_path, monkeypatch):
    """From its last checkpoint, with the schedule and the scale of rewards as without the stop."""
    kwargs = TINY | {"policy_extraction": extraction, "normalize_returns": True, "env_id": pointmaze, "seed": 3}

    def train(folder):
        main(resolve(Args(**kwargs, runs_dir=str(folder))))

    train(tmp_path / "whole")
    original, calls = iql_bst.value_loss, []

    def stop(*args):
        calls.append(0)
        if len(calls) == 35:
            raise KeyboardInterrupt
        return original(*args)

    monkeypatch.setattr(iql_bst, "value_loss", stop)
    with pytest.raises(SystemExit, match="--resume"):
        train(tmp_path / "stopped")
    monkeypatch.undo()
    (stopped,), (whole,) = ((tmp_path / name).iterdir() for name in ("stopped", "whole"))
    monkeypatch.setattr(iql_bst, "value_loss", lambda *a: calls.append(0) or original(*a))
    main(parse_args(["--resume", str(stopped)]))
    assert len(calls) == 35 + 60 - 30  # of 60 steps those after the checkpoint of step 30
    a, b = weights(whole), weights(stopped)
    assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)
    results = [json.loads((run / "results.json").read_text())["evaluations"] for run in (whole, stopped)]
    assert results[0] == results[1] and results[0][-1]["step"] == 60


def test_a_copy_of_the_file_alone_trains_and_evaluates(pointmaze, tmp_path):
    shutil.copy(ROOT / "iql_bst.py", tmp_path)
    words = ["--total-timesteps", "20", "--morse-steps", "10", "--eval-episodes", "2", "--env-id", pointmaze]
    run_script(str(tmp_path / "iql_bst.py"), *words, "--log-freq", "10", cwd=tmp_path)
    (run,) = (tmp_path / "runs").iterdir()
    last = json.loads((run / "results.json").read_text())["evaluations"][-1]
    process = run_script(str(tmp_path / "iql_bst.py"), "--evaluate", str(run), cwd=tmp_path)
    assert process.stdout.splitlines()[-1] == f"score {last['score']}, return {last['return_mean']}"
