"""A table from the results.json files of finished runs: every figure in it is computed here, none is typed.

    python benchmark/report.py runs                                       # print the table
    python benchmark/report.py benchmark/results/runs --into README.md    # and put it between the README's markers

A row is a method on a dataset. Its score, return and episode length are the last evaluation's, averaged over seeds, never
the best one's; beside them the score of each seed, and of each evaluation in the course of training, averaged over seeds.
"""

import json
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import tyro


RUNNING = {"--env-id", "--seed", "--exp-name", "--runs-dir", "--total-timesteps", "--eval-freq", "--eval-episodes"}
NAMED = {"--weighting", "--q-weight", "--policy-extraction"}  # flags that `method` puts into words


def method(record):
    """What a run's arguments make of its script, with the flags of its command that change the algorithm."""
    args, words = record["args"], shlex.split(record["command"])[2:]
    if args["exp_name"] == "random":
        return "random policy"
    if args.get("policy_extraction") == "awr":
        name = "IQL"
    elif not args["q_weight"]:
        name = "Morse-weighted behaviour cloning" if args["weighting"] == "morse" else "behaviour cloning"
    elif "policy_extraction" in args:
        name = "IQL-BST" if args["weighting"] == "morse" else "IQL's critics, constant weight"
    else:
        name = "TD3-BST" if args["weighting"] == "morse" else "TD3+BC"
    flags = re.split(r" (?=--)", " ".join(words))
    shown = [flag for flag in flags if flag.partition(" ")[0] not in RUNNING | NAMED]
    return " ".join([name, *(f"`{flag}`" for flag in shown)])


def table(folder):
    """Markdown for all runs below a folder. Raises SystemExit where there is none."""
    rows = {}
    for file in sorted(Path(folder).rglob("results.json")):
        record = json.loads(file.read_text())
        last = next(entry for entry in record["evaluations"] if entry["last"])
        rows.setdefault((record["dataset_id"], method(record), last["step"]), []).append(record)
    if not rows:
        sys.exit(f"error: there is no results.json below {folder}; train something first")
    head = ["dataset", "method", "gradient steps", "seeds", "score", "of each seed", "of each evaluation", "return"]
    head.append("episode length")
    lines = ["| " + " | ".join(head) + " |", "| --- " * len(head) + "|"]
    for (dataset, name, step), records in sorted(rows.items(), key=lambda row: (row[0][0], -row[0][2], row[0][1])):
        records.sort(key=lambda record: record["args"]["seed"])
        last = [next(entry for entry in record["evaluations"] if entry["last"]) for record in records]
        cells = [dataset, name, f"{step:,}", ", ".join(str(record["args"]["seed"]) for record in records), "", "", ""]
        if None not in [entry["score"] for entry in last]:
            curve = zip(*([entry["score"] for entry in record["evaluations"]] for record in records))
            cells[4] = f"{np.mean([entry['score'] for entry in last]):.1f}"
            cells[5] = ", ".join(f"{entry['score']:.0f}" for entry in last)
            cells[6] = ", ".join(f"{np.mean(scores):.0f}" for scores in curve)
        cells.append(f"{np.mean([entry['return_mean'] for entry in last]):.2f}")
        cells.append(f"{np.mean([np.mean(entry['lengths']) for entry in last]):.0f}")
        lines.append("| " + " | ".join(cells) + " |")
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
