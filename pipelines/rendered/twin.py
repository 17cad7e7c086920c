"""A twin of an annotated data set: its dives performed by rendered athletes, with the published annotations.

Whoever has the annotations but not the videos can run everything that an owner of the videos can: the
layout, the split, the steps and the scores are those of the data set. What was drawn is known, so it can also
be measured what a model could at best find out.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from itertools import islice
from multiprocessing import get_context
from os import cpu_count
from pathlib import Path

import numpy as np

from aqa_models.metrics import spearman_rho
from pipelines.datasets.fine_diving import read_fine_diving
from pipelines.errors import ClusterError, ConfigError, DataError, StorageError
from pipelines.rendered import dives as diving
from pipelines.rendered.annotated import AnnotatedDive, film_annotated
from pipelines.rendered.dataset import joint_columns, write_clips, write_truth
from pipelines.rendered.film import FPS, write_mp4

DATASETS = ("fine_diving",)
FEW = 10
"""Exemplars that evaluation by exemplars takes of a dive's own number."""
_VERSION = 1


def render_twin(annotations: Path, out: Path, *, dataset: str = "fine_diving", n: int = 600, seed: int = 0,
                workers: int | None = None, say: Callable[[str], None] = print) -> dict:  # fmt: skip
    """Render `n` annotated dives; done ones are skipped, so the same command goes on after an interruption.

    Writes `videos/COMPETITION/NUMBER.mp4` (H.264, 256 x 256, 25 frames/s, as many frames as annotated),
    `clips.csv` (columns of `schema.CLIPS`), `truth.parquet` (joints and faults: for measuring only) and
    `parts/` (the truth of each dive, for going on). A dive has the same frames in every twin of one seed.

    Args:
        annotations: folder of the published annotation files.
        out: made if absent.
        dataset: one of `DATASETS`.
        n: number of dives; see `choose`.
        seed: of the choice and of every dive.
        workers: processes; None = one per core, 1 = in this process.
        say: receives progress.

    Returns:
        Counts, and how well a judge who knew all faults would rank the dives.

    Raises:
        ConfigError: unknown data set, impossible number, or a folder that holds another twin.
        DataError: the annotations are absent or wrong.
        StorageError: the file system refused.
        ClusterError: a rendering process was killed.
    """
    if dataset not in DATASETS:
        cause = "no twin of this data set can be rendered"
        raise ConfigError(f"dataset {dataset!r}", cause, f"choose one of: {', '.join(DATASETS)}")
    if workers is not None and workers < 1:
        raise ConfigError(f"workers {workers}", "at least one process must render", "give 1 or more")
    known = annotated_dives(annotations)
    chosen = choose(known, n, seed)
    _claim(out, {"twin_of": dataset, "seed": seed, "version": _VERSION, "annotations": _digest(known)})
    missing = [dive for dive in chosen if not _done(out, dive)]
    started = time.monotonic()
    say(f"{len(chosen) - len(missing)} of {len(chosen)} dives are there, {len(missing)} to render")
    for count, dive in enumerate(_render_all(missing, out, seed, workers or cpu_count() or 1), 1):
        if count % 20 == 0 or count == len(missing):
            each = (time.monotonic() - started) / count
            left = each * (len(missing) - count)
            minutes = f"{int(left // 60)}:{int(left % 60):02d}"
            say(f"{count}/{len(missing)} dives, {each:.2f} s each, ETA {minutes}, last {dive.clip_id}")
    return _write_tables(out, chosen, known, dataset) | {"rendered": len(missing)}


def annotated_dives(annotations: Path) -> list[AnnotatedDive]:
    """The dives of FineDiving that a body can perform: with a split and named steps.

    Raises:
        DataError: a file is absent or wrong, or a dive cannot be performed.
        SecurityError: a pickle that asks for more than plain values and arrays.
    """
    clips, _ = read_fine_diving(annotations)
    dives = []
    for clip in clips.to_pylist():
        steps = clip["procedures"]
        if steps is None:
            cause = "the sub-actions have no names"
            raise DataError(annotations, cause, "add the table of sub-actions, Sub_action_Types_Table.pkl")
        try:
            diving.DiveNumber.parse(clip["action_type"])
        except ValueError as error:
            raise DataError(f"dive {clip['clip_id']}", str(error), "correct the annotation") from None
        if len(steps) < 3 or not clip["difficulty"]:
            cause = "a performance needs take-off, flight and entry, and a difficulty above 0"
            raise DataError(f"dive {clip['clip_id']}", cause, "correct the annotation")
        if clip["split"] is not None:
            dives.append(_dive(clip))
    return dives


