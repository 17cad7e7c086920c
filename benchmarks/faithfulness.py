"""Does the explanation of a dive's score name what is truly wrong? Rendered dives, where the fault is known.

    python benchmarks/faithfulness.py --out faithfulness          # poses as they truly are
    python benchmarks/faithfulness.py --out faithfulness --film   # and poses that the shipped network sees

An HP-MCoRe model learns the scores of rendered dives with any number of planted faults (which procedure,
which limb: pipelines/rendered/planted.py) from their poses alone. Then it scores dives with exactly one fault, and
the explanation of `aqa score` names the procedure that lost most and the limb that deviates most there. How the
explanation works was chosen on the dives named `choose`; the dives named `report` are for the table.
The same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.config import HpMcoreTrainConfig, OptimizerConfig
from pipelines.rendered import dives as diving
from pipelines.rendered.film import FPS, SIZE
from pipelines.rendered.planted import NUMBERS, PROCEDURES, PlantedDive, draw_fault, planted_dive
from pipelines.schema import CLIPS, POSES, empty_row
from pipelines.stages.sampling import sample_indices

NUM_FRAMES = 96


def training_dive(seed: int, index: int) -> PlantedDive:
    """A dive with no, one or several faults."""
    random = np.random.default_rng([seed, 1, index])
    faults = tuple(draw_fault(random) for _ in range(int(random.poisson(1.3))))
    return planted_dive(seed, f"train-{index}", NUMBERS[index % len(NUMBERS)], faults, film=False)


def single_fault_dive(seed: int, kind: str, index: int, film: bool) -> PlantedDive:
    """A dive with one fault that can be seen: at least half of the largest."""
    random = np.random.default_rng([seed, *kind.encode(), index])
    return planted_dive(
        seed, f"{kind}-{index}", NUMBERS[index % len(NUMBERS)], (draw_fault(random, 0.5),), film
    )


def clip_row(name: str, dive: PlantedDive, score: float | None) -> dict[str, Any]:
    """Row of CLIPS."""
    return empty_row(
        CLIPS, clip_id=name, uri=f"{name}.mp4", dataset="planted", subject_id=name, split="train",
        action_type=str(dive.number), difficulty=dive.number.difficulty, score=score,
        transitions_s=list(dive.transitions_s), procedures=list(PROCEDURES),
    )  # fmt: skip


def pose_row(name: str, joints: np.ndarray) -> dict[str, Any]:
    """Row of POSES with the true joints, sampled as for training."""
    time_s = np.arange(len(joints)) / FPS
    index = sample_indices(time_s, f"uniform:{NUM_FRAMES}")
    return empty_row(
        POSES, clip_id=name, person=0, status="ok", attempts=1, skeleton="mpii16", unit="px",
        num_frames=NUM_FRAMES, num_joints=16, num_coordinates=2, frame_index=index, time_s=time_s[index],
        width_px=SIZE[0], height_px=SIZE[1], keypoints=joints[index].ravel(),
        confidence=np.ones(NUM_FRAMES * 16, np.float32), mean_confidence=1.0,
    )  # fmt: skip


def train(out: Path, seed: int, count: int, epochs: int) -> Path:
    """The run; its tables lie beside it as a bundle's bank."""
    from pipelines.hp_mcore.fit import fit
    from pipelines.scorer import write_tables

    folder = out / "run"
    if (folder / "summary.json").is_file():
        return folder
    clips, poses = [], []
    for index in range(count):
        dive, name = training_dive(seed, index), f"train-{index}"
        awards = diving.judge(np.random.default_rng([seed, 2, index]), dive.execution)
        clips.append(clip_row(name, dive, diving.score(awards, dive.number.difficulty)))
        poses.append(pose_row(name, dive.joints))
    tables = {"clips": pa.Table.from_pylist(clips, CLIPS), "poses": pa.Table.from_pylist(poses, POSES)}
    write_tables(folder / "model" / "bank", tables)
    config = HpMcoreTrainConfig()
    model = replace(
        config.model, use_dynamic=False, use_static=False, pose_stride=4, decoder_layers=1, splash_weight=0,
        number_weight=0,
    )  # fmt: skip
    config = config.model_copy(update={
        "model": model, "epochs": epochs, "seed": seed,
        "optimizer": OptimizerConfig(learning_rate=1e-3, schedule="warmup_cosine", weight_decay=0.02),
    })  # fmt: skip
    told = fit(tables["clips"], {"keypoints": tables["poses"]}, config, folder, {"store": "planted dives"})
    print(json.dumps({key: told[key] for key in told if "best" in key or "val" in key}))
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--train", type=int, default=480)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    train(given.out, given.seed, given.train, given.epochs)


if __name__ == "__main__":
    main()
