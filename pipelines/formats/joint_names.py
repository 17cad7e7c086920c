"""Names of joints in the files of other programs, and which skeleton they mean."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from aqa_models.skeletons import SKELETONS
from pipelines.errors import ConfigError, DataError

# OpenPose's two orders. Its Neck is the middle of the shoulders, which COCO's own 17 joints lack.
_ARMS = "right_shoulder right_elbow right_wrist left_shoulder left_elbow left_wrist"
_LEGS = "right_hip right_knee right_ankle left_hip left_knee left_ankle"
_FACE = "right_eye left_eye right_ear left_ear"
_FEET = "left_big_toe left_small_toe left_heel right_big_toe right_small_toe right_heel"
BODY25 = tuple(f"nose shoulder_center {_ARMS} pelvis {_LEGS} {_FACE} {_FEET}".split())
OPENPOSE18 = tuple(f"nose shoulder_center {_ARMS} {_LEGS} {_FACE}".split())


def joints_of(name: str) -> tuple[str, ...]:
    """Joint names of a skeleton, in order.

    Raises:
        ConfigError: there is no skeleton of this name.
    """
    if name in SKELETONS:
        return SKELETONS[name].joints
    if name == "body25":
        return BODY25
    raise ConfigError("skeleton", f"unknown skeleton {name!r}", f"choose one of: {', '.join(SKELETONS)}")


def skeleton_of(path: Path, names: Sequence[str], count: int, given: str) -> str:
    """The skeleton of a file: as given, else the one with the same joint names in the same order.

    Args:
        path: the file, named in errors.
        names: joint names in the file; empty if it holds none.
        count: number of joints in the file.
        given: the user's choice; empty = none.

    Raises:
        ConfigError: unknown choice, or the file does not say and nothing is given.
        DataError: the choice has another number of joints.
    """
    if given:
        if len(joints_of(given)) != count:
            cause = f"the file has {count} joints, {given} has {len(joints_of(given))}"
            raise DataError(path, cause, "give the skeleton of the file")
        return given
    plain = [name.strip().lower().replace(" ", "_").replace("-", "_") for name in names]
    for name in SKELETONS:
        if plain and list(joints_of(name)) == plain:
            return name
    if plain == list(BODY25):
        return "body25"
    found = f"its {count} joints have unknown names or order" if names else "it does not name its joints"
    raise ConfigError(path, found, f"give the skeleton, one of: {', '.join(SKELETONS)}")
