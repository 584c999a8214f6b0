"""What a GPU gets: the protocol of the CUDA graph and the optimisers' settings on a stand-in; the graph itself on a GPU."""

import contextlib
import time
from dataclasses import replace
from types import SimpleNamespace

import iql_bst
import pytest
import td3_bst
import torch
from td3_bst import Args, choose_update, draw, make_agent, repeat, resolve, return_bounds, sample

GENERATOR = SimpleNamespace(device=SimpleNamespace(type="cuda"))


class FakeCuda:
    """Records what is called on torch.cuda; a replay counts as a step that Python does not see."""

    def __init__(self, fail=False):
        self.events, self.where, self.fail = [], "main", fail

    def stream_of(self, name):
        return SimpleNamespace(name=name, wait_stream=lambda other: self.events.append(f"{name} waits for {other.name}"))

    def Stream(self):
        return self.stream_of("side")

    def current_stream(self):
        return self.stream_of(self.where)

    def CUDAGraph(self):
        return SimpleNamespace(
            register_generator_state=lambda generator: self.events.append(("register", generator)),
            replay=lambda: self.events.append("replay"),
        )

    @contextlib.contextmanager
    def stream(self, stream):
        self.where = stream.name
        yield
        self.where = "main"

    @contextlib.contextmanager
    def graph(self, graph):
        self.where = "graph"
        yield
        if self.fail:  # as PyTorch's, it does not get to setting the stream back
            try:
                raise RuntimeError("operation not permitted when stream is capturing")
            finally:
                raise RuntimeError("operation failed due to a previous error during capture")
        self.where = "main"

    def set_stream(self, stream):
        self.where = stream.name


def run(monkeypatch, count, **kwargs):
    cuda = FakeCuda(**kwargs)
    monkeypatch.setattr(td3_bst.torch, "cuda", cuda)
    steps = repeat(lambda: cuda.events.append(f"step on {cuda.where}") or len(cuda.events), GENERATOR)
    return cuda.events, [next(steps) for _ in range(count)]


def test_graph_after_three_steps_on_a_side_stream(monkeypatch):
    events, results = run(monkeypatch, 6)
    warm_up = ["side waits for main", "step on side", "main waits for side"]
    assert events == [*warm_up * 3, ("register", GENERATOR), "step on graph", "replay", "replay", "replay"]
    assert results[3:] == [11, 11, 11]  # what the recorded step returned, whose memory each replay fills anew
    assert sum(event in ("step on side", "replay") for event in events) == 6  # recording is not a step: none is lost


def test_without_a_graph_it_goes_on_and_says_so(monkeypatch, capsys):
    events, results = run(monkeypatch, 6, fail=True)
    steps = [event for event in events if str(event).startswith("step")]
    assert steps == ["step on side"] * 3 + ["step on graph"] + ["step on main"] * 3 and "replay" not in events
    (line,) = capsys.readouterr().out.splitlines()
    assert "no CUDA graph" in line and "slower" in line and "not permitted" in line


def test_on_the_cpu_every_step_runs():
    calls = []
    steps = repeat(lambda: calls.append(0) or len(calls), torch.Generator())
    assert [next(steps) for _ in range(5)] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("kind", ["cpu", "cuda", "meta"])
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("script", [td3_bst, iql_bst])
def test_optimisers_of_each_device(kind, compiled, script, monkeypatch):
    """The Morse network's, the last, is the same with --compile: its steps are not in the graph."""
    seen = []
    monkeypatch.setattr(torch.nn.Module, "to", lambda self, device: self)
    monkeypatch.setattr(torch, "tensor", lambda value, device, t=torch.tensor: t(value))
    monkeypatch.setattr(torch.optim, "Adam", lambda parameters, lr, **kwargs: seen.append(kwargs))
    monkeypatch.setattr(torch.optim.lr_scheduler, "CosineAnnealingLR", lambda *_: None)
    script.make_agent(4, 2, script.resolve(script.Args(compile=compiled)), torch.device(kind))
    eager = {"fused": kind != "meta", "capturable": kind == "cuda"}
    others = [{"foreach": True, "capturable": True} if compiled else eager] * (2 if script is td3_bst else 3)
    assert seen == others + [eager]


@pytest.mark.parametrize("kind, compiled", [("cuda", False), ("cuda", True), ("cpu", True), ("cpu", False)])
def test_a_step_size_that_a_graph_is_to_see_change_is_a_tensor(kind, compiled, monkeypatch):
    rates, adam = [], torch.optim.Adam
    monkeypatch.setattr(torch.nn.Module, "to", lambda self, device: self)
    monkeypatch.setattr(torch, "tensor", lambda value, device, t=torch.tensor: t(value))
    monkeypatch.setattr(torch.optim, "Adam", lambda parameters, lr, **_: rates.append(lr) or adam(parameters, lr))
    make_agent(4, 2, resolve(Args(anneal_actor_learning_rate=True, compile=compiled)), torch.device(kind))
    assert isinstance(rates[0], torch.Tensor) == (compiled or kind == "cuda")
    assert not any(isinstance(rate, torch.Tensor) for rate in rates[1:])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@torch._dynamo.config.patch(trace_autograd_ops=False)
