"""Tables, a CSV and figures from the results.json files of runs: every number in them is computed, none is typed.

    python benchmark/report.py runs                                                # print the tables
    python benchmark/report.py benchmark/results --out benchmark/results           # scores.md, scores.csv, figures/
    python benchmark/report.py benchmark/results --into README.md                  # between markers of a page

A run's score is its last evaluation's, or the mean over the last tenth of training: never the best one's. Over several
seeds, brackets hold a 95% stratified bootstrap interval: seeds redrawn within each dataset (Agarwal et al. 2021, arXiv
2108.13264, also the source of interquartile mean, performance profile and probability of improvement; their library,
rliable, does not import beside the current pandas).
"""

import csv
import json
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import tyro
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import iql_bst
import morse_only
import td3_bst

RUNNING = set(
    "env_id seed exp_name runs_dir total_timesteps eval_freq device compile num_eval_envs log_freq resume save".split()
)
BEFORE = {"bound_targets": False, "goal_scale": 1.0, "anneal_actor_learning_rate": False}  # of runs without the field
BOUNDS = {"random": "random policy", "planner": "the data's planner without noise"}
KERNEL = {"kernel", "kernel_scale_factor", "distances"}  # of runs of morse_only.py: columns, or the measurement's own
WITH = (  # flags that rows of a `defaults` table (--into) may have
    "constant-weight|inverse-temperature|discount|matmul-precision|"
    "actor-hidden-dims|actor-learning-rate|policy-frequency"
)
PLAIN = rf"[^`]+( `--({WITH})( [^`]*)?`)*"  # a method's name with no flags but those
HOW = " `--matmul-precision [^`]*`"  # a flag that makes a row of its own in tables of methods
METHODS = (
    "behaviour cloning",
    "Morse-weighted behaviour cloning",
    "TD3+BC",
    "TD3+BC `--constant-weight 2`",
    "IQL",
    "IQL-BST",
    "TD3-BST",
)
LEGEND = """A score is the mean over seeds of the last evaluation, never of the best one: the success rate in percent in
mazes, else the normalised return, or the return where there are no reference scores. Brackets hold its 95% bootstrap
interval, too narrow where seeds are few. Gradient steps are critic steps: the policy, cloning's too, takes one for
every two in `td3_bst.py`, one for one in `iql_bst.py`. The tables of methods hold runs without further flags, but for
`--matmul-precision`, which is in the row; the last table has every row, unfinished runs too. Flags are where a row's
runs differ from today's defaults, but for `--device` and `--compile`; its command is for its commit. The default
`--matmul-precision high` is TF32 on a GPU and float32 on a CPU: see the row's device. Datasets whose name begins with
`td3-bst/` are **recreated**. An empty cell has not been measured without further flags. Aggregates, profiles and curves
leave out runs with `--matmul-precision`. Curves are means over seeds, bands run from the lowest seed to the highest."""
PEERS = Path(__file__).with_name("peers.csv")
GROUPS = {  # title: pattern of its dataset ids, pattern of their names in peers.csv, what must be said of the scores
    "Locomotion": (
        r"(halfcheetah|hopper|walker2d)\S*-v2",
        "halfcheetah|hopper|walker2d",
        "D4RL's original data. Published scores are CORL's.",
    ),
    "AntMaze": (
        "D4RL/antmaze",
        "antmaze",
        "**Two benchmarks that cannot be compared:** ours on Minari's regeneration, CORL's on D4RL's original data.",
    ),
    "Recreated locomotion": (
        "td3-bst/(halfcheetah|hopper|walker2d)",
        None,
        "**Recreated data:** not to be compared with published scores.",
    ),
    "Recreated AntMaze": ("td3-bst/antmaze", None, "**Recreated data:** not to be compared with published scores."),
    "Recreated PointMaze v0": (
        r"td3-bst/pointmaze-\w+-v0",
        None,
        "**Recreated data**, with too little noise (results.md): not to be compared with published scores.",
    ),
    "Recreated PointMaze": ("td3-bst/pointmaze", None, "**Recreated data:** not to be compared with published scores."),
    "Adroit and kitchen": ("D4RL/(pen|door|hammer|relocate|kitchen)", None, "Minari's conversion of D4RL's data."),
    "Minari MuJoCo": ("mujoco/", None, "Minari's own data; returns, since it has no reference scores."),
    "Other datasets": ("", None, "What is in none of the groups above."),
}


