from __future__ import annotations

from dataclasses import replace

import pytest

from aqa_models.hp_mcore.config import PRESETS, HpMcoreConfig


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_procedures": 1}, "num_procedures must be 2 to 6, got 1"),
        ({"num_procedures": 7}, "num_procedures must be 2 to 6, got 7"),
        ({"steps_per_procedure": 1}, "steps_per_procedure must be at least 2, got 1"),
        ({"score_scale": 0.0}, "score_scale must be above 0 points, got 0.0"),
        ({"use_dynamic": False, "use_static": False, "use_pose": False}, "nothing is left to score from"),
        ({"num_procedures": 5}, "halves knows 3 procedures, not 5; use decoding = ordered"),
        ({"use_dynamic": False, "segmentation_input": "dynamic"}, "segmentation_input = dynamic needs use_"),
    ],
)
def test_what_makes_no_sense_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        HpMcoreConfig(**options)


def test_without_segmentation_its_switches_contradict_nothing():
    assert HpMcoreConfig(transitions="fixed", num_procedures=5).decoding == "halves"
    assert not HpMcoreConfig(transitions="fixed", use_dynamic=False, segmentation_input="dynamic").use_dynamic


def test_static_features_are_read_where_they_are_used():
    assert PRESETS["legacy"].reads_static
    assert replace(PRESETS["legacy"], use_static=False).reads_static  # by the segmentation
    assert not replace(PRESETS["legacy"], use_static=False, transitions="fixed").reads_static
    assert not replace(PRESETS["best"], use_static=False).reads_static


def test_the_defaults_are_the_released_code():
    assert PRESETS["legacy"] == HpMcoreConfig()