def test_graph_and_eager_learn_alike(capsys):
    """1,000 steps on a learnable reward: mean losses of eager steps, of a graph and of a graph of the compiled update
    agree; prints the steps per second."""
    device = torch.device("cuda", torch.cuda.current_device())
    torch.manual_seed(0)
    obs, action = torch.randn(10_000, 11, device=device), torch.rand(10_000, 3, device=device) * 2 - 1
    data = {"observations": obs, "actions": action, "rewards": (obs[:, :3] * action).sum(1), "next_observations": obs.flip(0)}
    data["terminations"] = torch.zeros(10_000, device=device)
    losses = {}
    for name in ("eager", "graph", "compiled"):
        args = resolve(Args(compile=name == "compiled"))
        run_update, bounds = choose_update(args), return_bounds(data, args.discount)
        torch.manual_seed(1)
        agent, generator = make_agent(11, 3, args, device), torch.Generator(device).manual_seed(1)

        def step():
            return run_update(agent, draw(data, args, generator), args, bounds)

        steps = iter(step, None) if name == "eager" else repeat(step, generator)
        values = []
        for i in range(1000 // args.policy_frequency):
            if i == 10:  # compiled, warm and recorded
                torch.cuda.synchronize()
                started = time.time()
            metrics = next(steps)
            values.append(torch.stack([metrics["loss/critic"], metrics["loss/actor"]]))
        torch.cuda.synchronize()
        rate = (len(values) - 10) * args.policy_frequency / (time.time() - started)
        losses[name] = torch.stack(values).mean(0)
        print(f"{name}: {rate:.0f} steps/s, loss of critic and policy {losses[name].tolist()}")
    for name in ("graph", "compiled"):
        torch.testing.assert_close(losses[name], losses["eager"], rtol=0.05, atol=0.05)
    out = capsys.readouterr().out
    print(out)
    assert "no CUDA graph" not in out
    a, b = (sample(data, 8, generator, ["rewards"])["rewards"] for _ in range(2))
    assert not torch.equal(a, b)  # the registered generator still moves on


def learn(script, args, device):
    """How far each network moves in both phases of a training on made-up data, the policy in its last tenth too, and the
    mean of each loss."""
    torch.manual_seed(0)
    obs, action = torch.randn(10_000, 11, device=device), torch.rand(10_000, 3, device=device) * 2 - 1
    data = {"observations": obs, "actions": action, "rewards": (obs[:, :3] * action).sum(1), "next_observations": obs.flip(0)}
    data["terminations"] = (torch.rand(10_000, device=device) < 0.1).float()
    agent, generator = script.make_agent(11, 3, args, device), torch.Generator(device).manual_seed(0)
    networks = {name: part for name, part in vars(agent).items() if isinstance(part, torch.nn.Module)}
    before = {name: [p.detach().clone() for p in network.parameters()] for name, network in networks.items()}
    losses = {}

    def after_step(phase, step, metrics):
        if (phase, step) == ("policy", args.total_timesteps * 9 // 10):
            networks["late"], before["late"] = agent.actor, [p.detach().clone() for p in agent.actor.parameters()]
        for name in metrics.keys() & {"loss/morse", "loss/value", "loss/critic", "loss/actor"}:
            losses.setdefault(name, []).append(metrics[name].clone())

    script.train(agent, data, args, generator, {"morse": 0, "policy": 0}, after_step)
    moves = {name: [p - q for p, q in zip(network.parameters(), before[name])] for name, network in networks.items()}
    norms = {name: torch.nn.utils.get_total_norm([move.detach() for move in own]) for name, own in moves.items()}
    return norms | {name: torch.stack(values).mean() for name, values in losses.items()}


VARIANTS = [(td3_bst, {"anneal_actor_learning_rate": True}), (iql_bst, {}), (iql_bst, {"policy_extraction": "awr"})]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("script, kwargs", VARIANTS)
@torch._dynamo.config.patch(trace_autograd_ops=False)
def test_graphs_of_both_phases_train_as_their_steps_do(script, kwargs, compiled, monkeypatch, capsys):
    """On one generator, with a step size that falls: were it recorded as a number, the policy would move too far."""
    device = torch.device("cuda", torch.cuda.current_device())
    args = script.resolve(script.Args(total_timesteps=400, morse_steps=100, compile=compiled, **kwargs))
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    replayed = learn(script, args, device)
    assert "no CUDA graph" not in capsys.readouterr().out
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == compiled
    assert not torch._dynamo.utils.counters["graph_break"]
    monkeypatch.setattr(script, "repeat", lambda step, _: iter(step, None))
    eager = learn(script, replace(args, compile=False), device)
    assert replayed.keys() == eager.keys() and len(eager) >= 7
    for name, value in eager.items():
        torch.testing.assert_close(replayed[name], value, rtol=0.05, atol=0.02, msg=lambda text: f"{name}: {text}")
