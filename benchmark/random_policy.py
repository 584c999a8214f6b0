"""Evaluate uniformly random actions on a dataset's evaluation task, as a floor for the table of benchmark/report.py.

    python benchmark/random_policy.py --env-id td3-bst/pointmaze-umaze-v0
"""

import json
import shlex
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
import tyro
from gymnasium.envs.registration import EnvSpec

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from td3_bst import Args, UserError, evaluate, load_dataset, resolve


def main(env_id: str, seed: int = 1, runs_dir: str = "runs"):
    """Writes RUNS_DIR/.../results.json, of the form that td3_bst.py leaves; step 0 is its only evaluation.

    Args:
        env_id: dataset, as td3_bst.py takes it
        seed: of the actions and of the evaluation episodes, which are those of td3_bst.py with this seed
        runs_dir: folder that the run's own folder is made in
    """
    args = resolve(Args(env_id=env_id, seed=seed, exp_name="random", runs_dir=runs_dir))
    _, info = load_dataset(args, torch.device("cpu"))
    low, high = info["action_low"].numpy(), info["action_high"].numpy()
    rng = np.random.default_rng(seed)
    seeds = np.random.SeedSequence(seed).generate_state(args.eval_episodes)
    returns, lengths, terminations = evaluate(
        lambda obs: rng.uniform(low, high, (len(obs), len(low))).astype(np.float32),
        EnvSpec.from_json(info["env_spec"]),
        seeds,
        args.num_eval_envs,
    )
    entry = {"step": 0, "last": True, "score": 100 * terminations.mean() if info["is_maze"] else None}
    entry |= {"return_mean": returns.mean(), "returns": returns.tolist()}
    entry |= {"lengths": lengths.tolist(), "terminations": terminations.tolist()}
    folder = Path(runs_dir) / f"{env_id.replace('/', '-')}__random__{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    record = {"args": asdict(args), "dataset_id": info["dataset_id"], "command": shlex.join(["python", *sys.argv])}
    (folder / "results.json").write_text(json.dumps(record | {"evaluations": [entry]}))
    print(f"random policy: score {entry['score']}, return {entry['return_mean']}")


if __name__ == "__main__":
    try:
        tyro.cli(main)
    except UserError as error:
        sys.exit(f"error: {error}")
