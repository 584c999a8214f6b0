"""A strip of pictures from above of an episode in which a trained policy reached its goal in a maze.

    python benchmark/film.py runs/RUN    # writes film.png there; without a screen set MUJOCO_GL=egl or osmesa

The episode is the first of the run's last evaluation that reached its goal; the title says which that is.
"""

import json
import sys
from pathlib import Path

import gymnasium as gym
import mujoco
import numpy as np
import report
import torch
import tyro
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import td3_bst

WIDTH = 400  # pixels of a picture; MuJoCo's offscreen buffer has 640


def film(env, policy, seed, steps):
    """Pictures of the episode with this seed before each of these steps, (height, width, 3) each, and its length."""
    rows, columns = np.shape(env.unwrapped.maze.maze_map)
    camera = mujoco.MjvCamera()
    camera.distance, camera.elevation, camera.azimuth = rows * env.unwrapped.maze.maze_size_scaling, -90, 90
    model = env.unwrapped.model
    model.geom_rgba[model.geom_bodyid > 0] = 0, 0, 1, 1  # what moves is blue
    pictures, length, done = [], 0, False
    obs, _ = env.reset(seed=seed)
    with mujoco.Renderer(model, WIDTH * rows // columns, WIDTH) as renderer:
        while True:
            if length in steps:
                renderer.update_scene(env.unwrapped.data, camera)
                pictures.append(renderer.render())
            if done:
                return pictures, length
            obs, _, terminated, truncated, _ = env.step(policy(obs[None])[0])
            length, done = length + 1, terminated or truncated


def main(run: tyro.conf.Positional[str], pictures: int = 6):
    """Write RUN/film.png.

    Args:
        run: folder of a run of td3_bst.py or iql_bst.py on a maze, with its model.pt and results.json
        pictures: number of pictures, at even intervals, start and end included
    """
    if pictures < 2:
        sys.exit(f"error: --pictures must be at least 2, got {pictures}")
    files = [Path(run) / name for name in ("model.pt", "results.json")]
    if not all(file.exists() for file in files):
        sys.exit(f"error: {run} has no model.pt or results.json; pass the folder of a run that was evaluated")
    model, record = torch.load(files[0], map_location="cpu", weights_only=True), json.loads(files[1].read_text())
    info, args, last = model["info"], record["args"], record["evaluations"][-1]
    if not info["is_maze"] or not any(last["terminations"]):
        sys.exit(f"error: no episode of the last evaluation of {run} reached a goal in a maze; pass another run")
    if not report.has_ended([record]):
        sys.exit(f"error: {run} is not finished, so its policy is not that of its last evaluation; --resume it first")
    episode = last["terminations"].index(True)
    steps = np.unique(np.linspace(0, last["lengths"][episode], pictures).astype(int))  # fewer, if it is that short
    seed = np.random.SeedSequence(args["seed"]).generate_state(len(last["lengths"]))[episode]
    actor = td3_bst.Actor(len(info["obs_mean"]), len(info["action_low"]), args["actor_hidden_dims"])
    actor.load_state_dict(model["actor"])
    env = gym.wrappers.FlattenObservation(gym.make(gym.envs.registration.EnvSpec.from_json(info["env_spec"])))
    with td3_bst.explain("the episode cannot be filmed", "without a screen set MUJOCO_GL to egl or osmesa"):
        shown, length = film(env, td3_bst.make_policy(actor, info), int(seed), steps)
    if length != last["lengths"][episode]:
        sys.exit(f"error: the episode took {length} steps, not {last['lengths'][episode]}; use the run's package versions")
    figure = Figure(figsize=(2.5 * len(steps), 3), layout="constrained")
    title = f"{record['dataset_id']}, {report.method(record).replace('`', '')}, after {last['step']:,} steps"
    figure.suptitle(f"{title}: episode {episode + 1} of {len(last['lengths'])}")
    for axes, picture, step in zip(figure.subplots(1, len(steps)), shown, steps):
        axes.imshow(picture)
        axes.set(title=f"step {step}", xticks=[], yticks=[])
    figure.savefig(Path(run) / "film.png", dpi=150)
    print(Path(run) / "film.png")


if __name__ == "__main__":
    try:
        tyro.cli(main)
    except td3_bst.UserError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
