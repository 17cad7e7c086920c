"""How many workers of which kind, how long it will take, and what holds it up.

All figures follow from two measured costs: seconds of decoding and seconds of the network per frame.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

PROBE_CLIPS = 20
_PREFER_FEWER = 0.97  # more workers than needed cost memory, a start and cache
# Decoders also wait until their blocks are taken, and no GPU may wait for them.
_DECODERS_BUSY = 0.8


@dataclass(frozen=True)
class Sizes:
    """Workers of an extraction.

    Args:
        decode: decode actors (each with a child process).
        network: network actors.
        cpus: cores of the cluster.
        gpus: GPUs the networks share; 0 = they run on the cores.
    """

    decode: int
    network: int
    cpus: int
    gpus: int

    @property
    def cpus_each(self) -> float:
        """Logical cores an actor reserves, so that all of them fit at once."""
        return min(1.0, self.cpus / (self.decode + self.network))

    @property
    def gpus_each(self) -> float:
        """Share of a GPU a network actor reserves."""
        return min(1.0, self.gpus / self.network) if self.gpus else 0.0


@dataclass(frozen=True)
class Cost:
    """Measured work of a sample of clips.

    Args:
        frames: frames of each clip of the sample.
        decode_s: seconds of decoding them, one worker.
        network_s: seconds of the network for them, one worker.
        start_s: seconds until the first result was there.
        bytes: of the rows they gave.
    """

    frames: tuple[int, ...]
    decode_s: float
    network_s: float
    start_s: float
    bytes: int

    @property
    def decode_per_frame(self) -> float:
        return self.decode_s / max(1, sum(self.frames))

    @property
    def network_per_frame(self) -> float:
        return self.network_s / max(1, sum(self.frames))


def frames_per_s(sizes: Sizes, cost: Cost) -> float:
    """Rate in the steady state: the slower pool, or all cores busy.

    On a GPU the network's workers need no core of their own while it computes.
    """
    decode, network = cost.decode_per_frame, cost.network_per_frame
    on_cores = decode if sizes.gpus else decode + network
    limits = [_rate(sizes.decode, decode), _rate(sizes.network, network), _rate(sizes.cpus, on_cores)]
    return min(limits)


def _rate(workers: int, seconds: float) -> float:
    return workers / seconds if seconds > 0 else math.inf


def best_sizes(cpus: int, gpus: int, cost: Cost) -> Sizes:
    """Workers for the best rate: without GPUs the fewest within 3 % of it, else all GPUs that can be fed."""
    if gpus:
        each = max(1e-9, cost.decode_s) / max(1e-9, cost.network_s)  # decoders that one network keeps busy
        decode = min(cpus, max(1, math.ceil(gpus * each / _DECODERS_BUSY)))
        return Sizes(decode, min(gpus, max(1, math.ceil(decode / each))), cpus, gpus)
    choices = [Sizes(d, n, cpus, 0) for d in range(1, cpus + 1) for n in range(1, cpus + 1)]
    best = max(frames_per_s(sizes, cost) for sizes in choices)
    good = [sizes for sizes in choices if frames_per_s(sizes, cost) >= _PREFER_FEWER * best]
    return min(good, key=lambda sizes: (sizes.decode + sizes.network, -frames_per_s(sizes, cost)))


def usual_sizes(cpus: int, gpus: int) -> Sizes:
    """Without a measurement: a network per GPU or core, half as many decoders as cores."""
    return Sizes(max(1, cpus // 2), gpus or cpus, cpus, gpus)


def choose_probe(clips: pa.Table, sizes_of: np.ndarray) -> pa.Table:
    """About 20 clips, evenly spaced from the cheapest to the dearest.

    Args:
        clips: the plan.
        sizes_of: (N,) what is known of each clip's cost, e.g. seconds of its range or bytes of its file.
    """
    count = min(PROBE_CLIPS, clips.num_rows)
    places = (np.arange(count) + 0.5) * clips.num_rows / count
    return clips.take(np.argsort(sizes_of, kind="stable")[places.astype(int)])


@dataclass(frozen=True)
class Forecast:
    """What the whole plan will take, with a 95 % interval from the spread of the sample."""

    clips: int
    seconds: float
    low: float
    high: float
    core_hours: float
    gpu_hours: float
    disk_bytes: int
    sizes: Sizes

    def as_dict(self) -> dict:
        return {
            "hours": round(self.seconds / 3600, 4),
            "hours_95": [round(self.low / 3600, 4), round(self.high / 3600, 4)],
            "core_hours": round(self.core_hours, 4),
            "gpu_hours": round(self.gpu_hours, 4),
            "disk_mb": round(self.disk_bytes / 1e6, 2),
            "decode_workers": self.sizes.decode,
            "network_workers": self.sizes.network,
        }


def forecast(clips: int, sizes: Sizes, cost: Cost) -> Forecast:
    """Scale the sample up to all clips."""
    frames = np.asarray(cost.frames, float)
    drawn = np.random.default_rng(0).choice(frames, (1000, len(frames))).mean(axis=1)
    low, high = np.percentile(drawn, [2.5, 97.5])
    rate = frames_per_s(sizes, cost)
    total = clips * frames.mean()
    seconds = total / rate
    on_cores = cost.decode_per_frame + (0 if sizes.gpus else cost.network_per_frame)
    return Forecast(
        clips=clips,
        seconds=cost.start_s + seconds,
        low=cost.start_s + clips * low / rate,
        high=cost.start_s + clips * high / rate,
        core_hours=total * on_cores / 3600,
        gpu_hours=sizes.gpus * seconds / 3600,
        disk_bytes=int(cost.bytes * clips / max(1, len(frames))),
        sizes=sizes,
    )


def bottleneck(sizes: Sizes, cost: Cost, seconds: float) -> str:
    """One sentence: what held the run up, and what more of it would give.

    Args:
        sizes: the workers there were.
        cost: all work of the run.
        seconds: of the run once its workers ran.
    """
    decode = cost.decode_s / (sizes.decode * seconds)
    network = cost.network_s / (sizes.network * seconds)
    now = frames_per_s(sizes, cost)
    more = Sizes(sizes.decode, sizes.network, sizes.cpus + 2, sizes.gpus)
    if not sizes.gpus:
        better = best_sizes(sizes.cpus + 2, 0, cost)
        share = cost.decode_s / max(1e-9, cost.decode_s + cost.network_s)
        return (
            f"core-bound: decoding took {share:.0%} and the network {1 - share:.0%} of the work; "
            f"2 more cores would give x{frames_per_s(better, cost) / now:.1f}"
        )
    if decode >= network:
        more = Sizes(sizes.decode + 2, sizes.network, sizes.cpus + 2, sizes.gpus)
        what, gain = "decode-bound", f"2 more cores would give x{frames_per_s(more, cost) / now:.1f}"
    else:
        more = Sizes(sizes.decode, sizes.network * 2, sizes.cpus, sizes.gpus * 2)
        what, gain = "network-bound", f"twice the GPUs would give x{frames_per_s(more, cost) / now:.1f}"
    return f"{what}: decoders were busy {decode:.0%} of the time, networks {network:.0%}; {gain}"
