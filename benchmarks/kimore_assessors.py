"""The angles expert on real KIMORE skeletons beside four floors, on splits by subject.

    python benchmarks/kimore_assessors.py --data DATA/kimore --work WORK --out results.json

Protocols: the ten published 70/30 splits (subject_splits.csv), five folds by subject, and leave one subject
out (77 fits, without networks). Each split is fitted on its training subjects alone, where everything is
chosen by cross-validation, and its test subjects are scored once. WORK keeps the scores of each split, so
that a run that is cut off goes on.

Floors, on the same splits: extremely randomised trees on 157 statistics (benchmarks/kimore.py), where the
camera stood and how the feet were set (9 numbers), patient or control, and the median training score.
Differences to the trees are paired over the splits by the corrected resampled t-test. Rows called `person`
see all recordings of the test person: another task. `angles` is kernels and trees, `angles_network` has three
networks besides. `angles_repetitions` is `angles` that also reads the repetitions which EGCN's authors
marked by hand (DATA/egcn_repetitions), in training and test.

`--protocols parts` tells on the published splits what each part of `angles` is worth: every member alone, the
average without the calibrating lines, a model for each exercise instead of one for all, the repetitions
alone, and their marks without the body (number and lengths).
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from aqa_models.angles_expert.expert import fit_expert, fold_subjects
from aqa_models.angles_expert.kernel import across_exercises, fit_scaling, fit_svr, squared_distances
from aqa_models.angles_expert.performance import Performance
from aqa_models.metrics import mae, resampled_interval, resampled_t_test, spearman_rho
from benchmarks.kimore import CONTROLS
from pipelines.angles_expert.performances import make_performances
from pipelines.data import import_
from pipelines.experiments.floors import camera_setup, simple_statistics
from pipelines.motion import load_motions

RATE_HZ = 25.0
FLOOR = "extra_trees"


class Recordings:
    """All scored recordings, with what the floors read of them."""

    def __init__(self, data: Path):
        clips, poses, _ = import_("kimore", data, repetitions=data / "egcn_repetitions")
        self.motions = [m for m in load_motions(clips, poses) if m.score is not None]
        self.performances = make_performances(self.motions, RATE_HZ, True)
        self.statistics = np.stack([simple_statistics(motion) for motion in self.motions])
        self.setup = np.stack([camera_setup(motion) for motion in self.motions])
        self.score = np.array([motion.score for motion in self.motions])
        self.subjects = [motion.subject_id for motion in self.motions]
        kinds = sorted({motion.action_type for motion in self.motions})
        self.exercise = np.array([kinds.index(motion.action_type) for motion in self.motions])
        self.control = np.array([motion.group in CONTROLS for motion in self.motions])


def floors(all_: Recordings, train: np.ndarray, test: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Name -> (test,) scores."""
    from sklearn.ensemble import ExtraTreesRegressor

    found = {name: np.zeros(len(test)) for name in (FLOOR, "control_flag", "median")}
    for kind in np.unique(all_.exercise[test]):
        known, asked = train[all_.exercise[train] == kind], all_.exercise[test] == kind
        rows = test[asked]
        trees = ExtraTreesRegressor(400, min_samples_leaf=2, max_features=1 / 3, random_state=seed)
        trees.fit(all_.statistics[known], all_.score[known])
        found[FLOOR][asked] = trees.predict(all_.statistics[rows])
        found["median"][asked] = np.median(all_.score[known])
        means = {flag: all_.score[known][all_.control[known] == flag].mean() for flag in (False, True)}
        found["control_flag"][asked] = [means[flag] for flag in all_.control[rows]]
    return {**found, "camera_setup": _kernel_on(all_.setup, all_, train, test)}


def _kernel_on(facts: np.ndarray, all_: Recordings, train: np.ndarray, test: np.ndarray) -> np.ndarray:
    """(test,) scores by the multi-exercise kernel on (N, F) facts alone, with settings fixed beforehand."""
    kinds = all_.exercise
    scaling = fit_scaling(facts[train], facts[train], kinds[train])
    x = scaling(facts, kinds)
    kernel = across_exercises(np.exp(-0.2 * squared_distances(x, x)), kinds, kinds, 0.5)
    groups = [all_.score[train][kinds[train] == kind] for kind in range(kinds.max() + 1)]
    mean, deviation = np.array([g.mean() for g in groups]), np.array([g.std() for g in groups])
    target = (all_.score[train] - mean[kinds[train]]) / deviation[kinds[train]]
    settings = np.array([5.0]), np.array([0.1])
    coefficients, intercept = fit_svr(kernel[np.ix_(train, train)], target, *settings)
    answer = (kernel[np.ix_(test, train)] @ coefficients + intercept)[:, 0]
    return mean[kinds[test]] + deviation[kinds[test]] * answer


