"""A short real training on recreated PointMaze: TD3-BST beats behaviour cloning on the same data and steps, and chance."""

import json

import numpy as np
import torch
from gymnasium.envs.registration import EnvSpec
from td3_bst import Args, evaluate, load_dataset, main, resolve

STEPS = 2500


def train(env_id, folder, seed, **kwargs):
    arguments = {"total_timesteps": STEPS, "morse_steps": 1000, "seed": seed, "runs_dir": str(folder)} | kwargs
    main(resolve(Args(env_id=env_id, **arguments)))
    (run,) = folder.iterdir()
    return json.loads((run / "results.json").read_text())["evaluations"][-1]


def test_td3_bst_beats_behaviour_cloning_and_chance(pointmaze, tmp_path):
    """Success of 95% at least, and the goal reached sooner than the data's own noisy detours teach."""
    lengths = {"bst": [], "bc": []}
    for seed in (1, 2):
        bst = train(pointmaze, tmp_path / f"bst{seed}", seed)
        bc = train(pointmaze, tmp_path / f"bc{seed}", seed, weighting="constant", q_weight=0.0)
        assert bst["score"] >= 95
        lengths["bst"].append(np.mean(bst["lengths"]))
        lengths["bc"].append(np.mean(bc["lengths"]))
    assert np.mean(lengths["bst"]) < np.mean(lengths["bc"])

    _, info = load_dataset(resolve(Args(env_id=pointmaze)), torch.device("cpu"))
    rng = np.random.default_rng(0)
    random = evaluate(lambda obs: rng.uniform(-1, 1, (len(obs), 2)), EnvSpec.from_json(info["env_spec"]), range(50), 10)
    assert random[2].mean() < 0.75
