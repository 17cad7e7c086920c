"""Frames per second of `aqa extract` against MMPose's own inference and a plain Ray Data pipeline.

    python benchmarks/bench_pose.py [--network rtmpose-t|hrnet-w48] [--flip-test] [--out FILE]

All read the same rendered clips with the same weights in the same run, and runs alternate; medians and the
range over runs are printed.

* MMPoseInferencer, as its documentation uses it: whole frame as box, one result per frame, all cores.
* Ray Data: `read_videos`, then `map_batches` with the network in a pool of actors, 32 frames per batch
  through MMPose's own transforms and `test_step`, results to Parquet.
* ours in fp32 and in the format that `--precision auto` chooses. The whole run holds the start of Ray and of
  the workers; the steady rate leaves the time to the first result out, as does that of Ray Data.
* bound: seconds of decoding and cropping (decord, in order) plus seconds of the network in batches of 64,
  each alone on one core, divided by the cores.
* one worker: ours again with every process on the same one core.

The weights are random, but batch normalisation knows the statistics of the clips: with raw random values
activations fade below the smallest normal floats, and MMPose, which does not flush those to zero, would
be slowed down by something that trained networks hardly have.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

NETWORKS = {
    "rtmpose-t": "rtmpose-t_8xb256-420e_coco-256x192",
    "rtmpose-m": "rtmpose-m_8xb256-420e_coco-256x192",
    "hrnet-w48": "td-hm_hrnet-w48_dark-8xb32-210e_coco-256x192",
}
BATCH = 32  # of the Ray Data pipeline


def make_weights(name: str, videos: list[Path], path: Path) -> None:
    """Random weights whose batch normalisation has seen frames of the clips."""
    import torch
    from mmpose.apis import init_model

    from pipelines.stages import pose

    torch.manual_seed(0)
    config = pose.read_pose_config(name)
    network = init_model(config, None, device="cpu")
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.reset_running_stats()
            module.momentum = None  # the plain mean over all that passes
    width, height = config.test_dataloader.dataset.pipeline[2].input_size
    frames = np.stack([read_frames(video, 1)[0] for video in videos[:8]])
    pixels = torch.from_numpy(frames).permute(0, 3, 1, 2).float()
    pixels = torch.nn.functional.interpolate(pixels, (height, width), mode="area")
    normal = network.data_preprocessor
    network.train()
    with torch.no_grad():
        network.extract_feat((pixels - normal.mean) / normal.std)
    torch.save({"state_dict": network.state_dict()}, path)


def read_frames(video: Path, limit: int) -> list[np.ndarray]:
    import av

    frames = []
    with av.open(str(video)) as container:
        for frame in container.decode(video=0):
            frames.append(frame.to_ndarray(format="rgb24"))
            if len(frames) == limit:
                break
    return frames


def measure_inferencer(name: str, weights: Path, videos: list[Path], flip_test: bool, limit: int) -> dict:
    """MMPose's high-level interface, video by video; making it is not counted."""
    from mmpose.apis import MMPoseInferencer

    from pipelines.stages import pose

    config = Path(pose.read_pose_config(name).filename)
    inferencer = MMPoseInferencer(str(config), str(weights), det_model="whole_image", device="cpu")
    inferencer.inferencer.model.test_cfg["flip_test"] = flip_test
    frames, started = 0, time.monotonic()
    for video in videos:
        for _ in inferencer(str(video)):
            frames += 1
            if frames == limit:
                return {"frames": frames, "fps": frames / (time.monotonic() - started)}
    return {"frames": frames, "fps": frames / (time.monotonic() - started)}


class TopDown:
    """What a user of Ray Data and MMPose would put into `map_batches`."""

    def __init__(self, name: str, weights: str, flip_test: bool):
        from pipelines.stages import mmpose_compat, pose

        mmpose_compat.install()
        from mmcv.transforms import Compose
        from mmpose.apis import init_model

        config = pose.read_pose_config(name)
        config.model.test_cfg["flip_test"] = flip_test
        self.network = init_model(config, weights, device="cpu")
        self.pipeline = Compose(config.test_dataloader.dataset.pipeline)

    def __call__(self, batch: dict) -> dict:
        import torch
        from mmengine.dataset import pseudo_collate

        samples = []
        for frame in batch["frame"]:
            height, width = frame.shape[:2]
            sample = {"img": frame[..., ::-1], "bbox": np.array([[0, 0, width, height]], np.float32)}
            sample |= {"bbox_score": np.ones(1, np.float32), **self.network.dataset_meta}
            samples.append(self.pipeline(sample))
        with torch.no_grad():
            results = self.network.test_step(pseudo_collate(samples))
        keypoints = np.concatenate([result.pred_instances.keypoints for result in results])
        scores = np.concatenate([result.pred_instances.keypoint_scores for result in results])
        return {
            "path": batch["path"],
            "frame_index": batch["frame_index"],
            "keypoints": keypoints.reshape(len(samples), -1),
            "scores": scores,
            "done_at": np.full(len(samples), time.time()),
        }


