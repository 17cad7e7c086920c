"""UWA3D Multiview Activity II: 15 joints of 30 actions, seen from four sides.

    [ActionsSkeleton/]a01_s01_e01_v01.mat       MATLAB 7.3, array A: (T, 45), or (T, 15, 3)

Rahmani et al., "HOPC: Histogram of oriented principal components", ECCV 2014. The order of the joints is
published nowhere we know of, so it is found by geometry: of the orders in which 15 joints are
commonly listed, the one in which bones keep their length. If none fits clearly, the import is refused.
Bone lengths cannot tell left from right; the side is as in the order's own list. No time stamps: 30 Hz.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pyarrow as pa

from aqa_models.skeletons import skeleton
from pipelines.datasets.mat_arrays import read_mats
from pipelines.datasets.recordings import Recordings, check_folder, named_files
from pipelines.datasets.source_file import sha256_of
from pipelines.errors import DataError

RATE_HZ = 30.0
JOINTS = 15
SKELETON = "uwa3d15"
ORDERS: dict[str, tuple[int, ...]] = {
    "limb by limb": tuple(range(JOINTS)),
    "NiTE": (0, 1, 8, 2, 4, 6, 3, 5, 7, 9, 11, 13, 10, 12, 14),
    "CAD-60": (0, 1, 2, 3, 4, 11, 5, 6, 12, 7, 8, 13, 9, 10, 14),
}
"""Where each joint of the skeleton uwa3d15 stands in a file of this order."""
MAX_CHANGE = 0.25  # of a bone's length, standard deviation over mean; real sensors give about a tenth
_LEAD = 1.3  # the best order must beat the next one by this factor
_STILL = 0.01  # below this change nothing moves, and geometry tells nothing
_SHOWN = 100  # recordings looked at
_LAYOUT = "a folder with files like a01_s01_e01_v01.mat"


def read_uwa3d(folder: Path) -> tuple[pa.Table, pa.Table, dict]:
    """Import UWA3D: one clip per file, `action_type` a01 to a30, `group` the camera (view_1 to view_4).

    Returns:
        Clips, poses in the skeleton uwa3d15, metres, and a report with the joint order found. A file that
        cannot be read is a rejected row.

    Raises:
        DataError: no such files, none that can be read, or joints in no known order.
        SecurityError: a pickle, or a file that is far too large.
    """
    check_folder(folder)
    found = Recordings("uwa3d", folder, SKELETON)
    files = named_files(folder, r"a\d{2}_s\d{2}_e\d{2}_v\d{2}\.mat", "ActionsSkeleton")
    read = {
        name: _frames(array)
        for (name, _), array in zip(files.items(), read_mats([*files.values()], "A"), strict=True)
    }
    order, scale = "", 1.0
    if usable := [item for item in read.values() if isinstance(item, np.ndarray)]:
        every = usable[:: max(1, len(usable) // _SHOWN)]
        order = joint_order(every, folder)
        scale = _metres(every, order, folder)
    for name, xyz in read.items():
        match = re.fullmatch(r"(a\d{2})_(s\d{2})_e\d{2}_v(\d{2})", name)
        assert match is not None
        clip = {
            "clip_id": name, "uri": str(files[name].absolute()), "action_type": match[1],
            "subject_id": match[2], "group": f"view_{int(match[3])}",
        }  # fmt: skip
        if isinstance(xyz, str):
            found.reject(clip, xyz)
            continue
        time_s, note = np.arange(len(xyz)) / RATE_HZ, f"nominal {RATE_HZ:g} Hz; joint order {order}"
        xyz = scale * xyz[:, ORDERS[order]]
        found.add(clip, xyz, time_s, sha256=sha256_of(files[name]), note=note)
    found.extra["joint_order"] = order
    return found.finish(_LAYOUT)


def joint_order(recordings: list[np.ndarray], source: Path) -> str:
    """Name of the order in which bones keep their length.

    Args:
        recordings: (T, 15, 3) each, any unit.
        source: for the error.

    Raises:
        DataError: no order, or more than one, fits; or the body of the best one does not stand upright.
    """
    changes = {name: _change([item[:, order] for item in recordings]) for name, order in ORDERS.items()}
    best, second = sorted(changes, key=lambda name: changes[name])[:2]
    shown = ", ".join(f"{name} {change:.0%}" for name, change in changes.items())
    remedy = "say in which order the joints are, and import them as kind keypoints"
    if not changes[best] <= MAX_CHANGE or changes[second] < _LEAD * max(changes[best], _STILL):
        cause = f"the joints are in no order known here; bones would change their length by {shown}"
        raise DataError(source, cause, remedy)
    body = skeleton(SKELETON)
    height = np.mean([np.nanmean(item[:, ORDERS[best], 1], axis=0) for item in recordings], axis=0)
    names = ("head", "shoulder_center", "left_hip", "left_knee", "left_foot")
    levels = [height[body.index(name)] for name in names]
    if not (np.diff(levels) < 0).all():
        cause = f"in the order {best} the body does not stand upright along y: {', '.join(names)} lie at "
        raise DataError(source, cause + ", ".join(f"{level:.3g}" for level in levels), remedy)
    return best


def _change(recordings: list[np.ndarray]) -> float:
    """Mean over bones and recordings of a length's standard deviation over its mean."""
    bones = np.array(skeleton(SKELETON).bones)
    found = []
    for xyz in recordings:
        length = np.linalg.norm(xyz[:, bones[:, 0]] - xyz[:, bones[:, 1]], axis=-1)
        if len(length) > 1:
            found.append(
                np.nanmean(np.nanstd(length, axis=0) / np.maximum(np.nanmean(length, axis=0), 1e-12))
            )
    return float(np.mean(found)) if found else np.inf


def _metres(recordings: list[np.ndarray], order: str, source: Path) -> float:
    """What makes metres of the numbers, from the length of a leg's two bones."""
    hip, knee, foot = (
        ORDERS[order][skeleton(SKELETON).index(f"left_{name}")] for name in ("hip", "knee", "foot")
    )
    bones = [
        np.linalg.norm(xyz[:, [hip, knee]] - xyz[:, [knee, foot]], axis=-1).sum(axis=1) for xyz in recordings
    ]
    leg = float(np.median([np.nanmedian(lengths) for lengths in bones]))
    for scale in (1.0, 0.001):
        if 0.4 < leg * scale < 1.4:
            return scale
    cause = f"a leg is {leg:.3g} long, neither in metres nor in millimetres"
    raise DataError(source, cause, "give the joints in metres or millimetres")


def _frames(array: np.ndarray | str) -> np.ndarray | str:
    """(T, 15, 3), or what is wrong."""
    if isinstance(array, str):
        return array
    if array.ndim not in (2, 3) or array.shape[1:] not in ((3 * JOINTS,), (JOINTS, 3)) or len(array) < 2:
        return f"the array A has shape {array.shape}, expected (frames, 45) or (frames, 15, 3)"
    return array.reshape(-1, JOINTS, 3)
