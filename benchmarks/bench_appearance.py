"""Frames per second of the appearance stage on one core, in fp32 and bf16, against the research scripts' way.

    OMP_NUM_THREADS=1 python benchmarks/bench_appearance.py [--runs 3] [--out FILE]

The peer is the same network as papers' extraction scripts call it: one window per call, torch's default
memory layout, batch normalisation as a layer, fp32. Ours is `AppearanceStage.process` on decoded rows:
windows batched, channels last, batch normalisation folded, features rounded and put into Arrow. Runs of the
three alternate and medians are printed. Differences are relative L2 of the stored features against the
peer's; that of fp32 is the rounding to half precision. Weights are random: the time does not depend on them,
the differences do. Decoding is not in these figures. Kind frames has no network: JPEG encoding is timed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from pipelines.stages.appearance import AppearanceModel, AppearanceStage, find_appearance_model
from pipelines.stages.appearance_network import build, colours_of
from pipelines.stages.crops import DECODED

FRAMES = {"i3d": 96, "c3d_fc6": 48, "static": 96, "frames": 96}


def pictures(model: AppearanceModel, frames: int) -> np.ndarray:
    """Smooth moving pictures, as video is; (T, h, w, 3) uint8."""
    import cv2

    coarse = np.random.default_rng(0).uniform(0, 255, (40, 40, 3)).astype(np.float32)
    smooth = cv2.resize(coarse, (model.width + frames, model.height), interpolation=cv2.INTER_CUBIC)
    moved = [smooth[:, shift : shift + model.width] for shift in range(frames)]
    return np.stack(moved).clip(0, 255).astype(np.uint8)


def decoded(clips: int, frames: np.ndarray) -> pa.Table:
    row = dict.fromkeys(DECODED.names) | {
        "person": 0,
        "part": 0,
        "last": True,
        "status": "ok",
        "attempts": 1,
        "frame_index": list(range(len(frames))),
        "time_s": [index / 25 for index in range(len(frames))],
        "frames": frames.tobytes(),
    }
    return pa.Table.from_pylist([row | {"clip_id": str(n), "uri": str(n)} for n in range(clips)], DECODED)


def make_ours(model: AppearanceModel, precision: str, rows: pa.Table) -> Callable[[], np.ndarray]:
    stage = AppearanceStage(model, frames_per_batch=64, use_gpu=False, precision=precision)
    network = stage.setup()

    def run() -> np.ndarray:
        (result,) = stage.process(network, rows)
        column = "jpeg" if model.kind == "frames" else "features"
        values = result.column(column).combine_chunks()
        return np.empty(0) if model.kind == "frames" else values.flatten().to_numpy()

    return run


def make_peer(model: AppearanceModel, clips: int, frames: np.ndarray) -> Callable[[], np.ndarray]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = build(model.kind, model.network).eval()
    colours = colours_of(model.kind, network)
    side, (height, width) = model.crop, frames.shape[1:3]
    top, left = (height - side + 1) // 2, (width - side + 1) // 2
    cut = frames[:, top : top + side, left : left + side]

    @torch.inference_mode()
    def run() -> np.ndarray:
        found = []
        for _ in range(clips):
            pixels = torch.from_numpy(cut[..., ::-1].copy() if colours.bgr else cut.copy())
            values = (pixels * colours.scale - torch.tensor(colours.mean)) / torch.tensor(colours.deviation)
            values = values.float().permute(3, 0, 1, 2).contiguous()
            for start in model.starts(len(frames)):
                window = values[None, :, start : start + model.window]
                found.append(network(window[:, :, 0] if model.kind == "static" else window).flatten())
        return torch.cat(found).numpy()

    return run


def measure(kind: str, clips: int, runs: int) -> dict:
    model = find_appearance_model(kind, None, kind != "frames", "regnety_002")
    frames = pictures(model, FRAMES[kind])
    rows = decoded(clips, frames)
    if kind == "frames":
        ways = {"jpeg": make_ours(model, "fp32", rows)}
    else:
        ways = {precision: make_ours(model, precision, rows) for precision in ("fp32", "bf16")}
        ways["peer"] = make_peer(model, clips, frames)
    outputs, seconds = {}, {name: [] for name in ways}
    for turn in range(runs + 1):  # the first warms up
        for name, run in ways.items():
            started = time.monotonic()
            outputs[name] = run()
            if turn:
                seconds[name].append(time.monotonic() - started)
    total = clips * len(frames)
    result: dict = {
        f"{name}_fps": round(total / statistics.median(times), 1) for name, times in seconds.items()
    }
    if kind != "frames":
        norm = np.linalg.norm(outputs["peer"])
        for name in ("fp32", "bf16"):
            result[f"ratio_{name}"] = round(
                statistics.median(p / o for p, o in zip(seconds["peer"], seconds[name], strict=True)), 2
            )
            result[f"relative_difference_{name}"] = float(
                f"{np.linalg.norm(outputs[name] - outputs['peer']) / norm:.2g}"
            )
    result["seconds"] = {name: [round(value, 3) for value in times] for name, times in seconds.items()}
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--clips", type=int, default=2)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--kinds", nargs="+", default=list(FRAMES), choices=list(FRAMES))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    result = {
        "peer": "same network, one window per call, default memory layout, fp32",
        "machine": platform.processor() or platform.machine(),
        "cores_used": 1,
        "cores": os.cpu_count(),
        "native_bf16": torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported(),
    } | {kind: measure(kind, arguments.clips, arguments.runs) for kind in arguments.kinds}
    text = json.dumps(result, indent=2)
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
