"""The verb `data`: start a manifest, check it, import a data set, say what is in it.

Reports are plain dictionaries that can be written as JSON; `report_lines` renders them for people.
"""

from __future__ import annotations

import os
import statistics
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.datasets.adapters import check_options, read
from pipelines.datasets.problems import first_names
from pipelines.errors import ConfigError, StorageError
from pipelines.formats import FORMATS

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow as pa

SHOWN = 10
IMPORT_VERSION = 1
"""Part of the key of imported poses; raise it when an adapter gives other rows for the same files."""
_TEMPLATE_COLUMNS = ("uri", "start_s", "end_s", "action_type", "score", "difficulty", "subject_id", "split")
_README = """# Clips

`clips.csv` lists the clips to be scored, one row each. Only the column `uri` is required: a video file
(relative to this folder, or absolute) or an address. Save it as UTF-8 with commas and decimal points;
lines above the header that start with # are comments. Empty cells mean "not known".

Check it with `aqa data validate clips.csv`; every problem is named with its line and column.
Clips without score can be scored by a trained model. For training, `score` and `subject_id` are needed;
a subject may only be in one of the splits train, val and test.
"""


def init(folder: Path) -> list[Path]:
    """Write a commented template `clips.csv` and a short README.md; never overwrites.

    Returns:
        The files written.

    Raises:
        ConfigError: one of the files exists already; nothing is written.
        StorageError: the folder cannot be written.
    """
    from pipelines.schema import CLIPS

    meanings = [f"# {field.name}: {field.metadata[b'meaning'].decode()}" for field in CLIPS]
    example = "# videos/dive_01.mp4,12.4,16.1,407c,86.4,3.4,athlete_07,train"
    template = ["# One row per clip. Columns (delete those you do not need, in any order):", *meanings]
    template += ["# Example of a row:", example, ",".join(_TEMPLATE_COLUMNS)]
    texts = {Path(folder) / "clips.csv": "\n".join(template) + "\n", Path(folder) / "README.md": _README}
    for path in texts:
        if path.exists() or path.is_symlink():
            raise ConfigError(path, "the file exists and is never overwritten", "choose another folder")
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        for path, text in texts.items():
            with path.open("x", encoding="utf-8") as stream:
                stream.write(text)
    except OSError as error:
        raise StorageError(
            folder, f"cannot be written: {error.strerror}", "check path and permissions"
        ) from None
    return list(texts)


def validate(path: Path) -> dict:
    """Check a manifest.

    Returns:
        A report: counts, warnings, and video files that do not exist (count and first rows).

    Raises:
        DataError: everything that is wrong in the table, in one error.
    """
    from pipelines.datasets.manifest import read_manifest_lines

    clips, lines = read_manifest_lines(Path(path))
    absent = [
        {"where": where, "uri": uri}
        for where, uri in zip(lines, clips["uri"].to_pylist(), strict=True)
        if "://" not in uri and not os.path.exists(uri)
    ]
    return {
        "kind": "manifest",
        "source": str(Path(path).absolute()),
        "missing_files": {"count": len(absent), "first": absent[:SHOWN]},
        "warnings": clip_warnings(clips),
        "stats": stats(clips),
    }