# ---------------------------------------------------------------- runs

def method(record):
    """A run's method by name, with the arguments that are not today's defaults as flags."""
    args = record["args"]
    if args["exp_name"] in BOUNDS and last(record)["step"] == 0:
        return BOUNDS[args["exp_name"]]
    script = iql_bst if "policy_extraction" in args else td3_bst
    if args.get("policy_extraction") == "awr":
        name = "IQL"
    elif not args["q_weight"]:
        name = "Morse-weighted behaviour cloning" if args["weighting"] == "morse" else "behaviour cloning"
        name += " (iql_bst.py)" if script is iql_bst else ""  # with another policy, and as many steps of it as IQL
    elif script is iql_bst:
        name = "IQL-BST" if args["weighting"] == "morse" else "IQL's critics, constant weight"
    else:
        name = "TD3-BST" if args["weighting"] == "morse" else "TD3+BC"
    hidden = unread(args) | {"weighting", "policy_extraction"} | (set() if args["q_weight"] else {"q_weight"})
    return " ".join([name, *flags(args, script, hidden)])


def flags(args, script, hidden):
    """The flags, in backquotes, that give today's script these arguments, but for those that are hidden."""
    defaults, found = vars(script.resolve(script.Args(env_id=args["env_id"]))), []
    args = {name: value for name, value in BEFORE.items() if name in defaults} | args
    for name, value in sorted(args.items(), key=lambda item: [*defaults, *args].index(item[0])):
        default, flag = defaults.get(name), name.replace("_", "-")
        values = list(value) if isinstance(value, (list, tuple)) else [value]
        if name in RUNNING | hidden or values == (list(default) if isinstance(default, tuple) else [default]):
            continue
        if name == "morse_checkpoint":
            found.append("`--morse-checkpoint`")  # of a seed each, and of a network as the other arguments say
        elif isinstance(getattr(script.Args, name, None), bool):  # a switch
            found.append(f"`--{flag}`" if value else f"`--no-{flag}`")
        else:
            words = (f"{x:g}" if isinstance(x, float) else str(x) for x in values)
            found.append(f"`--{flag} {' '.join(words)}`")
    return found


def last(record):
    """The entry of a run's last evaluation."""
    return next(entry for entry in record["evaluations"] if entry["last"])


def score(entry):
    """An evaluation's score, or its return where the dataset has no reference scores."""
    return entry["return_mean"] if entry["score"] is None else entry["score"]


def last_tenth(record):
    """Mean score of a run's evaluations in the last tenth of its steps."""
    return np.mean([score(entry) for entry in record["evaluations"] if entry["step"] >= 0.9 * last(record)["step"]])


def unread(args):
    """Names of those arguments that the policy does not depend on, such as cloning's discount: defaults may change."""
    is_awr = args.get("policy_extraction") == "awr"
    names = {"constant_weight", "q_weight"} if is_awr else {"inverse_temperature", "max_awr_weight"}
    if args["weighting"] == "morse":
        names.add("constant_weight")
    if args.get("kernel") != "rq":
        names.add("rq_shape")
    if args["weighting"] == "constant" or is_awr:
        names |= {name for name in args if re.match("morse_|num_uniform|uniform_|kernel|rq_|temperature|detach_", name)}
    if args["q_weight"] == 0 and not is_awr:
        critics = "discount|reward_|bound_|critic_|tau|policy_noise|noise_clip|value_|expectile|normalize_returns"
        names |= {name for name in args | BEFORE if re.match(critics, name)}
    return names


def dataset_of(record):
    """A run's dataset: its id, or the name of its file, wherever that was."""
    dataset = record["dataset_id"]
    return Path(dataset).name if dataset.endswith((".hdf5", ".h5")) else dataset


def count_seeds(runs):
    """How many seeds a row of runs has, in words."""
    return "1 seed" if len(runs) == 1 else f"{len(runs)} seeds"


