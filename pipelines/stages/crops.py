"""The decode stage: reads a clip's frames in a guarded child process and cuts them to network size."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pipelines.errors import ClipError
from pipelines.stages.decode import Crop, DecodedClip, DecodeGuard, DecodeRequest

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

# Crops of one clip that may be in memory at once, several times over (queue, batch, network).
MAX_CLIP_BYTES = 512 << 20


@dataclass(frozen=True)
class DecodeStage:
    """Reads rows of the plan; adds frames cut to (height, width) of the pose network."""

    sampling: str
    width: int
    height: int
    padding: float
    timeout_s: float
    memory_mb: int

    def setup(self) -> DecodeGuard:
        return DecodeGuard(timeout_s=self.timeout_s, memory_mb=self.memory_mb)

    def process(self, state: DecodeGuard, rows: pa.Table) -> Iterator[pa.Table]:
        for clip in rows.to_pylist():
            yield pa.Table.from_pylist([self._decode(state, clip)], schema=DECODED)

    def _decode(self, guard: DecodeGuard, clip: dict) -> dict:
        box = tuple(clip[f"box_{side}_px"] for side in ("x1", "y1", "x2", "y2"))
        request = DecodeRequest(
            uri=clip["uri"],
            start_s=clip["start_s"],
            end_s=clip["end_s"],
            sampling=self.sampling,
            box=None if None in box else box,
            crop=Crop(self.width, self.height, self.padding),
            max_bytes=MAX_CLIP_BYTES,
        )
        row: dict = (
            dict.fromkeys(DECODED.names)
            | {name: clip[name] for name in ("clip_id", "uri", "clip_digest")}
            | {"person": 0, "part": 0, "last": True}
        )
        try:
            return row | _decoded_columns(guard.decode(request))
        except ClipError as error:
            return row | {
                "status": "rejected",
                "error_code": error.code,
                "error_message": error.cause,
                "attempts": 2 if error.code == "decode_crash" else 1,
            }


def _decoded_columns(clip: DecodedClip) -> dict:
    return {
        "status": "ok",
        "attempts": 1,
        "source_sha256": clip.source_sha256,
        "source_bytes": clip.source_bytes,
        "decoder": clip.decoder,
        "decoder_note": clip.decoder_note,
        "width_px": clip.width_px,
        "height_px": clip.height_px,
        "frame_index": clip.frame_index,
        "time_s": clip.time_s,
        "box": np.tile(np.asarray(clip.box, np.float32), len(clip.frame_index)),
        "frames": clip.frames.tobytes(),
    }
