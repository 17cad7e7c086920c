"""Clips, poses and features of the store -> performances as HP-MCoRe reads them.

`dive_table` joins the tables into one; training writes it to a file that every worker maps, so that pairs
can be drawn at random from any number of dives in constant memory. `Dives` reads it.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.errors import DataError
from pipelines.hp_mcore.frames import JPEG_COLUMN, Pictures
from pipelines.motion import subject_of

if TYPE_CHECKING:
    from hashlib import _Hash

    from torch import Tensor

    from aqa_models.hp_mcore.performance import Performances

NUM_FRAMES = 96  # T, sampled evenly over the clip
SKELETON = "mpii16"
STREAMS = ("keypoints", "dynamic", "static")
_TEXTS = ("clip_id", "subject", "subject_id", "action_type", "split")
_NUMBERS = ("score", "difficulty", "splash")
_COPIED = ("clip_id", "subject_id", "action_type", "split", *_NUMBERS, "judge_scores")
# Where a stream is in its table; pictures of many dives exceed what 32-bit offsets reach.
_COLUMNS = {"keypoints": ("keypoints", pa.float32()), "frames": (JPEG_COLUMN, pa.large_binary())}
_FACTS_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in _TEXTS),
        *((name, pa.float64()) for name in _NUMBERS),
        ("judge_scores", pa.list_(pa.float64())),
        ("procedures", pa.list_(pa.string())),
        ("transitions", pa.list_(pa.int32())),
        ("width_px", pa.int32()),
        ("height_px", pa.int32()),
    ]
)


@dataclass(frozen=True)
class Dive:
    """What is known of one performance, besides its arrays.

    Attributes:
        clip_id: the clip.
        subject: data set and subject; the clip itself where no subject is given.
        subject_id: as in the clips table, empty if unknown.
        action_type: the dive number.
        split: train, val, test, or empty.
        score: judged score, None if unlabelled.
        difficulty: degree of difficulty, None if unknown.
        judge_scores: awards of the single judges.
        splash: size of the splash, NaN if unknown.
        transitions: first sampled frame of each procedure after the first.
        procedures: their names, as far as known.
    """

    clip_id: str
    subject: str
    subject_id: str
    action_type: str
    split: str
    score: float | None
    difficulty: float | None
    judge_scores: tuple[float, ...]
    splash: float
    transitions: tuple[int, ...]
    procedures: tuple[str, ...]

    @property
    def group(self) -> str:
        """Validation dives are spread over these."""
        return self.action_type


def dive_table(clips: pa.Table, streams: dict[str, pa.Table], num_frames: int) -> pa.Table:
    """Joins clips with their poses and features.

    Args:
        clips: rows of CLIPS.
        streams: any of keypoints (rows of POSES), dynamic, static and frames (rows of FEATURES).
        num_frames: T; poses, static features and pictures must have so many frames.

    Returns:
        One row per clip that has all streams, in the order of the clips: its facts, `transitions` in sampled
        frames, and a flat float32 column per stream, whose shape is in the schema's metadata; of frames the
        JPEG pictures.

    Raises:
        DataError: another skeleton or number of frames, streams of other frames or another size of the video,
            or transitions that do not rise.
    """
    found = {name: _by_clip(table) for name, table in streams.items()}
    facts, taken, shapes = [], [], {}
    for clip in clips.to_pylist():
        if any(clip["clip_id"] not in index for index in found.values()):
            continue
        cells = {name: index[clip["clip_id"]] for name, index in found.items()}
        facts.append(_facts(clip, cells, num_frames))
        taken.append({name: cell["row"] for name, cell in cells.items()})
        for name, cell in cells.items():
            shape = _shape(name, cell)
            if shapes.setdefault(name, shape) != shape:
                raise DataError(
                    f"clip {clip['clip_id']}",
                    f"has {name} of shape {shape}, the clips before it {shapes[name]}",
                    "extract all clips with the same settings",
                )
    joined = pa.Table.from_pylist(facts, schema=_FACTS_SCHEMA)
    for name, table in streams.items():
        column, kind = _COLUMNS.get(name, ("features", pa.float32()))
        cells = table[column].cast(pa.large_list(kind))
        cells = cells.combine_chunks().take(pa.array([rows[name] for rows in taken], pa.int64()))
        if name == "frames":
            _check_pictures(facts, cells, num_frames)
        joined = joined.append_column(JPEG_COLUMN if name == "frames" else name, cells)
    told = {f"{name}.shape": ",".join(map(str, shapes[name])) for name in STREAMS if name in shapes}
    return joined.replace_schema_metadata(told)


class Dives:
    """The rows of `dive_table`: facts in memory, arrays where they are.

    Attributes:
        facts: one Dive per row.
        shapes: stream -> shape of one performance.
        pictures: what is filmed of them; None if the table holds none.
    """

    def __init__(self, table: pa.Table):
        told = table.schema.metadata or {}
        self.shapes = {
            name: tuple(int(size) for size in told[f"{name}.shape".encode()].split(b","))
            for name in STREAMS
            if f"{name}.shape".encode() in told
        }
        names = [field.name for field in table.schema if field.name not in (*STREAMS, JPEG_COLUMN)]
        self.facts = [_dive(row) for row in table.select(names).to_pylist()]
        self._arrays = {name: _arrays(table[name], shape) for name, shape in self.shapes.items()}
        filmed = JPEG_COLUMN in table.column_names and len(table) > 0
        self.pictures = Pictures(table) if filmed else None

    def __len__(self) -> int:
        return len(self.facts)

    def stream(self, name: str, rows: list[int]) -> np.ndarray:
        """(B, *shape) float32 of one stream, a copy."""
        starts, chunks = self._arrays[name]
        which = np.searchsorted(starts, rows, side="right") - 1
        return np.stack([chunks[c][row - starts[c]] for c, row in zip(which, rows, strict=True)])

    def hash_into(self, digest: _Hash, row: int) -> None:
        """Adds all that a model reads of a performance, besides its facts."""
        for name in self.shapes:
            digest.update(self.stream(name, [row]).tobytes())
        for part in self.pictures.stored(row) if self.pictures else []:
            digest.update(part)

    def statistics(self, name: str, rows: list[int]) -> tuple[Tensor, Tensor]:
        """Mean and deviation (D,) of each channel over some performances, a few read at a time."""
        import torch

        count, total, squares = 0, 0.0, 0.0
        for begin in range(0, len(rows), 64):
            part = self.stream(name, rows[begin : begin + 64]).astype(np.float64)
            part = part.reshape(-1, part.shape[-1])
            count, total, squares = count + len(part), total + part.sum(0), squares + np.square(part).sum(0)
        mean = total / count
        deviation = np.sqrt(np.maximum(squares / count - np.square(mean), 0))
        return torch.from_numpy(mean).float(), torch.from_numpy(deviation).float()

    def batch(
        self, rows: list[int], num_procedures: int, numbers: dict[str, int], like: list[Dive] | None = None
    ) -> Performances:
        """Tensors of some performances.

        Args:
            rows: positions.
            num_procedures: P; longer performances are collapsed, see `procedure.slots_of`.
            numbers: dive number -> class of the action-number head.
            like: performances whose transitions and slots stand for these ones'; None = their own.
        """
        import torch

        from aqa_models.hp_mcore.performance import Performances

        facts = [self.facts[row] for row in rows]
        transitions, present = slots(like or facts, num_procedures)
        arrays = {name: torch.from_numpy(self.stream(name, rows)) for name in self.shapes}
        return Performances(
            transitions=transitions,
            present=present,
            splash=torch.tensor([fact.splash for fact in facts], dtype=torch.float32),
            number=torch.tensor([numbers.get(fact.action_type, -1) for fact in facts]),
            **arrays,
        )


def slots(facts: list[Dive], num_procedures: int) -> tuple[Tensor, Tensor]:
    """Transitions (B, P - 1) and slots used (B, P) of some dives, see `procedure.slots_of`."""
    import torch

    from aqa_models.hp_mcore.procedure import slots_of

    found = [slots_of(fact.transitions, num_procedures) for fact in facts]
    return torch.tensor([starts for starts, _ in found]), torch.tensor([used for _, used in found])


_OF_CELL = (
    "clip_id", "status", "person", "num_frames", "frame_index", "time_s", "skeleton", "num_joints",
    "num_coordinates", "num_segments", "num_channels", "width_px", "height_px",
)  # fmt: skip


def _by_clip(table: pa.Table) -> dict[str, dict[str, Any]]:
    """Each clip's athlete, where extraction succeeded, and the `row` it is in; without the large columns."""
    small = table.select([name for name in _OF_CELL if name in table.schema.names]).to_pylist()
    return {
        cell["clip_id"]: {**cell, "row": row}
        for row, cell in enumerate(small)
        if cell["status"] == "ok" and not cell["person"]
    }


