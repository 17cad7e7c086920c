"""Sizes, rates and forecasts on costs whose answer is known by hand."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from pipelines.pools import Cost, Sizes, best_sizes, bottleneck, choose_probe, forecast, frames_per_s

# 1000 frames: 1 s of decoding and 3 s of network.
COST = Cost(frames=(100,) * 10, decode_s=1.0, network_s=3.0, start_s=5.0, bytes=10_000)


@pytest.mark.parametrize(
    ("sizes", "rate"),
    [
        (Sizes(1, 1, cpus=8, gpus=0), 1000 / 3),  # one network is the slowest
        (Sizes(1, 4, cpus=8, gpus=0), 1000),  # one decoder is
        (Sizes(2, 4, cpus=2, gpus=0), 500),  # 4 s of work on two cores
        (Sizes(2, 1, cpus=2, gpus=1), 1000 / 3),  # the GPU; its work is not on the cores
        (Sizes(8, 8, cpus=2, gpus=8), 2000),  # two cores decode 1000 frames in half a second
    ],
)
def test_the_slowest_part_gives_the_rate(sizes: Sizes, rate: float):
    assert frames_per_s(sizes, COST) == pytest.approx(rate)


def test_on_cores_the_best_sizes_are_the_fewest_that_reach_the_best_rate():
    assert best_sizes(4, 0, COST) == Sizes(1, 3, 4, 0)  # 1 : 3 of the work, all four cores busy
    assert best_sizes(2, 0, COST) == Sizes(1, 2, 2, 0)  # 500 frames/s need more than one network


def test_decoders_have_a_fifth_of_their_time_to_spare_so_that_no_gpu_waits():
    assert best_sizes(16, 1, COST) == Sizes(1, 1, 16, 1)
    assert best_sizes(256, 64, COST) == Sizes(27, 64, 256, 64)  # a third of 64 would do, if they never waited
    dear = Cost((100,) * 10, decode_s=12.0, network_s=1.0, start_s=0.0, bytes=0)
    assert best_sizes(16, 1, dear) == Sizes(15, 1, 16, 1)
    assert best_sizes(24, 8, dear) == Sizes(24, 2, 24, 8)  # the cores feed two GPUs, not eight
    free = Cost((100,) * 10, decode_s=0.0, network_s=1.0, start_s=0.0, bytes=0)
    assert best_sizes(16, 4, free) == Sizes(1, 4, 16, 4)


def test_the_probe_covers_cheap_and_dear_clips():
    clips = pa.table({"clip_id": [str(k) for k in range(1000)]})
    sizes = np.arange(1000)[::-1]
    chosen = [int(name) for name in choose_probe(clips, sizes).column("clip_id").to_pylist()]
    assert len(chosen) == 20
    assert np.mean(chosen) == pytest.approx(499.5, abs=1)
    assert max(chosen) - min(chosen) == 950
    few = pa.table({"clip_id": ["a", "b"]})
    assert sorted(choose_probe(few, np.zeros(2)).column("clip_id").to_pylist()) == ["a", "b"]


def test_the_forecast_scales_the_sample_up():
    expected = forecast(1000, Sizes(1, 2, 2, 0), COST)  # 100,000 frames at 500 per second
    assert expected.seconds == pytest.approx(205)
    assert expected.low == expected.high == expected.seconds  # all clips are as long
    assert expected.core_hours == pytest.approx(400 / 3600)
    assert expected.gpu_hours == 0
    assert expected.disk_bytes == 1_000_000
    on_gpu = forecast(1000, Sizes(1, 1, 2, 1), COST)
    assert on_gpu.gpu_hours == pytest.approx(300 / 3600)


def test_the_interval_grows_with_the_spread_of_lengths():
    uneven = Cost((10,) * 10 + (190,) * 10, decode_s=2.0, network_s=6.0, start_s=0.0, bytes=0)
    expected = forecast(1000, Sizes(1, 2, 2, 0), uneven)
    assert expected.seconds == pytest.approx(200)
    # 1.96 standard errors of 20 clips with standard deviation 90: 39 of 100 frames
    assert expected.low == pytest.approx(121, abs=10)
    assert expected.high == pytest.approx(279, abs=10)


@pytest.mark.parametrize(
    ("sizes", "text"),
    [
        (
            Sizes(1, 2, 2, 0),
            "core-bound: decoding took 25% and the network 75% of the work; 2 more cores would give x2.0",
        ),
        (
            Sizes(1, 1, 4, 1),
            "network-bound: decoders were busy 25% of the time, networks 75%; twice the GPUs would give x2.0",
        ),
    ],
)
def test_one_sentence_says_what_held_the_run_up(sizes: Sizes, text: str):
    assert bottleneck(sizes, COST, seconds=4.0) == text


def test_decoders_too_few():
    dear = Cost((100,), decode_s=8.0, network_s=1.0, start_s=0.0, bytes=0)
    text = bottleneck(Sizes(4, 1, 4, 1), dear, seconds=2.0)
    assert text == (
        "decode-bound: decoders were busy 100% of the time, networks 50%; 2 more cores would give x1.5"
    )
