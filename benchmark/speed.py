"""How fast an update is on this machine, where its time goes, and how that compares with its matrix products alone.

    python benchmark/speed.py                                              # every mode of td3_bst.py
    taskset -c 0 python benchmark/speed.py --corl ../CORL --jax-corl ../JAX-CORL    # beside others, JAX on one core too

Random data with the dimensions of D4RL's Hopper and AntMaze, batch 256, and Hopper's arguments for both (AntMaze's add a
third layer of the policy, an annealed step size and bounds on the critics' targets). All modes take turns in one process,
so that other load on the machine slows all alike: compare ratios. Peers are the unmodified files of a clone (Tarasov et
al., CORL; Nishimori, JAX-CORL, which needs jax, flax and optax), with empty stand-ins for packages that their update does
not use. Updates are counted in steps of the critics; a ratio is to the first mode's rate, and the ceiling is the rate of
matrix products alone, which take turns with the modes."""

import dataclasses
import functools
import importlib.util
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Literal
from unittest.mock import MagicMock

import numpy as np
import torch
import tyro
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

ROOT = Path(__file__).resolve().parent.parent
DIMS = {"hopper": (11, 3), "antmaze": (29, 8)}  # of observations and actions
ROWS = 1_000_000
PRODUCTS = 10  # timed as one step: about as long as an update takes
PARTS = {  # share of time, by the name of PyTorch's operation
    "matrix products": ("aten::mm", "aten::bmm", "aten::addmm", "aten::baddbmm"),
    "LayerNorm": ("aten::native_layer_norm", "aten::native_layer_norm_backward"),
    "ReLU": ("aten::clamp_min", "aten::relu", "aten::threshold_backward"),
    "optimisers": ("aten::_fused_adam_", "aten::_foreach_copy_", "aten::_foreach_add_", "aten::add_"),
    "sampling": ("aten::index_select", "aten::randint", "aten::random_", "aten::randn", "aten::normal_"),
    "target networks": ("aten::_foreach_lerp_", "aten::lerp_"),
}


@dataclasses.dataclass
class Args:
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    """torch device"""
    threads: int = 1
    """CPU threads of PyTorch"""
    steps: int = 96
    """gradient steps of a turn, a multiple of 8"""
    turns: int = 10
    """turns of each mode after one to warm up; the median is reported"""
    dims: tuple[Literal[tuple(DIMS)], ...] = tuple(DIMS)
    """which datasets' dimensions"""
    precisions: tuple[Literal["highest", "high", "medium"], ...] = ("highest", "medium")
    """values of --matmul-precision to measure"""
    compile: bool = False
    """also time TD3-BST with --compile"""
    corl: Path | None = None
    """clone of tinkoff-ai/CORL to time beside"""
    jax_corl: Path | None = None
    """clone of nissymori/JAX-CORL to time beside"""


@functools.cache
def load(path, *stand_ins):
    """A Python file as a module, with stand-ins for these packages, which it imports but its update does not use."""
    for name in stand_ins:
        sys.modules.setdefault(name, MagicMock())
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
    argv, sys.argv = sys.argv, sys.argv[:1]
    spec.loader.exec_module(module)
    sys.argv = argv
    return module


def random_data(obs_dim, action_dim):
    """Transitions as D4RL names them, float32 arrays with a row each."""
    rng = np.random.default_rng(0)
    obs, next_obs = rng.standard_normal((2, ROWS, obs_dim), np.float32)
    actions, rewards = rng.random((ROWS, action_dim), np.float32) * 2 - 1, rng.standard_normal(ROWS, np.float32)
    names = ("observations", "actions", "rewards", "next_observations", "terminals")
    return dict(zip(names, (obs, actions, rewards, next_obs, np.zeros(ROWS, np.float32))))


