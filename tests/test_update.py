"""One update: target networks, frozen networks, delayed policy, noise, seeds, no host synchronisation."""

import functools
import math

import iql_bst
import pytest
import td3_bst
import torch
from td3_bst import Args, draw, make_agent, resolve, train_morse, update

OBS, K, ROWS = 5, 3, 100
SMALL = dict(batch_size=16, actor_hidden_dims=(8,), critic_hidden_dims=(8, 8), morse_hidden_dims=(8,), morse_batch_size=16)


def make(seed=0, device="cpu", **kwargs):
    args = resolve(Args(**(SMALL | {"morse_steps": 3} | kwargs)))
    torch.manual_seed(seed)
    data = {
        "observations": torch.randn(ROWS, OBS),
        "actions": torch.rand(ROWS, K) * 2 - 1,
        "rewards": torch.randn(ROWS),
        "next_observations": torch.randn(ROWS, OBS),
        "terminations": (torch.rand(ROWS) < 0.1).float(),
    }
    data = {key: value.to(device) for key, value in data.items()}
    agent = make_agent(OBS, K, args, torch.device(device))
    return agent, data, args, torch.Generator().manual_seed(seed)


def step(agent, data, args, generator, bounds=None):
    return update(agent, draw(data, args, generator), args, bounds)


def parameters(network):
    return [p.detach().clone() for p in network.parameters()]


def changed(network, before):
    return not all(torch.equal(p, q) for p, q in zip(network.parameters(), before))


@pytest.mark.parametrize("frequency", [1, 3])
def test_delayed_policy_and_targets(frequency):
    """Each update is `policy_frequency` critic steps and one of policy and targets; the Morse network is frozen."""
    agent, data, args, generator = make(policy_frequency=frequency, total_timesteps=6, eval_freq=6, log_freq=6)
    names = ("actor", "critic", "target_actor", "target_critic", "morse")
    before = {name: parameters(getattr(agent, name)) for name in names}
    metrics = step(agent, data, args, generator)
    assert {name for name in names if changed(getattr(agent, name), before[name])} == set(names) - {"morse"}
    assert {"loss/critic", "loss/actor", "policy/weight", "policy/q"} <= set(metrics)
    assert not any(value.requires_grad for value in metrics.values())  # a graph kept alive would break a CUDA graph
    for optimizer, steps in (agent.critic_optimizer, frequency), (agent.actor_optimizer, 1):
        assert all(state["step"] == steps for state in optimizer.state.values())


def test_updates_are_the_steps_of_their_losses():
    """Two of them, since at first a target is its network. Each critic step has a batch of its own, the policy's has the
    last one and the critic as it is by then, neither moves it nor leaves a gradient on it; targets follow at the end."""
    kwargs = {"policy_frequency": 2, "tau": 0.25, "discount": 0.9, "actor_learning_rate": 0.02, "critic_learning_rate": 0.01}
    (agent, data, args, generator), (own, *_, rng) = make(**kwargs), make(**kwargs)
    for _ in range(2):
        step(agent, data, args, generator)
        for _ in range(2):
            batch = td3_bst.sample(data, args.batch_size, rng, td3_bst.DATA_KEYS)
            noise = (torch.randn(args.batch_size, K, generator=rng) * args.policy_noise).clamp(-args.noise_clip, args.noise_clip)
            own.critic_optimizer.zero_grad()
            td3_bst.critic_loss(own.critic, own.target_critic, own.target_actor, batch, noise, 0.9)[0].backward()
            own.critic_optimizer.step()
        gradients = [p.grad.clone() for p in own.critic.parameters()]
        own.actor_optimizer.zero_grad()
        td3_bst.actor_loss(own.actor, own.critic, own.morse, batch, args)[0].backward()
        own.actor_optimizer.step()
        for name in ("actor", "critic"):
            for target, p in zip(getattr(own, f"target_{name}").parameters(), getattr(own, name).parameters()):
                target.lerp_(p.detach(), 0.25)
    for name in ("actor", "critic", "target_actor", "target_critic"):
        assert not changed(getattr(agent, name), parameters(getattr(own, name))), name
    assert all(torch.equal(p.grad, gradient) for p, gradient in zip(agent.critic.parameters(), gradients))


