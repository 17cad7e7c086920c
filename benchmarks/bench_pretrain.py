"""Pretraining of the non-expert: its speed against literal zero padding, and what its tasks measure.

    OMP_NUM_THREADS=1 python benchmarks/bench_pretrain.py speed --data DATA [--units 128] [--steps 3]
    OMP_NUM_THREADS=1 python benchmarks/bench_pretrain.py pace --data DATA [--units 64] [--epochs 20]

DATA holds nw_ucla/ and utkinect/ with the arrays of both sets (joints as npz, and a csv of the clips).

`speed`: one training step (batch, forward, all backward passes; no optimiser) on the same clips with the
same network: zeros before every clip up to 743 frames, read as motion, in fp32; against the valid frames
alone, in fp32 and in bf16. Every way runs in a process of its own, whose largest memory is told; seconds are
the process's own time if it has one thread, so that other programs do not count.

`pace`: trains on the clips of some people, with and without the guard against the short cut of the pace
task, and tells on the others: pace accuracy, also with white noise on top, and the inpainting error of the
masked limb beside the guesses that need no training. `probe` is a linear classifier of the pace that sees 12
numbers of the spectrum and no joint.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import resource
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from aqa_models.two_stage.config import NonExpertConfig, SequenceConfig
from pipelines.config import OptimizerConfig, PretrainConfig
from pipelines.loop import Training, train_epoch
from pipelines.motion import Motion
from pipelines.pretrain_phase import PretrainPhase

WAYS = (("literal", "fp32"), ("literal", "bf16"), ("packed", "fp32"), ("packed", "bf16"))
NOISE = (0.0, 0.005, 0.02)  # deviation; 1 = the largest distance of a joint from the first root


def motion(name: str, subject: str, action: str, xyz: np.ndarray, time_s: np.ndarray) -> Motion:
    """A clip of 20 Kinect joints."""
    return Motion(name, subject, subject, action, "", "", None, "kinect20", xyz, time_s)


def read_nw_ucla(folder: Path) -> list[Motion]:
    """Its 1484 clips; 30 frames per second are assumed, since it has no time stamps."""
    arrays = np.load(folder / "nw_ucla_joints_f32.npz")
    with (folder / "nw_ucla_sequences.csv").open() as file:
        rows = list(csv.DictReader(file))
    return [
        motion(row["name"], row["subject"], row["action"], xyz, np.arange(len(xyz)) / 30)
        for row in rows
        for xyz in [arrays[row["name"]]]
        if len(xyz) > 1
    ]


def read_utkinect(folder: Path) -> list[Motion]:
    """Its 199 segments, timed by the ids of their frames."""
    arrays = np.load(folder / "utkinect_joints_f32.npz")
    with (folder / "utkinect_segments.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["start_frame_id"] not in ("", "NaN", "nan")]
    clips = []
    for row in rows:
        ids, xyz = (arrays[f"{row['recording']}_{part}"] for part in ("frame_id", "xyz"))
        inside = (ids >= float(row["start_frame_id"])) & (ids <= float(row["end_frame_id"]))
        name, subject = f"{row['recording']}_{row['action']}", row["recording"][:3]
        clips.append(motion(name, subject, row["action"], xyz[inside], ids[inside] / 30))
    return clips


READERS = {"nw_ucla": read_nw_ucla, "utkinect": read_utkinect}


def read(arguments: argparse.Namespace) -> tuple[list[Motion], list[Motion]]:
    """Training and validation clips; every fifth subject validates."""
    clips = READERS[arguments.set](arguments.data / arguments.set)
    held_out = set(sorted({clip.subject for clip in clips})[4::5])
    train, val = ([c for c in clips if (c.subject in held_out) == wanted] for wanted in (False, True))
    return train[:: arguments.every], val


def settings(arguments: argparse.Namespace, precision: str = "fp32", **changes: Any) -> PretrainConfig:
    """A network of `arguments.units` everywhere."""
    units = arguments.units
    sizes = NonExpertConfig(
        encoder_units=units, decoder_units=units, pace_units=units, discriminator_units=max(4, units // 5)
    )
    return PretrainConfig(
        epochs=arguments.epochs,
        batch_size=arguments.batch,
        sequence=SequenceConfig(rate_hz=arguments.rate),
        model=replace(sizes, **changes),
        optimizer=OptimizerConfig(learning_rate=arguments.learning_rate),
        precision=precision,  # type: ignore[arg-type]
        seed=arguments.seed,
    )


def one_way(arguments: argparse.Namespace) -> dict[str, float]:
    """Seconds of each step of one way, and the memory that the process took; run in a process of its own."""
    padding, precision = arguments.way.split("-")
    config = settings(arguments, precision, pad_literal=padding == "literal")
    train, val = read(arguments)
    phase = PretrainPhase(train, val, config, torch.device("cpu"))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    now = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    order = np.random.default_rng(arguments.seed).permutation(len(train)).tolist()
    seconds = []
    for step in range(arguments.steps + arguments.warm_up):
        rows = [order[k % len(order)] for k in range(step * arguments.batch, (step + 1) * arguments.batch)]
        started = now()
        phase.gradients(rows, len(rows), epoch=0)
        seconds.append(now() - started)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "sequences_per_second": arguments.batch / float(np.median(seconds[arguments.warm_up :])),
        "memory_mb": (after - before) / 1024,
        "frames_mean": float(np.mean([len(sequence.x) for sequence in phase.train])),
        "frames_max": max(len(sequence.x) for sequence in phase.train),
    }


def measure_speed(arguments: argparse.Namespace) -> dict[str, Any]:
    """Every way in a child process."""
    told: dict[str, Any] = {
        "set": arguments.set,
        "units": arguments.units,
        "batch": arguments.batch,
        "ways": {},
    }
    for way in WAYS:
        name = "-".join(way)
        call = [sys.executable, __file__, *sys.argv[1:], "--way", name]
        told["ways"][name] = json.loads(subprocess.run(call, check=True, stdout=subprocess.PIPE).stdout)
    base = told["ways"]["literal-fp32"]["sequences_per_second"]
    shown = told["ways"]["packed-fp32"]
    print(
        f"{arguments.set}, {arguments.rate:g} Hz, {shown['frames_mean']:.0f} frames on average, "
        f"{shown['frames_max']} at most; batches of {arguments.batch}, {arguments.units} units"
    )
    for name, found in told["ways"].items():
        found["ratio"] = found["sequences_per_second"] / base
        print(
            f"{name:14} {found['sequences_per_second']:9.1f} sequences/s {found['ratio']:7.1f} times "
            f"{found['memory_mb']:8.0f} MB"
        )
    return told


def spectrum(x: np.ndarray) -> np.ndarray:
    """(n, F) -> log power of the movement in 12 equal bands up to the Nyquist frequency."""
    moving = np.diff(x, axis=0)
    power = np.abs(np.fft.rfft(moving * np.hanning(len(moving))[:, None], n=128, axis=0)) ** 2
    return np.log(np.array([band.mean() for band in np.array_split(power[1:].mean(axis=1), 12)]) + 1e-12)


def probe(phase: PretrainPhase, guard: str) -> float:
    """Share of validation clips whose pace a linear classifier reads from the spectrum alone."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = replace(phase.config.model, pretext="none", pace_guard=guard)
    told = []
    for sequences in (phase.train, phase.val):
        long = [row for row, sequence in enumerate(sequences) if len(sequence.x) >= 8]
        batch = phase._batch(sequences, long, [2], model)
        clips = zip(batch.slowed.numpy(), batch.valid.numpy(), strict=True)
        told.append((np.stack([spectrum(x[valid]) for x, valid in clips]), batch.pace.numpy()))
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    return float(classifier.fit(*told[0]).score(*told[1]))