def import_(
    kind: str,
    source: Path,
    *,
    samples: Path | None = None,
    tracking: Path | None = None,
    skeleton: str = "",
    unit: str = "",
    rate_hz: float = 0.0,
    split_index: int | None = None,
    splits: Path | None = None,
    width: int = 0,
    height: int = 0,
    videos: Path | None = None,
    steps_from: Path | None = None,
    repetitions: Path | None = None,
    splashes: Path | None = None,
) -> tuple[pa.Table, pa.Table | None, dict]:
    """Read a data set from a user's disk.

    Args:
        kind: a key of `pipelines.datasets.KINDS` or of `pipelines.formats.FORMATS`.
        source: manifest file; folder of a data set; the npz of keypoints (or the folder that holds it); or
            what another program wrote.
        samples, tracking: csv of the clips and npz of tracking states (keypoints only); found in the folder
            of `source` if not given: *samples*.csv, *tracking*.npz.
        skeleton, unit, rate_hz: what the keypoints are (all required for keypoints; skeleton and rate_hz for
            formats whose file does not say it). Of annotated dives rate_hz is that of the frames, default 25;
            of utkinect the frame ids per second, default 60.
        split_index: repeat of the splits file that fills the column `split`; None = leave it.
        splits: csv of subject splits; default subject_splits.csv in the folder of `source`.
        width, height: size of the upright frame in px (formats only, where the file does not say it).
        videos: folder of the dives' videos or pictures (fine_diving and mtl_aqa only).
        steps_from: FineDiving's folder, for the transitions of mtl_aqa.
        repetitions: EGCN's tables of KIMORE's repetitions, a folder or repetitions_long.csv (kimore only).
        splashes: folder of the dives' splash masks (fine_diving only).

    Returns:
        Clips, poses (None where the source holds no keypoints), and a report.

    Raises:
        ConfigError: unknown kind, or options that do not fit it.
        DataError, SecurityError, StorageError: as the adapters.
    """
    source = Path(source)
    given = {
        "samples": samples, "tracking": tracking, "skeleton": skeleton, "unit": unit, "rate_hz": rate_hz,
        "width": width, "height": height, "videos": videos, "steps_from": steps_from,
        "repetitions": repetitions, "splashes": splashes,
    }  # fmt: skip
    check_options(kind, given)
    clips, poses, report = read(kind, source, given)
    if kind in FORMATS or kind == "manifest":
        report["warnings"] += clip_warnings(clips)
    clips, warnings = _with_splits(clips, source, split_index, splits)
    report["warnings"] += warnings
    report["stats"] = stats(clips, poses)
    return clips, poses, report


def _with_splits(
    clips: pa.Table, source: Path, split_index: int | None, splits: Path | None
) -> tuple[pa.Table, list[str]]:
    """Fill `split` from the splits file if a repeat was chosen."""
    if split_index is None:
        if splits is not None:
            raise ConfigError("splits", "no split number is chosen", "give split_index, e.g. 0")
        return clips, []
    from pipelines.datasets.subject_splits import read_splits, with_splits

    folder = source if source.is_dir() else source.parent
    return with_splits(clips, read_splits(splits or folder / "subject_splits.csv", split_index))


def clip_warnings(clips: pa.Table) -> list[str]:
    """What is allowed but often a mistake: one video in several splits, constant or single labels."""
    found = []
    splits: dict[str, set[str]] = {}
    for uri, split in zip(clips["uri"].to_pylist(), clips["split"].to_pylist(), strict=True):
        if split is not None:
            splits.setdefault(uri, set()).add(split)
    shared = [uri for uri, names in splits.items() if len(names) > 1]
    if shared:
        found.append(f"videos with clips in more than one split: {len(shared)}, the first {shared[0]}")
    scores: dict[str, list[float]] = {}
    for action, score in zip(clips["action_type"].to_pylist(), clips["score"].to_pylist(), strict=True):
        if score is not None:
            scores.setdefault(action or "(none)", []).append(score)
    for action, values in sorted(scores.items()):
        if len(values) == 1:
            found.append(f"action type {action} has a single labelled clip, so nothing to compare it with")
        elif min(values) == max(values):
            found.append(
                f"all {len(values)} scores of action type {action} are {values[0]:g}; no rank order exists"
            )
    return found


def stats(clips: pa.Table, poses: pa.Table | None = None) -> dict:
    """Counts and ranges.

    Args:
        clips: table with the schema CLIPS.
        poses: table with (at least) status, error_code and num_frames of POSES; None if there are none yet.

    Returns:
        Counts of clips, labels and subjects; clips per split, action type and group; score and length as
        minimum, median and maximum, overall and per action type; with poses: rows per status and error code.
    """
    scores = clips["score"].to_pylist()
    spans = zip(clips["start_s"].to_pylist(), clips["end_s"].to_pylist(), strict=True)
    subjects = Counter(name for name in clips["subject_id"].to_pylist() if name is not None)
    by_action: dict[str, list[float]] = {}
    for action, score in zip(clips["action_type"].to_pylist(), scores, strict=True):
        by_action.setdefault(action or "(none)", []).extend([] if score is None else [score])
    report = {
        "clips": len(clips),
        "labelled": sum(score is not None for score in scores),
        "unlabelled": sum(score is None for score in scores),
        "subjects": len(subjects),
        "clips_per_subject": _range(list(subjects.values())),
        "split": _counts(clips["split"].to_pylist()),
        "group": _counts(clips["group"].to_pylist()),
        "action_type": {
            action: {"clips": count, "score": _range(by_action[action])}
            for action, count in _counts(clips["action_type"].to_pylist()).items()
        },
        "score": _range([score for score in scores if score is not None]),
        "span_s": _range([end - (start or 0.0) for start, end in spans if end is not None]),
    }
    if poses is not None:
        report["status"] = _counts(poses["status"].to_pylist())
        report["error_code"] = _counts([code for code in poses["error_code"].to_pylist() if code])
        report["frames"] = _range([count for count in poses["num_frames"].to_pylist() if count is not None])
    return report


