"""Whether a trained critic tells good actions from bad ones in a recreated AntMaze, and whether the Morse network does.

    python benchmark/rank_actions.py runs/RUN runs/ANOTHER

In states of the data where the ant is upright, the controller of benchmark/make_dataset.py gives its action for walking
to the next cell on the way, and for walking left of that, right of it or back. The table has how often Q of the first is
above Q of the others, the mean difference, and each action's certainty.
"""

import json
import sys
from pathlib import Path

import make_dataset
import numpy as np
import report
import torch
import tyro

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import td3_bst

TURNS = {"onward": 0.0, "left": np.pi / 2, "right": -np.pi / 2, "back": np.pi}  # radians


def ways(obs, maze, controller):
    """The controller's actions towards the next cell and turned from there, (4, 8).

    None where the ant is not upright or is within 0.3 m of where it is to go: there is no clear direction then.

    `obs` is a raw observation, (31,), as td3_bst.py flattens it: torso position, goal, then the ant's own state."""
    position, goal, state = obs[:2], obs[2:4], obs[4:]
    path = make_dataset.shortest_path(maze.maze_map, *(tuple(maze.cell_xy_to_rowcol(xy)) for xy in (position, goal)))
    offset = (goal if len(path) <= 2 else maze.cell_rowcol_to_xy(path[1])) - position
    upright = 1 - 2 * np.square(state[2:4]).sum()  # of the quaternion: cosine of the tilt
    if upright < 0.5 or np.linalg.norm(offset) < 0.3:
        return None
    turn = [np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) for angle in TURNS.values()]
    return np.stack([controller({"observation": state}, matrix @ offset) for matrix in turn])


def main(runs: tyro.conf.Positional[tuple[str, ...]], states: int = 5000, seed: int = 0):
    """Print a table per run.

    Args:
        runs: folders of runs of td3_bst.py or iql_bst.py on one of the recreated AntMaze datasets
        states: number of states, drawn from the data
        seed: of the draw
    """
    if not runs or states < 1:
        sys.exit(f"error: pass at least one run's folder and --states 1, got {len(runs)} folders and {states}")
    for run in runs:
        files = [Path(run) / name for name in ("args.json", "checkpoint.pt")]
        record = json.loads(files[0].read_text()) if all(file.exists() for file in files) else {"dataset_id": ""}
        maze_name = record["dataset_id"].removeprefix("td3-bst/").removesuffix("-v0").removesuffix("-one-goal")
        if not maze_name.startswith("antmaze-") or maze_name not in make_dataset.MAZES:
            sys.exit(f"error: {run} is not a run with a checkpoint on a recreated AntMaze; pass another run")
        stored = report.BEFORE | record["args"]
        if not stored["q_weight"] and "policy_extraction" not in stored:
            sys.exit(f"error: {run} is cloning, which trains no critic to rank actions with; pass another run")
        checkpoint = torch.load(files[1], map_location="cpu", weights_only=True)
        if not checkpoint["done"]["policy"]:
            sys.exit(f"error: {run} was stopped before its critic had a step; --resume it, or pass another run")
        has_morse = stored["weighting"] == "morse" and stored.get("policy_extraction") != "awr"
        known = set(vars(td3_bst.Args())) & set(stored)
        args = td3_bst.resolve(td3_bst.Args(**{name: stored[name] for name in known}))
        data, info = td3_bst.load_dataset(args, torch.device("cpu"))
        if record.get("checksum", info["checksum"]) != info["checksum"]:
            sys.exit(f"error: {record['dataset_id']} was made anew since {run}; pass a run on the data that is there")
        maze_args = make_dataset.resolve(make_dataset.Args(maze_name))
        maze, controller = make_dataset.make_env(maze_args).unwrapped.maze, make_dataset.make_controller(maze_args)
        generator = torch.Generator().manual_seed(seed)
        index = torch.randperm(len(data["rewards"]), generator=generator)[:states]
        obs, mean, std = data["observations"][index], info["obs_mean"], info["obs_std"]
        actions = [ways(row, maze, controller) for row in (obs * std + mean).double().numpy()]
        usable = torch.tensor([i for i, action in enumerate(actions) if action is not None])
        if not len(usable):
            sys.exit(f"error: in none of these {states} states is the ant upright and on its way; raise --states")
        obs = obs[usable]
        turned = torch.tensor(np.stack([actions[i] for i in usable]), dtype=torch.float32).transpose(0, 1)  # (4, n, 8)
        choices = dict(zip(TURNS, turned)) | {"the data's": data["actions"][index][usable]}
        choices["uniform"] = torch.rand(turned[0].shape, generator=generator) * 2 - 1

        agent = td3_bst.make_agent(obs.shape[1], turned.shape[-1], args, torch.device("cpu"))
        with torch.no_grad():
            agent.critic.load_state_dict(checkpoint["critic"])
            agent.actor.load_state_dict(checkpoint["actor"])
            agent.morse.load_state_dict(checkpoint["morse"])
            choices["the policy's"] = agent.actor(obs)
            values = {name: agent.critic(obs, action, twins=1)[0] for name, action in choices.items()}
            certainty = {name: agent.morse.certainty(obs, action).mean() for name, action in choices.items()}
        print(f"\n{run}: {len(usable)} states, Q {values['onward'].mean():.3g} +- {values['onward'].std():.3g}")
        print("| action | ranked below onward | mean Q below onward | distance from onward | certainty |")
        print("| --- " * 5 + "|")
        for name, action in choices.items():
            gap, distance = values["onward"] - values[name], (action - turned[0]).norm(dim=-1).mean()
            cells = [f"{(gap > 0).double().mean():.0%}", f"{gap.mean():.3f}", f"{distance:.2f}"]
            cells = ["", "", ""] if name == "onward" else cells
            shown = f"{certainty[name]:.2f}" if has_morse else ""
            print("| " + " | ".join([name, *cells, shown]) + " |")


if __name__ == "__main__":
    try:
        tyro.cli(main)
    except td3_bst.UserError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
