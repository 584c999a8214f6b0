"""A table from the results.json files of finished runs: every figure in it is computed here, none is typed.

    python benchmark/report.py runs                                       # print the table
    python benchmark/report.py benchmark/results/runs --into README.md    # and put it between the README's markers

A row is a method on a dataset, with the last evaluation of each seed's run; never the best one.
"""

import json
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import tyro


RUNNING = {"--env-id", "--seed", "--exp-name", "--runs-dir", "--total-timesteps", "--eval-freq", "--eval-episodes"}
NAMED = {"--weighting", "--q-weight"}  # flags that `method` puts into words


def method(record):
    """What a run's arguments make of td3_bst.py, with the flags of its command that change the algorithm."""
    args, words = record["args"], shlex.split(record["command"])[2:]
    if args["exp_name"] == "random":
        return "random policy"
    if args["weighting"] == "morse":
        name = "TD3-BST" if args["q_weight"] else "Morse-weighted behaviour cloning"
    else:
        name = "TD3+BC" if args["q_weight"] else "behaviour cloning"
    flags = re.split(r" (?=--)", " ".join(words))
    shown = [flag for flag in flags if flag.partition(" ")[0] not in RUNNING | NAMED]
    return " ".join([name, *(f"`{flag}`" for flag in shown)])


def table(folder):
    """Markdown for all runs below a folder. Raises SystemExit where there is none."""
    rows = {}
    for file in sorted(Path(folder).rglob("results.json")):
        record = json.loads(file.read_text())
        last = next(entry for entry in record["evaluations"] if entry["last"])
        key = record["dataset_id"], method(record), last["step"]
        rows.setdefault(key, []).append((record["args"]["seed"], last))
    if not rows:
        sys.exit(f"error: there is no results.json below {folder}; train something first")
    head = ["dataset", "method", "gradient steps", "seeds", "score", "of each seed", "return", "episode length"]
    lines = ["| " + " | ".join(head) + " |", "| --- " * len(head) + "|"]
    for (dataset, name, step), runs in sorted(rows.items(), key=lambda row: (row[0][0], -row[0][2], row[0][1])):
        runs.sort(key=lambda run: run[0])
        scores = [entry["score"] for _, entry in runs]
        scored = None not in scores
        returns = np.mean([entry["return_mean"] for _, entry in runs])
        lengths = np.mean([np.mean(entry["lengths"]) for _, entry in runs])
        cells = [dataset, name, f"{step:,}", ", ".join(str(seed) for seed, _ in runs)]
        cells += [f"{np.mean(scores):.1f}" if scored else "", ", ".join(f"{x:.1f}" for x in scores) if scored else ""]
        lines.append("| " + " | ".join([*cells, f"{returns:.2f}", f"{lengths:.0f}"]) + " |")
    return "\n".join(lines)


def main(folder: tyro.conf.Positional[str], into: str | None = None):
    """Print the table, and write it into a file that has the two marker lines.

    Args:
        folder: folder with runs, at any depth
        into: Markdown file with <!-- results --> and <!-- /results --> on lines of their own
    """
    text = table(folder)
    print(text)
    if into:
        page = Path(into).read_text()
        pattern = r"(<!-- results -->\n).*?(<!-- /results -->)"
        if not re.search(pattern, page, re.DOTALL):
            sys.exit(f"error: {into} has no lines <!-- results --> and <!-- /results -->")
        Path(into).write_text(re.sub(pattern, lambda m: m[1] + text + "\n" + m[2], page, flags=re.DOTALL))


if __name__ == "__main__":
    tyro.cli(main)