def score_split(
    all_: Recordings, train: np.ndarray, test: np.ndarray, seeds: int, epochs: int
) -> dict[str, Any]:
    """Scores of the test recordings by every model, and what the experts chose."""
    shared = {all_.subjects[row] for row in train} & {all_.subjects[row] for row in test}
    if shared:
        raise ValueError(f"subjects {sorted(shared)} are on both sides of a split")
    known = [all_.performances[row] for row in train]
    asked = [replace(all_.performances[row], score=None) for row in test]
    predicted, chosen = floors(all_, train, test, seed=0), {}
    models = [("angles", 0, False), ("angles_repetitions", 0, True)]
    for name, networks, marked in [*models, ("angles_network", seeds, False)] if seeds else models:
        started = time.perf_counter()
        expert = fit_expert(known, RATE_HZ, networks, epochs, seed=0, repetitions=marked)
        predicted[name] = expert.predict(asked)
        predicted[f"{name}_person"] = expert.predict_pooled(asked)
        chosen[name] = {
            "weights": dict(zip(expert.members, expert.weights.round(3).tolist(), strict=True)),
            "pooling": expert.pooling,
            "held_out": expert.held_out,
            "seconds": time.perf_counter() - started,
        }
    return {
        "train": sorted({all_.subjects[row] for row in train}),
        "rows": test.tolist(),
        "predicted": {name: values.tolist() for name, values in predicted.items()},
        "chosen": chosen,
    }


def score_parts(all_: Recordings, train: np.ndarray, test: np.ndarray) -> dict[str, Any]:
    """Scores of the test recordings by parts of the angles expert, beside all of it and the floors."""
    known = [all_.performances[row] for row in train]
    asked = [replace(all_.performances[row], score=None) for row in test]
    predicted = floors(all_, train, test, seed=0)
    expert = fit_expert(known, RATE_HZ, 0, 5, seed=0)
    predicted["angles"] = expert.predict(asked)
    plain = np.stack([expert.mean, expert.deviation], axis=1)  # instead of the lines: standardised to points
    predicted["not_calibrated"] = replace(expert, lines=plain).predict(asked)
    for place, name in enumerate(expert.members):
        alone = np.eye(len(expert.members))[place]
        predicted[f"{name}_alone"] = replace(expert, weights=alone, lines=plain).predict(asked)
    marked = fit_expert(known, RATE_HZ, 0, 5, seed=0, repetitions=True)
    alone = (np.array(list(marked.members)) == "repetitions").astype(np.float64)
    predicted["marks_alone"] = _kernel_on(np.array([_marks(p) for p in all_.performances]), all_, train, test)
    predicted["repetitions_alone"] = replace(marked, weights=alone, lines=plain).predict(asked)
    predicted["one_per_exercise"] = np.zeros(len(test))
    for kind in sorted({p.exercise for p in asked}):
        single = fit_expert([p for p in known if p.exercise == kind], RATE_HZ, 0, 5, seed=0)
        rows = [row for row, p in enumerate(asked) if p.exercise == kind]
        predicted["one_per_exercise"][rows] = single.predict([asked[row] for row in rows])
    return {
        "train": sorted({all_.subjects[row] for row in train}),
        "rows": test.tolist(),
        "predicted": {name: values.tolist() for name, values in predicted.items()},
        "chosen": {},
    }


def _marks(performance: Performance) -> list[float]:
    """What the marks tell without the body between them: number, frames of a repetition, of all."""
    frames = np.array([end - first for first, end in performance.repetitions])
    spans = [len(frames), np.median(frames), frames.std(), frames.sum(), len(performance.channels)]
    return [float(value) for value in spans]


def protocols(all_: Recordings, data: Path, wanted: list[str]) -> Iterator[tuple[str, str, np.ndarray]]:
    """(protocol, name of the split, (N,) whether a recording is tested)."""
    names = np.array(all_.subjects)
    for protocol in ("published", "parts"):
        if protocol in wanted:
            for repeat, tested in published_splits(data):
                yield protocol, repeat, np.isin(names, tested)
    if "five_fold" in wanted:
        folds = fold_subjects(all_.subjects, all_.score, 5, seed=0)
        for fold in range(5):
            yield "five_fold", str(fold), folds == fold
    if "leave_one_out" in wanted:
        for name in sorted(set(all_.subjects)):
            yield "leave_one_out", name, names == name


def published_splits(data: Path) -> list[tuple[str, list[str]]]:
    """Repeat and its test subjects."""
    parts: dict[str, list[str]] = {}
    with (data / "subject_splits.csv").open() as file:
        for row in csv.DictReader(file):
            parts.setdefault(row["repeat"], []).extend([row["subject"]] if row["part"] == "test" else [])
    return sorted(parts.items(), key=lambda item: int(item[0]))


