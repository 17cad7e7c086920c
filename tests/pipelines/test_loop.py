from __future__ import annotations

import math

import pytest

from pipelines.config import OptimizerConfig
from pipelines.loop import learning_rate, read_metrics


def rates(epochs: int, **settings) -> list[float]:
    config = OptimizerConfig(learning_rate=2.0, **settings)
    return [learning_rate(config, epoch, epochs) for epoch in range(epochs)]


def test_constant():
    assert rates(5, schedule="constant") == [2.0] * 5


def test_steps_fall_at_every_twentieth():
    found = rates(40, schedule="steps", decay=0.9)
    assert found[0] == found[1] == 2.0
    assert found[2] == found[3] == pytest.approx(1.8)
    assert found[39] == pytest.approx(2 * 0.9**19)
    assert rates(3, schedule="steps", decay=0.5) == pytest.approx([2.0, 1.0, 0.5])


def test_legacy_cosine_has_the_period_40_and_is_zero_at_20_and_60():
    found = rates(201, schedule="legacy_cosine")
    assert found[0] == found[40] == found[80] == 2.0
    for epoch in (20, 60, 100, 140, 180):
        assert found[epoch] == pytest.approx(0.0, abs=1e-15)
    # Half way down, half way up again without a restart, half way down.
    assert [found[10], found[30], found[50]] == pytest.approx([1.0, 1.0, 1.0])
    assert found[5] == pytest.approx(1 + math.cos(math.pi / 4))
    assert min(found) >= 0.0


def test_warmup_cosine_rises_linearly_and_falls_to_a_hundredth():
    found = rates(20, schedule="warmup_cosine", warmup_share=0.2)
    assert found[:5] == pytest.approx([0.4, 0.8, 1.2, 1.6, 2.0])
    assert found[12] == pytest.approx(2 * (0.01 + 0.99 / 2))  # half way of the 16 that are left
    assert found[4:] == sorted(found[4:], reverse=True)
    config = OptimizerConfig(learning_rate=2.0, schedule="warmup_cosine", warmup_share=0.2)
    assert learning_rate(config, 20, 20) == pytest.approx(0.02)  # where it would arrive


def test_warmup_cosine_without_a_rise_and_of_a_single_epoch():
    assert rates(4, schedule="warmup_cosine", warmup_share=0.0)[0] == 2.0
    assert rates(1, schedule="warmup_cosine") == [2.0]
    assert rates(2, schedule="warmup_cosine", warmup_share=0.9) == pytest.approx([2 / 3, 4 / 3])


def test_a_line_cut_off_by_a_kill_is_left_out(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert read_metrics(path) == []
    path.write_text('{"epoch": 0}\n{"epoch": 1}\n{"epo')
    assert read_metrics(path) == [{"epoch": 0}, {"epoch": 1}]
