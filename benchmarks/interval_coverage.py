"""Whether the intervals of 90 % that `aqa score` states hold 90 % of the scores of people it never saw.

    python benchmarks/interval_coverage.py rendered --folder FOLDER [--clips 160] [--out FILE]
    python benchmarks/interval_coverage.py kimore --data DATA/kimore [--out FILE]

The test people of one fitted model are halved by chance, many times. The errors of one half are what the
program keeps of a run; `pipelines.scoring.interval.interval_of` makes of them an interval for each clip of
the other half, and the share of judged scores inside is counted. Nobody is in both halves, nor in the
training.

* rendered: videos of exercises are drawn, the shipped network sees their poses five times a second, and an
  expert of the demo's size learns from half of the people. FOLDER keeps videos and poses for another run.
* kimore: real patients, skeletons; the angles expert (kernels and trees) on each of the ten published splits.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.schema import CLIPS
from pipelines.scoring.interval import ERRORS, LEVEL, interval_of

HALVINGS = 20
Row = dict[str, Any]  # subject_id, action_type, score, predicted


def covered(rows: list[Row], seed: int, halvings: int = HALVINGS) -> list[dict[str, float]]:
    """Of each halving of the people: share of the other half's scores inside, mean half width in points."""
    people, found = sorted({row["subject_id"] for row in rows}), []
    with tempfile.TemporaryDirectory() as name:
        for number in range(halvings):
            shuffled = np.random.default_rng([seed, number]).permutation(people)
            known = set(shuffled[: len(people) // 2])
            errors = [row for row in rows if row["subject_id"] in known]
            pq.write_table(pa.Table.from_pylist(errors), Path(name) / ERRORS)
            others = [row for row in rows if row["subject_id"] not in known]
            told = []
            for row in others:
                reach = interval_of(Path(name), row["action_type"]).reach
                if reach is None:
                    raise SystemExit("half of the people are too few for an interval: take more clips")
                told.append((abs(row["predicted"] - row["score"]), reach))
            found.append(
                {
                    "share": float(np.mean([error <= width for error, width in told])),
                    "reach": float(np.mean([width for _, width in told])),
                    "clips": len(told),
                    "errors": len(errors),
                }
            )
    return found


def rendered(folder: Path, clips: int) -> list[list[Row]]:
    """Judged and predicted scores of rendered people that an expert never saw."""
    from pipelines import demo
    from pipelines.config import Config, EvaluateConfig, ExpertTrainConfig
    from pipelines.datasets.manifest import read_manifest
    from pipelines.evaluate import evaluate
    from pipelines.kinds import find_work_of
    from pipelines.rendered.dataset import render_dataset
    from pipelines.scoring.extraction import Extractor
    from pipelines.scoring.settings import works_of
    from pipelines.store import open_store
    from pipelines.train import expert

    manifest, run = folder / "data" / "clips.csv", folder / "runs" / "expert"
    if not manifest.is_file():
        render_dataset(folder / "data", exercises=clips, subjects=clips // 2, dives=0, seed=11)
    rows = read_manifest(manifest).to_pylist()
    people = sorted({row["subject_id"] for row in rows})
    parts = {name: ("train", "val", "test", "test", "train", "test")[k % 6] for k, name in enumerate(people)}
    table = pa.Table.from_pylist([row | {"split": parts[row["subject_id"]]} for row in rows], schema=CLIPS)
    if not (folder / "store").is_dir():
        asked = Config().extract.model_copy(update={"sampling": "fps:5"})
        detection, work = works_of(asked)
        with Extractor(detection, {"poses": work}, 60, False) as extractor:
            seen = [extractor.extract(table.slice(row, 1)).rows["poses"] for row in range(len(table))]
        shutil.rmtree(folder / "store.partial", ignore_errors=True)
        store = open_store(folder / "store.partial", create=True)
        store.put_clips(table)
        poses = store.create_poses(find_work_of(asked).spec)
        with poses.writer() as writer:
            writer.commit([poses.write_file(pa.concat_tables(seen))])
        (folder / "store.partial").rename(folder / "store")
    settings = ExpertTrainConfig.model_validate(demo.CONFIG.expert.model_dump() | {"encoder_units": 48})
    config = Config(expert=settings, evaluate=EvaluateConfig(bootstrap=100))
    expert(folder / "store", "expert", None, config, runs=folder / "runs")
    evaluate(run, folder / "store", config)
    return [pq.read_table(run / "predictions.parquet").to_pylist()]


def kimore(data: Path) -> list[list[Row]]:
    """Judged and predicted scores of the test patients of each published split."""
    from aqa_models.angles_expert.expert import fit_expert
    from benchmarks.kimore_assessors import RATE_HZ, Recordings, published_splits

    all_, found = Recordings(data), []
    for repeat, tested in published_splits(data):
        test = np.flatnonzero(np.isin(all_.subjects, tested))
        train = np.flatnonzero(~np.isin(all_.subjects, tested))
        expert = fit_expert([all_.performances[row] for row in train], RATE_HZ, 0, 5, seed=0)
        predicted = expert.predict([replace(all_.performances[row], score=None) for row in test])
        found.append(
            [
                {
                    "subject_id": all_.subjects[row],
                    "action_type": all_.motions[row].action_type,
                    "score": float(all_.score[row]),
                    "predicted": float(value),
                }
                for row, value in zip(test, predicted, strict=True)
            ]
        )
        print(f"split {repeat}: {len(test)} recordings of {len(tested)} people", flush=True)
    return found


def main() -> None:
    """Parses, measures, prints and writes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("kind", choices=("rendered", "kimore"))
    parser.add_argument("--folder", type=Path, help="rendered: where everything is kept")
    parser.add_argument("--clips", type=int, default=160, help="rendered: videos")
    parser.add_argument("--data", type=Path, help="kimore: folder with the arrays")
    parser.add_argument("--out", type=Path, help="write the result as JSON")
    asked = parser.parse_args()
    if (asked.folder if asked.kind == "rendered" else asked.data) is None:
        parser.error("rendered needs --folder, kimore needs --data")
    fits = rendered(asked.folder, asked.clips) if asked.kind == "rendered" else kimore(asked.data)
    told = [covered(rows, seed) for seed, rows in enumerate(fits)]
    shares = np.array([[one["share"] for one in of_fit] for of_fit in told])
    result = {
        "kind": asked.kind,
        "stated": LEVEL,
        "covered": float(shares.mean()),
        "of_fits": shares.mean(axis=1).tolist(),
        "halvings": {"lowest": float(shares.min()), "highest": float(shares.max())},
        "reach_points": float(np.mean([one["reach"] for of_fit in told for one in of_fit])),
        "test_clips": [len(rows) for rows in fits],
        "test_people": [len({row["subject_id"] for row in rows}) for rows in fits],
        "halves": told,
    }
    print({key: value for key, value in result.items() if key != "halves"})
    if asked.out:
        asked.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
