"""Networks and losses against float64 numpy code written from the equations, gradients against finite differences."""

import numpy as np
import pytest
import torch
from td3_bst import (
    LIMITS,
    Actor,
    Args,
    Critic,
    MorseNetwork,
    actor_loss,
    critic_loss,
    draw,
    make_agent,
    morse_loss,
    resolve,
    return_bounds,
    update,
)

OBS, K, BATCH = 5, 3, 7


def forward(net, x):
    """An nn.Sequential of Linear and ReLU layers, in float64 numpy."""
    layers = [m for m in net if isinstance(m, torch.nn.Linear)]
    for i, layer in enumerate(layers):
        x = x @ layer.weight.detach().double().numpy().T + layer.bias.detach().double().numpy()
        x = np.maximum(x, 0) if i < len(layers) - 1 else x
    return x


def critic_values(critic, obs, action):
    """Both Qs, (2, batch), in float64 numpy, one twin at a time."""
    values = []
    for twin in range(2):
        x = np.concatenate([obs, action], -1)
        for i, (weight, bias) in enumerate(zip(critic.weights, critic.biases)):
            x = x @ weight[twin].detach().double().numpy() + bias[twin].detach().double().numpy()
            if i < len(critic.weights) - 1:
                if critic.layernorm:
                    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
                x = np.maximum(x, 0)
        values.append(x[:, 0])
    return np.stack(values)


def certainty(morse, obs, action):
    d2 = ((forward(morse.net, np.concatenate([obs, action], -1)) - action) ** 2).sum(-1)
    if morse.kernel == "rbf":
        return np.exp(-(morse.kernel_scale**2) / 2 * d2)
    return (1 + morse.kernel_scale**2 * d2 / (2 * morse.rq_shape)) ** -morse.rq_shape


def gradient_matches(loss, module):
    """Whether autograd's gradient is the finite difference of `loss()`, along random directions, in float64."""
    rng = torch.Generator().manual_seed(0)
    parameters = list(module.parameters())
    gradients = torch.autograd.grad(loss(), parameters)
    for _ in range(3):
        directions = [torch.randn(p.shape, generator=rng, dtype=p.dtype) for p in parameters]
        expected = sum((g * d).sum().item() for g, d in zip(gradients, directions))
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                for p, d in zip(parameters, directions):
                    p += sign * 1e-6 * d
                values.append(loss().item())
                for p, d in zip(parameters, directions):
                    p -= sign * 1e-6 * d
        assert (values[0] - values[1]) / 2e-6 == pytest.approx(expected, rel=1e-4, abs=1e-7)


@pytest.fixture
def batch():
    torch.manual_seed(0)
    return {
        "observations": torch.randn(BATCH, OBS, dtype=torch.float64),
        "actions": torch.rand(BATCH, K, dtype=torch.float64) * 2 - 1,
        "rewards": torch.randn(BATCH, dtype=torch.float64),
        "next_observations": torch.randn(BATCH, OBS, dtype=torch.float64),
        "terminations": torch.tensor([0, 1, 0, 0, 1, 0, 0], dtype=torch.float64),
    }


def numbers(batch):
    return [batch[key].numpy() for key in ("observations", "actions", "rewards", "next_observations", "terminations")]


@pytest.mark.parametrize("kernel, rq_shape", [("rbf", 1.0), ("rq", 0.5), ("rq", 3.0)])
def test_morse_loss(batch, kernel, rq_shape):
    morse = MorseNetwork(OBS, K, (16, 16), 1.5, kernel, rq_shape).double()
    uniform = torch.rand(BATCH, 4, K, dtype=torch.float64) * 2 - 1
    obs, action, *_ = numbers(batch)
    states = np.repeat(obs[:, None], 4, 1)
    expected = -np.log(certainty(morse, obs, action)).mean() + 0.7 * certainty(morse, states, uniform.numpy()).mean()

    def loss():
        return morse_loss(morse, batch["observations"], batch["actions"], uniform, 0.7)[0]

    assert loss().item() == pytest.approx(expected, rel=1e-12)
    gradient_matches(loss, morse)


def test_morse_loss_metrics(batch):
    morse = MorseNetwork(OBS, K, (16,)).double()
    uniform = torch.zeros(BATCH, 1, K, dtype=torch.float64)
    loss, metrics = morse_loss(morse, batch["observations"], batch["actions"], uniform)
    obs, action, *_ = numbers(batch)
    np.testing.assert_allclose(metrics["certainty/data"].detach(), certainty(morse, obs, action))
    np.testing.assert_allclose(metrics["certainty/uniform"][:, 0].detach(), certainty(morse, obs, np.zeros((BATCH, K))))
    assert metrics["loss/morse"] is loss