def _counts(values: Sequence[str | None]) -> dict[str, int]:
    return dict(sorted(Counter(value or "(none)" for value in values).items()))


def _range(values: Sequence[float]) -> dict | None:
    if not values:
        return None
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}


def report_lines(report: dict) -> list[str]:
    """A report of `validate`, `import_` or `stats` as lines of text."""
    lines = []
    if "dives" in report:
        steps = ", ".join(f"{count} in {dives:,}" for count, dives in report["steps"].items())
        frames = report["frames"]
        lines.append(f"{report['dives']:,} dives, steps per dive: {steps or 'not annotated'}")
        lines.append(f"frames per dive: {frames['mean']:.3f} on average, {frames['below_96']:,} below 96")
    if "recordings" in report:
        subjects, frames = report["subjects"], report["frames"]
        lines.append(f"{report['recordings']:,} recordings of {subjects:,} subjects, {frames:,} frames")
        lines.append(f"{report['labelled']:,} labelled pairs")
    for key in ("unlabelled", "missing"):
        if isinstance(names := report.get(key), list):
            lines.append(f"{len(names):,} {key}" + (f": {first_names(names, SHOWN)}" if names else ""))
    if "rejected" in report:
        lines.append(f"{len(report['rejected']):,} rejected")
        lines += [f"  {item['clip_id']}: {item['message']}" for item in report["rejected"][:SHOWN]]
    if "tracking" in report:
        shares = ", ".join(f"{name} {share:.2%}" for name, share in report["tracking"].items())
        lines.append(f"tracking state of joints: {shares}")
    for key in ("merged_rows", "masked_joints"):
        if report.get(key):
            lines.append(f"{report[key]:,} {key.replace('_', ' ')}")
    if absent := report.get("missing_files", {}).get("count"):
        lines.append(f"video files that do not exist: {absent:,} (extraction will reject them)")
        lines += [f"  {item['where']}: {item['uri']}" for item in report["missing_files"]["first"]]
    warnings = report.get("warnings", [])
    lines += [f"warning: {text}" for text in warnings[: 2 * SHOWN]]
    if len(warnings) > 2 * SHOWN:
        lines.append(f"and {len(warnings) - 2 * SHOWN} more warnings")
    numbers = report.get("stats") or (report if "clips" in report else None)
    return lines + (_stats_lines(numbers) if numbers else [])


def _stats_lines(numbers: dict) -> list[str]:
    lines = [
        f"{numbers['clips']:,} clips, {numbers['labelled']:,} labelled, {numbers['unlabelled']:,} not, "
        f"{numbers['subjects']:,} subjects"
    ]
    for key in ("split", "group", "status", "error_code"):
        if counts := {
            name: count for name, count in numbers.get(key, {}).items() if numbers[key] != {"(none)": count}
        }:
            lines.append(f"{key}: " + ", ".join(f"{name} {count:,}" for name, count in counts.items()))
    for key, unit in (
        ("score", " points"),
        ("span_s", " s"),
        ("frames", " frames"),
        ("clips_per_subject", " clips"),
    ):
        if span := numbers.get(key):
            lines.append(f"{key}: {_span(span)}{unit}")
    for action, item in numbers["action_type"].items():
        score = f", score {_span(item['score'])}" if item["score"] else ", no scores"
        lines.append(f"action type {action}: {item['clips']:,} clips{score}")
    return lines


def _span(span: dict) -> str:
    return f"{span['min']:g} to {span['max']:g}, median {span['median']:g}"


