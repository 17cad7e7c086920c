"""Splash masks of FineDiving's dives -> one number per dive: how much of the picture splashes, and how long.

FOLDER/COMPETITION/NUMBER.pkl is what the rule-based programs of NS-AQA (Okamoto & Parmar 2024) write of a
dive: a dictionary whose `splash_pred_masks` holds a mask (H, W) of each frame, None where none was found, and
whose `splash` the share of the picture that it covers, likewise.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.datasets.dive_annotations import Dive
from pipelines.datasets.problems import Problems, first_names
from pipelines.errors import DataError
from pipelines.formats.safe_pickle import read_pickle

_READERS = 4  # each reads in a child process
_MAX_BYTES = 256 * 2**20  # of one dive


def with_splashes(dives: Iterable[Dive], folder: Path, rate_hz: float) -> tuple[list[Dive], list[str]]:
    """The dives with `splash` filled.

    Args:
        dives: annotated dives.
        folder: holds COMPETITION/NUMBER.pkl.
        rate_hz: frames per second of the annotated frames.

    Returns:
        The dives, in the same order, and warnings: of files that are not there, and dives without any mask.

    Raises:
        DataError: there is no such folder, no file of any dive in it, or a file holds something else.
        SecurityError: a pickle that asks for more than plain values and arrays.
    """
    dives, remedy = list(dives), "give the folder that holds COMPETITION/NUMBER.pkl"
    if not folder.is_dir():
        raise DataError(folder, "there is no such folder", remedy)
    files = [folder / dive.competition / f"{dive.index}.pkl" for dive in dives]
    there = [file.is_file() for file in files]
    if not any(there):
        raise DataError(folder, f"has no splash file of any of {len(dives)} dives", remedy)
    with ThreadPoolExecutor(_READERS) as pool:
        sizes = list(pool.map(_splash, files, there, dives, [rate_hz] * len(dives)))
    absent = [dive.clip_id for dive, here in zip(dives, there, strict=True) if not here]
    none = [d.clip_id for d, here, size in zip(dives, there, sizes, strict=True) if here and size is None]
    warnings = [f"{folder} has no file of {first_names(absent)}"] if absent else []
    warnings += [f"{folder} has no mask in any frame of {first_names(none)}"] if none else []
    return [replace(dive, splash=size) for dive, size in zip(dives, sizes, strict=True)], warnings


def _splash(file: Path, there: bool, dive: Dive, rate_hz: float) -> float | None:
    if not there:
        return None
    shares = read_shares(file)
    if not any(share is not None for share in shares):
        return None
    # A frame without a mask shows no splash. The masks may be those of every n-th frame.
    seconds = dive.num_frames / rate_hz / len(shares)
    return float(np.trapezoid([share or 0.0 for share in shares], dx=seconds))


def read_shares(file: Path) -> list[float | None]:
    """Share of the picture that splashes in each frame, 0-1; None where nothing was found.

    Raises:
        DataError, SecurityError: see `with_splashes`.
    """
    values = read_pickle(file, _MAX_BYTES)
    problems = Problems(file)
    masks = values.get("splash_pred_masks") if isinstance(values, dict) else None
    told = masks if masks is not None else values.get("splash") if isinstance(values, dict) else None
    if not isinstance(told, list) or not told:
        raise DataError(
            file,
            "holds neither a list splash_pred_masks nor a list splash",
            "give the files of the splash detection as they are",
        )
    shares = [_share(value, frame, problems) for frame, value in enumerate(told)]
    problems.raise_if_any()
    return shares


def _share(value: Any, frame: int, problems: Problems) -> float | None:
    if value is None:
        return None
    if isinstance(value, np.ndarray) and value.ndim == 2 and value.size and value.dtype in (bool, np.uint8):
        return float((value != 0).mean())
    if isinstance(value, int | float) and 0 <= value <= 1:
        return float(value)
    expected = "a mask (height, width), a share of the picture from 0 to 1, or None"
    shown = f"an array {value.dtype} {value.shape}" if isinstance(value, np.ndarray) else value
    problems.add(f"frame {frame}", expected, "run the detection of this dive again", value=shown)
    return None