def _shape(name: str, cell: dict[str, Any]) -> tuple[int, ...]:
    if name == "keypoints":
        return cell["num_frames"], cell["num_joints"], cell["num_coordinates"]
    if name == "frames":
        return (cell["num_frames"],)
    return cell["num_segments"], cell["num_channels"]


def _facts(clip: dict[str, Any], cells: dict[str, dict[str, Any]], num_frames: int) -> dict[str, Any]:
    where = f"clip {clip['clip_id']}"
    for name, cell in cells.items():
        if cell["num_frames"] != num_frames:
            raise DataError(
                where,
                f"has {name} of {cell['num_frames']} frames, the model reads {num_frames}",
                f"extract with --sampling uniform:{num_frames}",
            )
        if name == "keypoints" and (cell["skeleton"] != SKELETON or cell["num_coordinates"] != 2):
            raise DataError(
                where,
                f"has {cell['num_coordinates']}-D keypoints of skeleton {cell['skeleton']}",
                f"extract with a network for 2-D {SKELETON} joints",
            )
    frames = {name: cell["frame_index"] for name, cell in cells.items()}
    if len({tuple(index) for index in frames.values()}) > 1:
        raise DataError(
            where,
            f"its {' and '.join(frames)} were taken of different frames",
            "extract poses and features with the same sampling",
        )
    first = next(iter(cells.values()))
    size = _video_size(where, cells) if "frames" in cells else {}
    return {
        **{name: clip[name] for name in _COPIED},
        "subject": subject_of(clip),
        "procedures": clip["procedures"] or [],
        "transitions": sampled_transitions(clip, np.asarray(first["time_s"], np.float64)),
        **size,
    }


