"""The verb `data check`: an audit of a data set on disk, beside the figures known of the published one.

Nothing is written. The document can be written as JSON; `check_lines` renders it for people.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.data import SHOWN, stats
from pipelines.datasets.adapters import OPTIONS, check_options, read
from pipelines.datasets.problems import first_names

if TYPE_CHECKING:
    import pyarrow as pa

# Counted in copies whose origin is known, or published (uwa3d, ui_prmd).
KNOWN: dict[str, dict[str, Any]] = {
    "kimore": {
        "recordings": 383, "usable": 383, "subjects": 78, "frames": 286_060, "labelled": 378,
        "missing_cells": 7, "masked_joints": 0, "subjects_rated_otherwise": 5,
        "labelled_by_action": {"Es1": 77, "Es2": 75, "Es3": 75, "Es4": 76, "Es5": 75},
        "subjects_by_group": {"BackPain": 8, "Expert": 17, "NotExpert": 27, "Parkinson": 16, "Stroke": 10},
    },
    "utkinect": {
        "recordings": 200, "usable": 199, "subjects": 10, "frames": 6053, "actions": 10, "missing_cells": 0,
        "masked_joints": 0, "duplicate_rows": 542,
    },
    "nw_ucla": {
        "recordings": 1484, "usable": 1482, "subjects": 10, "frames": 58_532, "actions": 10,
        "masked_joints": 0, "recordings_by_group": {"view_1": 516, "view_2": 504, "view_3": 464},
    },
    "uwa3d": {"recordings": 1075, "subjects": 10, "actions": 30},
    "ui_prmd": {
        "recordings": 2000, "usable": 2000, "subjects": 10, "actions": 10,
        "recordings_by_group": {"correct": 1000, "incorrect": 1000},
    },
}  # fmt: skip
# Of the keypoints of the copies that were counted, as `_hashes` computes it.
KNOWN_CONTENT = {
    "kimore": "8a377f7ea37131d8d3efaf85c794af68c0f4ec40b58868d04edc2f2bd632b911",
    "utkinect": "0b6f70731da6b96535c14a67a02da26c5bfc5d2294133212e7bcf5ba272c181c",
    "nw_ucla": "cef8f43729c1eb2fbae7cf6cabe905b1ac070de4f6be8cb4421f201911e29e83",
}


def check(kind: str, source: Path, *, repetitions: Path | None = None) -> dict:
    """Audit a data set.

    Args:
        kind: a key of `pipelines.datasets.KINDS`.
        source: its file or folder.
        repetitions: as in `pipelines.data.import_`.

    Returns:
        counts, missing cells (a subject without recording of an action) and scores, hashes of the files and
        of the keypoints, rejected recordings and warnings; and `known`: what was found beside what is known.
        Of kimore also `subjects_rated_otherwise`: their scores are no multiples of a third.

    Raises:
        ConfigError, DataError, SecurityError, StorageError: as `pipelines.data.import_`.
    """
    given: dict[str, Any] = dict.fromkeys(OPTIONS)
    given |= {"skeleton": "", "unit": "", "rate_hz": 0.0, "width": 0, "height": 0, "repetitions": repetitions}
    check_options(kind, given)
    clips, poses, report = read(kind, Path(source), given)
    cells = _missing_cells(clips)
    counts = _counts(clips, poses, report) | {"missing_cells": len(cells)}
    otherwise = _rated_otherwise(clips) if kind == "kimore" else []
    if kind == "kimore":
        counts["subjects_rated_otherwise"] = len(otherwise)
    known = {
        name: {"found": counts.get(name), "known": value, "same": counts.get(name) == value}
        for name, value in KNOWN.get(kind, {}).items()
    }
    return {
        "kind": kind,
        "source": str(Path(source).absolute()),
        "counts": counts,
        "known": known,
        "as_known": all(item["same"] for item in known.values()) if known else None,
        "missing_cells": cells,
        "missing_scores": _missing_scores(clips),
        **({"subjects_rated_otherwise": otherwise} if otherwise else {}),
        "rejected": report.get("rejected", []),
        "warnings": report["warnings"],
        **(_hashes(poses) if poses is not None else {}),
        "stats": stats(clips, poses),
    }


def check_lines(document: dict) -> list[str]:
    """The audit as lines of text."""
    lines = [f"{document['kind']}: {document['source']}"]
    for name, value in document["counts"].items():
        beside = document["known"].get(name)
        if isinstance(value, dict):
            value = ", ".join(f"{key} {count:,}" for key, count in value.items())
        elif isinstance(value, int):
            value = f"{value:,}"
        note = "" if not beside else "  as known" if beside["same"] else f"  KNOWN: {beside['known']}"
        lines.append(f"{name.replace('_', ' ')}: {value}{note}")
    for name in ("missing_cells", "missing_scores"):
        if document[name]:
            shown = first_names(document[name], SHOWN)
            lines.append(f"{name.replace('_', ' ')} are {len(document[name]):,}: {shown}")
    if otherwise := document.get("subjects_rated_otherwise"):
        names = first_names(otherwise, SHOWN)
        lines.append(f"scores that are no multiples of 1/3, another way of rating: {names}")
    lines += [f"rejected {item['clip_id']}: {item['message']}" for item in document["rejected"][:SHOWN]]
    if "files" in document:
        lines.append(f"{len(document['files']):,} files, sha256 of all {document['files_sha256']}")
        same = document["content_sha256"] == KNOWN_CONTENT.get(document["kind"])
        note = "  as in the copy that was audited" if same else ""
        lines.append(f"keypoints, sha256 {document['content_sha256']}{note}")
    lines += [f"warning: {text}" for text in document["warnings"][: 2 * SHOWN]]
    if document["as_known"] is None:
        lines.append("no figures of a published copy are known for this kind of data")
    elif document["as_known"]:
        lines.append("all figures are those of the published set")
    else:
        wrong = [name for name, item in document["known"].items() if not item["same"]]
        lines.append(f"other than the published set: {', '.join(wrong)}")
    return lines


def _counts(clips: pa.Table, poses: pa.Table | None, report: dict) -> dict[str, Any]:
    columns = ("clip_id", "subject_id", "action_type", "group", "score")
    rows = clips.select(columns).to_pylist()
    actions = Counter(row["action_type"] for row in rows if row["action_type"])
    people = {(row["group"], row["subject_id"]) for row in rows if row["group"] and row["subject_id"]}
    scored = Counter(row["action_type"] for row in rows if row["action_type"] and row["score"] is not None)
    found: dict[str, Any] = {
        "recordings": len(rows),
        "usable": len(rows) if poses is None else poses["status"].to_pylist().count("ok"),
        "subjects": len({row["subject_id"] for row in rows if row["subject_id"]}),
        "actions": len(actions),
        "labelled": sum(row["score"] is not None for row in rows),
        "recordings_by_action": dict(sorted(actions.items())),
        "recordings_by_group": dict(sorted(Counter(row["group"] for row in rows if row["group"]).items())),
        "subjects_by_group": dict(sorted(Counter(group for group, _ in people).items())),
        "labelled_by_action": dict(sorted(scored.items())),
    }
    # Counters that an adapter reports: frames, masked joints, duplicate rows.
    found |= {name: value for name, value in report.items() if type(value) is int and name not in found}
    return {name: value for name, value in found.items() if value != {}}


def _missing_cells(clips: pa.Table) -> list[str]:
    """Subject and action without any recording, where both are known."""
    pairs = set(zip(clips["subject_id"].to_pylist(), clips["action_type"].to_pylist(), strict=True))
    subjects = sorted({subject for subject, _ in pairs if subject})
    actions = sorted({action for _, action in pairs if action})
    return [f"{s} {action}" for s in subjects for action in actions if (s, action) not in pairs]


def _missing_scores(clips: pa.Table) -> list[str]:
    """Clips without score, where others have one."""
    scores = clips["score"].to_pylist()
    if all(score is None for score in scores):
        return []
    return [name for name, score in zip(clips["clip_id"].to_pylist(), scores, strict=True) if score is None]


def _rated_otherwise(clips: pa.Table) -> list[str]:
    """Subjects with a score between the thirds of a point, on which the scores of all others lie."""
    pairs = zip(clips["subject_id"].to_pylist(), clips["score"].to_pylist(), strict=True)
    # 1e-4: published scores are rounded to 6 decimals.
    return sorted({name for name, score in pairs if score and abs(3 * score - round(3 * score)) > 1e-4})


def _hashes(poses: pa.Table) -> dict[str, Any]:
    """Hashes of the files that poses come from, and of the keypoints whatever files they came from."""
    uris = (uri.partition("#")[0] for uri in poses["uri"].to_pylist())
    pairs = set(zip(uris, poses["source_sha256"].to_pylist(), strict=True))
    listed = [{"file": uri, "sha256": sha256} for uri, sha256 in sorted(pairs, key=str) if sha256]
    content = hashlib.sha256()
    for row in sorted(range(len(poses)), key=lambda row: str(poses["clip_id"][row])):
        if poses["status"][row].as_py() == "ok":
            numbers = poses["keypoints"][row].values.to_numpy(zero_copy_only=False)
            content.update(f"{poses['clip_id'][row]} {poses['num_frames'][row]}\n".encode())
            content.update(numbers.astype("<f4").tobytes())
    return {
        "files": listed,
        "files_sha256": hashlib.sha256("\n".join(item["sha256"] for item in listed).encode()).hexdigest(),
        "content_sha256": content.hexdigest(),
    }
