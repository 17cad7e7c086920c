"""Does the explanation of a dive's score name what is truly wrong? Rendered dives, where the fault is known.

    python benchmarks/faithfulness.py --out faithfulness --poses true
    python benchmarks/faithfulness.py --out faithfulness --poses seen --train 240 --dives 64

An HP-MCoRe model learns the scores of rendered dives with any number of planted faults (which procedure,
which limb: pipelines/rendered/planted.py) from their poses alone. Then it scores dives with exactly one
fault, and the explanation of `aqa score` names the procedure that lost most and the limb that differs most
there. How the explanation works was chosen on the dives named `choose`; those named `report` are for the
table. Poses are those of the renderer, or those that the shipped network sees in the filmed dives, of
training dives and scored ones alike. The same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.config import HpMcoreTrainConfig, OptimizerConfig
from pipelines.rendered import dives as diving
from pipelines.rendered.film import FPS, SIZE
from pipelines.rendered.planted import NUMBERS, PROCEDURES, PlantedDive, draw_fault, planted_dive
from pipelines.schema import CLIPS, POSES, empty_row
from pipelines.stages.sampling import sample_indices

NUM_FRAMES = 96
Poses = Callable[[str, PlantedDive, Callable[[], PlantedDive]], pa.Table]
"""Name of a dive, the dive, and what films it -> its row of POSES."""


def training_dive(seed: int, index: int, film: bool = False) -> PlantedDive:
    """A dive with no, one or several faults."""
    random = np.random.default_rng([seed, 1, index])
    faults = tuple(draw_fault(random) for _ in range(int(random.poisson(1.3))))
    return planted_dive(seed, f"train-{index}", NUMBERS[index % len(NUMBERS)], faults, film)


def single_fault_dive(seed: int, kind: str, index: int, film: bool = False) -> PlantedDive:
    """A dive with one fault, of any size that the training dives have."""
    random = np.random.default_rng([seed, *kind.encode(), index])
    return planted_dive(seed, f"{kind}-{index}", NUMBERS[index % len(NUMBERS)], (draw_fault(random),), film)


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


def train(folder: Path, seed: int, count: int, epochs: int, poses_of: Poses) -> None:
    """Trains a run; its tables lie beside it as a bundle's bank."""
    from pipelines.hp_mcore.fit import fit
    from pipelines.scorer import write_tables

    if (folder / "summary.json").is_file():
        return
    clips, poses = [], []
    for index in range(count):
        name = f"train-{index}"
        dive = training_dive(seed, index)
        awards = diving.judge(np.random.default_rng([seed, 2, index]), dive.execution)
        clips.append(clip_row(name, dive, diving.score(awards, dive.number.difficulty)))
        poses.append(poses_of(name, dive, lambda index=index: training_dive(seed, index, film=True)))
    tables = {"clips": pa.Table.from_pylist(clips, CLIPS), "poses": pa.concat_tables(poses)}
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


class Explainer:
    """Scores and explains dives with the run, as `aqa score` does."""

    def __init__(self, run: Path):
        from pipelines.checkpoint import load_bundle
        from pipelines.scoring import dive
        from pipelines.scoring.training import Training

        self._dive, kept = dive, run / "model"
        self._tensors, self._description = load_bundle(run, "hp_mcore")
        self._bank = dive.Bank(self._description, Training(self._description, kept=kept), kept)

    def answer(self, name: str, dive: PlantedDive, poses: pa.Table) -> dict[str, Any]:
        """What was wrong and what was named."""
        from pipelines.scoring.extraction import Recording

        recording = Recording(pa.Table.from_pylist([clip_row(name, dive, None)], CLIPS), {"poses": poses})
        verdict = self._dive.score(recording, self._tensors, self._description, self._bank, "auto")
        explained = self._dive.explain(recording, verdict, self._bank)
        (fault,) = dive.faults
        true = PROCEDURES[fault.procedure]
        in_true = next((one for one in explained.differences if one.part == true), None)
        return {
            "name": name, "procedure": true, "limb": fault.limb, "angle": fault.angle, "size": fault.size,
            "lost_most": explained.facts["lost_most"],
            "named_procedure": explained.facts["procedure"], "named_limb": explained.facts["limb"],
            "limb_in_true_procedure": in_true.limb if in_true else None,
            "strongest_procedure": explained.differences[0].part,
            "true_score": dive.score, "score": verdict.score,
        }  # fmt: skip


def true_poses(name: str, dive: PlantedDive, filmed: Callable[[], PlantedDive]) -> pa.Table:
    """The joints where they are."""
    return pa.Table.from_pylist([pose_row(name, dive.joints)], POSES)


