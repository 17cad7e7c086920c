"""KIMORE's repetitions: the four formats by hand, and the real tables."""

from __future__ import annotations

import os
from pathlib import Path
from statistics import median

import numpy as np
import pyarrow as pa
import pytest

from pipelines.data import import_
from pipelines.datasets.kimore_repetitions import (
    Repetition,
    read_repetitions,
    repetitions_of,
    with_repetitions,
)
from pipelines.datasets.pose_rows import pose_row
from pipelines.errors import DataError
from pipelines.schema import CLIPS, empty_row

DATA = Path(os.environ.get("AQA_TEST_DATA", ".")) / "kimore"
needs_data = pytest.mark.skipif("AQA_TEST_DATA" not in os.environ, reason="AQA_TEST_DATA is not set")


def tables(**frames: int) -> tuple[pa.Table, pa.Table]:
    clips = [empty_row(CLIPS, clip_id=name, uri="u") for name in frames]
    rows = [
        pose_row(
            clip_id=name,
            keypoints=np.zeros((n, 25, 3)),
            confidence=np.ones((n, 25)),
            time_s=np.arange(n) / 10,
        )
        for name, n in frames.items()
    ]
    return pa.Table.from_pylist(clips, schema=CLIPS), pa.Table.from_batches(rows)


def test_each_exercise_has_its_own_format(tmp_path: Path):
    rows = {
        1: "23,223,424,,",
        2: "1,70,139,211",
        3: "0,58,119,180",
        4: "0,49,167,293,1,742,858",
        5: "71,175,215,330,",
    }
    for exercise, row in rows.items():
        (tmp_path / f"Es{exercise}_labels.csv").write_bytes(f"GPP/Stroke/S_ID1,{row}\r\n".encode())
    found = {
        name: [tuple(vars(item).values()) for item in items]
        for name, items in read_repetitions(tmp_path).items()
    }
    assert found == {
        "S_ID1_Es1": [(23, 223, ""), (223, 424, "")],
        "S_ID1_Es2": [(70, 139, "1"), (139, 211, "0")],
        "S_ID1_Es3": [(58, 119, "0"), (119, 180, "1")],
        "S_ID1_Es4": [(49, 167, "0"), (167, 293, "0"), (742, 858, "1")],
        "S_ID1_Es5": [(71, 175, ""), (215, 330, "")],
    }


def test_repetitions_become_procedures_and_come_back():
    clips, poses = tables(a=50, b=50)
    given = {"a": [Repetition(6, 16, "0"), Repetition(16, 26, "1"), Repetition(31, 50, "0")]}
    clips, warnings = with_repetitions(clips, poses, given)
    row = clips.to_pylist()[0]
    assert row["transitions_s"] == [0.5, 1.5, 2.5, 3.0]
    assert row["procedures"] == ["rest", "repetition 0", "repetition 1", "rest", "repetition 0"]
    assert repetitions_of(row, 4.9) == [(0.5, 1.5, "0"), (1.5, 2.5, "1"), (3.0, 4.9, "0")]
    assert warnings == ["1 clips without repetitions: b"]
    assert repetitions_of(clips.to_pylist()[1], 4.9) == []
    assert clips.schema.equals(CLIPS, check_metadata=True)


def test_doubtful_repetitions_are_cut_or_left_out_and_named():
    clips, poses = tables(a=50)
    given = {"a": [Repetition(1, 20), Repetition(11, 30), Repetition(40, 51)], "z": [Repetition(1, 2)]}
    clips, warnings = with_repetitions(clips, poses, given)
    assert repetitions_of(clips.to_pylist()[0], 4.9) == [(0.0, 1.0, ""), (1.0, 2.9, "")]
    assert warnings == [
        "a: two repetitions overlap; the first is cut at frame 11",
        "a: a repetition ends at frame 51 of 50 and is left out",
        "repetitions of 1 recordings that are not here: z",
    ]


def test_wrong_tables_are_named(tmp_path: Path):
    with pytest.raises(DataError, match="the folder holds no Es1_labels.csv"):
        read_repetitions(tmp_path)
    (tmp_path / "Es5_labels.csv").write_text("CG/Expert/E_ID1,1,2,3\nE_ID2,1,2\nCG/Expert/E_ID3,9,5\n")
    with pytest.raises(
        DataError, match=r"(?s)line 1: .*pairs of start and end.*line 2: .*a subject such as.*line 3"
    ):
        read_repetitions(tmp_path)
    head = "sample,direction,start_frame_1based,end_frame_1based_inclusive\n"
    (tmp_path / "long.csv").write_text(head + "a,2,1,5\n")
    with pytest.raises(DataError, match="line 2: expected direction 0, 1 or none, and two frame numbers"):
        read_repetitions(tmp_path / "long.csv")
    (tmp_path / "long.csv").write_text("sample,direction\na,2\n")
    with pytest.raises(DataError, match="the column 'start_frame_1based' is absent"):
        read_repetitions(tmp_path / "long.csv")


@pytest.mark.data
@needs_data
def test_the_real_tables_agree_and_have_the_known_medians():
    folder = DATA / "egcn_repetitions"
    found = read_repetitions(folder)
    assert found == read_repetitions(folder / "repetitions_long.csv")
    assert (len(found), sum(map(len, found.values()))) == (383, 2808)
    counts = [
        median(len(items) for name, items in found.items() if name.endswith(f"Es{k}")) for k in range(1, 6)
    ]
    assert counts == [5, 9, 9, 10, 5]


@pytest.mark.slow
@pytest.mark.data
@needs_data
def test_the_import_keeps_all_but_three_repetitions():
    clips, poses, report = import_("kimore", DATA, repetitions=DATA / "egcn_repetitions")
    assert poses is not None
    ends = [times[-1].as_py() for times in poses["time_s"]]
    found = [repetitions_of(row, end) for row, end in zip(clips.to_pylist(), ends, strict=True)]
    assert sum(map(len, found)) == 2805
    assert all(start < end for items in found for start, end, _ in items)
    notes = [text for text in report["warnings"] if "repetition" in text]
    assert [note.partition(":")[0] for note in notes] == [
        "E_ID5_Es5",
        "E_ID16_Es1",
        "NE_ID4_Es1",
        "NE_ID5_Es1",
    ]