def measure_pace(arguments: argparse.Namespace) -> dict[str, Any]:
    """One training per guard."""
    train, val = read(arguments)
    told: dict[str, Any] = {"set": arguments.set, "units": arguments.units, "guards": {}}
    print(
        f"{arguments.set}, {arguments.rate:g} Hz: {len(train)} clips to learn from, {len(val)} of others"
        f" to tell; {arguments.units} units, {arguments.epochs} epochs; chance is 0.20"
    )
    for guard in arguments.guards.split(","):
        config = settings(arguments, pace_guard=guard, pretext=arguments.pretext)
        phase = PretrainPhase(train, val, config, torch.device("cpu"))
        told["guards"][guard] = found = {"probe": probe(phase, guard)}
        training = Training(phase, config, Path("."))
        started = time.process_time()
        while training.epoch < config.epochs:
            training.set_learning_rate()
            train_epoch(training, 0, 1)
            training.epoch += 1
        found["seconds"] = time.process_time() - started
        found |= {f"pace_noise_{noise}": phase.pace_accuracy(guard, noise) for noise in NOISE}
        found["pace_other_guard"] = phase.pace_accuracy("none" if guard == "low_pass" else "low_pass")
        found |= phase.validate()
        shown = {name: round(value, 5) for name, value in found.items()}
        print(f"{guard}: " + ", ".join(f"{name} {value:.4g}" for name, value in shown.items()), flush=True)
    return told


def main() -> None:
    """Parses, runs, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("speed", "pace"))
    parser.add_argument("--data", type=Path, required=True, help="folder with nw_ucla/ and utkinect/")
    parser.add_argument("--set", choices=tuple(READERS), default="nw_ucla")
    parser.add_argument("--every", type=int, default=1, help="learn from every n-th clip only")
    parser.add_argument("--rate", type=float, default=10.0, help="frames per second")
    parser.add_argument("--units", type=int, default=128, help="units of all networks; the paper has 1000")
    parser.add_argument("--batch", type=int, default=55)
    parser.add_argument("--steps", type=int, default=3, help="measured steps of each way")
    parser.add_argument("--warm-up", type=int, default=1, help="steps before them")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--guards", default="none,low_pass", help="comma-separated")
    parser.add_argument("--pretext", default="inpaint", help="inpaint, or none for the pace alone")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--way", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help="write the result as JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    if arguments.way:
        print(json.dumps(one_way(arguments)))
        return
    told = measure_speed(arguments) if arguments.what == "speed" else measure_pace(arguments)
    told["machine"] = f"{platform.machine()}, {platform.system()}"
    told["command"] = " ".join(["python", *sys.argv])
    if arguments.out:
        arguments.out.write_text(json.dumps(told, indent=2) + "\n")


if __name__ == "__main__":
    main()
