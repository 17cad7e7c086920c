"""Joint sets by name: order, bones, limbs, left/right pairs, and mapping from one set to another.

Joints are named by anatomy, not by sensor, so two sets that share a point share its name: Kinect's
SpineBase and HipCenter are both `pelvis`, SpineShoulder and ShoulderCenter both `shoulder_center`.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np


@dataclass(frozen=True)
class Skeleton:
    """The topology of one joint set.

    Attributes:
        name: key in `SKELETONS`.
        joints: joint names in array order.
        bones: pairs (parent, child) of joint indices.
        limbs: LA, RA, LL, RL -> joint indices from shoulder or hip outwards (the paper's set B).
        root: name of the joint motion is centred on; derived by `map_keypoints` where a set lacks it.
        flip_pairs: pairs (left, right) of joint indices.
    """

    name: str
    joints: tuple[str, ...]
    bones: tuple[tuple[int, int], ...]
    limbs: Mapping[str, tuple[int, ...]]
    root: str
    flip_pairs: tuple[tuple[int, int], ...]

    @property
    def flip_order(self) -> list[int]:
        """For each joint the index of the same joint on the other side (itself in the middle)."""
        order = list(range(len(self.joints)))
        for left, right in self.flip_pairs:
            order[left], order[right] = right, left
        return order

    def index(self, joint: str) -> int:
        """Position of a joint; ValueError names the nearest joint if there is none."""
        if joint not in self.joints:
            raise ValueError(f"skeleton {self.name!r} has no joint {joint!r}; {_nearest(joint, self.joints)}")
        return self.joints.index(joint)


def skeleton(name: str) -> Skeleton:
    """The skeleton of that name; ValueError lists the known ones and the nearest."""
    if name not in SKELETONS:
        raise ValueError(f"unknown skeleton {name!r}; {_nearest(name, SKELETONS)}")
    return SKELETONS[name]


def map_keypoints(xyz: np.ndarray, source: str, target: str) -> np.ndarray:
    """Reorders keypoints by joint name and derives the joints the source lacks.

    Args:
        xyz: (T, J, C) keypoints of skeleton `source`, any unit; NaN = not available.
        source: name of the skeleton of `xyz`.
        target: name of the skeleton wanted.

    Returns:
        (T, J', C) of the same dtype. A joint that `DERIVED` cannot make from the source is NaN in all
        frames; a derived joint is NaN in the frames where one of its parts is.
    """
    have, want = skeleton(source), skeleton(target)
    if xyz.ndim != 3 or xyz.shape[1] != len(have.joints):
        raise ValueError(f"skeleton {source!r} needs shape (T, {len(have.joints)}, C), got {xyz.shape}")
    if not np.issubdtype(xyz.dtype, np.floating):
        raise TypeError(f"keypoints must be floating point, got {xyz.dtype}")
    mapped = np.full((xyz.shape[0], len(want.joints), xyz.shape[2]), np.nan, dtype=xyz.dtype)
    for position, joint in enumerate(want.joints):
        parts = _parts(joint, have)
        if parts:
            mapped[:, position] = xyz[:, parts].mean(axis=1)
    return mapped


def derived_joints(source: str, target: str) -> np.ndarray:
    """(J',) bool: which joints `map_keypoints` makes of others, rather than copying them.

    A joint that it cannot make at all is False here and NaN there.
    """
    have, want = skeleton(source), skeleton(target)
    made = [joint not in have.joints and bool(_parts(joint, have)) for joint in want.joints]
    return np.array(made)


def flip_sides(xyz: np.ndarray, name: str) -> np.ndarray:
    """Mirrors (T, J, C) keypoints: negates the first coordinate and swaps left and right joints."""
    flipped = xyz[:, skeleton(name).flip_order].copy()
    flipped[..., 0] *= -1
    return flipped


# Joints a set may lack -> alternatives, first possible one wins; each is the mean of its parts.
DERIVED: Mapping[str, tuple[tuple[str, ...], ...]] = MappingProxyType(
    {
        "pelvis": (("left_hip", "right_hip"),),
        "shoulder_center": (("thorax",), ("left_shoulder", "right_shoulder")),
        "thorax": (("shoulder_center",), ("left_shoulder", "right_shoulder")),
        "neck": (("upper_neck",),),
        "upper_neck": (("neck",),),
        "spine": (
            ("pelvis", "shoulder_center"),
            ("pelvis", "thorax"),
            ("left_hip", "right_hip", "left_shoulder", "right_shoulder"),
        ),
        # Kinect's Head is the middle of the head, so it lies between the ears, not at the top.
        "head": (("left_ear", "right_ear"), ("upper_neck", "head_top"), ("neck", "head_top")),
        # Kinect's Foot is the front of the foot.
        "left_foot": (("left_big_toe", "left_small_toe"), ("left_big_toe",)),
        "right_foot": (("right_big_toe", "right_small_toe"), ("right_big_toe",)),
        # NiTE tracks the ends of the limbs as one point each.
        "left_wrist": (("left_hand",),),
        "right_wrist": (("right_hand",),),
        "left_ankle": (("left_foot",),),
        "right_ankle": (("right_foot",),),
    }
)


def _parts(joint: str, have: Skeleton) -> list[int]:
    for names in ((joint,), *DERIVED.get(joint, ())):
        if all(name in have.joints for name in names):
            return [have.joints.index(name) for name in names]
    return []


def _nearest(word: str, known: Mapping[str, object] | tuple[str, ...]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.0)
    return f"known: {', '.join(known)}; did you mean {close[0]!r}?"


_CHAINS = {
    "LA": ("left_shoulder", "left_elbow", "left_wrist", "left_hand", "left_hand_tip", "left_thumb"),
    "RA": ("right_shoulder", "right_elbow", "right_wrist", "right_hand", "right_hand_tip", "right_thumb"),
    "LL": ("left_hip", "left_knee", "left_ankle", "left_foot", "left_big_toe"),
    "RL": ("right_hip", "right_knee", "right_ankle", "right_foot", "right_big_toe"),
}


def _make(name: str, joints: str, bones: str) -> Skeleton:
    order = tuple(joints.split())
    limbs = {limb: tuple(order.index(j) for j in chain if j in order) for limb, chain in _CHAINS.items()}
    pairs = tuple(
        (order.index(j), order.index(j.replace("left", "right"))) for j in order if j.startswith("left")
    )
    edges = (bone.split(">") for bone in bones.split())
    links = tuple((order.index(parent), order.index(child)) for parent, child in edges)
    return Skeleton(name, order, links, MappingProxyType(limbs), "pelvis", pairs)


_ARMS = (
    "left_shoulder>left_elbow left_elbow>left_wrist right_shoulder>right_elbow right_elbow>right_wrist "
    "left_hip>left_knee left_knee>left_ankle right_hip>right_knee right_knee>right_ankle "
)
_ENDS = "left_wrist>left_hand right_wrist>right_hand left_ankle>left_foot right_ankle>right_foot "
_TRUNK = (
    "pelvis>spine spine>shoulder_center shoulder_center>left_shoulder shoulder_center>right_shoulder "
    "pelvis>left_hip pelvis>right_hip "
)
_FACE = "nose>left_eye nose>right_eye left_eye>left_ear right_eye>right_ear "
_TOES = (
    "left_ankle>left_big_toe left_big_toe>left_small_toe left_ankle>left_heel "
    "right_ankle>right_big_toe right_big_toe>right_small_toe right_ankle>right_heel "
)
_TWENTY = (
    "pelvis spine shoulder_center head left_shoulder left_elbow left_wrist left_hand right_shoulder "
    "right_elbow right_wrist right_hand left_hip left_knee left_ankle left_foot right_hip right_knee "
    "right_ankle right_foot"
)
_TWENTY_BONES = _TRUNK + "shoulder_center>head " + _ARMS + _ENDS

SKELETONS: Mapping[str, Skeleton] = MappingProxyType(
    {
        item.name: item
        for item in (
            _make(
                "coco17",
                "nose left_eye right_eye left_ear right_ear left_shoulder right_shoulder left_elbow "
                "right_elbow left_wrist right_wrist left_hip right_hip left_knee right_knee left_ankle "
                "right_ankle",
                _FACE + "left_shoulder>right_shoulder left_hip>right_hip left_shoulder>left_hip "
                "right_shoulder>right_hip " + _ARMS,
            ),
            _make(
                "mpii16",
                "right_ankle right_knee right_hip left_hip left_knee left_ankle pelvis thorax upper_neck "
                "head_top right_wrist right_elbow right_shoulder left_shoulder left_elbow left_wrist",
                "pelvis>thorax thorax>upper_neck upper_neck>head_top thorax>left_shoulder "
                "thorax>right_shoulder pelvis>left_hip pelvis>right_hip " + _ARMS,
            ),
            # AlphaPose's Halpe (Fang et al. 2022) without face and hands; joints named by anatomy.
            _make(
                "halpe26",
                "nose left_eye right_eye left_ear right_ear left_shoulder right_shoulder left_elbow "
                "right_elbow left_wrist right_wrist left_hip right_hip left_knee right_knee left_ankle "
                "right_ankle head_top neck pelvis left_big_toe right_big_toe left_small_toe "
                "right_small_toe left_heel right_heel",
                _FACE + "head_top>nose neck>head_top pelvis>neck neck>left_shoulder neck>right_shoulder "
                "pelvis>left_hip pelvis>right_hip " + _ARMS + _TOES,
            ),
            # OpenPose (Cao et al. 2021): its Neck is the middle of the shoulders.
            _make(
                "body25",
                "nose shoulder_center right_shoulder right_elbow right_wrist left_shoulder left_elbow "
                "left_wrist pelvis right_hip right_knee right_ankle left_hip left_knee left_ankle "
                "right_eye left_eye right_ear left_ear left_big_toe left_small_toe left_heel "
                "right_big_toe right_small_toe right_heel",
                _FACE + "pelvis>shoulder_center shoulder_center>nose shoulder_center>left_shoulder "
                "shoulder_center>right_shoulder pelvis>left_hip pelvis>right_hip " + _ARMS + _TOES,
            ),
            # OpenPose's COCO order of 18 (Cao et al. 2017): the infants' videos.
            _make(
                "openpose18",
                "nose shoulder_center right_shoulder right_elbow right_wrist left_shoulder left_elbow "
                "left_wrist right_hip right_knee right_ankle left_hip left_knee left_ankle right_eye "
                "left_eye right_ear left_ear",
                _FACE + "shoulder_center>nose shoulder_center>left_shoulder "
                "shoulder_center>right_shoulder shoulder_center>left_hip shoulder_center>right_hip " + _ARMS,
            ),
            # NiTE's 15 joints in the order of UWA3D's files (pipelines/datasets/uwa3d.py checks it).
            _make(
                "uwa3d15",
                "head shoulder_center spine left_shoulder left_elbow left_hand right_shoulder "
                "right_elbow right_hand left_hip left_knee left_foot right_hip right_knee right_foot",
                "shoulder_center>head spine>shoulder_center shoulder_center>left_shoulder "
                "shoulder_center>right_shoulder spine>left_hip spine>right_hip "
                "left_shoulder>left_elbow left_elbow>left_hand right_shoulder>right_elbow "
                "right_elbow>right_hand left_hip>left_knee left_knee>left_foot right_hip>right_knee "
                "right_knee>right_foot",
            ),
            # The Kinect v2 joints of UI-PRMD; its chest is the root of the arms.
            _make(
                "uiprmd22",
                "pelvis spine thorax neck head head_top left_collar left_shoulder left_elbow left_wrist "
                "right_collar right_shoulder right_elbow right_wrist left_hip left_knee left_ankle "
                "left_big_toe right_hip right_knee right_ankle right_big_toe",
                "pelvis>spine spine>thorax thorax>neck neck>head head>head_top thorax>left_collar "
                "thorax>right_collar left_collar>left_shoulder right_collar>right_shoulder "
                "pelvis>left_hip pelvis>right_hip left_ankle>left_big_toe right_ankle>right_big_toe " + _ARMS,
            ),
            # Kinect v1: UTKinect, NW-UCLA.
            _make("kinect20", _TWENTY, _TWENTY_BONES),
            # Kinect v2: KIMORE.
            _make(
                "kinect25",
                "pelvis spine neck head left_shoulder left_elbow left_wrist left_hand right_shoulder "
                "right_elbow right_wrist right_hand left_hip left_knee left_ankle left_foot right_hip "
                "right_knee right_ankle right_foot shoulder_center left_hand_tip left_thumb "
                "right_hand_tip right_thumb",
                _TRUNK
                + "shoulder_center>neck neck>head left_hand>left_hand_tip left_wrist>left_thumb "
                + "right_hand>right_hand_tip right_wrist>right_thumb "
                + _ARMS
                + _ENDS,
            ),
            # The two canonical sets of the two-stage model (docs/papers.md, A1).
            _make("c20", _TWENTY, _TWENTY_BONES),
            _make(
                "c15",
                "pelvis shoulder_center head left_shoulder left_elbow left_wrist right_shoulder "
                "right_elbow right_wrist left_hip left_knee left_ankle right_hip right_knee right_ankle",
                "pelvis>shoulder_center shoulder_center>head shoulder_center>left_shoulder "
                "shoulder_center>right_shoulder pelvis>left_hip pelvis>right_hip " + _ARMS,
            ),
        )
    }
)
