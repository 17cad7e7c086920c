"""HP-MCoRe on the rendered twin of FineDiving: the whole model, its ablations, predictors without video.

    aqa data render-twin FINEDIVING twin --dataset fine_diving --n 600
    export AQA_EXTRACT__SAMPLING=uniform:96 AQA_EXTRACT__PRECISION=bf16
    aqa extract twin/clips.csv --store store
    aqa extract twin/clips.csv --store store --kind static --random-weights
    aqa extract twin/clips.csv --store store --kind i3d --random-weights
    python benchmarks/hp_mcore_twin.py --store store --runs runs --out results.json

Visual encoders are frozen and random: what the static and dynamic streams add is what random convolutions
see. Every variant and seed is a run of its own in RUNS, chosen by its validation dives and scored on the test
dives once; the same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

VARIANTS: dict[str, dict[str, str]] = {
    "full (best)": {},
    "without pose": {"model.use_pose": "false"},
    "without joint angles": {"model.pose_angles": "false"},
    "without static stream": {"model.use_static": "false"},
    "without contrastive loss": {"model.contrastive_weight": "0"},
    "without segmentation (equal thirds)": {"model.transitions": "fixed"},
    "3 levels instead of 4 layers": {"model.hierarchy": "levels3"},
}


def train_and_score(store: Path, runs: Path, variant: str, seed: int, epochs: int) -> dict[str, Any]:
    """Metrics of one run."""
    import torch

    from pipelines.evaluate import evaluate
    from pipelines.settings import load_config
    from pipelines.train import hp_mcore

    torch.set_num_threads(1)
    flags = {"epochs": str(epochs), "seed": str(seed), "checkpoint_every": "1", **VARIANTS[variant]}
    config = load_config(flags={f"hp_mcore.{path}": value for path, value in flags.items()})
    name = f"{list(VARIANTS).index(variant)}-{seed}"
    summary = hp_mcore(store, name, config, runs=runs)
    metrics = evaluate(runs / name, store, config)
    print(f"{variant}, seed {seed}: rho {metrics['spearman']['value']:.3f}", flush=True)
    return {"variant": variant, "seed": seed, "run": name, "summary": summary, "metrics": metrics}


def table(found: list[dict[str, Any]]) -> list[str]:
    """Markdown: mean over the seeds, with the least and the greatest."""
    lines = ["| | Spearman | MAE | R-l2 x 100 | AIoU@0.5 | AIoU@0.75 |", "|---|---|---|---|---|---|"]
    for variant in VARIANTS:
        runs = [row["metrics"] for row in found if row["variant"] == variant]
        if not runs:
            continue
        cells = [_range([run[name]["value"] for run in runs], places) for name, places in _COLUMNS]
        cells += [_range([run["segmentation"][name] for run in runs], 3) for name in ("aiou_50", "aiou_75")]
        lines.append(f"| {variant} ({len(runs)} seeds) | " + " | ".join(cells) + " |")
    first = found[0]["metrics"]
    for name, row in first["baselines"].items():
        cells = [f"{row[column]['value']:.{places}f}" for column, places in _COLUMNS]
        lines.append(f"| {name} | " + " | ".join(cells) + " | | |")
    for name, row in first["segmentation_baselines"].items():
        lines.append(f"| transitions: {name} | | | | {row['aiou_50']:.3f} | {row['aiou_75']:.3f} |")
    return lines


_COLUMNS = (("spearman", 3), ("mae", 2), ("relative_l2_x100", 3))


def _range(values: list[float], places: int) -> str:
    low, high = min(values), max(values)
    spread = f" ({low:.{places}f} to {high:.{places}f})" if len(values) > 1 else ""
    return f"{np.mean(values):.{places}f}{spread}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--at-once", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--variants", nargs="*", default=list(VARIANTS))
    given = parser.parse_args()
    # Seed by seed, so that an interrupted table compares all variants.
    jobs = [(variant, seed) for seed in range(given.seeds) for variant in given.variants]
    found = []
    with ProcessPoolExecutor(given.at_once, mp_context=get_context("spawn")) as pool:
        futures = [
            pool.submit(train_and_score, given.store, given.runs, variant, seed, given.epochs)
            for variant, seed in jobs
        ]
        for future in futures:
            found.append(future.result())
            about = {"processor": platform.processor(), "cores": os.cpu_count(), "epochs": given.epochs}
            given.out.write_text(json.dumps({**about, "runs": found}, indent=1))
    print("\n".join(table(found)))


if __name__ == "__main__":
    main()
