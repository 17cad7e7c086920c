"""The neural two-stage model with better inputs on real KIMORE skeletons: does pretraining help?

    python benchmarks/kimore_neural.py --data DATA/kimore --work runs/kimore_neural --out results.json

On every subject split: presets `best` of pretrain (no label is read) and of expert (all five exercises in one
model), with the same seed, from encoders of three starts: random weights; pretrained on the controls among
the training people; and, with `--starts longer`, on these and all of NW-UCLA and UTKinect (folders beside
DATA) for three times the epochs. Test people are scored once. The same command goes on where it stopped.

Other encoders: `--set expert.encoder_kind=transformer pretrain.model.encoder_kind=transformer`, or `gru`,
`state_space`, each with a WORK of its own. The mean validation loss of the random start chooses among them.

DATA: see benchmarks/kimore.py.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from pipelines.data import import_
from pipelines.evaluate import evaluate_tables
from pipelines.fit import pretrain, train_expert
from pipelines.settings import load_config

CONTROLS = "Expert,NotExpert"
STARTS = ("random", "pretrained", "longer")
LONGER_EPOCHS = 90  # preset best: 30
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
    if start == "longer":
        flags |= {"pretrain.groups": "", "pretrain.epochs": str(LONGER_EPOCHS)}
    config = load_config(flags=flags | dict(pair.split("=", 1) for pair in arguments.set))
    work, provenance = arguments.work / f"split-{split}", {"source": "kimore", "split": split}
    pretrained = None
    if start != "random":
        pretrained = work / f"pretrain_{start}"
        well = healthy(clips, poses, arguments.data) if start == "longer" else (clips, poses)
        pretrain(*well, config.pretrain, pretrained, provenance)
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


def healthy(clips: pa.Table, poses: pa.Table, data: Path) -> tuple[pa.Table, pa.Table]:
    """The controls among the training people, and everybody of two other data sets."""
    well = pc.and_(
        pc.is_in(clips["group"], pa.array(CONTROLS.split(","))), pc.not_equal(clips["split"], "test")
    )
    found = [(clips.filter(well), poses)]
    found += [import_(name, data.parent / name)[:2] for name in ("nw_ucla", "utkinect")]
    return pa.concat_tables([rows for rows, _ in found]), pa.concat_tables([seen for _, seen in found])


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
        losses = [row["val_loss"] for row in rows if row["start"] == start]
        if losses:
            told[f"{start} validation loss"] = float(np.mean(losses))
    for start, name in itertools.product(STARTS[1:], ("rho", "mae")):
        both = sorted(values["random", name].keys() & values[start, name].keys())
        gain = np.array([values[start, name][k] - values["random", name][k] for k in both])
        if len(gain) > 1:
            told[f"{start} - random {name}"] = paired(gain)
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
    parser.add_argument("--starts", default="random,pretrained")
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
