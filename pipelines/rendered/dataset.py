"""Renders the built-in data set: videos, a clips table, and the truth for measuring."""

from __future__ import annotations

import csv
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np

from pipelines.rendered import dives as diving
from pipelines.rendered import exercises as rehabilitation
from pipelines.rendered.body import NUM_JOINTS, Shape
from pipelines.rendered.draw import Look
from pipelines.rendered.film import FPS, Film, film_dive, film_exercise, write_mp4
from pipelines.schema import CLIPS

_SPLITS = ("train", "train", "val", "test")


def render_dataset(folder: Path, *, exercises: int = 36, subjects: int = 12, dives: int = 12,
                   seed: int = 0) -> Path:  # fmt: skip
    """Render people doing rehabilitation exercises, and dives.

    Writes `videos/*.mp4` (H.264, 256x256, 25 frames/s), `clips.csv` (columns of `schema.CLIPS`) and
    `truth.parquet` (joints in px, faults and severity: for measuring only, never for training).

    Args:
        folder: made if absent.
        exercises: number of exercise clips, dealt out to the subjects in turn.
        subjects: number of people exercising, at least 4; every split holds mild and severe ones.
        dives: number of dives; two by each diver.
        seed: same seed, same frames.

    Returns:
        Path of `clips.csv`.
    """
    if subjects < 4 and exercises:
        raise ValueError(f"subjects must be at least 4 so that every split has one, got {subjects}")
    (folder / "videos").mkdir(parents=True, exist_ok=True)
    plans = _plan_exercises(exercises, subjects, seed) + _plan_dives(dives, seed)
    order = np.random.default_rng([seed, 3]).permutation(len(plans))
    clips, truths = [], []
    for place, index in enumerate(order):
        clip_id = f"clip_{place:04d}"
        random = np.random.default_rng([seed, 4, int(index)])
        film, clip, truth = plans[index](random)
        uri = f"videos/{clip_id}.mp4"
        write_mp4(folder / uri, film)
        clips.append({"clip_id": clip_id, "uri": uri, "dataset": "rendered", **clip})
        truths.append({"clip_id": clip_id, **joint_columns(film.joints), **truth})
    write_truth(folder / "truth.parquet", truths)
    return write_clips(folder / "clips.csv", clips)


def _splits(random: np.random.Generator, count: int) -> list[str]:
    """Splits for `count` people sorted by severity: each four neighbours go 2:1:1 in random order."""
    return [str(split) for _ in range(0, count, 4) for split in random.permutation(_SPLITS)][:count]


def _plan_exercises(count: int, num_subjects: int, seed: int) -> list:
    """Closures that film one exercise clip each."""
    if not count:
        return []
    random = np.random.default_rng([seed, 1])
    controls = num_subjects * 2 // 5
    severities = np.concatenate(
        [np.linspace(0.0, 0.14, controls), np.linspace(0.25, 0.95, num_subjects - controls)]
    )
    splits = _splits(random, num_subjects)
    names = random.permutation(num_subjects)
    people = []
    for rank, severity in enumerate(severities):
        severity = float(np.clip(severity + random.normal(0, 0.02), 0, 1))
        subject = rehabilitation.Subject.sample(random, f"S{names[rank]:02d}", severity)
        people.append((subject, Look.sample(random, swimwear=False), splits[rank]))
    turns = [(person, name) for name in rehabilitation.EXERCISES for person in people]
    return [_exercise_plan(*turns[index % len(turns)]) for index in range(count)]


def _exercise_plan(person: tuple, exercise: str):
    subject, look, split = person

    def film(random: np.random.Generator) -> tuple[Film, dict, dict]:
        made = film_exercise(random, exercise, subject, look)
        clip = {
            "action_type": exercise, "score": rehabilitation.clinical_score(random, subject.severity),
            "subject_id": subject.subject_id, "group": subject.group, "split": split,
        }  # fmt: skip
        truth = {"faults": json.dumps(subject.symptoms), "severity": subject.severity, "side": subject.side}
        return made, clip, truth

    return film


def _plan_dives(count: int, seed: int) -> list:
    """Closures that film one dive each; divers are sorted by weakness for the splits."""
    random = np.random.default_rng([seed, 2])
    divers = max(1, (count + 1) // 2)
    weaknesses, splits = np.linspace(0.03, 0.75, divers), _splits(random, divers)
    names = random.permutation(divers)
    plans = []
    for rank, weakness in enumerate(weaknesses):
        diver = (
            f"D{names[rank]:02d}",
            float(weakness),
            Shape.sample(random),
            Look.sample(random, swimwear=True),
        )
        plans += [_dive_plan(diver, splits[rank], str(random.choice(diving.PROGRAMME))) for _ in range(2)]
    return plans[:count]


def _dive_plan(diver: tuple, split: str, text: str):
    name, weakness, shape, look = diver

    def film(random: np.random.Generator) -> tuple[Film, dict, dict]:
        number = diving.DiveNumber.parse(text)
        faults = diving.sample_faults(random, weakness)
        judges = diving.judge(random, diving.execution(faults))
        made, dive = film_dive(random, number, faults, shape, look)
        clip = {
            "action_type": text, "score": diving.score(judges, number.difficulty),
            "difficulty": number.difficulty, "judge_scores": json.dumps(judges), "subject_id": name,
            "group": "diver", "split": split,
            "transitions_s": json.dumps([round(dive.takeoff_s, 3), round(dive.entry_s, 3)]),
        }  # fmt: skip
        truth = {"faults": json.dumps(faults), "severity": weakness, "shape": json.dumps(asdict(shape))}
        return made, clip, truth

    return film


def joint_columns(joints: np.ndarray) -> dict:
    """Columns of the truth for (T, 16, 2) joints in px."""
    return {
        "num_frames": len(joints), "num_joints": NUM_JOINTS, "num_coordinates": 2, "fps": float(FPS),
        "joints": joints.ravel(),
    }  # fmt: skip


def write_clips(path: Path, clips: list[dict]) -> Path:
    """Write a clips table as CSV with the columns that any clip has; lists as JSON."""
    with path.open("w", newline="", encoding="utf-8") as file:
        columns = [name for name in CLIPS.names if any(name in clip for clip in clips)]
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(clips)
    return path


def write_truth(path: Path, truths: list[dict]) -> None:
    """Write what is for measuring only: joints, faults, shape; absent values are null."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = {
        "clip_id": pa.string(), "num_frames": pa.int32(), "num_joints": pa.int32(),
        "num_coordinates": pa.int32(), "fps": pa.float64(), "joints": pa.list_(pa.float32()),
        "faults": pa.string(), "severity": pa.float64(), "side": pa.string(), "shape": pa.string(),
    }  # fmt: skip
    columns = {name: pa.array([truth.get(name) for truth in truths], kind) for name, kind in kinds.items()}
    pq.write_table(pa.table(columns), path, compression="zstd")