def _video_size(where: str, cells: dict[str, dict[str, Any]]) -> dict[str, int]:
    """Width and height of the upright video, of which both frames and poses are."""
    frames, poses = cells["frames"], cells.get("keypoints", {})
    size = {name: frames[name] for name in ("width_px", "height_px")}
    other = {name: poses.get(name) or size[name] for name in size}  # imported poses may not know it
    if other != size:
        raise DataError(
            where,
            f"has poses of {other['width_px']} x {other['height_px']} px, but frames of a video of "
            f"{size['width_px']} x {size['height_px']} px",
            "extract both from the same file",
        )
    return size


def _check_pictures(facts: list[dict[str, Any]], cells: pa.Array, num_frames: int) -> None:
    for fact, count in zip(facts, pc.list_value_length(cells).to_pylist(), strict=True):
        if count != num_frames:
            cause = f"has {count or 0} pictures instead of {num_frames}"
            raise DataError(f"clip {fact['clip_id']}", cause, "extract its frames again")


def sampled_transitions(clip: dict[str, Any], time_s: np.ndarray) -> list[int]:
    """The first sampled frame of each procedure after the first.

    Procedures so short that no frame was sampled of them are left out, as in the released labels.

    Args:
        clip: a row of CLIPS.
        time_s: (T,) times of the sampled frames.

    Raises:
        DataError: the transitions do not rise, or lie outside the clip.
    """
    times = clip["transitions_s"] or []
    where = f"clip {clip['clip_id']}"
    if any(later <= earlier for earlier, later in pairwise(times)):
        raise DataError(where, f"its transitions {times} are not in order", "correct transitions_s")
    half = 0.5 * float(np.median(np.diff(time_s))) if len(time_s) > 1 else 0.0
    if times and not (time_s[0] - half <= times[0] and times[-1] <= time_s[-1] + half):
        raise DataError(
            where,
            f"its transitions {times} lie outside the frames from {time_s[0]:.2f} to {time_s[-1]:.2f} s",
            "correct transitions_s, start_s and end_s (seconds from the start of the file)",
        )
    # A time is written with milliseconds; the frame it belongs to must not be missed by a rounding.
    frames = np.searchsorted(time_s, np.asarray(times) - 1e-3)
    return sorted({int(frame) for frame in frames if 0 < frame < len(time_s)})


def _dive(row: dict[str, Any]) -> Dive:
    return Dive(
        clip_id=row["clip_id"],
        subject=row["subject"],
        subject_id=row["subject_id"] or "",
        action_type=row["action_type"] or "",
        split=row["split"] or "",
        score=row["score"],
        difficulty=row["difficulty"],
        judge_scores=tuple(row["judge_scores"] or ()),
        splash=float("nan") if row["splash"] is None else row["splash"],
        transitions=tuple(row["transitions"]),
        procedures=tuple(row["procedures"]),
    )


def _arrays(column: pa.ChunkedArray, shape: tuple[int, ...]) -> tuple[np.ndarray, list[np.ndarray]]:
    """Views of the chunks, and the row at which each starts."""
    views = [chunk.flatten().to_numpy(zero_copy_only=True).reshape(-1, *shape) for chunk in column.chunks]
    return np.cumsum([0, *(len(view) for view in views[:-1])]), views