class SeenPoses:
    """Films a dive and lets the shipped pose network look at it; what it saw is kept in a folder."""

    def __init__(self, folder: Path):
        from pipelines.config import ExtractConfig
        from pipelines.scoring.extraction import Extractor
        from pipelines.scoring.settings import works_of

        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        detection, work = works_of(ExtractConfig(sampling=f"uniform:{NUM_FRAMES}"))
        self._extractor = Extractor(detection, {"poses": work}, 60.0, False)

    def __call__(self, name: str, dive: PlantedDive, filmed: Callable[[], PlantedDive]) -> pa.Table:
        from pipelines.datasets.manifest import clips_table
        from pipelines.rendered.film import write_mp4

        kept = self._folder / f"{name}.parquet"
        if not kept.is_file():
            video, film = self._folder / f"{name}.mp4", filmed().film
            assert film is not None
            write_mp4(video, film)
            found = self._extractor.extract(clips_table({"clip_id": [name], "uri": [str(video)]}))
            pq.write_table(found.rows["poses"].select(POSES.names), kept)
            video.unlink()
        return pq.read_table(kept).cast(POSES)


def measure(folder: Path, kind: str, seed: int, count: int, poses_of: Poses) -> list[dict[str, Any]]:
    """Answers for so many dives."""
    explainer, told = Explainer(folder), []
    for index in range(count):
        name, dive = f"{kind}-{index}", single_fault_dive(seed, kind, index)
        poses = poses_of(name, dive, lambda index=index: single_fault_dive(seed, kind, index, film=True))
        told.append(explainer.answer(name, dive, poses))
    return told


def shares(answers: list[dict[str, Any]]) -> dict[str, Any]:
    """Shares of right names with 95 % intervals (Wilson), and what needs no explanation to be as good."""
    made: dict[str, Any] = {"dives": len(answers)}
    for what in ("procedure", "limb"):
        right = [one[what] == one[f"named_{what}"] for one in answers]
        made[what] = {"share": float(np.mean(right)), "interval": wilson(sum(right), len(right))}
        usual = Counter(one[what] for one in answers).most_common(1)[0][1]
        made[what] |= {"guess": 1 / (3 if what == "procedure" else 4), "most_frequent": usual / len(answers)}
    given = [one["limb"] == one["limb_in_true_procedure"] for one in answers]
    strongest = [one["procedure"] == one["strongest_procedure"] for one in answers]
    lost = [one["procedure"] == one["lost_most"] for one in answers]
    made["limb_in_true_procedure"] = float(np.mean(given))
    made["procedure_by_points_alone"] = float(np.mean(lost))
    made["procedure_by_angles_alone"] = float(np.mean(strongest))
    return made


def wilson(right: int, count: int, z: float = 1.96) -> tuple[float, float]:
    """Interval of a share (Wilson 1927)."""
    share, about = right / count, 1 + z**2 / count
    middle = (share + z**2 / (2 * count)) / about
    reach = z / about * float(np.sqrt(share * (1 - share) / count + z**2 / (4 * count**2)))
    return middle - reach, middle + reach


def table(poses: str, answers: list[dict[str, Any]]) -> list[str]:
    """Markdown."""
    groups = {
        "all": answers,
        "fault under half size": [one for one in answers if one["size"] < 0.5],
        "fault of half size or more": [one for one in answers if one["size"] >= 0.5],
    }
    lines = [f"| poses: {poses} | dives | procedure right | by points alone | by angles alone | limb right |"]
    lines.append("|---|---|---|---|---|---|")
    for name, some in groups.items():
        if some:
            told = shares(some)
            alone = [f"{told[f'procedure_by_{by}_alone']:.0%}" for by in ("points", "angles")]
            cells = [str(len(some)), _cell(told["procedure"]), *alone, _cell(told["limb"])]
            lines.append(f"| {name} | {' | '.join(cells)} |")
    told = shares(answers)
    for floor in ("guess", "most_frequent"):
        cells = [f"{told[what][floor]:.0%}" for what in ("procedure", "limb")]
        lines.append(f"| floor: {floor.replace('_', ' ')} | | {cells[0]} | | | {cells[1]} |")
    return lines


def _cell(told: dict[str, Any]) -> str:
    low, high = told["interval"]
    return f"{told['share']:.0%} [{low:.0%}, {high:.0%}]"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--poses", choices=("true", "seen"), default="true")
    parser.add_argument("--train", type=int, default=480, help="dives to learn from")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--dives", type=int, default=200, help="dives to explain")
    parser.add_argument("--kind", choices=("choose", "report"), default="report")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    poses_of = true_poses if given.poses == "true" else SeenPoses(given.out / "seen")
    run = given.out / f"run-{given.poses}"
    train(run, given.seed, given.train, given.epochs, poses_of)
    answers = measure(run, given.kind, given.seed, given.dives, poses_of)
    result = {"poses": given.poses, "trained_on": given.train, "shares": shares(answers), "answers": answers}
    (given.out / f"{given.kind}-{given.poses}.json").write_text(json.dumps(result, indent=1))
    print("\n".join(table(given.poses, answers)))


if __name__ == "__main__":
    main()