def measure_ray_data(name: str, weights: Path, videos: list[Path], flip_test: bool, folder: Path) -> dict:
    import pyarrow.parquet as pq
    import ray.data

    from cluster.connect import connect

    paths = [str(video) for video in videos]
    with connect():
        started = time.time()
        # half a core per actor: with whole ones the two actors would leave none to the reading tasks
        ray.data.read_videos(paths, include_paths=True, override_num_blocks=len(paths)).map_batches(
            TopDown,
            fn_constructor_args=(name, str(weights), flip_test),
            batch_size=BATCH,
            compute=ray.data.ActorPoolStrategy(size=os.cpu_count()),
            num_cpus=0.5,
        ).write_parquet(str(folder))
        total = time.time() - started
    done = np.sort(pq.read_table(folder, columns=["done_at"]).column("done_at").to_numpy())
    after = done > done[0]
    return {
        "frames": len(done),
        "whole_run_fps": len(done) / total,
        "steady_fps": after.sum() / (done[-1] - done[0]) if after.any() else None,
    }


def measure_ours(clips: Path, folder: Path, settings: dict) -> dict:
    from pipelines.config import ExtractConfig
    from pipelines.extract import extract

    lines: list[tuple[float, int]] = []

    def note(line: str) -> None:
        if found := re.match(r"(\d+)/\d+ clips", line):
            lines.append((time.monotonic(), int(found[1])))

    started = time.monotonic()
    result = extract(clips, folder, ExtractConfig(**settings), progress=note)
    total = time.monotonic() - started
    (first_time, first_clips), (last_time, last_clips) = lines[0], lines[-1]
    per_clip = result["frames"] / result["clips"]
    steady = (last_clips - first_clips) * per_clip / (last_time - first_time) if len(lines) > 1 else None
    return {"frames": result["frames"], "whole_run_fps": result["frames"] / total, "steady_fps": steady}


def measure_decoding(videos: list[Path], width: int, height: int) -> dict:
    """Decord in order and the crop, in this process, which must not have torch."""
    import cv2
    import decord

    from pipelines.stages.pictures import box_to_center_scale, fix_aspect, warp_matrix

    cv2.setNumThreads(1)
    frames, started = 0, time.monotonic()
    for video in videos:
        reader = decord.VideoReader(str(video), num_threads=1)
        for _ in range(len(reader)):
            frame = reader.next().asnumpy()
            center, scale = box_to_center_scale((0, 0, frame.shape[1], frame.shape[0]), 1.25)
            matrix = warp_matrix(center, fix_aspect(scale, width, height), (width, height))
            cv2.warpAffine(frame, matrix, (width, height), flags=cv2.INTER_LINEAR)
            frames += 1
    return {"seconds_per_frame": (time.monotonic() - started) / frames}


def measure_forward(name: str, weights: Path, precision: str, flip_test: bool, batches: int) -> dict:
    """The network stage's own call on batches of 64, one thread."""
    import torch

    from pipelines.stages import pose

    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    model = pose.find_pose_model(name, weights)
    network = pose.PoseNetwork(model, "cpu", precision, flip_test)
    crops = np.random.default_rng(0).integers(0, 255, (64, model.height, model.width, 3), dtype=np.uint8)
    centers, scales = np.full((64, 2), 100.0), np.tile([150.0, 200.0], (64, 1))
    network.predict(crops[:8], centers[:8], scales[:8])
    started = time.monotonic()
    for _ in range(batches):
        network.predict(crops, centers, scales)
    return {"seconds_per_frame": (time.monotonic() - started) / (64 * batches)}


def alone(measure: Callable, *arguments: object, cores: int | None = None) -> dict:
    """Call a function of this file in a process of its own, so that no one inherits threads or settings."""
    code = "import sys, json; from benchmarks import bench_pose as b; b.run_alone(json.loads(sys.argv[1]))"
    job = json.dumps(
        [measure.__name__, [str(a) if isinstance(a, Path) else a for a in arguments]], default=str
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent), "OMP_WAIT_POLICY": "PASSIVE"}
    command = [sys.executable, "-W", "ignore", "-c", code, job]
    if cores:
        command = ["taskset", "-c", ",".join(map(str, range(cores))), *command]
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def run_alone(job: list) -> None:
    name, arguments = job
    if name not in ("measure_decoding",):
        from pipelines.stages import mmpose_compat

        mmpose_compat.install()
    paths = [_as_path(argument) for argument in arguments]
    print("\n" + json.dumps(globals()[name](*paths)))