@pytest.mark.parametrize("kernel", ["rbf", "rq"])
def test_certainty_limits(kernel):
    """1 where f(s, a) = a, 0 in the limit far away, less for a larger scale; -log M stays finite where M underflows."""
    obs = torch.randn(4, OBS)
    action = torch.randn(4, K)
    morse = MorseNetwork(OBS, K, (8,), 2.0, kernel)
    morse.forward = lambda obs, action: action
    assert morse.certainty(obs, action).tolist() == [1] * 4
    values = []
    for distance in (0.1, 1.0, 10.0, 1e4):
        morse.forward = lambda obs, action, shift=distance: action + shift
        value = morse.certainty(obs, action)
        assert value.shape == (4,) and (value >= 0).all() and (value < 1).all()
        wider = MorseNetwork(OBS, K, (8,), 1.0, kernel)
        wider.forward = morse.forward
        assert (wider.certainty(obs, action) >= value).all()
        values.append(value[0].item())
    assert values == sorted(values, reverse=True) and values[-1] < 1e-6
    assert torch.isfinite(morse.neg_log_certainty(obs, action)).all()


def test_certainty_values():
    """exp(-lambda^2 d^2 / 2) and (1 + lambda^2 d^2 / (2 r))^-r at d^2 = 0.75, and the latter's limit in r."""
    obs, action = torch.zeros(1, OBS), torch.zeros(1, K)
    at = {}
    for kernel, r in (("rbf", 1.0), ("rq", 2.0), ("rq", 1e4)):
        morse = MorseNetwork(OBS, K, (8,), 1.5, kernel, r)
        morse.forward = lambda obs, action: action + 0.5
        at[kernel, r] = morse.certainty(obs, action).item()
    assert at["rbf", 1.0] == pytest.approx(np.exp(-(1.5**2) * 0.75 / 2), rel=1e-5)
    assert at["rq", 2.0] == pytest.approx((1 + 1.5**2 * 0.75 / 4) ** -2, rel=1e-5)
    assert at["rq", 1e4] == pytest.approx(at["rbf", 1.0], rel=1e-3)


def test_default_kernel_scale_is_half_the_action_dimension():
    assert MorseNetwork(OBS, 8).kernel_scale == 4


@pytest.mark.parametrize("layernorm", [True, False])
def test_critic_twins(batch, layernorm):
    critic = Critic(OBS, K, (16, 8), layernorm).double()
    obs, action, *_ = numbers(batch)
    expected = critic_values(critic, obs, action)
    assert not np.allclose(expected[0], expected[1])
    np.testing.assert_allclose(critic(batch["observations"], batch["actions"]).detach(), expected, rtol=1e-10)
    one = critic(batch["observations"], batch["actions"], twins=1)
    np.testing.assert_allclose(one.detach(), expected[:1], rtol=1e-10)


def test_critic_starts_as_linear_layers_do():
    critic = Critic(OBS, K, (64, 64))
    for weight, fan_in in zip(critic.weights, (OBS + K, 64, 64)):
        assert weight.abs().max() <= fan_in**-0.5
        assert weight.std().item() == pytest.approx((1 / 3) ** 0.5 * fan_in**-0.5, rel=0.1)


@pytest.mark.parametrize("bounds", [None, (-0.2, 0.3)])
def test_critic_loss(batch, bounds):
    critic, target = Critic(OBS, K, (16,)).double(), Critic(OBS, K, (16,)).double()
    actor = Actor(OBS, K, (16,)).double()
    noise = torch.randn(BATCH, K, dtype=torch.float64).clamp(-2, 2)
    obs, action, reward, next_obs, termination = numbers(batch)
    next_action = np.tanh(forward(actor.net, next_obs)) + noise.numpy()
    assert (next_action > 1).any() and (next_action < -1).any()
    next_action = np.clip(next_action, -1, 1)
    next_q = critic_values(target, next_obs, next_action).min(0)
    y = reward + 0.9 * (1 - termination) * next_q
    if bounds:
        clipped = np.clip(y, *bounds)
        assert (clipped > y).any() and (clipped < y).any() and (clipped == y).any()
        y = clipped
    expected = ((critic_values(critic, obs, action) - y) ** 2).mean(1).sum()

    def loss():
        return critic_loss(critic, target, actor, batch, noise, 0.9, bounds)[0]

    assert loss().item() == pytest.approx(expected, rel=1e-10)
    gradient_matches(loss, critic)
    loss().backward()
    assert all(p.grad is None for p in [*target.parameters(), *actor.parameters()])


