"""Tables from the results.json files of finished runs: every figure in them is computed here, none is typed.

    python benchmark/report.py runs                                       # print the tables
    python benchmark/report.py benchmark/results/runs --into README.md    # and put them between the README's markers

Policies: a row is a method on a dataset. Its score, return and episode length are the last evaluation's, averaged over
seeds, never the best one's; beside them the score of each seed, and of each evaluation in the course of training,
averaged over seeds. Morse networks of morse_only.py: who finds a mode of four-modes, and certainty on other datasets.
"""

import json
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import tyro


RUNNING = {"--env-id", "--seed", "--exp-name", "--runs-dir", "--total-timesteps", "--eval-freq", "--eval-episodes"}
BOUNDS = {"random": "random policy", "planner": "the data's planner without noise"}
NAMED = {"--weighting", "--q-weight", "--policy-extraction"}  # flags that `method` puts into words
KERNEL = {"--kernel", "--kernel-scale-factor", "--distances", "--log-freq"}  # in other columns, or of no interest


def method(record):
    """What a run's arguments make of its script, with the flags of its command that change the algorithm."""
    args, words = record["args"], shlex.split(record["command"])[2:]
    if args["exp_name"] in BOUNDS:
        return BOUNDS[args["exp_name"]]
    if args.get("policy_extraction") == "awr":
        name = "IQL"
    elif not args["q_weight"]:
        name = "Morse-weighted behaviour cloning" if args["weighting"] == "morse" else "behaviour cloning"
    elif "policy_extraction" in args:
        name = "IQL-BST" if args["weighting"] == "morse" else "IQL's critics, constant weight"
    else:
        name = "TD3-BST" if args["weighting"] == "morse" else "TD3+BC"
    return " ".join([name, *shown_flags(words, RUNNING | NAMED)])


def shown_flags(words, hidden):
    """The flags of a command's words with their values, each in backquotes, but for those whose name is hidden."""
    flags = re.split(r" (?=--)", " ".join(words))
    return [f"`{flag}`" for flag in flags if flag and flag.partition(" ")[0] not in hidden]


def markdown(rows):
    """Rows of cells, the first one the head, as a table."""
    lines = ["| " + " | ".join(map(str, cells)) + " |" for cells in rows]
    return "\n".join([lines[0], "| --- " * len(rows[0]) + "|", *lines[1:]])


def policies(records):
    """Table of the runs that evaluated a policy."""
    rows = {}
    for record in records:
        last = next(entry for entry in record["evaluations"] if entry["last"])
        rows.setdefault((record["dataset_id"], method(record), last["step"]), []).append(record)
    head = ["dataset", "method", "gradient steps", "seeds", "score", "of each seed", "of each evaluation", "return"]
    lines = [[*head, "episode length"]]
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
        lines.append([*cells, f"{np.mean([np.mean(entry['lengths']) for entry in last]):.0f}"])
    return markdown(lines)


def modes(records):
    """Table of morse_only.py on four-modes: percent of final actions at a mode, mean over seeds, for each temperature."""
    shares = {}
    for entry in (entry for record in records for entry in record["morse"]):
        kernel = entry["kernel"] and f"{entry['kernel'].upper()}, {entry['factor']:g} k"
        key = entry["objective"], kernel, entry["temperature"]
        shares.setdefault(key, []).append(100 * entry["at a mode"])
    kernels = list(dict.fromkeys(kernel for _, kernel, _ in shares if kernel))
    temperatures = sorted({temperature for *_, temperature in shares if temperature})
    lines = [[f"{len(records)} seeds, mu = {' / '.join(f'{t:g}' for t in temperatures)}", *kernels]]
    for objective in dict.fromkeys(objective for objective, *_ in shares):
        if (objective, None, None) in shares:
            lines.append([objective, *[f"{np.mean(shares[objective, None, None]):.0f}"] * len(kernels)])
        else:
            cells = [[f"{np.mean(shares.get((objective, k, t), np.nan)):.0f}" for t in temperatures] for k in kernels]
            lines.append([objective, *map(" / ".join, cells)])
    return markdown(lines)


def certainties(records):
    """Table of morse_only.py on datasets: mean certainty by what the action is, AUROC of the data's own against it."""
    distances = sorted({d for record in records for d in record["morse"]["certainty at distance"]}, key=float)
    others = ["actions of other states", "uniform actions"]
    head = ["dataset", "kernel, lambda", "held-out data", *(f"at {distance}" for distance in distances), *others]
    lines = [[*head, *(f"AUROC, {name}" for name in others)]]
    for record in sorted(records, key=lambda record: (record["dataset_id"], record["args"]["kernel_scale_factor"])):
        args, study = record["args"], record["morse"]
        values = [study["certainty"]["held-out data"], *map(study["certainty at distance"].get, distances)]
        values += [study["certainty"][name] for name in others] + [study["AUROC against"][name] for name in others]
        kernel = f"{args['kernel'].upper()}, {args['kernel_scale_factor']:g} k"
        kernel = " ".join([kernel, *shown_flags(shlex.split(record["command"])[2:], RUNNING | KERNEL)])
        lines.append([record["dataset_id"], kernel, *("" if value is None else f"{value:.2f}" for value in values)])
    return markdown(lines)


def tables(folder):
    """Markdown by the name of its markers, for all runs below a folder. Raises SystemExit where there is none."""
    records = [json.loads(file.read_text()) for file in sorted(Path(folder).rglob("results.json"))]
    if not records:
        sys.exit(f"error: there is no results.json below {folder}; train something first")
    groups = {
        "results": (policies, [record for record in records if "evaluations" in record]),
        "four-modes": (modes, [record for record in records if isinstance(record.get("morse"), list)]),
        "certainty": (certainties, [record for record in records if isinstance(record.get("morse"), dict)]),
    }
    return {name: make(group) for name, (make, group) in groups.items() if group}


def main(folder: tyro.conf.Positional[str], into: str | None = None):
    """Print the tables, and write them into a file that has their marker lines.

    Args:
        folder: folder with runs, at any depth
        into: Markdown file with <!-- NAME --> and <!-- /NAME --> on lines of their own for each table
    """
    texts = tables(folder)
    print("\n\n".join(texts.values()))
    if into:
        page = Path(into).read_text()
        for name, text in texts.items():
            pattern = rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)"
            if not re.search(pattern, page, re.DOTALL):
                sys.exit(f"error: {into} has no lines <!-- {name} --> and <!-- /{name} -->")
            page = re.sub(pattern, lambda m: m[1] + text + "\n" + m[2], page, flags=re.DOTALL)
        Path(into).write_text(page)


if __name__ == "__main__":
    tyro.cli(main)