def test_agent_is_as_its_arguments_say():
    """Whatever the argument, in both scripts."""
    own = {"actor_hidden_dims": (7, 6), "critic_hidden_dims": (5, 4), "morse_hidden_dims": (3,), "kernel": "rq", "rq_shape": 2.5}
    rates = {"actor_learning_rate": 0.1, "critic_learning_rate": 0.2, "morse_learning_rate": 0.3}
    for script, layernorm in (td3_bst, False), (td3_bst, True), (iql_bst, False), (iql_bst, True):
        more = {"value_hidden_dims": (9,), "value_learning_rate": 0.4} if script is iql_bst else {}
        kwargs = own | rates | more | {"critic_layernorm": layernorm, "kernel_scale_factor": 2.0}
        agent = script.make_agent(OBS, K, script.resolve(script.Args(**kwargs)), torch.device("cpu"))
        for name in rates | ({"value_learning_rate": 0.4} if more else {}):
            (group,) = getattr(agent, name.replace("learning_rate", "optimizer")).param_groups
            assert group["lr"] == kwargs[name]
        widths = {name: [len(p) for p in getattr(agent, name).parameters() if p.dim() == 1] for name in ("actor", "morse")}
        assert widths == {"actor": [7, 6, K], "morse": [3, K]}
        assert [tuple(p.shape) for p in agent.critic.weights] == [(2, OBS + K, 5), (2, 5, 4), (2, 4, 1)]
        assert not more or [len(p) for p in agent.value.parameters() if p.dim() == 1] == [9, 1]
        assert agent.critic.layernorm == agent.target_critic.layernorm == layernorm
        assert (agent.morse.kernel, agent.morse.rq_shape, agent.morse.kernel_scale) == ("rq", 2.5, 2 * K)
        for name in ("critic",) if more else ("critic", "actor"):  # a target starts as its network
            assert not changed(getattr(agent, f"target_{name}"), parameters(getattr(agent, name)))


def test_every_row_is_drawn():
    data = {"observations": torch.arange(2.0)[:, None], "actions": torch.zeros(2, 1)}
    batch = td3_bst.sample(data, 100, torch.Generator().manual_seed(0), ("observations",))
    assert set(batch["observations"].flatten().tolist()) == {0, 1}


def test_morse_steps_are_as_the_arguments_say(monkeypatch):
    seen, original = [], td3_bst.morse_loss
    monkeypatch.setattr(td3_bst, "morse_loss", lambda *a: seen.append(a[1:]) or original(*a))
    agent, data, args, generator = make(num_uniform=4, uniform_weight=30.0, morse_batch_size=500, morse_steps=2)
    train_morse(agent, data, args, generator)
    assert len(seen) == 2 and not torch.equal(seen[0][2], seen[1][2])
    for obs, action, uniform_action, weight in seen:
        assert weight == 30 and uniform_action.shape == (500, 4, K)
        assert uniform_action.min() < -0.99 and uniform_action.max() > 0.99 and uniform_action.abs().max() <= 1
        rows = {tuple(row) for row in torch.cat([data["observations"], data["actions"]], 1).tolist()}
        assert {tuple(row) for row in torch.cat([obs, action], 1).tolist()} <= rows  # each action is that of its state


def test_polyak_averaging():
    agent, data, args, generator = make(tau=0.25)
    before = {name: parameters(getattr(agent, name)) for name in ("target_actor", "target_critic")}
    step(agent, data, args, generator)
    for name in ("actor", "critic"):
        for old, now, network in zip(
            before[f"target_{name}"], getattr(agent, f"target_{name}").parameters(), getattr(agent, name).parameters()
        ):
            torch.testing.assert_close(now, 0.75 * old + 0.25 * network)
            assert not now.requires_grad


def test_target_noise_is_clipped(monkeypatch):
    seen = []
    original = td3_bst.critic_loss
    monkeypatch.setattr(td3_bst, "critic_loss", lambda *a: seen.append(a[4]) or original(*a))
    agent, data, args, generator = make(policy_noise=0.2, noise_clip=0.3, batch_size=4000)
    step(agent, data, args, generator)
    assert seen[0].shape == seen[1].shape == (4000, K) and not torch.equal(*seen)
    assert seen[0].abs().max() == pytest.approx(0.3)
    assert seen[0].std().item() == pytest.approx(0.181, abs=0.005)  # of N(0, 0.2) clipped at 1.5 deviations


@pytest.mark.parametrize("asked", [True, False])
def test_targets_are_bounded_if_asked(monkeypatch, asked):
    """By what returns can be with the data's rewards; `train` works that out."""
    seen, original = [], td3_bst.critic_loss
    monkeypatch.setattr(td3_bst, "critic_loss", lambda *a: seen.append(a[6]) or original(*a))
    agent, data, args, generator = make(bound_targets=asked, total_timesteps=4, weighting="constant")
    phases = set()
    td3_bst.train(agent, data, args, generator, {"morse": 0, "policy": 0}, lambda phase, *_: phases.add(phase))
    assert phases == {"policy"}  # a constant weight needs no Morse network
    ends, rewards = data["terminations"] > 0, data["rewards"]
    expected = [worth / (1 - args.discount) for worth in rewards[~ends].aminmax()]  # beyond those of the ends
    assert [bounds and list(bounds) for bounds in seen] == [expected if asked else None] * 4


@pytest.mark.parametrize("asked", [True, False])
def test_step_size_of_the_policy_follows_a_cosine_if_asked(monkeypatch, asked):
    agent, data, args, generator = make(anneal_actor_learning_rate=asked, total_timesteps=40, weighting="constant")
    rates, original = [], td3_bst.update

    def spy(agent, *rest):
        rates.append(agent.actor_optimizer.param_groups[0]["lr"])
        return original(agent, *rest)

    monkeypatch.setattr(td3_bst, "update", spy)
    td3_bst.train(agent, data, args, generator, {"morse": 0, "policy": 0}, lambda *_: None)
    shares = [0.5 * (1 + math.cos(math.pi * t / 20)) if asked else 1 for t in range(20)]
    assert rates == pytest.approx([3e-4 * share for share in shares], rel=1e-4)