def td3_bst(arrays, device, **kwargs):
    """A function of the number of gradient steps to make, of td3_bst.py with these arguments."""
    module = load(ROOT / "td3_bst.py")
    args = module.resolve(module.Args(env_id="hopper-medium-v2", device=str(device), **kwargs))
    data = {key: torch.from_numpy(array).to(device) for key, array in zip(module.DATA_KEYS, arrays.values())}
    agent = module.make_agent(arrays["observations"].shape[1], arrays["actions"].shape[1], args, device)
    generator = torch.Generator(device).manual_seed(0)
    run_update = module.choose_update(args)
    updates = module.repeat(lambda: run_update(agent, module.draw(data, args, generator), args), generator)
    return lambda steps: [next(updates) for _ in range(steps // args.policy_frequency)]


def corl_td3_bc(path, arrays, device):
    """The same of CORL's td3_bc.py, as its own training loop calls it."""
    module = load(path / "algorithms/offline/td3_bc.py", "d4rl", "gym", "pyrallis", "wandb")
    dims = arrays["observations"].shape[1], arrays["actions"].shape[1]
    buffer = module.ReplayBuffer(*dims, ROWS, str(device))
    buffer.load_d4rl_dataset(arrays)
    networks = [module.Actor(*dims, 1.0).to(device), *(module.Critic(*dims).to(device) for _ in range(2))]
    pairs = [part for network in networks for part in (network, torch.optim.Adam(network.parameters(), lr=3e-4))]
    trainer = module.TD3_BC(1.0, *pairs, device=str(device))
    return lambda steps: [trainer.train([x.to(device) for x in buffer.sample(256)]) for _ in range(steps)]


def jax_corl_td3_bc(path, arrays, device):
    """The same of JAX-CORL's td3bc.py, eight jitted updates a call, as its own training loop has them."""
    import jax

    omegaconf = ModuleType("omegaconf")
    omegaconf.OmegaConf = SimpleNamespace(from_cli=dict)
    sys.modules["omegaconf"] = omegaconf
    module = load(path / "algos/td3bc.py", "d4rl", "distrax", "gym", "wandb", "tqdm")
    arrays = [arrays[key] for key in ("observations", "actions", "rewards", "next_observations", "terminals")]
    data = module.Transition(*map(jax.numpy.asarray, arrays))
    state = module.create_td3bc_train_state(jax.random.PRNGKey(0), arrays[0][0], arrays[1][0], module.config)
    update, key = jax.jit(module.TD3BC.update_n_times, static_argnums=(3,)), jax.random.PRNGKey(1)

    def train(steps):
        nonlocal state, key
        for _ in range(steps // module.config.n_jitted_updates):
            key, subkey = jax.random.split(key)
            state, info = update(state, data, subkey, module.config)
        jax.block_until_ready(info)

    return train


def synchronize(device):
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def matrix_products(device):
    """The same of nothing but PRODUCTS twin (256, 256) x (256, 256) products a step, as the critics have them.

    On a GPU they are replayed as a CUDA graph, as the updates are: launching them one by one takes longer than they do."""
    a, b, bias = (torch.randn(2, rows, 256, device=device) for rows in (256, 256, 1))

    def multiply():
        for _ in range(8 * PRODUCTS):
            torch.baddbmm(bias, a, b)

    products = load(ROOT / "td3_bst.py").repeat(multiply, torch.Generator(device))
    return lambda steps: [next(products) for _ in range(steps // 8)]


class Bytes(TorchDispatchMode):
    """Adds up what every operation reads and writes, were nothing cached or fused. Of a table, the rows that it takes."""

    total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if not func.is_view:
            table = func in (torch.ops.aten.index.Tensor, torch.ops.aten.index_select.default)
            read, written = result if table else (args, kwargs), result
            if result is None:  # an operation in place, such as fused Adam's
                named = dict(zip((argument.name for argument in func._schema.arguments), args)) | (kwargs or {})
                written = [named.get(a.name) for a in func._schema.arguments if a.alias_info and a.alias_info.is_write]
            leaves = torch.utils._pytree.tree_leaves((read, written))
            self.total += sum(x.numel() * x.element_size() for x in leaves if isinstance(x, torch.Tensor) and x.ndim)
        return result


def work(train, steps=8):
    """Floating-point operations of the matrix products, and bytes, of one gradient step."""
    with FlopCounterMode(display=False) as flops:
        train(steps)
    with Bytes() as moved:
        train(steps)
    return flops.get_total_flops() / steps, moved.total / steps


def shares(train, steps):
    """Share of a CPU's profiled time of each of PARTS; the rest is Python, bookkeeping and small operations."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        train(steps)
    times = {event.key: event.self_cpu_time_total for event in profiler.key_averages()}
    return {part: sum(times.get(name, 0) for name in names) / sum(times.values()) for part, names in PARTS.items()}


def main(args):
    if args.steps < 8 or args.steps % 8 or args.turns < 1:
        sys.exit(f"error: --steps must be a multiple of 8 and --turns at least 1, got {args.steps} and {args.turns}")
    if args.threads < 1 or not args.precisions or not args.dims:
        sys.exit("error: --threads must be at least 1, --precisions and --dims not empty")
    for peer in (args.corl, args.jax_corl):
        if peer and not peer.is_dir():
            sys.exit(f"error: there is no folder {peer}; clone the peer there")
    torch.set_num_threads(args.threads)
    torch._dynamo.config.recompile_limit = 64  # all that is compiled is variants of one function
    device = torch.zeros(1, device=args.device).device  # with its index
    if device.type == "cuda":
        torch.cuda.set_device(device)
    modes = {"TD3-BST": {}, "TD3-BST, critics without LayerNorm": {"critic_layernorm": False}}
    modes |= {"TD3+BC": {"weighting": "constant"}, "TD3+BC, no LayerNorm": {"weighting": "constant", "critic_layernorm": False}}
    modes |= {"behaviour cloning": {"weighting": "constant", "q_weight": 0.0}}
    if args.compile:
        modes["TD3-BST, compiled"] = {"compile": True}
    for name in args.dims:
        arrays = random_data(*DIMS[name])
        runs = {}  # name: precision, function of the device to a function of the number of steps
        if args.corl:
            runs["CORL td3_bc.py"] = "highest", functools.partial(corl_td3_bc, args.corl, arrays)
        if args.jax_corl:
            runs["JAX-CORL td3bc.py"] = "highest", functools.partial(jax_corl_td3_bc, args.jax_corl, arrays)
        for precision in args.precisions:
            for mode, kwargs in modes.items():
                runs[f"{mode}, {precision}"] = precision, functools.partial(td3_bst, arrays, **kwargs)
            runs[f"matrix products, {precision}"] = precision, matrix_products
        trains = {run: make(device) for run, (_, make) in runs.items()}
        rates = {run: [] for run in runs}
        for turn in range(args.turns + 1):
            for run, (precision, _) in runs.items():
                torch.set_float32_matmul_precision(precision)
                started = time.perf_counter()
                trains[run](args.steps)
                synchronize(device)
                rates[run].append(args.steps / (time.perf_counter() - started))
            print(f"\r{name}: turn {turn} of {args.turns}", end="", flush=True)
        rates = {run: np.array(values[1:]) for run, values in rates.items()}  # (turns,), the first warmed up
        base = next(iter(rates.values()))
        ceilings = {p: PRODUCTS * 4 * 256**3 * rates.pop(f"matrix products, {p}") for p in args.precisions}  # FLOP/s, (turns,)
        print("".join(f"\nmatrix products, {p}: {np.median(rate) / 1e9:.0f} GFLOP/s" for p, rate in ceilings.items()))
        print(f"{'updates/s':>9} {'ratio':>6} {'MFLOP':>6} {'MB':>5} {'GFLOP/s':>8} {'of ceiling':>10}  {name}, threads {args.threads}")
        for run, rate in rates.items():
            columns = f"{np.median(rate):9.1f} {np.median(rate / base):6.2f}"
            if run == "JAX-CORL td3bc.py":
                columns += " " * 33
            else:  # nothing is to be counted in the replay of a graph, and a compiled update has its eager one's products
                precision, make = runs[run.replace(", compiled", "")]
                flops, moved = work(make(torch.device("cpu")))
                columns += f" {flops / 1e6:6.0f} " + (" " * 5 if "compiled" in run else f"{moved / 1e6:5.1f}")
                share = np.median(flops * rate / ceilings.get(precision, np.nan))
                columns += f" {flops * np.median(rate) / 1e9:8.1f} {share:10.0%}"
            print(f"{columns}  {run}")
        if device.type == "cpu":
            for precision in args.precisions:
                torch.set_float32_matmul_precision(precision)
                parts = shares(trains[f"TD3-BST, {precision}"], args.steps)
                print(f"TD3-BST, {precision}: " + ", ".join(f"{part} {share:.0%}" for part, share in parts.items()))


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
