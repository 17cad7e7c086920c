"""Pixels of a folder of pictures, read by OpenCV in the decode process."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import cv2
import numpy as np

from pipelines.errors import ClipError
from pipelines.stages.decode import read_log
from pipelines.stages.picture_folder import RATE_HZ, PictureFolder
from pipelines.stages.referee import Referee

_NO_SIZE = (0xC4, 0xC8, 0xCC)  # JPEG markers of C0 to CF that begin no frame


def folder_ruling(folder: PictureFolder, max_pixels: int, log: int) -> Referee:
    """The folder as a video: the size of its first picture, a frame every 1 / 25 s."""
    height, width, _ = _decode(folder, 0, max_pixels, log).shape
    return Referee(
        format="pictures",
        stream_index=0,
        time_s=np.arange(len(folder.names)) / RATE_HZ,
        fingerprints=None,
        luma=(0.299, 0.587, 0.114, True),
        coded_size=(width, height),
        turn=np.eye(2, dtype=int),
        aspect=1.0,
    )


def read_pictures(
    folder: PictureFolder,
    wanted: np.ndarray,
    size: tuple[int, int],
    max_pixels: int,
    log: int,
    beat: Callable[[], None],
) -> Iterator[np.ndarray]:
    """RGB pictures (h, w, 3) at the positions `wanted`; all must have `size` (width, height).

    Raises:
        ClipError: a damaged picture, or one of another size.
    """
    for position in wanted.tolist():
        picture = _decode(folder, position, max_pixels, log)
        beat()
        if picture.shape != (size[1], size[0], 3):
            found = (picture.shape[1], picture.shape[0])
            cause = f"the picture size changes from {size} to {found} at {folder.names[position]}"
            raise ClipError("unsupported", folder.path, cause)
        yield picture


def _decode(folder: PictureFolder, position: int, max_pixels: int, log: int) -> np.ndarray:
    """One picture, RGB, upright as its Exif says; libjpeg only complains about damage, so that counts."""
    name, data = folder.names[position], folder.read(position)
    width, height = picture_size(data)
    if width * height > max_pixels:
        raise ClipError("too_large", folder.path, f"{name} has {width} x {height} pixels")
    read_log(log)
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if width * height else None
    complaints = [
        line for line in read_log(log).decode("utf-8", "replace").splitlines() if "libpng warning" not in line
    ]
    if picture is None or complaints:
        cause = "".join(c for c in (complaints or ["it cannot be decoded"])[0] if c.isprintable())[:200]
        raise ClipError("corrupt", folder.path, f"{name}: {cause}")
    return np.ascontiguousarray(picture[..., ::-1])


def picture_size(data: bytes) -> tuple[int, int]:
    """Width and height that a JPEG or PNG file claims; (0, 0) if it claims none."""
    if data.startswith(b"\x89PNG"):
        return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if 0xC0 <= marker <= 0xCF and marker not in _NO_SIZE:
            return int.from_bytes(data[at + 7 : at + 9], "big"), int.from_bytes(data[at + 5 : at + 7], "big")
        # A marker may follow any number of fill bytes; others say how long their part is.
        at += 1 if marker == 0xFF else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return 0, 0