def _as_path(argument: object) -> object:
    if isinstance(argument, list):
        return [_as_path(item) for item in argument]
    return Path(argument) if isinstance(argument, str) and "/" in argument else argument


def measure_all(arguments: argparse.Namespace, folder: Path) -> dict:
    """All runs, alternating; a list of results for each."""
    from pipelines.rendered.dataset import render_dataset
    from pipelines.stages import mmpose_compat, pose

    mmpose_compat.install()
    name, flip = NETWORKS[arguments.network], arguments.flip_test
    exercises = arguments.clips * 3 // 4
    clips = render_dataset(folder / "data", exercises=exercises, dives=arguments.clips - exercises, seed=1)
    videos = sorted((folder / "data").rglob("*.mp4"))
    weights = folder / "weights.pth"
    make_weights(name, videos, weights)
    model = pose.find_pose_model(name, weights)
    fast = pose.resolve_precision("auto")
    common = {"pose_config": name, "weights": str(weights), "flip_test": flip} | arguments.settings
    runs: dict[str, list] = {}

    def add(what: str, measure: Callable, *values: object, cores: int | None = None) -> None:
        runs.setdefault(what, []).append(alone(measure, *values, cores=cores))
        print(f"{what}: {runs[what][-1]}", file=sys.stderr, flush=True)

    for run in range(arguments.runs):
        add("inferencer", measure_inferencer, name, weights, list(map(str, videos)), flip, arguments.limit)
        add("decode", measure_decoding, list(map(str, videos)), model.width, model.height)
        for precision in dict.fromkeys(("fp32", fast)):
            batches = max(1, arguments.limit // 64)
            add(f"forward {precision}", measure_forward, name, weights, precision, flip, batches)
            settings = {**common, "precision": precision}
            add(f"ours {precision}", measure_ours, clips, folder / f"{precision}{run}", settings)
        settings = {**common, "precision": fast, "network_workers": 1}
        add("one worker", measure_ours, clips, folder / f"one{run}", settings, cores=1)
        if not arguments.no_ray_data:
            add("ray_data", measure_ray_data, name, weights, list(map(str, videos)), flip, folder / f"r{run}")
    return {"network": name, "flip_test": flip, "fast": fast, "runs": runs}


def summarise(found: dict) -> dict:
    """Ratios of each round; median, least and greatest."""
    runs, cores, fast = found["runs"], os.cpu_count() or 1, found["fast"]
    ratios: dict[str, list[float]] = {}

    def divide(what: str, above: list[float | None], below: list[float | None]) -> None:
        pairs = [a / b for a, b in zip(above, below, strict=True) if a and b]
        if pairs:
            ratios[what] = pairs

    peer = [run["fps"] for run in runs["inferencer"]]
    for precision in dict.fromkeys(("fp32", fast)):
        ours = runs[f"ours {precision}"]
        steady, whole = ([run[key] for run in ours] for key in ("steady_fps", "whole_run_fps"))
        divide(f"{precision} steady / MMPoseInferencer", steady, peer)
        divide(f"{precision} whole run / MMPoseInferencer", whole, peer)
        spent = zip(runs["decode"], runs[f"forward {precision}"], strict=True)
        bound = [cores / (d["seconds_per_frame"] + f["seconds_per_frame"]) for d, f in spent]
        found[f"bound_fps {precision}"] = bound
        divide(f"{precision} steady / bound", steady, bound)
        for key, values in (("steady_fps", steady), ("whole_run_fps", whole)):
            if "ray_data" in runs:
                divide(f"{precision} {key} / Ray Data", values, [run[key] for run in runs["ray_data"]])
    one = [run["steady_fps"] for run in runs["one worker"]]
    divide(f"{cores} cores / 1 core", [run["steady_fps"] for run in runs[f"ours {fast}"]], one)
    found["ratios"] = {
        what: {
            "median": round(statistics.median(v), 2),
            "least": round(min(v), 2),
            "greatest": round(max(v), 2),
        }
        for what, v in ratios.items()
    }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--network", choices=NETWORKS, default="rtmpose-t")
    parser.add_argument("--flip-test", action="store_true")
    parser.add_argument("--clips", type=int, default=96)
    parser.add_argument("--limit", type=int, default=640, help="frames for MMPoseInferencer and the forward")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--no-ray-data", action="store_true")
    parser.add_argument(
        "--settings", type=json.loads, default={}, help='more of ExtractConfig, e.g. {"auto": true}'
    )
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = summarise(measure_all(arguments, Path(folder)))
    found |= {"cores": os.cpu_count(), "clips": arguments.clips, "settings": arguments.settings}
    text = json.dumps(found, indent=2)
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