def test_behaviour_cloning_trains_no_critic():
    agent, data, args, generator = make(q_weight=0.0, weighting="constant")

    def error():  # of all rows
        return (agent.actor(data["observations"]) - data["actions"]).square().mean().item()

    before, first = parameters(agent.critic), error()
    metrics = step(agent, data, args, generator)
    assert not changed(agent.critic, before) and set(metrics) == {"policy/bc_error", "loss/actor"}
    for _ in range(300):
        step(agent, data, args, generator)
    assert error() < 0.9 * first


def test_morse_training_separates_data_from_uniform_actions():
    """On actions within 0.05 of one point in 2-d, certainty becomes high there and low elsewhere."""
    small = {"morse_steps": 400, "morse_hidden_dims": (64, 64), "morse_batch_size": 128}
    args = resolve(Args(**small, kernel_scale_factor=1.0, uniform_weight=1.0))
    torch.manual_seed(0)
    data = {"observations": torch.randn(1000, 2), "actions": 0.5 + 0.05 * torch.randn(1000, 2), "rewards": torch.zeros(1000)}
    agent, steps = make_agent(2, 2, args, torch.device("cpu")), []
    train_morse(agent, data, args, torch.Generator().manual_seed(0), 0, lambda *call: steps.append(call))
    assert [call[:2] for call in steps] == [("morse", step) for step in range(1, 401)]
    assert not any(value.requires_grad for value in steps[0][2].values())
    near = agent.morse.certainty(data["observations"], data["actions"]).mean()
    far = agent.morse.certainty(data["observations"], -data["actions"]).mean()
    assert near > 0.9 and far < 0.1


def test_morse_network_is_frozen_after_its_training():
    """A policy loss that is called on its own puts no gradient on it either, whatever path its own gradient takes."""
    agent, data, args, generator = make(detach_weight=False)
    train_morse(agent, data, args, generator)
    agent.morse.zero_grad()
    td3_bst.actor_loss(agent.actor, agent.critic, agent.morse, data, args)[0].backward()
    assert all(p.grad is None for p in agent.morse.parameters())
    assert all(p.grad is not None for p in agent.actor.parameters())


def test_same_seed_same_weights():
    runs = []
    for seed in (1, 1, 2):
        agent, data, args, generator = make(seed)
        train_morse(agent, data, args, generator)
        for _ in range(5):
            step(agent, data, args, generator)
        runs.append([p for name in ("actor", "critic", "morse") for p in parameters(getattr(agent, name))])
    assert all(torch.equal(a, b) for a, b in zip(runs[0], runs[1]))
    assert not any(torch.equal(a, b) for a, b in zip(runs[0], runs[2]))


@pytest.mark.parametrize("weighting", ["morse", "constant"])
def test_update_runs_on_meta(weighting):
    """No host synchronisation and no data-dependent shape: `meta` tensors have no values to wait for."""
    agent, data, args, generator = make(device="meta", weighting=weighting)
    train_morse(agent, data, args, generator)
    metrics = step(agent, data, args, generator, td3_bst.return_bounds(data, args.discount))
    assert all(value.is_meta for value in metrics.values())


@pytest.fixture
def float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


CONFIGURATIONS = [
    (td3_bst, {"anneal_actor_learning_rate": True, "bound_targets": True}),
    (td3_bst, {"q_weight": 0.0, "weighting": "constant"}),
    (td3_bst, {"policy_frequency": 3}),
    (iql_bst, {}),
    (iql_bst, {"policy_extraction": "awr", "policy_frequency": 2}),
]


@pytest.mark.parametrize("script, kwargs", CONFIGURATIONS)
def test_compiled_update_learns_the_same(script, kwargs, monkeypatch, float64):
    """As the eager one does, with a step size that changes too, and it is one graph: traced, that is; to have PyTorch
    write C++ for it would take minutes. In float64, since in float32 the two round Adam's scalars apart."""
    trace, weights = functools.partial(torch.compile, backend="aot_eager"), {}

    def compile(function, fullgraph, options):
        assert options.keys() <= set(torch._inductor.list_options())
        return trace(function, fullgraph=fullgraph)

    monkeypatch.setattr(script.torch, "compile", compile)
    for compiled in (True, False):
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        args = script.resolve(script.Args(**SMALL, morse_steps=3, total_timesteps=60, compile=compiled, **kwargs))
        _, data, _, generator = make()
        agent = script.make_agent(OBS, K, args, torch.device("cpu"))
        with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True, trace_autograd_ops=False):
            script.train(agent, data, args, generator, {"morse": 0, "policy": 0}, lambda *_: None)
        weights[compiled] = [p for part in ("actor", "critic", "target_critic") for p in parameters(getattr(agent, part))]
        assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == compiled
        assert not torch._dynamo.utils.counters["graph_break"]
    for one, other in zip(weights[True], weights[False]):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)