@pytest.mark.parametrize(
    "rewards, ends, bounds",
    [
        ([0.0, 10.0, 0.0], [0, 1, 0], (0, 10)),  # a goal that ends the episode
        ([-1.0, 0.0, -1.0], [0, 1, 0], (-10, 0)),  # a cost of time
        ([1.0, -2.0, 5.0, -30.0], [0, 0, 1, 1], (-30, 10)),
        ([0.5, 1.0], [0, 0], (5, 10)),  # nothing ends
    ],
)
def test_return_bounds(rewards, ends, bounds):
    """Returns of random episodes of these steps are within them; some that are very short or of one reward are at them."""
    data = {"rewards": torch.tensor(rewards), "terminations": torch.tensor(ends, dtype=torch.float32)}
    low, high = return_bounds(data, 0.9)
    assert (low.item(), high.item()) == pytest.approx(bounds)
    rng = np.random.default_rng(0)
    onward, last = ([r for r, end in zip(rewards, ends) if end == kind] for kind in (0, 1))
    returns = []
    for _ in range(500):
        pool = onward if rng.random() < 0.5 else [rng.choice(onward)]
        steps = rng.choice(pool, rng.choice([0, 5, 200]) if last else 200)  # 0.9^200 is nothing
        end = rng.choice(last, 1) if last else []
        returns.append(sum(0.9**t * r for t, r in enumerate([*steps, *end])))
    assert min(returns) >= bounds[0] - 1e-6 and max(returns) <= bounds[1] + 1e-6
    assert (min(returns), max(returns)) == pytest.approx(bounds, abs=1e-6)


def test_critic_loss_masks_terminations(batch):
    """What follows a termination has no say; what follows any other transition has."""
    critic, target, actor = Critic(OBS, K, (16,)).double(), Critic(OBS, K, (16,)).double(), Actor(OBS, K, (16,)).double()
    noise = torch.zeros(BATCH, K, dtype=torch.float64)
    before, _ = critic_loss(critic, target, actor, batch, noise, 0.9)
    batch["next_observations"][1] += 100
    assert critic_loss(critic, target, actor, batch, noise, 0.9)[0] == before
    batch["next_observations"][0] += 100
    assert critic_loss(critic, target, actor, batch, noise, 0.9)[0] != before


def expected_actor_loss(actor, critic, morse, batch, args):
    obs, action, *_ = numbers(batch)
    pi = np.tanh(forward(actor.net, obs))
    q = critic_values(critic, obs, pi)[0]
    weight = np.full(BATCH, args.constant_weight / K)
    if args.weighting == "morse":
        weight = np.exp((1 - certainty(morse, obs, pi)) / args.temperature) - 1
    return (-args.q_weight * q / np.abs(q).mean() + weight * ((pi - action) ** 2).sum(-1)).mean()


@pytest.mark.parametrize("weighting", ["morse", "constant"])
@pytest.mark.parametrize("q_weight", [1.0, 0.0, 2.5])
@pytest.mark.parametrize("detach_weight", [True, False])
def test_actor_loss(batch, weighting, q_weight, detach_weight):
    args = resolve(Args(weighting=weighting, q_weight=q_weight, detach_weight=detach_weight, temperature=0.7))
    actor, critic = Actor(OBS, K, (16,)).double(), Critic(OBS, K, (16,)).double()
    morse = MorseNetwork(OBS, K, (16,), 1.5).double()
    expected = expected_actor_loss(actor, critic, morse, batch, args)
    value, metrics = actor_loss(actor, critic, morse, batch, args)
    assert value.item() == metrics["loss/actor"].item() == pytest.approx(expected, rel=1e-10)

    with torch.no_grad():  # what the gradient must treat as constants: Z_Q, and the weight if detached
        pi = actor(batch["observations"])
        z_q = critic(batch["observations"], pi)[0].abs().mean()
        certainty = morse.certainty(batch["observations"], pi)
        fixed = torch.expm1((1 - certainty) / args.temperature)
    figures = {"policy/bc_error": (pi - batch["actions"]).square().sum(-1)}
    figures |= {"certainty/policy": certainty, "policy/weight": fixed} if weighting == "morse" else {}
    figures |= {"policy/q": critic(batch["observations"], pi)[0]} if q_weight else {}
    assert metrics.keys() == figures.keys() | {"loss/actor"}
    for name, figure in figures.items():
        torch.testing.assert_close(metrics[name], figure, rtol=1e-9, atol=1e-12)

    def loss():
        pi = actor(batch["observations"])
        error = (pi - batch["actions"]).square().sum(-1)
        weight = args.constant_weight / K
        if weighting == "morse":
            now = torch.expm1((1 - morse.certainty(batch["observations"], pi)) / args.temperature)
            weight = fixed if detach_weight else now
        return (-q_weight * critic(batch["observations"], pi)[0] / z_q + weight * error).mean()

    gradient_matches(loss, actor)
    ours = torch.autograd.grad(actor_loss(actor, critic, morse, batch, args)[0], list(actor.parameters()))
    for gradient, reference in zip(ours, torch.autograd.grad(loss(), list(actor.parameters()))):
        torch.testing.assert_close(gradient, reference, rtol=1e-9, atol=1e-12)


