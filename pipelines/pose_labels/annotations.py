"""Reads manual pose labels in the MPII style of HRNet training, as FineDiving-Pose has them.

A JSON list with one object per labelled person:

    image         file name below the folder of images
    joints        16 x [x, y], px of the image, MPII order (pipelines/rendered/body.py)
    joints_vis    16 x 0 or 1: whether the joint counts
    center        [x, y] px, middle of the person's box
    scale         side of the square box / 200

Which frames belong together (a dive, a person) stands in no file: `read_groups` reads it from a CSV.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.errors import ConfigError, DataError
from pipelines.rendered.body import NUM_JOINTS

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_BYTES = 256 << 20
BOX_UNIT = 200.0
"""Pixels of box side per unit of `scale` (MPII)."""
_REACH = 1e5  # px; what lies farther out is a damaged number, not a joint
_KEYS = ("image", "joints", "joints_vis", "center", "scale")


@dataclass(frozen=True)
class Label:
    """One labelled person in one image.

    Attributes:
        image: path of the image file.
        joints: (16, 2) float64, px of the image, MPII order.
        visible: (16,) bool: whether the joint counts.
        center: (2,) float64, px, middle of the box.
        side: of the square box, px, before any padding.
        group: what must not be split between training and test (a dive, a person); "" = none given.
    """

    image: Path
    joints: np.ndarray
    visible: np.ndarray
    center: np.ndarray
    side: float
    group: str = ""


def read_labels(path: Path, images: Path, groups: Path | None = None) -> list[Label]:
    """Read a file of labels and check every number in it.

    Args:
        path: JSON file, see above.
        images: folder that the names in `image` are relative to.
        groups: CSV with the columns image and group; None = no groups.

    Raises:
        DataError: the file is no such JSON, an entry is wrong, an image is missing, or a labelled image
            has no group.
    """
    entries = _parse(path)
    if not isinstance(entries, list) or not entries:
        raise DataError(path, "holds no list of labelled people", "give a JSON list of objects")
    named = read_groups(groups) if groups else None
    labels = []
    for number, entry in enumerate(entries):
        label = _label(f"{path}, entry {number}", entry, images)
        if named is not None:
            name = str(entry["image"])
            if name not in named:
                raise DataError(groups, f"has no row for the image {name}", "add its group")
            label = Label(label.image, label.joints, label.visible, label.center, label.side, named[name])
        labels.append(label)
    return labels


def read_groups(path: Path) -> dict[str, str]:
    """Image name -> group, from a CSV with the columns image and group.

    Raises DataError if the file is not readable as that, or names an image twice.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file, strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(path, f"is not readable as CSV ({error})", "give a CSV in UTF-8") from error
    named: dict[str, str] = {}
    for number, row in enumerate(rows, start=2):
        image, group = (row.get("image") or "").strip(), (row.get("group") or "").strip()
        if not image or not group:
            raise DataError(f"{path}, line {number}", "lacks image or group", "fill the columns image, group")
        if named.setdefault(image, group) != group:
            raise DataError(f"{path}, line {number}", f"gives {image} a second group", "keep one of the rows")
    if not named:
        raise DataError(path, "has no rows", "fill the columns image, group")
    return named


def split_labels(labels: Sequence[Label], hold_out: Sequence[str]) -> tuple[list[Label], list[Label]]:
    """Labels to learn from, and those of the groups held out.

    Raises ConfigError if a group does not exist or nothing is left to learn from.
    """
    known = sorted({label.group for label in labels})
    for group in hold_out:
        if group not in known:
            there = ", ".join(filter(None, known)) or "none; give them with --groups FILE.csv"
            raise ConfigError(
                "hold_out", f"there is no group {group!r}", f"Use one of the groups there are: {there}"
            )
    learned = [label for label in labels if label.group not in hold_out]
    if not learned:
        raise ConfigError("hold_out", "all groups are held out", "Leave one to learn from")
    return learned, [label for label in labels if label.group in hold_out]


