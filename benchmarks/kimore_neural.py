"""The neural two-stage model with better inputs on real KIMORE skeletons: does pretraining help?

    python benchmarks/kimore_neural.py --data DATA/kimore --work runs/kimore_neural --out results.json

On every subject split: presets `best` of pretrain (controls of the training people, no label is read) and of
expert (all five exercises in one model), once from the pretrained encoder and once from random weights, with
the same seed; test people are scored once. The same command goes on where it stopped.

DATA: see benchmarks/kimore.py.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from pipelines.data import import_
from pipelines.evaluate import evaluate_tables
from pipelines.fit import pretrain, train_expert
from pipelines.settings import load_config

CONTROLS = "Expert,NotExpert"
STARTS = ("random", "pretrained")
TEST_PER_TRAIN = 23 / 54  # people


def one_split(arguments: argparse.Namespace, split: int, start: str) -> dict[str, Any]:
    """Spearman and MAE of each exercise, from one start of the encoder."""
    began = time.perf_counter()
    clips, poses, _ = import_("kimore", arguments.data, split_index=split)
    flags = {
        "pretrain.preset": "best",
        "pretrain.groups": CONTROLS,
        "pretrain.checkpoint_every": "20",
        "expert.preset": "best",
        "expert.checkpoint_every": "10",
        "pretrain.seed": str(arguments.seed),
        "expert.seed": str(arguments.seed),
    }
    config = load_config(flags=flags | dict(pair.split("=", 1) for pair in arguments.set))
    work, provenance = arguments.work / f"split-{split}", {"source": "kimore", "split": split}
    pretrained = None
    if start == "pretrained":
        pretrained = work / "pretrain"
        pretrain(clips, poses, config.pretrain, pretrained, provenance)
    summary = train_expert(clips, poses, config.expert, work / start, pretrained, provenance)
    found = evaluate_tables(work / start, clips, poses, config.evaluate)
    kinds = found["by_action_type"]
    return {
        "split": split,
        "start": start,
        "rho": {kind: row["spearman"]["value"] for kind, row in kinds.items()},
        "mae": {kind: row["mae"]["value"] for kind, row in kinds.items()},
        "val_loss": summary["best_val_loss"],
        "best_epoch": summary["best_epoch"],
        "seconds": time.perf_counter() - began,
    }


def summarise(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over splits of the mean over exercises, and the corrected paired test between the starts."""
    told: dict[str, Any] = {}
    values = {}
    for start in STARTS:
        for name in ("rho", "mae"):
            mine = [row for row in rows if row["start"] == start]
            chosen = {row["split"]: np.mean(list(row[name].values())) for row in mine}
            values[start, name] = chosen
            if chosen:
                numbers = list(chosen.values())
                told[f"{start} {name}"] = {"mean": float(np.mean(numbers)), "sd": float(np.std(numbers))}
    for name in ("rho", "mae"):
        both = sorted(values["random", name].keys() & values["pretrained", name].keys())
        gain = np.array([values["pretrained", name][k] - values["random", name][k] for k in both])
        if len(gain) > 1:
            told[f"pretrained - random {name}"] = paired(gain)
    return told


def paired(gain: np.ndarray) -> dict[str, Any]:
    """Corrected resampled t-test (Nadeau and Bengio 2003), because splits share people."""
    from scipy.stats import t

    count, spread = len(gain), float(gain.std(ddof=1))
    error = math.sqrt(1 / count + TEST_PER_TRAIN) * spread
    p = float(2 * t.sf(abs(gain.mean()) / error, count - 1)) if error else float("nan")
    return {"mean": float(gain.mean()), "sd": spread, "positive": int((gain > 0).sum()), "of": count, "p": p}


def main() -> None:
    """Parses, runs, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with the KIMORE arrays")
    parser.add_argument("--work", type=Path, required=True, help="keep the run folders here")
    parser.add_argument("--splits", default="0,1,2,3,4,5,6,7,8,9", help="`repeat` in subject_splits.csv")
    parser.add_argument("--starts", default=",".join(STARTS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", nargs="*", default=[], help="more settings, e.g. expert.epochs=5")
    parser.add_argument("--out", type=Path, help="write the result as JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    pa.set_cpu_count(1)
    rows = []
    for start in arguments.starts.split(","):
        for split in map(int, arguments.splits.split(",")):
            rows.append(one_split(arguments, split, start))
            row = rows[-1]
            rho, error = (np.mean(list(row[name].values())) for name in ("rho", "mae"))
            told = f"rho {rho:.3f}, MAE {error:.2f}, {row['seconds']:.0f} s"
            print(f"split {split}, {start}: {told}", flush=True)
            if arguments.out:
                result = {"settings": arguments.set, "seed": arguments.seed, "rows": rows}
                text = json.dumps({**result, "summary": summarise(rows)}, indent=2)
                arguments.out.write_text(text + "\n")
    print(json.dumps(summarise(rows), indent=2))


if __name__ == "__main__":
    main()