def put(store: Path, kind: str, clips: pa.Table, poses: pa.Table | None) -> dict:
    """Write what `import_` read into a store; doing it again changes nothing.

    Clips of which the source says nothing (files that hold poses alone) do not replace what the store knows.

    Returns:
        The pose table's key (empty if there are no poses) and counts of what is new or changed.

    Raises:
        ConfigError: the store holds dives of the same names from another data set.
    """
    from pipelines.store import open_store, spec_key

    opened = open_store(store, create=True)
    known = opened.clips.read(columns=["clip_id", "dataset"])
    _check_same_data_set(store, clips, known)
    if kind in FORMATS:
        clips = _without_bare(clips, set(known["clip_id"].to_pylist()))
    new, changed = opened.put_clips(clips)
    report = {"store": str(store), "new_clips": new, "changed_clips": changed, "poses": "", "new_poses": 0}
    if poses is None:
        return report
    spec = {"stage": "import", "kind": kind, "code_version": IMPORT_VERSION}
    table = opened.create_poses(spec)
    with table.writer() as writer:
        old, given = _rows_by_clip(table.read()), _rows_by_clip(poses)
        names = poses.column("clip_id").to_pylist()
        fresh = [i for i, name in enumerate(names) if old.get(name) != given[name]]
        if fresh:
            rows = poses.take(fresh)
            writer.remove(set(rows.column("clip_id").to_pylist()))
            writer.commit([table.write_file(rows)])
    return report | {"poses": spec_key(spec), "new_poses": len(fresh)}


def _check_same_data_set(store: Path, clips: pa.Table, known: pa.Table) -> None:
    """FineDiving and MTL-AQA name the same dives alike but split them otherwise: one store each."""
    dives = {"fine_diving", "mtl_aqa"}
    of_clip = dict(zip(known["clip_id"].to_pylist(), known["dataset"].to_pylist(), strict=True))
    for clip_id, dataset in zip(clips["clip_id"].to_pylist(), clips["dataset"].to_pylist(), strict=True):
        if {dataset, of_clip.get(clip_id)} == dives:
            cause = f"clip {clip_id} of {dataset} is in the store as one of {of_clip[clip_id]}"
            raise ConfigError(store, cause, "import each of the two data sets into a store of its own")


def _without_bare(clips: pa.Table, known: set[str]) -> pa.Table:
    """Without known clips that have nothing but name, uri and data set."""
    facts = [name for name in clips.column_names if name not in ("clip_id", "uri", "dataset")]
    keep = [
        row["clip_id"] not in known or any(row[name] is not None for name in facts)
        for row in clips.to_pylist()
    ]
    return clips.filter(keep)


def _rows_by_clip(poses: pa.Table) -> dict[str, list[str]]:
    """The rows of every clip as text, in which NaN equals itself, by person."""
    found: dict[str, list[str]] = {}
    for row in sorted(poses.to_pylist(), key=lambda row: row["person"]):
        found.setdefault(row["clip_id"], []).append(str(row))
    return found


def split(
    source: Path,
    out: Path,
    *,
    folds: int | None = None,
    one_out: bool = False,
    published: Path | None = None,
    seed: int = 0,
) -> dict:
    """Write a csv of splits by subject; exactly one of folds, one_out and published says which.

    Subjects without any scored clip are in no split, unless no clip has a score.

    Returns:
        The file, the number of splits and subjects, fewest and most subjects that test, and warnings.

    Raises:
        ConfigError: not exactly one way to split, impossible numbers, or the file exists.
        DataError: subjects that cannot be told apart, or a published file that does not fit the subjects.
    """
    from pipelines.datasets import subject_splits

    if sum((folds is not None, one_out, published is not None)) != 1:
        remedy = "give one of --folds N, --leave-one-out and --published FILE"
        raise ConfigError("split", "there is not exactly one way to split", remedy)
    groups = subject_splits.groups_of(clips_of(source))
    warnings = []
    if published is not None:
        repeats = subject_splits.read_all_splits(published)
        warnings = subject_splits.check_published(published, repeats, groups)
    elif folds is not None:
        repeats = subject_splits.k_folds(groups, folds, seed)
    else:
        repeats = subject_splits.leave_one_out(groups)
    subject_splits.write_splits(out, repeats, groups)
    tested = [list(parts.values()).count("test") for parts in repeats]
    return {
        "written": str(out), "splits": len(repeats), "subjects": len(groups), "fewest_tested": min(tested),
        "most_tested": max(tested), "warnings": warnings,
    }  # fmt: skip


def clips_of(source: Path) -> pa.Table:
    """The clips table of a manifest file or of a store's folder."""
    if Path(source).is_dir():
        from pipelines.store import open_store

        return open_store(source).clips.read()
    from pipelines.datasets.manifest import read_manifest

    return read_manifest(source)