def check_row(name, runs):
    """SystemExit, with the folders, if the runs of a row have a seed twice, or not the same data, as far as they say."""
    seeds = [run["args"]["seed"] for run in runs]
    whole = [run for run in runs if run["args"].get("dataset_fraction") == 1]  # a share differs by seed
    if any(len({run[key] for run in whole if key in run}) > 1 for key in ("transitions", "checksum")):
        wrong = "were on data that differs"
    elif len(set(seeds)) < len(seeds):
        wrong = "have a seed twice"
    else:
        return
    folders = ", ".join(run["folder"] for run in runs)
    sys.exit(f"error: runs of {name}, seeds {seeds}, {wrong}; move away those not to count of {folders}")


def rows_of(records):
    """Runs that differ only in seed, sorted by it, by (dataset, method, gradient steps, of how many): see check_row."""
    rows = {}
    for record in sorted(records, key=lambda record: record["args"]["seed"]):
        step = last(record)["step"]
        total = record["args"].get("total_timesteps", step) if step else 0
        rows.setdefault((dataset_of(record), method(record), step, total), []).append(record)
    for (dataset, name, *_), runs in rows.items():
        check_row(f"{name} on {dataset}", runs)
    return dict(sorted(rows.items(), key=lambda row: (row[0][0], -row[0][2], row[0][1])))


def group_of(dataset):
    """The title of the first of GROUPS that a dataset belongs to."""
    return next(title for title, (pattern, *_) in GROUPS.items() if re.search(pattern, dataset))


def short(dataset):
    """A dataset's name as the published tables have it."""
    return re.sub(r"^D4RL/|-v\d+(\.hdf5|\.h5)?$", "", dataset).replace("/", "-").replace("_", "-")


def has_ended(runs):
    """Whether a row's runs were evaluated at their last step, as are policies that do not learn, at step 0."""
    step = last(runs[0])["step"]
    return step in (0, runs[0]["args"].get("total_timesteps", step))


def steps_cell(runs):
    """Gradient steps of a row's last evaluation, and of how many, where that is not the end."""
    step = f"{last(runs[0])['step']:,}"
    return step if has_ended(runs) else f"{step} of {runs[0]['args']['total_timesteps']:,}"


def curve(runs):
    """Steps at which all of these runs were evaluated, (evaluations,), and their scores, (seeds, evaluations)."""
    steps = sorted(set.intersection(*({entry["step"] for entry in run["evaluations"]} for run in runs)))
    return steps, np.array([[score(e) for e in run["evaluations"] if e["step"] in steps] for run in runs])


# ---------------------------------------------------------------- statistics of several runs

def resample(scores, reps, seed=0):
    """Stratified bootstrap: from each dataset's array of seeds' scores (reps, seeds) of them, drawn with replacement."""
    rng = np.random.default_rng(seed)
    return [np.asarray(x)[rng.integers(len(x), size=(reps, len(x)))] for x in scores]


def mean(scores):
    """Mean over datasets of the mean over seeds, from (..., seeds) for each dataset: (...)."""
    return np.mean([x.mean(-1) for x in scores], 0)


def iqm(scores):
    """Interquartile mean over all runs, the lowest and the highest quarter of them left out: (...)."""
    runs = np.sort(np.concatenate(scores, -1), -1)
    cut = runs.shape[-1] // 4
    return runs[..., cut : runs.shape[-1] - cut].mean(-1)


def improvement(ours, theirs):
    """Probability that a run of ours beats one of theirs on the same dataset, ties half, mean over datasets: (...)."""
    pairs = ((x[..., :, None], y[..., None, :]) for x, y in zip(ours, theirs))  # (..., seeds, seeds)
    return np.mean([((x > y) + 0.5 * (x == y)).mean((-2, -1)) for x, y in pairs], 0)


def interval(statistic, *scores, reps=2000):
    """A statistic of one list of arrays or of two, and the ends of its 95% bootstrap interval, if none has only one seed."""
    value = statistic(*([np.asarray(x) for x in part] for part in scores))
    if min(len(x) for part in scores for x in part) == 1:
        return (value,)
    draws = statistic(*(resample(part, reps, seed) for seed, part in enumerate(scores)))
    return value, *np.percentile(draws, [2.5, 97.5])


def estimate(statistic, *scores, digits=1):
    """The same in words: "97.3 [95.0, 99.0]"."""
    value, *ends = (f"{x:.{digits}f}" for x in interval(statistic, *scores))
    return f"{value} [{', '.join(ends)}]" if ends else value


