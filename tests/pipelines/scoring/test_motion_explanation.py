"""Repetitions, pace and ranges of bodies whose movement is known."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from filmed_bodies import pose_of
from torch import nn

from aqa_models.skeletons import skeleton
from aqa_models.two_stage.config import NonExpertConfig, SequenceConfig
from aqa_models.two_stage.nonexpert import NonExpert
from pipelines.motion import Motion
from pipelines.scoring.controls import Controls
from pipelines.scoring.inpainting import Pretrained, find_pretrained, limb_errors
from pipelines.scoring.motion_explanation import explain, take_apart
from pipelines.scoring.repetitions import find_repetitions

WORDS = "training people of the group control"


def lifting(
    name: str, period_s: float, left: float = 1.0, right: float = 1.0, seconds: float = 8.0
) -> Motion:
    """Both arms lifted forwards by 2 radians (times left, right) and lowered again, seen from the side."""
    time_s = np.arange(0, seconds, 1 / 25)
    up = 1.0 - np.cos(2 * np.pi * time_s / period_s)
    pose = pose_of({"left_shoulder_flex": left * up, "right_shoulder_flex": right * up}, time_s)
    return Motion(name, name, name, "Es1", "", "", None, "mpii16", pose["keypoints"], time_s)


CONTROLS = Controls(tuple(lifting(f"c{k}", 1.8 + 0.1 * k, 0.95 + 0.02 * k) for k in range(6)), WORDS)


@pytest.mark.parametrize("period_s", [1.6, 2.5])
def test_repetitions_go_from_rest_to_rest(period_s):
    time_s = np.arange(0, 8, 1 / 30)
    curves = {"knee": 50 - 40 * np.cos(2 * np.pi * time_s / period_s), "hip": np.full(240, 90.0)}
    spans = find_repetitions(curves, time_s)
    assert len(spans) == int(8 / period_s)
    assert [a for a, _ in spans] == pytest.approx([k * period_s for k in range(len(spans))], abs=0.12)
    assert np.mean([b - a for a, b in spans]) == pytest.approx(period_s, abs=0.05)


def test_what_never_repeats_has_no_repetitions():
    time_s = np.arange(0, 6, 1 / 25)
    assert find_repetitions({"knee": 30 * time_s}, time_s) == []
    assert find_repetitions({"knee": np.full(150, 90.0)}, time_s) == []
    assert find_repetitions({"knee": np.sin(time_s[:20])}, time_s[:20]) == []
    assert find_repetitions({"knee": np.full(150, np.nan)}, time_s) == []


def test_a_slow_patient_with_a_weak_arm_is_described_as_such():
    found = explain(lifting("patient", 3.0, left=0.5, seconds=9.0), CONTROLS, None, "no network")
    pace = found.facts["pace"]
    assert (pace["repetitions"], pace["percentile"]) == (3, 100)
    assert pace["seconds"] == pytest.approx(3.0, abs=0.1)
    assert pace["control_median_s"] == pytest.approx(2.05, abs=0.1)
    assert found.sentences[0].startswith(
        "pace: slower; a repetition takes 3.0 s (median of 3), in the control"
    )
    assert found.facts["limb"] == "left arm"
    assert "left shoulder" in found.sentences[1]
    assert "degrees closer to the trunk than in the control group" in found.sentences[1]
    ranges = found.facts["ranges"]
    assert ranges["left shoulder"]["degrees"] == pytest.approx(57, abs=6)  # half of 2 radians
    assert (ranges["left shoulder"]["percentile"], ranges["right shoulder"]["percentile"] > 10) == (0, True)
    assert found.differences[0].part in {"repetition 1", "repetition 2", "repetition 3"}
    assert found.missing == ("no network",)
    assert found.reference == f"control group: 6 clips, {WORDS}"
    curve = next(one for one in found.curves if one.joint == "left shoulder")
    inside = np.isfinite(curve.reference)
    assert inside.mean() > 0.8
    assert (curve.low[inside] <= curve.high[inside]).all()


def test_one_more_control_is_nothing_special():
    found = explain(lifting("another", 2.0), CONTROLS, None, "")
    assert found.sentences[0].startswith("pace: as usual")
    assert found.differences[0].strength < 1
    assert explain(lifting("quick", 1.2), CONTROLS, None, "").sentences[0].startswith("pace: faster")


def test_without_a_control_group_it_says_why():
    still = lifting("still", 2.0, 0, 0)
    found = explain(still, Controls((), "the store of the training (gone) is not there"), None)
    assert found.sentences == ()
    assert found.missing == (
        "nothing repeats in this clip: it is compared as one whole",
        "not held against a control group: the store of the training (gone) is not there",
    )
    assert take_apart(still).spans == ((0.0, pytest.approx(7.96)),)


def pretrained(folder: Path) -> Pretrained:
    """A network that answers 0 for everything: its error is the size of what it should have drawn."""
    config = NonExpertConfig(encoder_units=4, decoder_units=4, discriminator_units=2, pace_units=2)
    model = NonExpert(30, config)
    nn.init.zeros_(model.decoder.out.weight)
    nn.init.zeros_(model.decoder.out.bias)
    sequence = SequenceConfig(skeleton="c15", rate_hz=10.0, max_frames=200)
    description = {"sequence": vars(sequence), "model": vars(config), "num_coordinates": 2, "subjects": []}
    return Pretrained(folder, model.state_dict(), description)


def test_the_error_of_a_limb_is_in_trunk_lengths(tmp_path):
    standing = lifting("still", 2.0, 0, 0)
    errors = limb_errors([standing], pretrained(tmp_path))[0]
    names = skeleton("mpii16").joints
    body = standing.keypoints[0]
    trunk = np.linalg.norm(body[names.index("thorax")] - body[names.index("pelvis")])
    arm = [
        body[names.index(f"left_{joint}")] - body[names.index("pelvis")]
        for joint in ("shoulder", "elbow", "wrist")
    ]
    expected = np.sqrt(np.mean(np.square(arm))) / trunk
    assert errors[0] == pytest.approx(expected, rel=0.02)
    assert errors[:2] == pytest.approx(errors[0], rel=0.01)
    found = explain(lifting("patient", 2.0, left=1.6), CONTROLS, pretrained(tmp_path))
    filled = found.facts["inpainting"]
    assert (filled["left arm"]["percentile"], filled["left arm"]["times_usual"] > 1) == (100, True)
    assert found.sentences[-1].startswith("the network that learned healthy motion fills in the left arm")
    assert found.sentences[-1].endswith("more than 100 % of its clips")
    usual = explain(lifting("another", 2.0), CONTROLS, pretrained(tmp_path)).sentences[-1]
    assert usual.startswith("no limb moves unlike what the network learned")


def test_the_pretraining_is_known_by_its_weights(tmp_path):
    from pipelines.checkpoint import save_bundle

    run = tmp_path / "expert"
    (run / "model").mkdir(parents=True)
    assert "a bundle does not hold the pretraining" in find_pretrained(run / "model")[1]

    def told(identity: dict) -> None:
        (run / "summary.json").write_text(json.dumps({"identity": identity}))

    told({})
    assert "the expert was not pretrained" in find_pretrained(run)[1]
    network = pretrained(tmp_path)
    save_bundle(tmp_path / "base" / "model", {n: torch.as_tensor(t) for n, t in network.tensors.items()},
                {"kind": "nonexpert", **network.description})  # fmt: skip
    described = json.loads((tmp_path / "base" / "model" / "config.json").read_text())
    told({"pretrained.sha256": "another"})
    assert "is not beside it" in find_pretrained(run)[1]
    told({"pretrained.sha256": described["sha256"]})
    found, reason = find_pretrained(run / "model")
    assert found is not None
    assert (found.folder.name, reason) == ("base", "")
    described["model"]["pretext"] = "order"
    (tmp_path / "base" / "model" / "config.json").write_text(json.dumps(described))
    assert "learned no filling in of joint positions" in find_pretrained(run)[1]
