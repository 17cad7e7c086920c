"""An articulated human body: forward kinematics from joint angles to 3-D joints, and a camera.

World: metres, y up. At rest the body stands upright facing +z with its arms down; its right is -x.
Angles are radians. Arms and legs at rest point along -y, the spine along +y.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

# MPII order.
JOINTS = (
    "right_ankle", "right_knee", "right_hip", "left_hip", "left_knee", "left_ankle", "pelvis", "thorax",
    "upper_neck", "head_top", "right_wrist", "right_elbow", "right_shoulder", "left_shoulder", "left_elbow",
    "left_wrist",
)  # fmt: skip
NUM_JOINTS = len(JOINTS)

# Columns of a pose's angles: flexion is forward (knee: backward), abduction away from the body's middle,
# side positive to the body's left, twist about the segment's own axis.
ANGLES = (
    "spine_flex", "spine_side", "spine_twist", "neck_flex", "neck_side", "neck_twist",
    "right_shoulder_flex", "right_shoulder_abduct", "right_shoulder_twist", "right_elbow",
    "left_shoulder_flex", "left_shoulder_abduct", "left_shoulder_twist", "left_elbow",
    "right_hip_flex", "right_hip_abduct", "right_hip_twist", "right_knee", "right_ankle",
    "left_hip_flex", "left_hip_abduct", "left_hip_twist", "left_knee", "left_ankle",
)  # fmt: skip
COLUMN = {name: index for index, name in enumerate(ANGLES)}


@dataclass(frozen=True)
class Shape:
    """Lengths of one body in metres; the defaults are about those of an adult of 1.75 m."""

    trunk: float = 0.50
    """Pelvis to thorax (between the shoulders)."""
    neck: float = 0.09
    head: float = 0.24
    """Upper neck to top of head."""
    shoulder_width: float = 0.36
    hip_width: float = 0.22
    upper_arm: float = 0.30
    forearm: float = 0.25
    hand: float = 0.14
    thigh: float = 0.42
    shank: float = 0.42
    foot: float = 0.20
    girth: float = 1.0
    """Factor on all radii."""

    @property
    def leg(self) -> float:
        """Hip to ankle, straight."""
        return self.thigh + self.shank

    @classmethod
    def sample(cls, random: np.random.Generator) -> Shape:
        """A random adult: 1.50-1.95 m tall, slim to stout, proportions varied by about 4 %."""
        size = random.uniform(0.88, 1.12)
        values = {}
        for name, part in cls.__dataclass_fields__.items():
            if name != "girth":
                values[name] = float(part.default) * size * float(np.clip(random.normal(1, 0.04), 0.88, 1.12))
        return cls(**values, girth=size * random.uniform(0.85, 1.3))


@dataclass
class Motion:
    """Poses of one body over time.

    Attributes:
        root: (T, 3) position of the pelvis in metres.
        turn: (T, 3, 3) orientation of the pelvis.
        angles: (T, 24) joint angles in radians, columns `ANGLES`.
    """

    root: np.ndarray
    turn: np.ndarray
    angles: np.ndarray

    @classmethod
    def standing(cls, num_frames: int, height: float) -> Motion:
        """Upright and still, the pelvis `height` metres above the ground, arms slightly off the body."""
        angles = np.zeros((num_frames, len(ANGLES)))
        angles[:, [COLUMN["right_shoulder_abduct"], COLUMN["left_shoulder_abduct"]]] = 0.12
        root = np.tile([0.0, height, 0.0], (num_frames, 1))
        return cls(root, np.tile(np.eye(3), (num_frames, 1, 1)), angles)

    def __getitem__(self, name: str) -> np.ndarray:
        """View of one angle's column."""
        return self.angles[:, COLUMN[name]]


def rotation(axis: str, angle: np.ndarray | float) -> np.ndarray:
    """Right-handed rotation about x, y or z: (...,) radians -> (..., 3, 3)."""
    angle = np.asarray(angle, dtype=float)
    cos, sin = np.cos(angle), np.sin(angle)
    first, second = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
    matrix = np.zeros((*angle.shape, 3, 3))
    matrix[..., range(3), range(3)] = 1.0
    matrix[..., first, first] = matrix[..., second, second] = cos
    matrix[..., first, second], matrix[..., second, first] = -sin, sin
    return matrix


@dataclass
class Posed:
    """A body in space: joints, the ends of hands and feet, and the frames of trunk and head.

    Attributes:
        joints: (T, 16, 3) metres, MPII order.
        hands: (T, 2, 3) finger tips, right then left.
        feet: (T, 2, 3) toes, right then left.
        heels: (T, 2, 3).
        chest: (T, 3, 3) orientation of the chest; column 2 points forward.
        head: (T, 3, 3) orientation of the head; column 2 is where it looks.
        pelvis: (T, 3, 3) orientation of the pelvis.
    """

    joints: np.ndarray
    hands: np.ndarray
    feet: np.ndarray
    heels: np.ndarray
    chest: np.ndarray
    head: np.ndarray
    pelvis: np.ndarray
    shape: Shape = field(default_factory=Shape)