# ---------------------------------------------------------------- tables

def markdown(rows):
    """Rows of cells, the first one the head, as a table."""
    lines = ["| " + " | ".join(map(str, cells)) + " |" for cells in rows]
    return "\n".join([lines[0], "| --- " * len(rows[0]) + "|", *lines[1:]])


def policies(rows, columns=None):
    """Table, or its first columns, of the rows of runs that evaluated a policy, with flags and each seed's score."""
    head = ["dataset", "method", "gradient steps", "seeds", "score", "of each seed", "of each evaluation", "return"]
    lines = [[*head, "episode length"]]
    for (dataset, name, *_), runs in rows.items():
        ends = [last(record) for record in runs]
        cells = [dataset, name, steps_cell(runs), ", ".join(str(record["args"]["seed"]) for record in runs), "", "", ""]
        if None not in [entry["score"] for entry in ends]:
            cells[4] = estimate(mean, [[entry["score"] for entry in ends]])
            cells[5] = ", ".join(f"{entry['score']:.0f}" for entry in ends)
            cells[6] = ", ".join(f"{value:.0f}" for value in curve(runs)[1].mean(0))
        cells.append(f"{np.mean([entry['return_mean'] for entry in ends]):.2f}")
        lines.append([*cells, f"{np.mean([np.mean(entry['lengths']) for entry in ends]):.0f}"])
    return markdown([line[:columns] for line in lines])


def score_table(rows, peers):
    """Last scores by dataset and method without flags but HOW's, mean over seeds and interval, beside published ones."""
    parts = {}  # {(dataset, step, flags of HOW): {method: runs}}
    for (dataset, name, step), runs in rows.items():
        parts.setdefault((dataset, step, "".join(re.findall(HOW, name))), {})[re.sub(HOW, "", name)] = runs
    lines = {key for key, methods in parts.items() if methods.keys() & set(METHODS)}
    lines |= {(dataset, 0, "") for dataset, *_ in parts if dataset not in [dataset for dataset, *_ in lines]}
    lines |= {(name, 0, "") for name, _ in peers if name not in [short(dataset) for dataset, *_ in lines]}
    found = {"TD3-BST"}.union(*parts.values())
    names = [name for name in (*METHODS, *BOUNDS.values()) if name in found]
    published = list(dict.fromkeys(method for _, method in peers))
    table = [["dataset", "gradient steps", *names, *(f"{method}, published" for method in published)]]
    for dataset, step, how in sorted(lines):
        trained = parts.get((dataset, step, how), {})
        steps = steps_cell(next(iter(trained.values()))) + how if step else ""
        own = parts.get((dataset, 0, ""), {}) | trained  # policies that do not learn are in each line of a dataset
        cells = [estimate(mean, [[score(last(run)) for run in own[name]]]) if name in own else "" for name in names]
        table.append([dataset, steps, *cells, *(peers.get((short(dataset), method), "") for method in published)])
    return markdown(table)


def longest(rows):
    """{method without other flags: {dataset: last scores}}, at the most steps that TD3-BST has on a dataset.

    The datasets are TD3-BST's, and a method that lacks one is left out: means over other datasets do not compare."""
    steps = {}
    for dataset, name, step in rows:
        if name == "TD3-BST":
            steps[dataset] = max(step, steps.get(dataset, 0))
    return {
        name: {dataset: [score(last(run)) for run in rows[dataset, name, step]] for dataset, step in steps.items()}
        for name in METHODS
        if steps and all((dataset, name, step) in rows for dataset, step in steps.items())
    }


def aggregate_table(scores):
    """Mean and interquartile mean over datasets, and the probability that TD3-BST is better."""
    table = [["method", "datasets", "runs", "mean", "interquartile mean", "P(TD3-BST scores higher)"]]
    for name, own in scores.items():
        parts = list(own.values())
        cells = [len(own), sum(map(len, parts)), estimate(mean, parts), estimate(iqm, parts), ""]
        if name != "TD3-BST":
            cells[4] = estimate(improvement, list(scores["TD3-BST"].values()), parts, digits=2)
        table.append([name, *cells])
    return markdown(table)