def test_detached_weight_changes_the_gradient(batch):
    actor, critic = Actor(OBS, K, (16,)).double(), Critic(OBS, K, (16,)).double()
    morse = MorseNetwork(OBS, K, (16,), 1.5).double()
    gradients = []
    for detach in (True, False):
        args = resolve(Args(detach_weight=detach))
        loss = actor_loss(actor, critic, morse, batch, args)[0]
        gradients.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(actor.parameters()))]))
    assert not torch.allclose(*gradients, rtol=1e-2)


def test_constant_weight_is_td3_bc(batch):
    """The defaults' gradient is TD3+BC's, -2.5 Q / Z_Q + mean squared error, divided by 2.5."""
    args = resolve(Args(weighting="constant"))
    actor, critic = Actor(OBS, K, (16,)).double(), Critic(OBS, K, (16,)).double()
    pi = actor(batch["observations"])
    q = critic(batch["observations"], pi)[0]
    td3_bc = -2.5 * q.mean() / q.abs().mean().detach() + torch.nn.functional.mse_loss(pi, batch["actions"])
    expected = torch.autograd.grad(td3_bc, list(actor.parameters()))
    ours = torch.autograd.grad(actor_loss(actor, critic, None, batch, args)[0], list(actor.parameters()))
    for gradient, reference in zip(ours, expected):
        torch.testing.assert_close(gradient * 2.5, reference)


def test_weight_limits(batch):
    """The weight is 0 in the data's support, and exp(1 / mu) - 1 far outside, finite at the smallest temperature."""
    actor, critic = Actor(OBS, K, (16,)), Critic(OBS, K, (16,))
    batch = {key: value.float() for key, value in batch.items()}
    morse = MorseNetwork(OBS, K, (16,))
    for temperature in (1.0, 1 / 30):
        args = resolve(Args(temperature=temperature))
        morse.forward = lambda obs, action: action
        assert actor_loss(actor, critic, morse, batch, args)[1]["policy/weight"].tolist() == [0] * BATCH
        morse.forward = lambda obs, action: action + 1e3
        weight = actor_loss(actor, critic, morse, batch, args)[1]["policy/weight"]
        torch.testing.assert_close(weight, torch.full((BATCH,), np.expm1(1 / temperature)).float(), rtol=1e-5, atol=0)


@pytest.mark.parametrize("detach", [True, False])
def test_the_smallest_temperature_does_not_freeze_the_policy(batch, detach):
    """Where certainty is 0 the squared gradient is exp(2 / mu) large: at 1/80 Adam's second moments stay infinite."""
    args = resolve(Args(temperature=LIMITS["temperature"][0], detach_weight=detach, kernel_scale_factor=2.0, batch_size=64))
    torch.manual_seed(0)
    agent, generator = make_agent(OBS, K, args, torch.device("cpu")), torch.Generator().manual_seed(0)
    data = {key: value.float() for key, value in batch.items()}
    for _ in range(20):
        update(agent, draw(data, args, generator), args)
    assert all(moments["exp_avg_sq"].isfinite().all() for moments in agent.actor_optimizer.state.values())


def test_actor_is_bounded():
    action = Actor(OBS, K)(torch.randn(BATCH, OBS) * 1e4)
    assert action.shape == (BATCH, K) and action.abs().max() <= 1
