"""Splash masks of dives, as the published programs write them."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from pipelines.data import import_
from pipelines.datasets.splashes import read_shares
from pipelines.errors import DataError, SecurityError

sys.path.insert(0, str(Path(__file__).parent))

from dive_files import dive, write_fine_diving
from dive_files import put as put_pickle

HALF, NONE = np.array([[True, False], [True, False]]), None


def write(folder: Path, name: str, **values: object) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    put_pickle(path, values)
    return path


def test_a_splash_is_its_share_of_the_picture_over_the_seconds(tmp_path):
    """Half the picture in 4 of 60 frames of 25 a second: a trapezium of 0.5 x 0.16 s; NONE counts as 0."""
    folder = write_fine_diving(tmp_path / "f", {("01", 1): dive(), ("01", 2): dive(), ("Cup_r1", 0): dive()})
    masks = [NONE] * 50 + [HALF] * 4 + [NONE] * 6
    write(tmp_path, "s/01/1.pkl", splash=[None] * 60, splash_pred_masks=masks)
    write(tmp_path, "s/01/2.pkl", splash=[None] * 60, splash_pred_masks=[NONE] * 60)
    clips, _, report = import_("fine_diving", folder, splashes=tmp_path / "s")
    found = dict(zip(clips["clip_id"].to_pylist(), clips["splash"].to_pylist(), strict=True))
    assert found == {"01_1": pytest.approx(0.5 * 0.16), "01_2": None, "Cup_r1_0": None}
    assert [text for text in report["warnings"] if str(tmp_path / "s") in text] == [
        f"{tmp_path / 's'} has no file of Cup_r1_0",
        f"{tmp_path / 's'} has no mask in any frame of 01_2",
    ]


def test_without_the_option_no_splash_is_known(tmp_path):
    clips, _, _ = import_("fine_diving", write_fine_diving(tmp_path / "f"))
    assert clips["splash"].null_count == clips.num_rows


def test_shares_serve_where_there_are_no_masks(tmp_path):
    file = write(tmp_path, "1.pkl", splash=[None, 0.25, 1], splash_pred_masks=None)
    assert read_shares(file) == [None, 0.25, 1.0]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"other": [1.0]}, "holds neither a list splash_pred_masks nor a list splash"),
        ({"splash": []}, "holds neither a list splash_pred_masks nor a list splash"),
        ({"splash": [None, 1.5]}, "frame 1: found 1.5, expected a mask .* or None; run the detection"),
        ({"splash": [float("nan")]}, "frame 0: found nan, expected a mask"),
        (
            {"splash_pred_masks": [np.zeros(3, bool)]},
            r"found 'an array bool \(3,\)', expected a mask",
        ),
    ],
)
def test_other_contents_are_named(tmp_path, values, expected):
    with pytest.raises(DataError, match=expected):
        read_shares(write(tmp_path, "1.pkl", **values))


def test_a_wrong_folder_is_named(tmp_path):
    folder = write_fine_diving(tmp_path / "f")
    with pytest.raises(DataError, match="there is no such folder. Give the folder that holds COMPETITION"):
        import_("fine_diving", folder, splashes=tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="has no splash file of any of 3 dives. Give the folder"):
        import_("fine_diving", folder, splashes=tmp_path / "empty")


def test_a_program_in_a_mask_file_does_not_run(tmp_path):
    hostile = tmp_path / "s" / "01" / "1.pkl"
    hostile.parent.mkdir(parents=True)
    hostile.write_bytes(b"cos\nsystem\n(S'touch " + str(tmp_path / "ran").encode() + b"'\ntR.")
    with pytest.raises(SecurityError):
        import_("fine_diving", write_fine_diving(tmp_path / "f"), splashes=tmp_path / "s")
    assert not (tmp_path / "ran").exists()
