"""Frames per second of `aqa extract` against MMPose's own inference, frame by frame.

    python benchmarks/bench_pose.py [--out FILE]

Both read the same clips with the same network and weights in the same run. The peer decodes with PyAV
and calls `mmpose.apis.inference_topdown` once per frame, as MMPose's demos do. Runs alternate, medians
are printed. The pipeline's time is that of the whole run: start of Ray, decoding, both passes of the
guard, pose, files and commits; the steady rate leaves the start of Ray and of the actors out.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import tempfile
import time
from pathlib import Path

from pipelines.config import ExtractConfig
from pipelines.extract import extract
from pipelines.rendered.dataset import render_dataset
from pipelines.stages import mmpose_compat, pose


def measure_pipeline(clips: Path, folder: Path) -> dict:
    shutil.rmtree(folder, ignore_errors=True)
    lines: list[tuple[float, int]] = []

    def note(line: str) -> None:
        lines.append((time.monotonic(), int(line.split("/")[0])))

    started = time.monotonic()
    result = extract(clips, folder, ExtractConfig(), progress=note)
    total = time.monotonic() - started
    (first_time, first_clips), (last_time, last_clips) = lines[0], lines[-1]
    per_clip = result["frames"] / result["clips"]
    return {
        "frames": result["frames"],
        "whole_run_fps": result["frames"] / total,
        "steady_fps": (last_clips - first_clips) * per_clip / (last_time - first_time),
    }


def measure_peer(videos: list[Path], limit: int) -> dict:
    """MMPose called on one frame at a time, whole frame as box."""
    import av
    import torch

    model = pose.find_pose_model(pose.SHIPPED, None)
    mmpose_compat.install()
    from mmpose.apis import inference_topdown, init_model

    torch.set_flush_denormal(True)  # the pipeline has it too
    network = init_model(pose.read_pose_config(model.name), None, device="cpu")
    mmpose_compat.load_weights(network, model.weights)
    frames, started = 0, time.monotonic()
    for video in videos:
        with av.open(str(video)) as container:
            for frame in container.decode(video=0):
                inference_topdown(network, frame.to_ndarray(format="bgr24"))
                frames += 1
                if frames == limit:
                    return {"frames": frames, "fps": frames / (time.monotonic() - started)}
    return {"frames": frames, "fps": frames / (time.monotonic() - started)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--clips", type=int, default=48)
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        exercises = arguments.clips * 3 // 4
        clips = render_dataset(data, exercises=exercises, dives=arguments.clips - exercises, seed=1)
        videos = sorted(data.rglob("*.mp4"))
        peers, ours = [], []
        for _ in range(arguments.runs):
            peers.append(measure_peer(videos, limit=400))
            ours.append(measure_pipeline(clips, Path(folder) / "store"))
    peer = statistics.median(run["fps"] for run in peers)
    steady = statistics.median(run["steady_fps"] for run in ours)
    whole = statistics.median(run["whole_run_fps"] for run in ours)
    result = {
        "peer": "mmpose.apis.inference_topdown, one frame per call",
        "cores": os.cpu_count(),
        "machine": platform.processor() or platform.machine(),
        "peer_fps": round(peer, 1),
        "pipeline_steady_fps": round(steady, 1),
        "pipeline_whole_run_fps": round(whole, 1),
        "ratio_steady": round(steady / peer, 2),
        "ratio_whole_run": round(whole / peer, 2),
        "peer_runs": peers,
        "pipeline_runs": ours,
    }
    text = json.dumps(result, indent=2)
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