def by_exercise(all_: Recordings, rows: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """(E, 2) Spearman's correlation and mean absolute error of every exercise."""
    kinds = range(int(all_.exercise.max()) + 1)
    asked = [(rows[all_.exercise[rows] == k], predicted[all_.exercise[rows] == k]) for k in kinds]
    return np.array([[spearman_rho(p, all_.score[r]), mae(p, all_.score[r])] for r, p in asked])


def summary(all_: Recordings, splits: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over splits of the mean over exercises, intervals, and the paired test against the trees."""
    train = float(np.mean([len(split["train"]) for split in splits]))
    test = len(set(all_.subjects)) - train
    found: dict[str, Any] = {}
    tables = {
        name: np.array(
            [by_exercise(all_, np.array(s["rows"]), np.array(s["predicted"][name])) for s in splits]
        )
        for name in splits[0]["predicted"]
    }
    for name, table in tables.items():
        told: dict[str, Any] = {"exercises": table.mean(axis=0).tolist()}
        for column, metric in enumerate(("spearman", "mae")):
            values = table[:, :, column].mean(axis=1)
            told[metric] = {
                "mean": float(values.mean()),
                "sd": float(values.std(ddof=1)),
                "splits": values.tolist(),
            }
            told[metric]["interval"] = resampled_interval(values, train, test)
            gain = values - tables[FLOOR][:, :, column].mean(axis=1)
            statistic, p = resampled_t_test(gain, train, test)
            won = gain > 0 if metric == "spearman" else gain < 0
            told[metric]["against_trees"] = {
                "mean": float(gain.mean()),
                "won": int(won.sum()),
                "t": statistic,
                "p": p,
            }
        found[name] = told
    return found


def together(all_: Recordings, splits: list[dict[str, Any]]) -> dict[str, Any]:
    """All held-out predictions as one: mean over exercises of rank correlation and mean absolute error."""
    rows = np.concatenate([split["rows"] for split in splits])
    found = {}
    for name in splits[0]["predicted"]:
        table = by_exercise(all_, rows, np.concatenate([split["predicted"][name] for split in splits]))
        found[name] = {"spearman": table[:, 0].mean(), "mae": table[:, 1].mean(), "exercises": table.tolist()}
    return found


def print_rows(protocol: str, told: dict[str, Any]) -> None:
    """One line per model."""
    print(f"\n{protocol}: mean over exercises and splits")
    for name, row in told.get("splits", {}).items():
        rho, error = row["spearman"], row["mae"]
        gain, less = rho["against_trees"], error["against_trees"]
        print(
            f"{name:16} rho {rho['mean']:.3f} [{rho['interval'][0]:.3f}, {rho['interval'][1]:.3f}]"
            f"  MAE {error['mean']:.2f} [{error['interval'][0]:.2f}, {error['interval'][1]:.2f}]"
            f"  against the trees {gain['mean']:+.3f} (won {gain['won']}, p {gain['p']:.3f}),"
            f" {less['mean']:+.2f} (won {less['won']}, p {less['p']:.3f})"
        )
    for name, row in told.get("together", {}).items():
        print(f"{name:16} all held-out predictions together: rho {row['spearman']:.3f}  MAE {row['mae']:.2f}")


def main() -> None:
    """Parses, runs what is missing, prints and writes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with the KIMORE arrays")
    parser.add_argument("--work", type=Path, required=True, help="scores of each split are kept here")
    parser.add_argument("--protocols", default="published,five_fold,leave_one_out", help="comma-separated")
    parser.add_argument("--seeds", type=int, default=3, help="networks averaged; 0 = none")
    parser.add_argument("--epochs", type=int, default=40, help="most passes of a network")
    parser.add_argument("--out", type=Path, help="write the result as JSON")
    arguments = parser.parse_args()
    all_ = Recordings(arguments.data)
    arguments.work.mkdir(parents=True, exist_ok=True)
    done: dict[str, list[dict[str, Any]]] = {}
    for protocol, name, tested in protocols(all_, arguments.data, arguments.protocols.split(",")):
        seeds = 0 if protocol in ("leave_one_out", "parts") else arguments.seeds
        file = arguments.work / f"{protocol}-{name}-{seeds}x{arguments.epochs}.json"
        if not file.exists():
            train, test = np.flatnonzero(~tested), np.flatnonzero(tested)
            if protocol == "parts":
                split = score_parts(all_, train, test)
            else:
                split = score_split(all_, train, test, seeds, arguments.epochs)
            partial = file.with_suffix(".partial")
            partial.write_text(json.dumps(split))
            partial.replace(file)
        done.setdefault(protocol, []).append(json.loads(file.read_text()))
    told: dict[str, Any] = {
        "command": vars(arguments) | {k: Path(vars(arguments)[k] or "").name for k in ("data", "work", "out")}
    }
    for protocol, splits in done.items():
        told[protocol] = {}
        if protocol != "leave_one_out":
            told[protocol]["splits"] = summary(all_, splits)
        if protocol not in ("published", "parts"):
            told[protocol]["together"] = together(all_, splits)
        told[protocol]["chosen"] = [split["chosen"] for split in splits]
        print_rows(protocol, told[protocol])
    if arguments.out:
        arguments.out.write_text(json.dumps(told, indent=2) + "\n")


if __name__ == "__main__":
    main()