def _dive(clip: dict) -> AnnotatedDive:
    competition, _, index = clip["uri"].rpartition("/")
    return AnnotatedDive(
        competition=competition,
        index=int(index),
        action_type=clip["action_type"],
        score=clip["score"],
        difficulty=clip["difficulty"],
        judge_scores=tuple(clip["judge_scores"] or ()),
        procedures=tuple(clip["procedures"]),
        transitions=tuple(round(second * FPS) for second in clip["transitions_s"]),
        num_frames=round(clip["end_s"] * FPS),
        split=clip["split"],
    )


def choose(dives: list[AnnotatedDive], n: int, seed: int) -> list[AnnotatedDive]:
    """A subset with the proportions of the whole.

    The official split is kept, and within each split the shares of the dive numbers (largest remainders).
    A number with test dives has a training dive where the whole has one. Which dives of a number are taken
    depends on the seed and the clips' names only, so a larger subset mostly contains a smaller one.

    Raises:
        ConfigError: more dives than there are, or fewer than 20.
    """
    if not 20 <= n <= len(dives):
        cause = f"a twin has 20 to {len(dives)} dives, as many as are annotated"
        raise ConfigError(f"n {n}", cause, f"give a number from 20 to {len(dives)}")
    strata: dict[str, dict[str, list[AnnotatedDive]]] = {
        "train": defaultdict(list),
        "test": defaultdict(list),
    }
    order = {dive.clip_id: hashlib.sha256(f"{seed} {dive.clip_id}".encode()).digest() for dive in dives}
    for dive in sorted(dives, key=lambda dive: order[dive.clip_id]):
        strata[dive.split][dive.action_type].append(dive)
    totals = _proportional({split: sum(map(len, s.values())) for split, s in strata.items()}, n)
    counts = {
        split: _proportional({number: len(found) for number, found in strata[split].items()}, totals[split])
        for split in strata
    }
    for number in sorted(counts["test"]):
        if counts["test"][number] and strata["train"].get(number) and not counts["train"][number]:
            largest = max(counts["train"], key=lambda name: (counts["train"][name], name))
            counts["train"][number] += 1
            counts["train"][largest] -= 1
    picked = {
        dive.clip_id
        for split in strata
        for number, found in strata[split].items()
        for dive in found[: counts[split][number]]
    }
    return [dive for dive in dives if dive.clip_id in picked]


def _proportional(sizes: dict[str, int], total: int) -> dict[str, int]:
    """Share `total` out in proportion to `sizes`; the largest remainders are rounded up."""
    exact = {name: size * total / sum(sizes.values()) for name, size in sizes.items()}
    counts = {name: int(value) for name, value in exact.items()}
    by_remainder = sorted(exact, key=lambda name: (counts[name] - exact[name], name))
    for name in by_remainder[: total - sum(counts.values())]:
        counts[name] += 1
    return counts


def _digest(dives: list[AnnotatedDive]) -> str:
    return hashlib.sha256(json.dumps([asdict(dive) for dive in dives]).encode()).hexdigest()


def _claim(out: Path, facts: dict) -> None:
    """Note what the folder holds; refuse one that holds something else."""
    note = out / "twin.json"
    try:
        if note.exists():
            held = json.loads(note.read_text("utf-8"))
            if differing := [name for name, value in facts.items() if held.get(name) != value]:
                cause = f"the folder holds another twin; it differs in: {', '.join(differing)}"
                raise ConfigError(out, cause, "give another folder, or remove this one")
            return
        out.mkdir(parents=True, exist_ok=True)
        partial = note.with_name("twin.json.part")
        partial.write_text(json.dumps(facts, indent=1), "utf-8")
        partial.replace(note)
    except ValueError:
        raise DataError(note, "this is no JSON", "give another folder, or remove this one") from None
    except OSError as error:
        raise StorageError(
            out, f"cannot be written ({error.strerror})", "check the folder and disk"
        ) from None


def _part(out: Path, dive: AnnotatedDive) -> Path:
    return out / "parts" / dive.competition / f"{dive.index}.npz"


def _done(out: Path, dive: AnnotatedDive) -> bool:
    """Whether the dive is whole: its video is written last."""
    return (out / dive.uri).exists() and _part(out, dive).exists()


