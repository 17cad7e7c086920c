"""How near a pose network comes to manual labels: PCK, PCKh, OKS-AP and error per joint.

    PCK@0.2    share of the 12 limb joints nearer than 0.2 of the frame's torso (thorax to pelvis)
    PCKh@0.5   the same with half of the head's length (upper neck to head top)
    OKS-AP     COCO's average precision (pycocotools), all joints that count, one box per person
    error      mean distance in torso lengths, per joint and over the limbs

The box is the labelled one, so that no detector enters.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.pose_labels.annotations import Label
from pipelines.pose_labels.views import FLIP, Input, move, read_image
from pipelines.rendered.body import JOINTS

if TYPE_CHECKING:
    from pipelines.stages.pose import PoseNetwork

LIMBS = [0, 1, 2, 3, 4, 5, 10, 11, 12, 13, 14, 15]
PELVIS, THORAX, NECK, HEAD = 6, 7, 8, 9
# MPII has no official OKS constants. Limbs have those of COCO (pycocotools), the pelvis that of a hip, the
# thorax that of a shoulder, neck and top of the head those of CrowdPose (0.079).
SIGMAS = np.array(
    [0.089, 0.087, 0.107, 0.107, 0.087, 0.089, 0.107, 0.079, 0.079, 0.079, 0.062, 0.072, 0.079, 0.079,
     0.072, 0.062]
)  # fmt: skip


def estimate(
    network: PoseNetwork, labels: Sequence[Label], shown: Input, *, rotations: int = 1, flip: bool = False,
    batch: int = 64,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Poses in the labelled boxes.

    Args:
        network: of stages/pose.py.
        labels: frames and boxes; their joints are not looked at.
        shown: the network's input.
        rotations: the box is shown turned by 0, 360/rotations, ... degrees and the turn with the highest
            mean confidence of the limbs is kept; 1 = upright only.
        flip: also show it mirrored; mean of both poses.
        batch: views per forward pass.

    Returns:
        (N, 16, 2) px of the image, (N, 16) confidence.
    """
    turns = 2 * np.pi * np.arange(rotations) / rotations
    shape = (len(labels), rotations, len(JOINTS))
    keypoints, confidence = np.empty((*shape, 2)), np.empty(shape)
    places = [(n, t) for n in range(len(labels)) for t in range(rotations)]
    for start in range(0, len(places), batch):
        chosen = places[start : start + batch]
        maps = [_map(shown, labels[n], turns[t]) for n, t in chosen]
        images = {n: read_image(labels[n].image) for n in {n for n, _ in chosen}}
        crops = np.stack([shown.cut(images[n], matrix) for (n, _), matrix in zip(chosen, maps, strict=True)])
        points, scores = _look(network, crops, shown)
        if flip:
            mirrored, sure = _look(network, np.ascontiguousarray(crops[:, :, ::-1]), shown)
            mirrored = mirrored[:, FLIP] * [-1, 1] + [shown.width - 1, 0]
            points, scores = 0.5 * (points + mirrored), 0.5 * (scores + sure[:, FLIP])
        for (n, t), matrix, found, score in zip(chosen, maps, points, scores, strict=True):
            back = np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))[:2]
            keypoints[n, t], confidence[n, t] = move(found, back), score
    rows, best = np.arange(len(labels)), confidence[..., LIMBS].mean(axis=-1).argmax(axis=1)
    return keypoints[rows, best], confidence[rows, best]


def _map(shown: Input, label: Label, turn: float) -> np.ndarray:
    return shown.matrix(label.center, shown.box(label.side), turn)


def _look(network: PoseNetwork, crops: np.ndarray, shown: Input) -> tuple[np.ndarray, np.ndarray]:
    """Poses in px of the crops."""
    size = np.array([shown.width, shown.height], np.float32)
    boxes = np.tile(size, (len(crops), 1))
    points, scores = network.predict(crops, boxes / 2, boxes)
    # MMPose answers in shares of the box; with UDP the box reaches from the first to the last pixel's middle
    edge = 1.0 if shown.udp else 0.0
    return points / size * (size - edge), scores


def scores(labels: Sequence[Label], keypoints: np.ndarray, confidence: np.ndarray) -> dict[str, Any]:
    """All measures of (N, 16, 2) keypoints against the labels; joints that do not count are left out."""
    truth = np.stack([label.joints for label in labels])
    counts = np.stack([label.visible for label in labels])
    distance = np.linalg.norm(keypoints - truth, axis=-1)
    torso = np.linalg.norm(truth[:, THORAX] - truth[:, PELVIS], axis=-1)[:, None]
    head = np.linalg.norm(truth[:, HEAD] - truth[:, NECK], axis=-1)[:, None]
    limb = counts[:, LIMBS]
    relative = np.where(counts, distance / np.maximum(torso, 1e-9), np.nan)
    return {
        "frames": len(labels),
        "pck_0.2": _mean((distance < 0.2 * torso)[:, LIMBS][limb]),
        "pckh_0.5": _mean((distance < 0.5 * head)[:, LIMBS][limb]),
        "oks_ap": oks_ap(labels, keypoints, confidence),
        "error_torso": _mean(relative[:, LIMBS][limb]),
        "error_torso_per_joint": {name: _mean(relative[counts[:, j], j]) for j, name in enumerate(JOINTS)},
    }


def _mean(values: np.ndarray) -> float | None:
    return round(float(values.mean()), 4) if values.size else None


def oks_ap(labels: Sequence[Label], keypoints: np.ndarray, confidence: np.ndarray) -> float:
    """COCO's AP over OKS 0.50:0.95 with SIGMAS; the area is that of the joints' bounding box.

    Each person is an image of its own, as the labelled box says where to look.
    """
    import contextlib
    import io

    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    people, found = [], []
    for number, label in enumerate(labels, start=1):
        low, high = label.joints.min(axis=0), label.joints.max(axis=0)
        box = [*low.tolist(), *(high - low).tolist()]
        flags = np.where(label.visible, 2.0, 0.0)
        common = {"image_id": number, "category_id": 1}
        people.append(
            common
            | {"id": number, "bbox": box, "area": max(box[2] * box[3], 1.0), "iscrowd": 0}
            | {"keypoints": np.column_stack([label.joints, flags]).ravel().tolist()}
            | {"num_keypoints": int(label.visible.sum())}
        )
        sure = float(confidence[number - 1].mean())
        points = np.column_stack([keypoints[number - 1], np.ones(len(JOINTS))]).ravel().tolist()
        found.append(common | {"keypoints": points, "score": sure})
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "info": {}, "images": [{"id": n} for n in range(1, len(labels) + 1)], "annotations": people,
            "categories": [{"id": 1, "name": "person", "keypoints": list(JOINTS)}],
        }  # fmt: skip
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(found), "keypoints")
        evaluation.params.kpt_oks_sigmas = SIGMAS
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return round(float(evaluation.stats[0]), 4)
