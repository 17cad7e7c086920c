"""The decode stage: reads clips' frames in a guarded child process, cut to network size."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.errors import ClipError
from pipelines.stages.decode import DecodedPart, DecodeGuard, DecodeRequest
from pipelines.stages.pictures import Crop, Fit, Letterbox, Resize
from pipelines.stages.sampling import PersonBoxes

# Frames travel between stages as plain bytes: no tensor extension type, no copy on reading.
DECODED = pa.schema(
    [
        ("clip_id", pa.string()),
        ("uri", pa.string()),
        ("clip_digest", pa.string()),
        # A long clip comes as several rows per person, in order; the last one says so.
        ("person", pa.int32()),
        ("part", pa.int32()),
        ("last", pa.bool_()),
        ("status", pa.string()),
        ("error_code", pa.string()),
        ("error_message", pa.string()),
        ("attempts", pa.int32()),
        ("source_sha256", pa.string()),
        ("source_bytes", pa.int64()),
        ("source_mtime_ns", pa.int64()),
        ("decoder", pa.string()),
        ("decoder_note", pa.string()),
        ("width_px", pa.int32()),
        ("height_px", pa.int32()),
        ("frame_index", pa.list_(pa.int32())),
        ("time_s", pa.list_(pa.float64())),
        ("box", pa.list_(pa.float32())),  # (T, 4) px of the upright frame, before padding
        ("frames", pa.large_binary()),
    ]
)


@dataclass(frozen=True)
class DecodeStage:
    """Reads rows of the plan; gives rows of DECODED, one table per part of a clip and person.

    The people of a clip are those of its column `people` (list of person, frame_index, box), if there is one
    that is not null; else one person in the box of the clips table, else in the whole frame. Pictures that
    are not cut out of boxes (`Resize`, `Fit`, `Letterbox`) show the whole frame of person 0.

    Args:
        sampling: all, fps:R or uniform:M.
        picture: what the network wants to see.
        frames_per_part: most frames of one row.
        referee_share: share of the clips, chosen by their names, whose every frame PyAV proves.
        timeout_s: longest wait for the next part of a clip.
        memory_mb: address-space limit of the decode process.
    """

    sampling: str
    picture: Crop | Resize | Fit | Letterbox
    frames_per_part: int
    referee_share: float
    timeout_s: float
    memory_mb: int

    def setup(self) -> DecodeGuard:
        return DecodeGuard(timeout_s=self.timeout_s, memory_mb=self.memory_mb)

    def process(self, state: DecodeGuard, rows: pa.Table) -> Iterator[pa.Table]:
        for clip in rows.to_pylist():
            yield from self._decode(state, clip)

    def _decode(self, guard: DecodeGuard, clip: dict) -> Iterator[pa.Table]:
        row: dict = dict.fromkeys(DECODED.names) | {"person": 0, "part": 0, "last": True, "attempts": 1}
        row |= {name: clip[name] for name in ("clip_id", "uri", "clip_digest")}
        try:
            for part in guard.decode(self._request(clip)):
                yield _table(row | _decoded_columns(part), part.frames)
                row["part"] = part.part + 1
        except ClipError as error:
            row |= {"status": "rejected", "error_code": error.code, "error_message": error.cause}
            yield _table(row | {"attempts": 2 if error.code == "decode_crash" else 1}, None)

    def _request(self, clip: dict) -> DecodeRequest:
        cropped = isinstance(self.picture, Crop)
        people = clip.get("people") if cropped else None
        box: Any = tuple(clip[f"box_{side}_px"] for side in ("x1", "y1", "x2", "y2"))
        return DecodeRequest(
            uri=clip["uri"],
            start_s=clip["start_s"],
            end_s=clip["end_s"],
            sampling=self.sampling,
            people=None if people is None else tuple(_person_boxes(person) for person in people),
            box=None if None in box or not cropped else box,
            picture=self.picture,
            frames_per_part=self.frames_per_part,
            referee=in_share(clip["clip_id"], self.referee_share),
        )


def in_share(clip_id: str, share: float) -> bool:
    """Whether a clip belongs to a share of all clips: always the same ones, whatever else is decoded."""
    return int.from_bytes(hashlib.sha256(clip_id.encode()).digest()[:8]) < share * 2**64


def _person_boxes(person: dict) -> PersonBoxes:
    boxes = np.asarray(person["box"], np.float64).reshape(-1, 4)
    return PersonBoxes(person["person"], np.asarray(person["frame_index"]), boxes)


def _decoded_columns(part: DecodedPart) -> dict:
    return {
        "status": "ok",
        "person": part.person,
        "part": part.part,
        "last": part.last,
        "source_sha256": part.source_sha256,
        "source_bytes": part.source_bytes,
        "source_mtime_ns": part.source_mtime_ns,
        "decoder": part.decoder,
        "decoder_note": part.decoder_note,
        "width_px": part.width_px,
        "height_px": part.height_px,
        "frame_index": part.frame_index,
        "time_s": part.time_s,
        "box": part.box.ravel(),
    }


def _table(row: dict, frames: np.ndarray | None) -> pa.Table:
    """One row as a table; the pixels are not copied."""
    table = pa.Table.from_pylist([row], schema=DECODED)
    if frames is None:
        return table
    ends = pa.py_buffer(np.array([0, frames.nbytes], np.int64))
    pixels = pa.LargeBinaryArray.from_buffers(pa.large_binary(), 1, [None, ends, pa.py_buffer(frames)])
    return table.set_column(table.schema.get_field_index("frames"), DECODED.field("frames"), pixels)
