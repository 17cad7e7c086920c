"""Pictures of dives for visual encoders that learn: decoded, mirrored and cropped, the poses with them.

A dive's 96 JPEG pictures show the whole upright frame, scaled to 200 x 112 px. The model sees a square as
high as the picture: one crop of all frames whenever the dive is shown, at random in training, otherwise
from the middle. What is random is a function of seed, epoch, dive and role, so that it does not matter who
decodes a dive, and a resumed run sees what an uninterrupted one would have seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from aqa_models.skeletons import skeleton
from pipelines.errors import DataError

if TYPE_CHECKING:
    from aqa_models.hp_mcore.performance import Performances

JPEG_COLUMN = "jpeg"
QUERY, EXEMPLAR = 0, 1  # roles: a dive that is compared with itself is not seen the same way twice
FLIP_SHARE = 0.5
_VIEW = 2  # second number of the seed: 0 = exemplars and transitions, 1 = dropout, 2 = views
_DIVES_PER_TASK = 2


@dataclass(frozen=True)
class Shot:
    """One dive as it is shown to the model.

    Attributes:
        row: of the table of dives.
        flip: mirrored, left for right.
        place: where the square is cut out, from 0 = left to 1 = right (not reached); 0.5 = middle.
    """

    row: int
    flip: bool = False
    place: float = 0.5

    def left(self, width: int, side: int) -> int:
        """First column of the crop in a (mirrored) picture of that width, px."""
        return int(self.place * (width - side + 1))


Showing = Callable[[Sequence[Shot]], Iterator[np.ndarray]]
"""Shots -> (T, side, side, 3) uint8 RGB of each, in their order, decoded as they are taken."""


def training_shot(seed: int, epoch: int, row: int, role: int) -> Shot:
    """How a dive is shown in an epoch: mirrored or not, and cut out anywhere."""
    generator = np.random.default_rng([seed, _VIEW, epoch, row, role])
    return Shot(row, bool(generator.random() < FLIP_SHARE), float(generator.random()))


class Pictures:
    """The pictures in a table of dives.

    Args:
        table: `dives.dive_table` of a store's frames; it may be mapped from a file.

    Attributes:
        width, height: px of every picture.

    Raises:
        DataError: the first picture is damaged.
    """

    def __init__(self, table: pa.Table):
        self._jpeg, self._clip_ids = table[JPEG_COLUMN], table["clip_id"]
        self._video = np.stack([table[name].to_numpy() for name in ("width_px", "height_px")], axis=1)
        self.height, self.width = self._decode(0, 0).shape[:2]

    def stored(self, row: int) -> list[bytes]:
        """The pictures of a dive as they are stored, and what their size means for its keypoints."""
        return [*self._jpeg[row].as_py(), self._video[row].astype("<i8").tobytes()]

    def shown(self, shots: Sequence[Shot]) -> Iterator[np.ndarray]:
        """Decodes dives one after another as they are taken; see `Showing`.

        Raises:
            DataError: a picture is damaged, or not as large as the others.
        """
        for shot in shots:
            count = len(self._jpeg[shot.row])
            frames = np.stack([self._decode(shot.row, place) for place in range(count)])
            frames = frames[:, :, ::-1] if shot.flip else frames
            left = shot.left(self.width, self.height)
            yield np.ascontiguousarray(frames[:, :, left : left + self.height])

    def moved(self, keypoints: np.ndarray, shots: Sequence[Shot]) -> np.ndarray:
        """Keypoints where the model sees them.

        Args:
            keypoints: (B, T, J, 2) px of the upright video, MPII order.
            shots: B of them.

        Returns:
            The same shape, px of the crop; in mirrored dives left and right joints have changed their names.
        """
        video = self._video[[shot.row for shot in shots], None, None]
        # The centre of the first pixel is 0, so that edges are at -0.5: scaling keeps edges.
        moved = (keypoints + 0.5) * ([self.width, self.height] / video) - 0.5
        for place, shot in enumerate(shots):
            if shot.flip:
                moved[place] = moved[place][:, skeleton("mpii16").flip_order]
                moved[place, ..., 0] = self.width - 1 - moved[place, ..., 0]
            moved[place, ..., 0] -= shot.left(self.width, self.height)
        return moved.astype(np.float32)

    def damaged(self, row: int, cause: str) -> DataError:
        """The error for a dive whose pictures cannot be shown."""
        remedy = "check the store with `aqa store verify`, and extract its frames again"
        return DataError(f"clip {self._clip_ids[row]}", cause, remedy)

    def _decode(self, row: int, place: int) -> np.ndarray:
        import cv2

        stored = np.frombuffer(self._jpeg[row].values[place].as_buffer(), np.uint8)
        image = cv2.imdecode(stored, cv2.IMREAD_COLOR) if len(stored) else None
        if image is None:
            raise self.damaged(row, f"its picture {place} is no readable JPEG")
        size = image.shape[:2]
        if size != (getattr(self, "height", size[0]), getattr(self, "width", size[1])):
            raise self.damaged(row, f"its picture {place} is {size[1]} x {size[0]} px, others are not")
        return image[..., ::-1]


def filmed(
    batch: Performances,
    pictures: Pictures,
    shots: Sequence[Shot],
    showing: Iterator[np.ndarray],
    transform_poses: bool,
) -> Performances:
    """A batch with its frames, as bytes (B, T, side, side, 3), and the keypoints moved with them.

    Args:
        batch: the performances, keypoints in px of the upright video.
        pictures: where the frames come from.
        shots: how each of the B is shown.
        showing: gives the frames of these shots next.
        transform_poses: keypoints in px of the crop; otherwise they stay as they are.
    """
    import torch

    frames = torch.from_numpy(np.stack(list(islice(showing, len(shots)))))
    keypoints = batch.keypoints
    if transform_poses and keypoints is not None:
        keypoints = torch.from_numpy(pictures.moved(keypoints.numpy(), shots))
    return replace(batch, frames=frames, keypoints=keypoints)


def normalised(batch: Performances) -> Performances:
    """Frames from bytes (B, T, h, w, 3) to what encoders read: (B, T, 3, h, w) float, ImageNet's statistics.

    Called where the model is: bytes are a quarter of the way's load.
    """
    import torch

    from pipelines.stages.appearance_network import IMAGENET

    if batch.frames is None:
        return batch
    mean, deviation = (torch.tensor(v, device=batch.frames.device) for v in IMAGENET[1:3])
    frames = (batch.frames.float() * IMAGENET.scale - mean) / deviation
    return replace(batch, frames=frames.permute(0, 1, 4, 2, 3))


@dataclass(frozen=True)
class FrameStage:
    """Decodes shots on any machine that reaches the run folder; a damaged dive is a row with an error.

    Args:
        run_dir: folder of the run; its file of dives is mapped.
    """

    run_dir: str

    def setup(self) -> Pictures:
        from pipelines.run_folder import read_table

        return Pictures(read_table(Path(self.run_dir), "dives"))

    def process(self, state: Pictures, rows: pa.Table) -> Iterator[pa.Table]:
        for row in rows.to_pylist():
            pixels, error = None, None
            try:
                pixels = next(state.shown([Shot(**row)]))
            except DataError as damage:
                error = damage.cause
            cells = pa.array([None if pixels is None else pixels.tobytes()], pa.binary())
            yield pa.table({"row": [row["row"]], "pixels": cells, "error": pa.array([error], pa.string())})


def streamed(run_dir: Path, pictures: Pictures, workers: int, shots: Sequence[Shot]) -> Iterator[np.ndarray]:
    """The same as `Pictures.shown`, decoded ahead by Ray Data on any processors of the cluster.

    Args:
        run_dir: folder of the run.
        pictures: of the same run.
        workers: dives decoded at the same time for this trainer, in pairs.
        shots: what is shown.

    Raises:
        DataError: see `Pictures.shown`.
    """
    from pipelines.stages.base import stream_in_order

    plan = pa.table(
        {
            "row": pa.array([shot.row for shot in shots], pa.int64()),
            "flip": pa.array([shot.flip for shot in shots], pa.bool_()),
            "place": pa.array([shot.place for shot in shots], pa.float64()),
        }
    )
    side = pictures.height
    for table in stream_in_order(plan, FrameStage(str(run_dir)), workers, _DIVES_PER_TASK):
        for row, pixels, error in zip(*(table[n] for n in ("row", "pixels", "error")), strict=True):
            if error.is_valid:
                raise pictures.damaged(row.as_py(), error.as_py())
            yield np.frombuffer(pixels.as_buffer(), np.uint8).reshape(-1, side, side, 3)
