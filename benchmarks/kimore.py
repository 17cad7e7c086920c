"""The two-stage model on real KIMORE skeletons, beside two floors, on the same split.

    python benchmarks/kimore.py --data DATA/kimore --out results.json

Trains the non-expert on the controls of the training split (no label is read), the expert on one
exercise at a time, and scores the test subjects once. The floors are the median of the training scores and
extremely randomised trees on 157 simple statistics of the same recordings.

DATA holds kimore_positions_f32.npz, kimore_samples.csv and subject_splits.csv, or the official folders and
subject_splits.csv; arrays have no time stamps, so the sensor's nominal 30 frames per second are assumed.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from aqa_models.metrics import bootstrap_interval, mae, rmse, spearman_rho
from aqa_models.two_stage.config import ExpertConfig, NonExpertConfig
from pipelines.config import EvaluateConfig, ExpertTrainConfig, OptimizerConfig, PretrainConfig
from pipelines.data import import_
from pipelines.evaluate import evaluate_tables
from pipelines.experiments.floors import simple_statistics
from pipelines.fit import pretrain, train_expert
from pipelines.motion import load_motions

CONTROLS = ("Expert", "NotExpert")


def extra_trees_floor(clips: pa.Table, poses: pa.Table, exercise: str, seed: int = 0) -> dict[str, Any]:
    """Extremely randomised trees on `simple_statistics`, trained on train + val, scored on test."""
    from sklearn.ensemble import ExtraTreesRegressor

    usable = [m for m in load_motions(clips, poses) if m.score is not None and m.action_type == exercise]
    train = [motion for motion in usable if motion.split != "test"]
    test = [motion for motion in usable if motion.split == "test"]
    trees = ExtraTreesRegressor(400, min_samples_leaf=2, max_features=1 / 3, random_state=seed)
    trees.fit(np.stack([simple_statistics(m) for m in train]), [m.score for m in train])
    predicted = trees.predict(np.stack([simple_statistics(m) for m in test]))
    true, subjects = np.array([m.score for m in test]), np.array([m.subject for m in test])
    low, high = bootstrap_interval(spearman_rho, predicted, true, subjects)
    return {
        "n": len(test),
        "spearman": {"value": spearman_rho(predicted, true), "low": low, "high": high},
        "mae": mae(predicted, true),
        "rmse": rmse(predicted, true),
    }


def run(arguments: argparse.Namespace, work: Path) -> dict[str, Any]:
    """The whole benchmark; returns what is printed."""
    started = time.perf_counter()
    clips, poses, _ = import_("kimore", arguments.data, split_index=int(arguments.split))
    provenance = {"source": "kimore_positions_f32.npz", "split": arguments.split}
    units = arguments.units
    sizes = NonExpertConfig(
        encoder_units=units, decoder_units=units, pace_units=units, discriminator_units=units // 2
    )
    first = PretrainConfig(
        epochs=arguments.pretrain_epochs,
        batch_size=32,
        model=sizes,
        groups=CONTROLS,
        crop_frames=100,
        optimizer=OptimizerConfig(learning_rate=1e-3),
        seed=arguments.seed,
        checkpoint_every=20,
    )
    told: dict[str, Any] = {"split": arguments.split, "units": units, "exercises": {}}
    summary = pretrain(clips, poses, first, work / "pretrain", provenance)
    told["pretrain"] = {
        "seconds": time.perf_counter() - started,
        **{k: v for k, v in summary.items() if k.startswith("val_")},
    }
    for exercise in arguments.exercises.split(","):
        before = time.perf_counter()
        second = ExpertTrainConfig(
            epochs=arguments.expert_epochs,
            action_types=(exercise,),
            model=ExpertConfig(finetune_encoder=arguments.finetune),
            optimizer=OptimizerConfig(learning_rate=1e-3),
            seed=arguments.seed,
            checkpoint_every=100,
        )
        run_dir = work / f"expert-{exercise}"
        chosen = train_expert(clips, poses, second, run_dir, work / "pretrain", provenance)
        found = evaluate_tables(run_dir, clips, poses, EvaluateConfig())
        told["exercises"][exercise] = {
            "two_stage": {k: found[k] for k in ("n", "subjects", "spearman", "mae", "rmse", "median_floor")},
            "extra_trees": extra_trees_floor(clips, poses, exercise),
            "best_epoch": chosen["best_epoch"],
            "seconds": time.perf_counter() - before,
        }
    told["seconds"] = time.perf_counter() - started
    told["machine"] = f"{platform.machine()}, {platform.system()}"
    return told


def print_table(told: dict[str, Any]) -> None:
    """One line per exercise and model."""
    print(f"KIMORE, split {told['split']}, skeleton only, test subjects")
    print(f"{'':6} {'model':14} {'n':>3} {'Spearman (95 % by subject)':>28} {'MAE':>6} {'RMSE':>6}")
    for exercise, found in told["exercises"].items():
        ours, trees = found["two_stage"], found["extra_trees"]
        floor = ours["median_floor"]
        bounds = ("value", "low", "high")
        rows = (
            ("two-stage", [ours["spearman"][k] for k in bounds], ours["mae"]["value"], ours["rmse"]["value"]),
            ("ExtraTrees", [trees["spearman"][k] for k in bounds], trees["mae"], trees["rmse"]),
            ("median", [None, None, None], floor["mae"], floor["rmse"]),
        )
        for name, (rho, low, high), error, root in rows:
            shown = "undefined" if rho is None else f"{rho:.3f} [{low:.3f}, {high:.3f}]"
            print(f"{exercise:6} {name:14} {ours['n']:>3} {shown:>28} {error:6.2f} {root:6.2f}")
    print(f"{told['seconds']:.0f} s in all")


def main() -> None:
    """Parses, runs, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with the KIMORE arrays")
    parser.add_argument("--split", default="0", help="`repeat` in subject_splits.csv, 0 to 9")
    parser.add_argument("--exercises", default="Es1,Es2,Es3,Es4,Es5", help="comma-separated")
    parser.add_argument("--units", type=int, default=128, help="encoder and decoder units")
    parser.add_argument("--pretrain-epochs", type=int, default=40)
    parser.add_argument("--expert-epochs", type=int, default=60)
    parser.add_argument("--finetune", action="store_true", help="tune the encoder too")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, help="keep the run folders here")
    parser.add_argument("--out", type=Path, help="write the result as JSON")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        told = run(arguments, arguments.work or Path(temporary))
    print_table(told)
    if arguments.out:
        arguments.out.write_text(json.dumps(told, indent=2) + "\n")


if __name__ == "__main__":
    main()