def pose_body(motion: Motion, shape: Shape) -> Posed:
    """Forward kinematics: joint angles -> positions in space."""
    num_frames = len(motion.root)
    joints = np.zeros((num_frames, NUM_JOINTS, 3))
    ends = {part: np.zeros((num_frames, 2, 3)) for part in ("hands", "feet", "heels")}
    at = {name: index for index, name in enumerate(JOINTS)}
    pelvis = motion.turn
    chest = pelvis @ _bend(motion["spine_flex"], motion["spine_side"], motion["spine_twist"])
    head = chest @ _bend(motion["neck_flex"], motion["neck_side"], motion["neck_twist"])
    joints[:, at["pelvis"]] = motion.root
    joints[:, at["thorax"]] = thorax = motion.root + chest @ [0, shape.trunk, 0]
    joints[:, at["upper_neck"]] = neck = thorax + (0.5 * (chest + head)) @ [0, shape.neck, 0]
    joints[:, at["head_top"]] = neck + head @ [0, shape.head, 0]
    for number, (side, sign) in enumerate((("right", -1.0), ("left", 1.0))):
        arm = chest @ _swing(motion, f"{side}_shoulder", sign)
        forearm = arm @ rotation("x", -motion[f"{side}_elbow"])
        shoulder = thorax + chest @ [sign * shape.shoulder_width / 2, -0.03, 0]
        joints[:, at[f"{side}_shoulder"]] = shoulder
        joints[:, at[f"{side}_elbow"]] = elbow = shoulder + arm @ [0, -shape.upper_arm, 0]
        joints[:, at[f"{side}_wrist"]] = wrist = elbow + forearm @ [0, -shape.forearm, 0]
        ends["hands"][:, number] = wrist + forearm @ [0, -shape.hand, 0]
        leg = pelvis @ _swing(motion, f"{side}_hip", sign)
        shank = leg @ rotation("x", motion[f"{side}_knee"])
        foot = shank @ rotation("x", motion[f"{side}_ankle"])
        hip = motion.root + pelvis @ [sign * shape.hip_width / 2, -0.02, 0]
        joints[:, at[f"{side}_hip"]] = hip
        joints[:, at[f"{side}_knee"]] = knee = hip + leg @ [0, -shape.thigh, 0]
        joints[:, at[f"{side}_ankle"]] = ankle = knee + shank @ [0, -shape.shank, 0]
        ends["heels"][:, number] = ankle + foot @ [0, -0.05, -0.04]
        ends["feet"][:, number] = ankle + foot @ [0, -0.06, shape.foot * 0.75]
    return Posed(joints, ends["hands"], ends["feet"], ends["heels"], chest, head, pelvis, shape)


def _bend(flex: np.ndarray, side: np.ndarray, twist: np.ndarray) -> np.ndarray:
    return rotation("x", flex) @ rotation("z", -side) @ rotation("y", twist)


def _swing(motion: Motion, joint: str, sign: float) -> np.ndarray:
    """Rotation of a limb hanging along -y: abduct in the frontal plane, then flex forward."""
    abduct, twist = sign * motion[f"{joint}_abduct"], -sign * motion[f"{joint}_twist"]
    return rotation("x", -motion[f"{joint}_flex"]) @ rotation("z", abduct) @ rotation("y", twist)


@dataclass
class Camera:
    """A pinhole camera over time.

    Attributes:
        position: (T, 3) metres.
        turn: (T, 3, 3) rows are the camera's right, down and forward axes in the world.
        focal: (T,) focal length in pixels.
        size: frame width and height in pixels.
    """

    position: np.ndarray
    turn: np.ndarray
    focal: np.ndarray
    size: tuple[int, int]

    @classmethod
    def looking(
        cls,
        position: np.ndarray,
        target: np.ndarray,
        focal: np.ndarray,
        size: tuple[int, int],
        roll: float = 0.0,
    ) -> Camera:
        """Camera at (T, 3) `position` looking at (T, 3) `target`, horizon level up to `roll` radians."""
        forward = target - position
        forward = forward / np.linalg.norm(forward, axis=-1, keepdims=True)
        right = np.cross(forward, [0.0, 1.0, 0.0])
        right /= np.linalg.norm(right, axis=-1, keepdims=True)
        down = np.cross(forward, right)
        cos, sin = np.cos(roll), np.sin(roll)
        turn = np.stack([cos * right + sin * down, cos * down - sin * right, forward], axis=-2)
        return cls(position, turn, np.broadcast_to(focal, len(position)), size)

    def project(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(T, N, 3) metres -> ((T, N, 2) pixels, (T, N) pixels per metre at that depth)."""
        seen = np.einsum("tij,tnj->tni", self.turn, points - self.position[:, None])
        scale = self.focal[:, None] / np.maximum(seen[..., 2], 0.1)
        centre = np.array(self.size) / 2 - 0.5
        return seen[..., :2] * scale[..., None] + centre, scale

    def depth(self, points: np.ndarray) -> np.ndarray:
        """(T, N, 3) metres -> (T, N) metres in front of the camera."""
        return np.einsum("tj,tnj->tn", self.turn[:, 2], points - self.position[:, None])