def write_labels(path: Path, labels: Sequence[Label]) -> None:
    """Write labels in the same JSON, image names without their folder."""
    entries = [
        {
            "image": label.image.name,
            "joints": np.round(label.joints, 4).tolist(),
            "joints_vis": label.visible.astype(int).tolist(),
            "center": np.round(label.center, 4).tolist(),
            "scale": label.side / BOX_UNIT,
        }
        for label in labels
    ]
    path.write_text(json.dumps(entries, allow_nan=False) + "\n", encoding="utf-8")


def _parse(path: Path) -> Any:
    """JSON without what Python's reader lets through: NaN, Infinity, a key twice, bytes that are no text."""
    remedy = "correct the file, or export it again"
    try:
        if path.stat().st_size > MAX_BYTES:
            raise DataError(path, f"is larger than {MAX_BYTES >> 20} MiB", "split it into several files")
        text = path.read_bytes().decode("utf-8")
        return json.loads(text, object_pairs_hook=_once, parse_constant=_refuse_constant)
    except OSError as error:
        raise DataError(path, f"cannot be read ({error.strerror})", "give the path of a JSON file") from error
    except RecursionError:
        raise DataError(path, "is nested too deeply for a file of labels", remedy) from None
    except ValueError as error:  # also UnicodeDecodeError, and integers beyond Python's limit of digits
        raise DataError(path, f"is not valid JSON ({str(error)[:200]})", remedy) from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    twice = next((key for key in keys if keys.count(key) > 1), None) if len(keys) < 100 else None
    if twice is not None or len(keys) >= 100:
        raise ValueError(
            "an object has 100 keys or more" if twice is None else f"{twice[:40]!r} stands twice"
        )
    return dict(pairs)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def _label(where: str, entry: Any, images: Path) -> Label:
    if not isinstance(entry, dict):
        raise DataError(where, "is no object", f"give {', '.join(_KEYS)}")
    for key in _KEYS:
        if key not in entry:
            raise DataError(where, f"has no {key}", f"give {', '.join(_KEYS)}")
    visible = _numbers(where, "joints_vis", entry["joints_vis"], (NUM_JOINTS,))
    if not np.isin(visible, (0, 1)).all():
        raise DataError(where, "joints_vis holds values other than 0 and 1", "use 1 = counts, 0 = does not")
    joints = _numbers(where, "joints", entry["joints"], (NUM_JOINTS, 2))
    scale = float(_numbers(where, "scale", entry["scale"], ()))
    if not 0 < scale * BOX_UNIT < _REACH:
        raise DataError(where, f"scale {scale:g} is no size of a box", "give the box side in px / 200")
    center = _numbers(where, "center", entry["center"], (2,))
    return Label(_image(where, entry["image"], images), joints, visible > 0, center, scale * BOX_UNIT)


def _image(where: str, name: Any, images: Path) -> Path:
    """The image file; names that lead out of the folder are refused."""
    if not isinstance(name, str) or not name or "\0" in name:
        raise DataError(where, "image is no file name", "give a name below the folder of images")
    path, root = (images / name).resolve(), images.resolve()
    if not path.is_relative_to(root):
        raise DataError(where, f"image {name!r} leads out of {images}", "give a name below that folder")
    if not path.is_file():
        raise DataError(where, f"image {name!r} is not in {images}", "give the right folder with --images")
    return path


def _numbers(where: str, key: str, value: Any, shape: tuple[int, ...]) -> np.ndarray:
    """`value` as a float array of `shape`; DataError if it is anything else or not finite."""
    wanted = " x ".join(map(str, shape)) + " numbers" if shape else "a number"
    flat = list(_flatten(value, len(shape)))
    count = math.prod(shape)
    if len(flat) != count or any(type(item) not in (int, float) for item in flat):
        raise DataError(where, f"{key} is not {wanted}", "see docs/data.md for the layout")
    if any(abs(item) > _REACH or item != item for item in flat):
        raise DataError(where, f"{key} holds a number that is no pixel position", "correct the entry")
    return np.array(flat, np.float64).reshape(shape)


def _flatten(value: Any, depth: int) -> Iterator[Any]:
    """Items of lists nested exactly `depth` deep; a wrong depth yields what is no number."""
    if depth == 0 or not isinstance(value, list):
        yield value if depth == 0 else None
        return
    for item in value:
        yield from _flatten(item, depth - 1)