def ablation(rows, field, head):
    """Last scores by the value of one flag where rows differ in it alone; "" if none do."""
    flag = f"--{field.replace('_', '-')}"
    variants = {}
    for (dataset, name, step), runs in rows.items():
        name = re.sub(f" `{flag} [^`]*`", "", name)
        if step:
            by_value = variants.setdefault((dataset, name, step), {})
            by_value.setdefault(runs[0]["args"][field], []).extend(score(last(run)) for run in runs)
    variants = {key: by_value for key, by_value in variants.items() if len(by_value) > 1}
    values = sorted({value for by_value in variants.values() for value in by_value})
    lines = [
        [dataset, name, f"{step:,}", *(estimate(mean, [by[v]]) if v in by else "" for v in values)]
        for (dataset, name, step), by in variants.items()
    ]
    top = ["dataset", "method", "gradient steps", *(head.format(value) for value in values)]
    return markdown([top, *lines]) if lines else ""


def row_values(rows):
    """A dict per row of runs with all that is known of it; the command is that of its first seed."""
    for (dataset, name, *_), runs in rows.items():
        ends = [score(last(run)) for run in runs]
        keys = ("last score", "low", "high"), ("mean of the last tenth", "its low", "its high")
        scores = [[ends], [[last_tenth(run) for run in runs]]]
        values = {"dataset": dataset, "method": name.replace("`", ""), "gradient steps": steps_cell(runs)}
        values["device"] = " ".join(sorted({run["args"].get("device", "") for run in runs} - {""}))
        values["seeds"] = " ".join(str(run["args"]["seed"]) for run in runs)
        for names, part in zip(keys, scores):
            values |= dict.fromkeys(names, "") | {key: f"{value:.2f}" for key, value in zip(names, interval(mean, part))}
        values["last score of each seed"] = " ".join(f"{end:.1f}" for end in ends)
        values["commit"] = " ".join(sorted({run.get("commit", "") for run in runs} - {""}))
        yield values | {"command": runs[0]["command"]}


def modes(given, records):
    """Table of morse_only.py on four-modes: percent of final actions at a mode, mean over seeds, by temperature.

    The runs are those with the flags `given`. SystemExit on a repeated seed."""
    check_row(f"morse_only.py on four modes {given}", records)
    shares = {}
    for entry in (entry for record in records for entry in record["morse"]):
        kernel = entry["kernel"] and f"{entry['kernel'].upper()}, {entry['factor']:g} k"
        key = entry["objective"], kernel, entry["temperature"]
        shares.setdefault(key, []).append(100 * entry["at a mode"])
    kernels = list(dict.fromkeys(kernel for _, kernel, _ in shares if kernel))
    temperatures = sorted({temperature for *_, temperature in shares if temperature})
    head = f"{count_seeds(records)}, mu = {' / '.join(f'{t:g}' for t in temperatures)} {given}"
    lines = [[head.strip(), *kernels]]
    for objective in dict.fromkeys(objective for objective, *_ in shares):
        if (objective, None, None) in shares:
            lines.append([objective, *[f"{np.mean(shares[objective, None, None]):.0f}"] * len(kernels)])
        else:
            cells = [[f"{np.mean(shares.get((objective, k, t), np.nan)):.0f}" for t in temperatures] for k in kernels]
            lines.append([objective, *map(" / ".join, cells)])
    return markdown(lines)


def certainties(records):
    """Table of morse_only.py on datasets: mean certainty by what the action is, AUROC of the data's own against it.

    Each a mean over the runs that differ only in seed. SystemExit on a repeated seed."""
    distances = sorted({d for record in records for d in record["morse"]["certainty at distance"]}, key=float)
    others = ["actions of other states", "uniform actions"]
    head = ["dataset", "kernel, lambda", "seeds", "held-out data", *(f"at {distance}" for distance in distances), *others]
    lines, rows = [[*head, *(f"AUROC, {name}" for name in others)]], {}
    for record in sorted(records, key=lambda record: [record["args"][name] for name in ("kernel_scale_factor", "seed")]):
        args, study = record["args"], record["morse"]
        values = [study["certainty"]["held-out data"], *map(study["certainty at distance"].get, distances)]
        values += [study["certainty"][name] for name in others] + [study["AUROC against"][name] for name in others]
        kernel = f"{args['kernel'].upper()}, {args['kernel_scale_factor']:g} k"
        kernel = " ".join([kernel, *flags(args, morse_only, KERNEL)])
        rows.setdefault((dataset_of(record), kernel), []).append((record, values))
    for (dataset, kernel), runs in sorted(rows.items(), key=lambda row: row[0][0]):
        runs, values = zip(*runs)
        check_row(f"morse_only.py on {dataset} with {kernel}", runs)
        means = np.array(values, float).mean(0)  # NaN for a distance that was not measured
        cells = ("" if np.isnan(value) else f"{value:.2f}" for value in means)
        lines.append([dataset, kernel, ", ".join(str(run["args"]["seed"]) for run in runs), *cells])
    return markdown(lines)


