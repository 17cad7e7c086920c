"""What an adapter of recorded keypoints gathers on its way: clips, poses, rejects, and the report of them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipelines.datasets.pose_rows import mask_non_finite, pose_row, rejected_row
from pipelines.errors import ClipError, DataError
from pipelines.schema import CLIPS, POSES, empty_row


@dataclass
class Recordings:
    """One data set while it is read.

    Args:
        kind: the kind of data, also the column `dataset` and `decoder`.
        source: its folder or file.
        skeleton: of all keypoints.
        unit: m or px.

    Attributes:
        missing: names of recordings that the layout leads one to expect.
        warnings: what a user should know.
        extra: further entries of the report.
    """

    kind: str
    source: Path
    skeleton: str
    unit: str = "m"
    missing: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    extra: dict = field(default_factory=dict)
    _clips: list[dict] = field(default_factory=list)
    _batches: list[pa.RecordBatch] = field(default_factory=list)
    _rejected: list[dict] = field(default_factory=list)
    _frames: int = 0
    _masked: int = 0

    def add(
        self,
        clip: dict,
        keypoints: np.ndarray,
        time_s: np.ndarray,
        *,
        sha256: str,
        note: str | None = None,
        frame_index: np.ndarray | None = None,
    ) -> None:
        """A recording that could be read.

        Args:
            clip: columns of the clips table; clip_id and uri at least.
            keypoints: (T, J, C); joints that are not finite are masked and counted.
            time_s: (T,) seconds.
            sha256: of the source file.
            note: column decoder_note.
            frame_index: (T,) numbers of the frames in the source; default 0, 1, ...
        """
        with np.errstate(over="ignore"):  # beyond float32 becomes infinite, which is masked and counted
            keypoints = np.array(keypoints, dtype=np.float32)
        confidence = np.ones(keypoints.shape[:2], dtype=np.float32)
        self._masked += mask_non_finite(keypoints, confidence)
        self._frames += len(keypoints)
        self._clips.append(empty_row(CLIPS, dataset=self.kind, **clip))
        self._batches.append(
            pose_row(
                clip_id=clip["clip_id"], uri=clip["uri"], source_sha256=sha256, decoder=self.kind,
                decoder_note=note, skeleton=self.skeleton, unit=self.unit, keypoints=keypoints,
                confidence=confidence, time_s=time_s, frame_index=frame_index,
            )
        )  # fmt: skip

    def reject(self, clip: dict, cause: str) -> None:
        """A recording that could not be read: its clip, and a row that says why."""
        error = ClipError("bad_keypoints", clip["uri"], cause)
        self._clips.append(empty_row(CLIPS, dataset=self.kind, **clip))
        self._batches.append(rejected_row(error, clip_id=clip["clip_id"], uri=clip["uri"], decoder=self.kind))
        self._rejected.append({"clip_id": clip["clip_id"], "code": error.code, "message": cause})

    def finish(self, layout: str) -> tuple[pa.Table, pa.Table, dict]:
        """Clips, poses, and the report.

        Args:
            layout: what files are expected, for the error if there are none.

        Raises:
            DataError: not one recording, or not one that can be read.
        """
        if not self._clips:
            raise DataError(self.source, "no recording found", f"give {layout}")
        if len(self._rejected) == len(self._clips):
            first = self._rejected[0]
            cause = f"none of the {len(self._clips)} recordings can be read; the first: {first['message']}"
            raise DataError(self.source, cause, "copy the data set again")
        report = {
            "kind": self.kind,
            "source": str(self.source.absolute()),
            "recordings": len(self._clips),
            "subjects": len({clip["subject_id"] for clip in self._clips if clip["subject_id"]}),
            "frames": self._frames,
            "labelled": sum(clip["score"] is not None for clip in self._clips),
            "missing": self.missing,
            "rejected": self._rejected,
            "masked_joints": self._masked,
            "warnings": self.warnings,
            **self.extra,
        }
        poses = pa.Table.from_batches(self._batches, schema=POSES)
        return pa.Table.from_pylist(self._clips, schema=CLIPS), poses, report


def named_files(folder: Path, pattern: str, *below: str) -> dict[str, Path]:
    """Files whose whole name matches a pattern, by name without suffix, in its order.

    Args:
        folder: where to look.
        pattern: regular expression of the names.
        below: folders in it to look into first, the first one that exists wins.
    """
    place = next((folder / name for name in below if (folder / name).is_dir()), folder)
    found = [path for path in place.iterdir() if re.fullmatch(pattern, path.name) and path.is_file()]
    return {path.stem: path for path in sorted(found)}


def one_file(folder: Path, pattern: str) -> Path:
    """The one file of a folder that matches a glob pattern; DataError if there is none or several."""
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        cause = f"{len(found)} files match {pattern}, expected one"
        raise DataError(folder, cause, "keep one of them in the folder")
    return found[0]


def check_folder(folder: Path) -> None:
    """DataError unless the folder is there."""
    if not folder.is_dir():
        raise DataError(folder, "there is no such folder", "give the folder of the data set")
