"""Evaluate uniformly random actions on a dataset's evaluation task, as a floor for the table of benchmark/report.py.

    python benchmark/random_policy.py --env-id td3-bst/pointmaze-umaze-v1
"""

import json
import shlex
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
import tyro

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from td3_bst import Args, UserError, explain, load_dataset, resolve, score_policy, write_file


class RandomActor(torch.nn.Module):
    """Uniform actions in place of td3_bst.py's Actor: (batch, obs_dim) -> (batch, action_dim) in [-1, 1]."""

    def __init__(self, action_dim, seed):
        super().__init__()
        self.action_dim, self.rng = action_dim, np.random.default_rng(seed)

    def forward(self, obs):
        return torch.from_numpy(self.rng.uniform(-1, 1, (len(obs), self.action_dim)))


def make_folder(runs_dir, name):
    """RUNS_DIR/NAME, made if it is not there. Raises UserError."""
    folder = Path(runs_dir) / name
    with explain(f"cannot write to {folder}", "pass another --runs-dir"):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def write_results(folder, args, dataset_id, score, returns, lengths, terminations):
    """Write results.json of a policy that does not learn into `folder`: one evaluation, at step 0, an entry per episode."""
    entry = {"step": 0, "last": True, "score": score, "return_mean": float(np.mean(returns))}
    entry |= {"returns": np.asarray(returns).tolist(), "lengths": np.asarray(lengths).tolist()}
    entry |= {"terminations": np.asarray(terminations).tolist()}
    record = {"args": args, "dataset_id": dataset_id, "command": shlex.join(["python", *sys.argv])}
    write_file(folder / "results.json", json.dumps(record | {"evaluations": [entry]}))


def main(env_id: str, seed: int = 1, runs_dir: str = "runs"):
    """Write RUNS_DIR/.../results.json in td3_bst.py's format, with a single evaluation, at step 0.

    Args:
        env_id: dataset, as td3_bst.py takes it
        seed: of the actions and of the evaluation episodes, which are those of td3_bst.py with this seed
        runs_dir: parent folder of the run's own folder
    """
    args = resolve(Args(env_id=env_id, seed=seed, exp_name="random", runs_dir=runs_dir, device="cpu"))
    _, info = load_dataset(args, torch.device("cpu"))
    if not info["env_spec"]:
        raise UserError(f"{env_id} has no environment to evaluate in; pass a dataset that has one")
    folder = make_folder(runs_dir, f"{env_id.replace('/', '-')}__random__{seed}")
    result = score_policy(RandomActor(len(info["action_low"]), seed), info, args)
    episodes = (result[key] for key in ("returns", "lengths", "terminations"))
    write_results(folder, asdict(args), info["dataset_id"], result["score"], *episodes)
    print(f"random policy: score {result['score']}, return {result['return_mean']}")


if __name__ == "__main__":
    try:
        tyro.cli(main)
    except UserError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("stopped: there are no results")
