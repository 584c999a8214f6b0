"""A table from the results.json files of finished runs: every figure in it is computed here, none is typed.

    python benchmark/report.py runs                                       # print the table
    python benchmark/report.py benchmark/results/runs --into README.md    # and put it between the README's markers

A row is a method on a dataset, with the last evaluation of each seed's run; never the best one.
"""

import json
import re
import sys
from pathlib import Path

import numpy as np
import tyro


def method(args):
    """What a run's arguments make of td3_bst.py."""
    if args["exp_name"] == "random":
        return "random policy"
    if args["weighting"] == "morse":
        return "TD3-BST" if args["q_weight"] else "Morse-weighted behaviour cloning"
    return "TD3+BC (constant weight)" if args["q_weight"] else "behaviour cloning"


def table(folder):
    """Markdown for all runs below a folder. Raises SystemExit where there is none."""
    rows = {}
    for file in sorted(Path(folder).rglob("results.json")):
        record = json.loads(file.read_text())
        last = next(entry for entry in record["evaluations"] if entry["last"])
        rows.setdefault((record["dataset_id"], method(record["args"]), last["step"]), []).append((record["args"]["seed"], last))
    if not rows:
        sys.exit(f"error: there is no results.json below {folder}; train something first")
    lines = ["| dataset | method | gradient steps | seeds | score | of each seed | return | episode length |", "| --- " * 8 + "|"]
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
