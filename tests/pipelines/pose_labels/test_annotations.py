from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pipelines.errors import ConfigError, DataError
from pipelines.pose_labels.annotations import read_groups, read_labels, split_labels, write_labels


def entry(**changes: object) -> dict:
    good = {
        "image": "a0.png",
        "joints": [[float(j), 2.0 * j] for j in range(16)],
        "joints_vis": [1] * 15 + [0],
        "center": [8.0, 16.0],
        "scale": 0.5,
    }
    return good | changes


def read(folder: Path, text: str | bytes, images: Path):
    path = folder / "labels.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_labels(path, images)


def test_reads_what_the_file_says(labelled, tmp_path):
    (label,) = read(tmp_path, json.dumps([entry()]), labelled / "images")
    assert label.image == labelled / "images" / "a0.png"
    assert np.array_equal(label.joints, np.stack([np.arange(16), 2 * np.arange(16)], axis=1))
    assert label.visible.tolist() == [True] * 15 + [False]
    assert (label.center.tolist(), label.side, label.group) == ([8.0, 16.0], 100.0, "")


def test_written_labels_are_read_again(labelled, tmp_path):
    labels = read_labels(labelled / "labels.json", labelled / "images", labelled / "groups.csv")
    assert [label.group for label in labels] == ["a"] * 4 + ["b"] * 4
    write_labels(tmp_path / "again.json", labels)
    again = read_labels(tmp_path / "again.json", labelled / "images", labelled / "groups.csv")
    for first, second in zip(labels, again, strict=True):
        assert np.allclose(first.joints, second.joints, atol=1e-4)
        assert (first.image, first.group) == (second.image, second.group)
        assert first.side == pytest.approx(second.side)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('[{"image": NaN}]', "NaN is no JSON number"),
        ('[{"scale": -Infinity}]', "-Infinity is no JSON number"),
        ('[{"scale": 1, "scale": 2}]', "'scale' stands twice"),
        ("[" * 100_000, "nested too deeply"),
        ("[" + "9" * 6000 + "]", "not valid JSON"),
        (b'["\xff\xfe"]', "not valid JSON"),
        ("[1] [2]", "not valid JSON"),
        ("{}", "holds no list"),
        ("[]", "holds no list"),
        ("[3]", "entry 0: is no object"),
        ("[" + json.dumps({str(k): 1 for k in range(100)}) + "]", "100 keys or more"),
    ],
)
def test_hostile_json_is_refused(labelled, tmp_path, text, told):
    with pytest.raises(DataError, match=told):
        read(tmp_path, text, labelled / "images")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"joints": [[1, 2]] * 15}, "joints is not 16 x 2 numbers"),
        ({"joints": [[1, 2, 3]] * 16}, "joints is not 16 x 2 numbers"),
        ({"joints": [1, 2] * 16}, "joints is not 16 x 2 numbers"),
        ({"joints": [["1", 2]] * 16}, "joints is not 16 x 2 numbers"),
        ({"joints": [[True, 2]] * 16}, "joints is not 16 x 2 numbers"),
        ({"joints": [[1e6, 2]] * 16}, "no pixel position"),
        ({"joints": [[10**400, 2]] * 16}, "no pixel position"),
        ({"joints_vis": [2] * 16}, "other than 0 and 1"),
        ({"joints_vis": "1111111111111111"}, "joints_vis is not 16 numbers"),
        ({"center": [1]}, "center is not 2 numbers"),
        ({"scale": 0}, "no size of a box"),
        ({"scale": [1]}, "scale is not a number"),
        ({"image": "../labels.json"}, "leads out of"),
        ({"image": "/etc/passwd"}, "leads out of"),
        ({"image": "a\0b"}, "no file name"),
        ({"image": 5}, "no file name"),
        ({"image": "absent.png"}, "is not in"),
    ],
)
def test_wrong_entries_are_named(labelled, tmp_path, changes, told):
    with pytest.raises(DataError, match=f"entry 1.*{told}"):
        read(tmp_path, json.dumps([entry(), entry(**changes)]), labelled / "images")


def test_a_number_beyond_floats_is_refused(labelled, tmp_path):
    text = json.dumps([entry()]).replace('"scale": 0.5', '"scale": 1e999')
    with pytest.raises(DataError, match="entry 0: scale holds a number that is no pixel position"):
        read(tmp_path, text, labelled / "images")


def test_a_missing_key_is_named(labelled, tmp_path):
    broken = entry()
    del broken["center"]
    with pytest.raises(DataError, match="entry 0: has no center"):
        read(tmp_path, json.dumps([broken]), labelled / "images")


def test_a_missing_file_is_named(labelled, tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        read_labels(tmp_path / "absent.json", labelled / "images")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("image,group\n", "has no rows"),
        ("image,group\na0.png,\n", "line 2.*lacks image or group"),
        ("image,group\na0.png,x\na0.png,y\n", "line 3.*second group"),
        ('image,group\n"a0', "not readable as CSV"),
        ("name,dive\na0.png,x\n", "lacks image or group"),
    ],
)
def test_wrong_groups_are_named(tmp_path, text, told):
    path = tmp_path / "groups.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=told):
        read_groups(path)


def test_every_image_needs_a_group_when_groups_are_given(labelled, tmp_path):
    path = tmp_path / "groups.csv"
    path.write_text("image,group\na0.png,x\n")
    with pytest.raises(DataError, match=r"no row for the image a1\.png"):
        read_labels(labelled / "labels.json", labelled / "images", path)


def test_whole_groups_are_held_out(labelled):
    labels = read_labels(labelled / "labels.json", labelled / "images", labelled / "groups.csv")
    learned, kept = split_labels(labels, ["b"])
    assert {label.group for label in learned} == {"a"}
    assert {label.group for label in kept} == {"b"}
    with pytest.raises(ConfigError, match=r"no group 'c'.*a, b"):
        split_labels(labels, ["c"])
    with pytest.raises(ConfigError, match="all groups are held out"):
        split_labels(labels, ["a", "b"])
    with pytest.raises(ConfigError, match="--groups"):
        split_labels(read_labels(labelled / "labels.json", labelled / "images"), ["a"])


@pytest.mark.data
@pytest.mark.parametrize("number", range(40, 45))
def test_the_collection_of_hostile_json_is_refused(test_data, labelled, number):
    (path,) = (test_data / "malicious").glob(f"{number}_*.json")
    with pytest.raises(DataError):
        read_labels(path, labelled / "images")


@pytest.mark.data
def test_the_public_sample_is_read(test_data):
    folder = test_data / "finediving_pose_sample"
    labels = read_labels(folder / "annotations_examples.json", folder / "images")
    joints = np.stack([label.joints for label in labels])
    assert joints.shape == (101, 16, 2)
    assert (joints[..., 0].min().round(1), joints[..., 0].max().round(1)) == (146.8, 281.7)
    assert all(label.visible.all() for label in labels)
