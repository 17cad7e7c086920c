"""NW-UCLA Multiview Action 3D: Kinect v1 skeletons of ten actions, each performance filmed by three cameras.

    [all_sqe/]a01_s01_e00_v01.json      {"file_name": ..., "skeletons": (T, 20, 3), "label": 1 to 10}

as CTR-GCN and its relatives pass it around, or the same as arrays: `*joints*.npz` with one (T, 20, 3) array
of that name each. Metres, no time stamps: 30 frames/s are assumed. Wang et al., "Cross-view action modeling,
learning and recognition", CVPR 2014.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipelines.datasets.npz_arrays import NpzArrays
from pipelines.datasets.problems import shorten
from pipelines.datasets.recordings import Recordings, check_folder, named_files, one_file
from pipelines.datasets.source_file import sha256_of
from pipelines.errors import DataError
from pipelines.formats.json_text import read_json

RATE_HZ = 30.0
JOINTS = 20
ACTIONS = {
    1: "pick up with one hand", 2: "pick up with two hands", 3: "drop trash", 4: "walk around", 5: "sit down",
    6: "stand up", 8: "donning", 9: "doffing", 11: "throw", 12: "carry",
}  # fmt: skip
"""Number in the file's name -> action; the label in the file is its place in this order, from 1."""
PUBLISHED_SPLIT = {"view_1": "train", "view_2": "train", "view_3": "test"}
MAX_BYTES = 16 * 2**20
_NAME = re.compile(r"a(\d{2})_s(\d{2})_e(\d{2})_v(\d{2})")
_LAYOUT = "a folder with files like a01_s01_e00_v01.json, or *joints*.npz"


def read_nw_ucla(folder: Path) -> tuple[pa.Table, pa.Table, dict]:
    """Import NW-UCLA: one clip per file, `action_type` the action, `group` the camera (view_1 to view_3).

    The column `split` stays empty: the published protocol is by camera, so every person, and every single
    performance, is on both sides; `by_view` fills it for the recognition of actions alone.

    Returns:
        Clips, poses and a report; a file that cannot be read, and one of a single frame, is a rejected row.

    Raises:
        DataError: no such files, or none that can be read.
        SecurityError: hostile files.
    """
    check_folder(folder)
    found = Recordings("nw_ucla", folder, "kinect20")
    files = named_files(folder, r"a\d{2}_s\d{2}_e\d{2}_v\d{2}\.json", "all_sqe")
    for name, uri, sha256, xyz in _json_files(files) if files else _arrays(folder):
        match = _NAME.fullmatch(name)
        if not match:
            found.warnings.append(f"{shorten(name)} is no name like a01_s01_e00_v01 and was left out")
            continue
        action, subject, _, view = map(int, match.groups())
        clip = {
            "clip_id": name, "uri": uri, "action_type": ACTIONS.get(action), "subject_id": f"s{subject:02d}",
            "group": f"view_{view}",
        }  # fmt: skip
        if isinstance(xyz, str):
            found.reject(clip, xyz)
        elif action not in ACTIONS or f"view_{view}" not in PUBLISHED_SPLIT:
            found.reject(clip, f"there is no action {action} or no view {view} in this data set")
        elif len(xyz) < 2:
            found.reject(clip, "a single frame holds no motion")
        else:
            time_s = np.arange(len(xyz)) / RATE_HZ
            found.add(clip, xyz, time_s, sha256=sha256, note=f"nominal {RATE_HZ:g} Hz, no time stamps")
    return found.finish(_LAYOUT)


def by_view(clips: pa.Table) -> pa.Table:
    """The clips with the published split: views 1 and 2 train, view 3 tests.

    Every person is in both parts, so `pipelines.splits.check_subjects` refuses this table on purpose; it is
    for the recognition of actions seen from another side, not for assessing people.
    """
    column = pa.array([PUBLISHED_SPLIT.get(name or "") for name in clips["group"].to_pylist()], pa.string())
    index = clips.schema.get_field_index("split")
    return clips.set_column(index, clips.schema.field(index), column)


Read = tuple[str, str, str, np.ndarray | str]


def _json_files(files: dict[str, Path]) -> Iterator[Read]:
    """Name, uri, sha256, and (T, 20, 3) or what is wrong."""
    for name, path in files.items():
        uri = str(path.absolute())
        try:
            yield name, uri, sha256_of(path), _skeletons(name, read_json(path, MAX_BYTES))
        except DataError as error:
            yield name, uri, "", error.cause


def _skeletons(name: str, values: object) -> np.ndarray | str:
    if not isinstance(values, dict) or "skeletons" not in values:
        return "the file holds no skeletons"
    if values.get("file_name", name) != name:
        return f"the file says that it is {shorten(values['file_name'])}"
    order = [*ACTIONS]
    action = int(name[1:3])
    if action in order and values.get("label", order.index(action) + 1) != order.index(action) + 1:
        return f"label {shorten(values['label'])} is not that of action {action}"
    try:
        xyz = np.array(values["skeletons"], dtype=np.float64)
    except (ValueError, TypeError, OverflowError):
        return "the skeletons are no list of frames of 20 x 3 numbers"
    return _fits(xyz)


def _fits(xyz: np.ndarray) -> np.ndarray | str:
    if xyz.ndim != 3 or xyz.shape[1:] != (JOINTS, 3) or not len(xyz) or xyz.dtype.kind != "f":
        return f"skeletons of shape {xyz.shape}, expected (frames, 20, 3) numbers"
    return xyz


def _arrays(folder: Path) -> Iterator[Read]:
    if not list(folder.glob("*joints*.npz")):
        raise DataError(folder, "no recording found", f"give {_LAYOUT}")
    path = one_file(folder, "*joints*.npz")
    sha256 = sha256_of(path)
    with NpzArrays(path) as arrays:
        for name in arrays.names:
            yield name, f"{path.absolute()}#{name}", sha256, _fits(arrays.read(name))