def _render_all(dives: list[AnnotatedDive], out: Path, seed: int, workers: int) -> Iterator[AnnotatedDive]:
    """Render dives, a few at a time in each process; yields each when its files are there."""
    if workers == 1:
        for dive in dives:
            yield _render_one(dive, out, seed)
        return
    # Processes are spawned: a fork would inherit the locks of the libraries' threads.
    pool = ProcessPoolExecutor(workers, get_context("spawn"), _start_worker)
    left = iter(dives)
    try:
        running = {pool.submit(_render_one, dive, out, seed) for dive in islice(left, 4 * workers)}
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            running |= {pool.submit(_render_one, dive, out, seed) for dive in islice(left, len(done))}
            for future in done:
                yield future.result()
    except BrokenProcessPool:
        cause = "a rendering process was killed, perhaps for want of memory"
        raise ClusterError(out, cause, "run the same command again, with fewer workers") from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _start_worker() -> None:
    import cv2

    cv2.setNumThreads(1)  # there is a process per core


def _render_one(dive: AnnotatedDive, out: Path, seed: int) -> AnnotatedDive:
    """Write one dive: the truth, then the video, each under another name first."""
    performed = film_annotated(dive, seed)
    video, part = out / dive.uri, _part(out, dive)
    try:
        for path in (video, part):
            path.parent.mkdir(parents=True, exist_ok=True)
        partial = part.with_name(f"{part.name}.part")
        facts = {
            "faults": performed.faults, "splash": performed.splash, "shape": asdict(performed.shape)
        }  # fmt: skip
        with partial.open("wb") as file:
            np.savez_compressed(file, joints=performed.film.joints, facts=json.dumps(facts))
        partial.replace(part)
        partial = video.with_name(f".{video.stem}.part.mp4")
        write_mp4(partial, performed.film)
        partial.replace(video)
    except OSError as error:
        raise StorageError(
            video, f"cannot be written ({error.strerror})", "check the folder and disk"
        ) from None
    return dive


def _write_tables(out: Path, chosen: list[AnnotatedDive], known: list[AnnotatedDive], dataset: str) -> dict:
    """Write clips.csv and truth.parquet of all parts; count."""
    clips, truths, execution = [], [], []
    for dive in chosen:
        with np.load(_part(out, dive), allow_pickle=False) as part:
            joints, facts = part["joints"], json.loads(str(part["facts"]))
        execution.append(diving.execution(facts["faults"]))
        clips.append(
            {
                "clip_id": dive.clip_id, "uri": dive.uri, "dataset": f"{dataset}_twin",
                "action_type": dive.action_type, "score": dive.score, "difficulty": dive.difficulty,
                "judge_scores": json.dumps(dive.judge_scores) if dive.judge_scores else "",
                "transitions_s": json.dumps(dive.transitions_s), "procedures": json.dumps(dive.procedures),
                "splash": round(facts["splash"], 6), "split": dive.split,
            }
        )  # fmt: skip
        truths.append(
            {
                "clip_id": dive.clip_id, **joint_columns(joints), "faults": json.dumps(facts["faults"]),
                "severity": 1 - execution[-1] / 10, "shape": json.dumps(facts["shape"]),
            }
        )  # fmt: skip
    write_truth(out / "truth.parquet", truths)
    write_clips(out / "clips.csv", clips)
    return _report(out, chosen, known, execution)


def _report(
    out: Path, chosen: list[AnnotatedDive], known: list[AnnotatedDive], execution: list[float]
) -> dict:
    splits = Counter(dive.split for dive in chosen)
    training = Counter(dive.action_type for dive in chosen if dive.split == "train")
    tested = [dive.action_type for dive in chosen if dive.split == "test"]
    true = np.array([3 * dive.difficulty for dive in chosen]) * execution
    rho = spearman_rho(true, np.array([dive.score for dive in chosen]))
    off = np.abs(np.array(execution) - [dive.execution for dive in chosen])
    return {
        "clips": str(out / "clips.csv"),
        "dives": len(chosen),
        "of_annotated": len(known),
        "train": splits["train"],
        "test": splits["test"],
        "dive_numbers": len({dive.action_type for dive in chosen}),
        "test_dives_with_few_exemplars": sum(training[number] < FEW for number in tested),
        "synchronised_as_one_diver": sum(len(dive.judge_scores) == 5 for dive in chosen),
        "worse_than_all_faults": int((off > 0.05).sum()),
        "spearman_of_a_judge_who_knows_all_faults": round(rho, 4),
    }
