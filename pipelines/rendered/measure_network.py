"""Measures the pose network on held-out renders and, where present, on real frames.

    python -m pipelines.rendered.measure_network --out /tmp/pose_network [--data ../shared/data]

Renders: clips of people, looks and backgrounds that training never saw, decoded from their MP4, the whole
frame as box; a joint counts as found within 0.1 of the torso (thorax to pelvis, median of the clip). Of
dives the frames before the entry count. Real frames: the 101 labelled frames of FineDiving, box from the
labelled centre and scale, 12 limb joints within 0.2 of the frame's torso. Writes measures.json and pictures.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from pathlib import Path

import cv2
import numpy as np

from pipelines.rendered.body import JOINTS
from pipelines.rendered.dataset import render_dataset
from pipelines.rendered.network import WEIGHTS, pose_network_config
from pipelines.stages import mmpose_compat

HELD_OUT_SEED = 777
LIMBS = [0, 1, 2, 3, 4, 5, 10, 11, 12, 13, 14, 15]
_BONES = (
    (0, 1), (1, 2), (2, 6), (6, 3), (3, 4), (4, 5), (6, 7), (7, 8), (8, 9), (10, 11), (11, 12), (12, 7),
    (7, 13), (13, 14), (14, 15),
)  # fmt: skip


class PoseNetwork:
    """The network run as MMPose runs it: its own test pipeline, its own decoder."""

    def __init__(self, weights: Path):
        mmpose_compat.install()
        import torch
        from mmengine.dataset import Compose
        from mmpose.apis import init_model

        self.model = init_model(pose_network_config(), None, device="cpu")
        mmpose_compat.load_weights(self.model, weights)
        self.model = self.model.to(memory_format=torch.channels_last)
        self.pipeline = Compose(self.model.cfg.test_dataloader.dataset.pipeline)

    def estimate(
        self, frames: list[np.ndarray], boxes: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """(H, W, 3) uint8 RGB frames and (N, 4) xyxy boxes -> (N, 16, 2) px and (N, 16) confidences.

        Without boxes the whole frames are taken.
        """
        import torch
        from mmengine.dataset import pseudo_collate

        keypoints, scores = [], []
        for start in range(0, len(frames), 64):
            rows = []
            for index in range(start, min(start + 64, len(frames))):
                height, width = frames[index].shape[:2]
                box = np.array([0, 0, width, height], np.float32) if boxes is None else boxes[index]
                row = {
                    "img": frames[index][..., ::-1],
                    "bbox": box[None],
                    "bbox_score": np.ones(1, np.float32),
                }
                rows.append(self.pipeline(row | self.model.dataset_meta))
            with torch.inference_mode():
                for result in self.model.test_step(pseudo_collate(rows)):
                    keypoints.append(result.pred_instances.keypoints[0])
                    scores.append(result.pred_instances.keypoint_scores[0])
        return np.stack(keypoints), np.stack(scores)


def read_video(path: Path) -> list[np.ndarray]:
    """All frames of a video as (H, W, 3) uint8 RGB."""
    import av

    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def measure_renders(network: PoseNetwork, folder: Path, out: Path, every: int = 5) -> dict:
    """PCK@0.1 torso on held-out clips, every fifth frame, overall, per joint, exercises and dives."""
    import pyarrow.parquet as pq

    table = render_dataset(folder, exercises=24, subjects=8, dives=12, seed=HELD_OUT_SEED)
    truth = {row["clip_id"]: row for row in pq.read_table(folder / "truth.parquet").to_pylist()}
    hits: dict[str, list[np.ndarray]] = {"exercises": [], "dives": []}
    pictures, spent, count = [], 0.0, 0
    for clip in csv.DictReader(table.open(encoding="utf-8")):
        row, frames = truth[clip["clip_id"]], read_video(folder / clip["uri"])
        joints = np.array(row["joints"], np.float32).reshape(row["num_frames"], 16, 2)
        last = (
            int(json.loads(clip["transitions_s"])[1] * row["fps"]) if clip["transitions_s"] else len(frames)
        )
        picked = np.arange(0, last, every)
        start = time.process_time()
        found, _ = network.estimate([frames[i] for i in picked])
        spent, count = spent + time.process_time() - start, count + len(picked)
        torso = np.median(np.linalg.norm(joints[:, 7] - joints[:, 6], axis=-1))
        near = np.linalg.norm(found - joints[picked], axis=-1) < 0.1 * torso
        hits["dives" if clip["transitions_s"] else "exercises"].append(near)
        pictures += [draw_pose(frames[picked[k]], found[k]) for k in range(len(picked))][2:-1:8][:3]
    _sheet(out / "renders.png", pictures[:48])
    both = {kind: np.concatenate(near) for kind, near in hits.items()}
    everything = np.concatenate(list(both.values()))
    return {
        "frames": len(everything),
        "pck_0.1_torso": round(float(everything.mean()), 4),
        **{f"pck_0.1_torso_{kind}": round(float(near.mean()), 4) for kind, near in both.items()},
        "per_joint": {
            name: round(float(share), 4) for name, share in zip(JOINTS, everything.mean(0), strict=True)
        },
        "frames_per_cpu_second": round(count / spent, 1),
    }


def measure_diving_frames(network: PoseNetwork, folder: Path, out: Path) -> dict:
    """PCK@0.2 torso of 12 limb joints on real diving frames: upright, and the surest of 4 rotations."""
    labels = json.loads((folder / "annotations_examples.json").read_text())
    images = [cv2.imread(str(folder / "images" / label["image"]))[..., ::-1] for label in labels]
    truth = np.array([label["joints"] for label in labels])
    torso = np.linalg.norm(truth[:, 7] - truth[:, 6], axis=-1)
    results, pictures = [], []
    for image, label in zip(images, labels, strict=True):
        results.append([_turned(network, image, label, quarter) for quarter in range(4)])
    keypoints = np.array([[keypoints for keypoints, _ in row] for row in results])
    sure = np.array([[score.mean() for _, score in row] for row in results]).argmax(axis=1)
    near = np.linalg.norm(keypoints - truth[:, None], axis=-1)[..., LIMBS] < 0.2 * torso[:, None, None]
    for index in range(0, len(images), 3):
        pictures.append(draw_pose(images[index], keypoints[index, sure[index]])[:, 100:356])
    _sheet(out / "diving_frames.png", pictures)
    return {
        "frames": len(images),
        "pck_0.2_torso_upright": round(float(near[:, 0].mean()), 4),
        "pck_0.2_torso_surest_of_4_rotations": round(float(near[np.arange(len(near)), sure].mean()), 4),
    }


def _turned(
    network: PoseNetwork, image: np.ndarray, label: dict, quarter: int
) -> tuple[np.ndarray, np.ndarray]:
    """Pose in `image` when the network sees the box turned by quarter * 90 degrees."""
    centre, side = np.array(label["center"]), 200 * label["scale"]
    matrix = cv2.getRotationMatrix2D(centre.tolist(), 90.0 * quarter, 1.0)
    matrix[:, 2] += side - centre
    view = cv2.warpAffine(image, matrix, (int(2 * side), int(2 * side)))
    box = np.array([[side / 2, side / 2, 1.5 * side, 1.5 * side]], np.float32)
    keypoints, scores = network.estimate([view], box)
    back = cv2.invertAffineTransform(matrix)
    return keypoints[0] @ back[:, :2].T + back[:, 2], scores[0]


def draw_pose(image: np.ndarray, keypoints: np.ndarray) -> np.ndarray:
    """A copy of `image` with the skeleton: right side red, left side green, trunk yellow."""
    picture = np.ascontiguousarray(image)
    picture = picture.copy()
    thick = max(1, picture.shape[0] // 200)
    for first, second in _BONES:
        names = JOINTS[first] + JOINTS[second]
        colour = (255, 60, 60) if "right" in names else (60, 255, 60) if "left" in names else (255, 235, 60)
        ends = [
            tuple(np.round(np.clip(keypoints[j], -999, 9999)).astype(int).tolist()) for j in (first, second)
        ]
        cv2.line(picture, *ends, colour, thick, cv2.LINE_AA)
    return picture


def _sheet(path: Path, pictures: list[np.ndarray], columns: int = 8, side: int = 256) -> None:
    """Write pictures side by side."""
    tiles = []
    for picture in pictures:
        scale = side / max(picture.shape[:2])
        small = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        tile = np.zeros((side, side, 3), np.uint8)
        tile[: small.shape[0], : small.shape[1]] = small
        tiles.append(tile)
    tiles += [np.zeros((side, side, 3), np.uint8)] * (-len(tiles) % columns)
    rows = [np.hstack(tiles[start : start + columns]) for start in range(0, len(tiles), columns)]
    cv2.imwrite(str(path), np.vstack(rows)[..., ::-1])


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for measures.json and pictures")
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    parser.add_argument("--data", type=Path, help="folder with finediving_pose_sample and videos")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    network = PoseNetwork(options.weights)
    measures = {"renders": measure_renders(network, options.out / "held_out", options.out)}
    if options.data:
        measures["diving_frames"] = measure_diving_frames(
            network, options.data / "finediving_pose_sample", options.out
        )
        for name in ("tfjs-models__pose_squats.mp4", "movenet-dance-demo__KeithNotationPhrase_track0.mp4"):
            frames = read_video(options.data / "videos" / name)
            frames = frames[:: max(1, len(frames) // 16)][:16]
            keypoints, _ = network.estimate(frames)
            drawn = [draw_pose(frame, found) for frame, found in zip(frames, keypoints, strict=True)]
            _sheet(options.out / f"{Path(name).stem}.png", drawn)
    text = json.dumps(measures, indent=2)
    (options.out / "measures.json").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