def read(folder):
    """The records of all runs below a folder, each with its own folder. Raises SystemExit where there is none."""
    files = sorted(Path(folder).rglob("results.json"))
    records = []
    for file in files:
        try:
            records.append(json.loads(file.read_text()) | {"folder": str(file.parent)})
        except ValueError as error:
            sys.exit(f"error: {file} is no JSON ({error}); delete it")
    records = [record for record in records if "evaluations" in record or "morse" in record]
    if not records:
        sys.exit(f"error: there is no results.json of a run below {folder}; train something first")
    return records


def read_peers(pattern):
    """{(dataset, method): score} of peers.csv, for the datasets whose names match."""
    rows = csv.DictReader(PEERS.read_text().splitlines() if pattern else [])
    return {(row["dataset"], row["method"]): row["score"] for row in rows if re.match(pattern, row["dataset"])}


def group_rows(rows, title):
    """The rows of one of GROUPS whose runs have ended, by (dataset, method, gradient steps); others do not compare."""
    return {key[:3]: runs for key, runs in rows.items() if group_of(key[0]) == title and has_ended(runs)}


def tables(records, rows):
    """Markdown by name, {"results": ..., "scores Recreated PointMaze": ..., ...}, where there are runs or published scores."""
    texts = {"results": policies(rows) if rows else ""}
    toys = {}
    for record in (record for record in records if isinstance(record.get("morse"), list)):
        toys.setdefault(" ".join(flags(record["args"], morse_only, set())), []).append(record)
    others = [record for record in records if isinstance(record.get("morse"), dict)]
    texts["four-modes"] = "\n\n".join(modes(*part) for part in sorted(toys.items()))
    for title, (_, peer_pattern, _) in GROUPS.items():
        group, peers = group_rows(rows, title), read_peers(peer_pattern)
        if group or peers:
            texts[f"scores {title}"] = score_table(group, peers)
            comparable = all(last(run)["score"] is not None for runs in group.values() for run in runs)  # between datasets
            scores = longest(group)
            texts[f"aggregates {title}"] = aggregate_table(scores) if scores and comparable else ""
        texts[f"kernel scale {title}"] = ablation(group, "kernel_scale_factor", "lambda = {:g} k")
        texts[f"dataset size {title}"] = ablation(group, "dataset_fraction", "{:.0%} of the episodes")
        plain = {key: runs for key, runs in group.items() if re.fullmatch(PLAIN, key[1])}
        texts[f"defaults {title}"] = policies(plain, columns=6) if plain else ""
        studies = [record for record in others if group_of(dataset_of(record)) == title]
        texts[f"certainty {title}"] = certainties(studies) if studies else ""
    return {name: text for name, text in texts.items() if text}


# ---------------------------------------------------------------- files

def draw_curves(rows):
    """Score over gradient steps, a panel per dataset: a method's mean, its band from the lowest seed to the highest."""
    rows = {key: runs for key, runs in rows.items() if key[1] in METHODS}
    datasets = list(dict.fromkeys(dataset for dataset, *_ in rows))
    figure = Figure((4 * len(datasets), 4), layout="constrained")
    for axes, dataset in zip(figure.subplots(1, len(datasets), squeeze=False)[0], datasets):
        for (_, name, _), runs in ((key, runs) for key, runs in rows.items() if key[0] == dataset):
            steps, scores = curve(runs)
            color = f"C{METHODS.index(name)}"
            thousands = np.array(steps) / 1000
            axes.plot(thousands, scores.mean(0), color=color, marker=".", label=f"{name}, {count_seeds(runs)}")
            axes.fill_between(thousands, scores.min(0), scores.max(0), color=color, alpha=0.15)
        axes.set(xlabel="thousands of gradient steps", ylabel="score")
        axes.set_title(dataset, fontsize="medium")
        axes.legend(fontsize=6, loc="upper left", bbox_to_anchor=(0, -0.2))
    return figure


