"""Tables of dives whose features tell their scores and transitions, and settings small enough to train here."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from safetensors.numpy import load_file

from aqa_models.hp_mcore.config import HpMcoreConfig
from pipelines.config import HpMcoreTrainConfig, OptimizerConfig
from pipelines.loop import read_metrics
from pipelines.schema import CLIPS, FEATURES, POSES, empty_row

FRAMES, RATE_HZ = 96, 25
NUMBERS = {"107b": 3.0, "407c": 2.0, "5253b": 3.4}  # dive number -> difficulty
SHAPES = {"keypoints": (FRAMES, 16, 2), "dynamic": (9, 1024), "static": (FRAMES, 368)}

SMALL = HpMcoreConfig(
    use_dynamic=False,
    use_pose=False,
    transitions="fixed",
    steps_per_procedure=2,
    decoder_layers=1,
    slices="disjoint",
    decoding="ordered",
    antisymmetric=True,
    standardise=True,
    score_scale=10.0,
    contrastive_weight=1.0,
    action_numbers=4,
)
SEGMENTING = replace(SMALL, transitions="predicted")


def settings(model: HpMcoreConfig = SMALL, **changes: Any) -> HpMcoreTrainConfig:
    """Two epochs of three batches."""
    fast = OptimizerConfig(learning_rate=1e-3, schedule="constant")
    given = {"epochs": 2, "batch_size": 3, "checkpoint_every": 50, "num_exemplars": 2, "optimizer": fast}
    return HpMcoreTrainConfig(**given | {"by_difficulty": False, "model": model} | changes)


def make_tables(
    train: int = 3, val: int = 1, test: int = 1, streams: Iterable[str] = ("static",)
) -> tuple[pa.Table, dict[str, pa.Table]]:
    """CLIPS and the tables of some streams: so many dives of each of three dive numbers.

    Clip 107b_0 is the first training dive of 107b; the numbers go on through val and test.
    """
    clips: list[dict] = []
    rows: dict[str, list[dict]] = {name: [] for name in streams}
    for kind, (number, difficulty) in enumerate(NUMBERS.items()):
        for k, split in enumerate(["train"] * train + ["val"] * val + ["test"] * test):
            draw = np.random.default_rng([kind, k])
            # In turns good and bad, so that each split holds both.
            quality = float(draw.uniform(0.2, 1.0)) * (-1) ** k
            cuts = int(draw.integers(20, 40)), int(draw.integers(55, 80))
            clips.append(
                empty_row(
                    CLIPS,
                    clip_id=f"{number}_{k}",
                    uri=f"{number}_{k}",
                    dataset="made",
                    subject_id=f"{number}-{k}",
                    action_type=number,
                    score=difficulty * (22 + 5 * quality),
                    difficulty=difficulty,
                    transitions_s=[cut / RATE_HZ for cut in cuts],
                    procedures=["Take-off", "Flight", "Entry"],
                    split=split,
                )
            )
            for name, of_stream in rows.items():
                of_stream.append(stream_row(name, f"{number}_{k}", quality, cuts, draw))
    tables = {name: pa.Table.from_pylist(found, schema=schema_of(name)) for name, found in rows.items()}
    return pa.Table.from_pylist(clips, schema=CLIPS), tables


def schema_of(stream: str) -> pa.Schema:
    return POSES if stream == "keypoints" else FEATURES


def stream_row(
    stream: str, clip_id: str, quality: float, cuts: tuple[int, int], draw: np.random.Generator
) -> dict[str, Any]:
    """A row of POSES or FEATURES whose first values follow the quality, and later ones the procedure."""
    shape = SHAPES[stream]
    values = 0.1 * draw.normal(size=shape)
    common = {
        "clip_id": clip_id,
        "person": 0,
        "status": "ok",
        "attempts": 1,
        "num_frames": FRAMES,
        "frame_index": list(range(FRAMES)),
        "time_s": np.arange(FRAMES) / RATE_HZ,
    }
    if stream == "keypoints":
        values = 20 * values + 100
        values[cuts[0] :, :8] += 30
        values[cuts[1] :, 8:] += 30
        values[:, 3] += 20 * quality
        told = {"skeleton": "mpii16", "unit": "px", "num_joints": shape[1], "num_coordinates": shape[2]}
        return empty_row(POSES, **common, **told, keypoints=values.astype(np.float32).ravel())
    values[:, :50] += quality
    if stream == "static":
        values[cuts[0] :, 60:100] += 1
        values[cuts[1] :, 100:140] += 1
    told = {"num_segments": shape[0], "num_channels": shape[1]}
    return empty_row(FEATURES, **common, **told, features=values.astype(np.float32).ravel())


def changed(table: pa.Table, change: Callable[[dict], dict]) -> pa.Table:
    """The table with some values of its rows replaced: `change` gives the new ones, {} for none."""
    return pa.Table.from_pylist([{**row, **change(row)} for row in table.to_pylist()], schema=table.schema)


def metrics(run_dir: Path) -> list[dict]:
    """metrics.jsonl without the time that each epoch took."""
    found = read_metrics(run_dir / "metrics.jsonl")
    return [{key: value for key, value in row.items() if key != "seconds"} for row in found]


def assert_same_run(a: Path, b: Path) -> None:
    """Bit for bit the same metrics and weights."""
    assert metrics(a) == metrics(b)
    first, second = (load_file(run / "model" / "model.safetensors") for run in (a, b))
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)
