"""Pose files of other programs: one module per format, each with one `write_*` and one `read_*` function.

`export_poses.export_poses` and `import_poses.import_poses` call them by the names below. Nothing here imports
ray or torch, and nothing a file contains is ever executed; pickles go through `safe_pickle` alone.
"""

from __future__ import annotations

FORMATS: dict[str, str] = {
    "coco": "COCO keypoint annotations, one JSON file; pycocotools reads it",
    "mmpose": "MMPose predictions, a JSON file per clip, as MMPose's demos and inferencer write them",
    "pyskl": "PYSKL and MMAction2: one pickle of arrays (people, frames, joints), read without running it",
    "finediving-pose": "FineDiving-Pose: 96 x 16 x 2 arrays at COMPETITION/pred_comp_INDEX.npz",
    "openpose": "OpenPose: a JSON file per frame, in the order BODY_25 or COCO",
    "trc": "TRC marker files of OpenSim, one per person, 2-D or 3-D",
}