def draw_profiles(scores):
    """Share of each method's runs that score more than tau, datasets weighing alike."""
    figure = Figure((5, 3.2), layout="constrained")
    axes = figure.subplots()
    ends = np.concatenate([x for own in scores.values() for x in own.values()])
    taus = np.linspace(min(0, ends.min()), max(100, ends.max()), 401)
    for name, own in scores.items():
        share = np.mean([(np.asarray(x)[:, None] > taus).mean(0) for x in own.values()], 0)  # (taus,)
        axes.plot(taus, share, color=f"C{METHODS.index(name)}", label=name)
    axes.set(xlabel="score tau", ylabel="share of runs with score > tau", ylim=(-0.02, 1.02))
    axes.legend(fontsize=6)
    return figure


def write_page(texts, rows, folder, command):
    """scores.md and scores.csv in `folder`, figures below it."""
    parts = [f"# Scores\n\nMade by `{command}`.\n\n{LEGEND}"]
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    for title, (*_, note) in GROUPS.items():
        if f"scores {title}" not in texts:
            continue
        parts.append(f"## {title}\n\n{note}\n\n{texts[f'scores {title}']}")
        group, figures = group_rows(rows, title), {}
        if any(name in METHODS for _, name, _ in group):
            figures["curves"] = draw_curves(group)
        if f"aggregates {title}" in texts:
            parts.append(texts[f"aggregates {title}"])
            figures["profiles"] = draw_profiles(longest(group))
        for name, figure in figures.items():
            file = f"figures/{name}-{title.lower().replace(' ', '-')}.png"
            figure.savefig(folder / file, dpi=120)
            parts.append(f"![{name} of {title}]({file})")
        for name, head in ("kernel scale", "Kernel scale"), ("dataset size", "Size of the dataset"):
            if f"{name} {title}" in texts:
                parts.append(f"### {head}\n\n{texts[f'{name} {title}']}")
    values = list(row_values(rows))
    if values:
        with (folder / "scores.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, values[0], lineterminator="\n")
            writer.writeheader()
            writer.writerows(values)
        parts.append("## Every row\n\n" + markdown([list(values[0]), *(list(row.values()) for row in values)]))
    (folder / "scores.md").write_text("\n\n".join(parts) + "\n")


def main(folder: tyro.conf.Positional[str], into: str | None = None, out: str | None = None):
    """Print the tables of policies and of Morse networks; with --into or --out, write all tables to files as well.

    Args:
        folder: folder with runs, at any depth
        into: Markdown file with lines <!-- NAME --> and <!-- /NAME -->, between which the table of that name goes
        out: folder for scores.md, scores.csv and figures/
    """
    if into and not Path(into).is_file():
        sys.exit(f"error: there is no page {into} to write tables into")
    if out and Path(out).is_file():
        sys.exit(f"error: {out} is not a folder; pass another --out")
    records = read(folder)
    rows = rows_of([record for record in records if "evaluations" in record])
    texts = tables(records, rows)
    print("\n\n".join(text for name, text in texts.items() if re.match("results|four-modes|certainty", name)))
    if into:
        page, place = Path(into).read_text(), re.compile(r"(<!-- ([^\n]+) -->\n).*?(<!-- /\2 -->)", re.DOTALL)
        names = {match[2] for match in place.finditer(page)}
        if not names or not names <= texts.keys():
            unknown = ", ".join(sorted(names - texts.keys()))
            wrong = f"places for {unknown}" if unknown else "no lines <!-- NAME --> and <!-- /NAME -->"
            sys.exit(f"error: {into} has {wrong}; the tables of {folder} are {', '.join(texts)}")
        Path(into).write_text(place.sub(lambda match: match[1] + texts[match[2]] + "\n" + match[3], page))
    if out:
        write_page(texts, rows, Path(out), shlex.join(["python", *sys.argv]))


if __name__ == "__main__":
    tyro.cli(main)
