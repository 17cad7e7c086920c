"""A user's manifest."""

from __future__ import annotations

import contextlib
import csv
import json
import math
import unicodedata
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines.datasets.manifest import read_manifest, read_manifest_lines
from pipelines.errors import AqaError, DataError
from pipelines.schema import CLIPS

FULL = {
    "clip_id": "d1", "uri": "v/a.mp4", "start_s": 1.5, "end_s": 4.0, "dataset": "mine", "action_type": "407c",
    "score": 86.4, "difficulty": 3.4, "judge_scores": [8.5, 9.0], "subject_id": "s1", "group": "adult",
    "transitions_s": [2.0, 3.25], "procedures": ["Forward", "1.5 Soms.Pike", "Entry"], "splash": 0.25,
    "split": "train", "box_x1_px": 10.0, "box_y1_px": 20.0, "box_x2_px": 110.0,
    "box_y2_px": 220.0,
}  # fmt: skip
BOX = "uri,box_x1_px,box_y1_px,box_x2_px,box_y2_px"
REUSED = settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def write(tmp_path: Path, text: str | bytes, name: str = "clips.csv") -> Path:
    path = tmp_path / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def write_rows(path: Path, rows: list[dict]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        for row in rows:
            cells = {
                key: json.dumps(value) if isinstance(value, list) else value for key, value in row.items()
            }
            writer.writerow(cells)
    return path


def test_only_uri_is_required(tmp_path: Path):
    table = read_manifest(write(tmp_path, "uri\nsub/a.mp4\n/abs/b.mov\ns3://bucket/c.mkv\n../d.mp4\n"))
    assert table.schema.equals(CLIPS, check_metadata=True)
    assert table["clip_id"].to_pylist() == ["a", "b", "c", "d"]
    expected = [
        str(tmp_path / "sub/a.mp4"),
        "/abs/b.mov",
        "s3://bucket/c.mkv",
        str(tmp_path.parent / "d.mp4"),
    ]
    assert table["uri"].to_pylist() == expected
    assert all(table[name].null_count == 4 for name in CLIPS.names if name not in ("clip_id", "uri"))


def test_a_file_may_have_any_name(tmp_path: Path):
    path = tmp_path / "clips.csv"
    path.write_text('uri\n"new\nline.mp4"\n-dash.mp4\nünï 🤸.mp4\n', encoding="utf-8")
    rows = read_manifest(path).to_pylist()
    assert [row["uri"] for row in rows] == [
        str(tmp_path / name) for name in ("new\nline.mp4", "-dash.mp4", "ünï 🤸.mp4")
    ]
    assert [row["clip_id"] for row in rows] == ["new_line", "-dash", "ünï 🤸"]


def test_every_column_is_read_from_csv_and_parquet_alike(tmp_path: Path):
    from_csv = read_manifest(write_rows(tmp_path / "a.csv", [FULL]))
    pq.write_table(pa.Table.from_pylist([FULL]), tmp_path / "a.parquet")
    from_parquet = read_manifest(tmp_path / "a.parquet")
    assert from_csv.to_pylist() == [{**FULL, "uri": str(tmp_path / "v/a.mp4")}]
    assert from_csv.equals(from_parquet)


def test_the_content_decides_where_the_suffix_is_unknown(tmp_path: Path):
    pq.write_table(pa.table({"uri": ["a.mp4"]}), tmp_path / "table.dat")
    assert read_manifest(tmp_path / "table.dat")["clip_id"].to_pylist() == ["a"]
    assert read_manifest(write(tmp_path, "uri\na.mp4\n", "list.txt"))["clip_id"].to_pylist() == ["a"]


def test_repeated_stems_get_a_stable_hash_of_uri_and_range(tmp_path: Path):
    text = "uri,start_s,end_s\nx/a.mp4,,\ny/a.mp4,,\nx/a.mp4,1,2\nb.mp4,,\n"
    ids = read_manifest(write(tmp_path, text))["clip_id"].to_pylist()
    assert ids[3] == "b"
    assert len(set(ids)) == 4
    assert all(name.startswith("a_") and len(name) == 10 for name in ids[:3])
    (tmp_path / "moved").mkdir()
    moved = write(tmp_path / "moved", "uri,start_s,end_s\nx/a.mp4,1,2\nx/a.mp4,,\n")
    assert read_manifest(moved)["clip_id"].to_pylist() == [ids[2], ids[0]]


@pytest.mark.parametrize("cell", ["[7.5, 8, 8.5]", "7.5 8 8.5", "7.5;8;8.5", "7.5; 8; 8.5;"])
def test_lists_of_numbers(tmp_path: Path, cell: str):
    table = read_manifest(write(tmp_path, f'uri,judge_scores\na.mp4,"{cell}"\n'))
    assert table["judge_scores"].to_pylist() == [[7.5, 8.0, 8.5]]


@pytest.mark.parametrize("cell", ["Forward;1.5 Soms.Pike ; Entry", '["Forward", "1.5 Soms.Pike", "Entry"]'])
def test_lists_of_names(tmp_path: Path, cell: str):
    quoted = cell.replace('"', '""')
    table = read_manifest(write(tmp_path, f'uri,procedures\na.mp4,"{quoted}"\n'))
    assert table["procedures"].to_pylist() == [["Forward", "1.5 Soms.Pike", "Entry"]]


def test_the_same_name_in_two_unicode_forms_is_one_name(tmp_path: Path):
    text = "uri,clip_id\na.mp4,Jos\u00e9\nb.mp4,Jose\u0301\n"
    with pytest.raises(DataError, match=r"line 3, column clip_id: .*used once, but line 2 has it too"):
        read_manifest(write(tmp_path, text))


@pytest.mark.parametrize(
    ("header", "row", "message"),
    [
        ("uri,score", "a.mp4,abc", "line 2, column score: found 'abc', expected a number such as 85.5; cor"),
        ("uri,score", 'a.mp4,"12,5"', "column score: found '12,5', expected a decimal point; write 12.5"),
        ("uri,score", "a.mp4,nan", "column score: found 'nan', expected a number such as 85.5"),
        ("uri,score", "a.mp4,inf", "column score: found 'inf', expected a number"),
        ("uri,score", "a.mp4,1e999", "column score: found '1e999', expected a finite number"),
        ("uri,score", "a.mp4,0x10", "column score: found '0x10', expected a number"),
        ("uri,score", "a.mp4,1_000", "column score: found '1_000', expected a number"),
        ("uri,score", "a.mp4," + "9" * 400, "column score: found '9999.*[.]{3}, expected a number"),
        ("uri,score", ",1", "line 2, column uri: found '', expected a value in every row"),
        ("uri,start_s,end_s", "a.mp4,3,2", r"column end_s: found 2.0, expected end_s above start_s \(3\)"),
        ("uri,start_s,end_s", "a.mp4,3,3", r"column end_s: found 3.0, expected end_s above start_s"),
        ("uri,end_s", "a.mp4,0", r"column end_s: found 0.0, expected end_s above start_s \(0\)"),
        ("uri,start_s", "a.mp4,-1", "column start_s: found -1.0, expected a time of 0 or more"),
        ("uri,split", "a.mp4,dev", "column split: found 'dev', expected train, val or test"),
        ("uri,split", "a.mp4,Train", "column split: found 'Train', expected train, val or test"),
        ("uri,box_x1_px,box_y1_px", "a.mp4,1,2", "column box_x2_px: expected all four edges of the box"),
        (BOX, "a.mp4,9,2,5,6", "expected 0 <= x1 < x2 and 0 <= y1 < y2 in pix"),
        (BOX, "a.mp4,-1,2,5,6", "expected 0 <= x1 < x2"),
        ("uri,transitions_s", "a.mp4,1 3 2", r"found \[1.0, 3.0, 2.0\], expected times that increase"),
        ("uri,transitions_s", "a.mp4,1 1", "expected times that increase; sort or correct the times"),
        ("uri,start_s,transitions_s", "a.mp4,5,1 6", r"times within the clip \(5 to inf s\); count from"),
        ("uri,end_s,transitions_s", "a.mp4,5,1 6", r"expected times within the clip \(0 to 5 s\)"),
        ("uri,procedures", "a.mp4,Forward;;Entry", "found 'Forward;;Entry', expected names such as Forward"),
        ("uri,procedures", 'a.mp4,"[1, 2]"', "names such as Forward; 1.5 Soms.Pike; Entry; separate"),
        ("uri,procedures", 'a.mp4,"[""a"""', "expected names such as Forward"),
        (
            "uri,transitions_s,procedures",
            "a.mp4,1 2,Forward;Entry",
            r"found \['Forward', 'Entry'\], expected 3 names for 2 transitions; name every step",
        ),
        ("uri,splash", "a.mp4,-0.5", "column splash: found -0.5, expected a splash of 0 or more; correct"),
        ("uri,judge_scores", 'a.mp4,"7,8"', "column judge_scores: found '7,8', expected a list such as"),
        ("uri,judge_scores", 'a.mp4,"[7,[8]]"', "column judge_scores: found .*expected a number such as"),
        ("uri,judge_scores", 'a.mp4,"[7,,8]"', "column judge_scores: found '.7,,8.', expected a number"),
        ("uri,clip_id", "a.mp4,../x", "column clip_id: found '../x', expected a name, not a path; write _"),
        ("uri", "/", "column uri: found '/', expected the name of a file"),
        ("uri", "a/..", "column uri: found 'a/..', expected the name of a file"),
    ],
)  # fmt: skip
def test_a_bad_cell_is_named(tmp_path: Path, header: str, row: str, message: str):
    with pytest.raises(DataError, match=message) as caught:
        read_manifest(write(tmp_path, f"{header}\n{row}\n"))
    assert "clips.csv: 1 problem\n" in str(caught.value)


def test_all_problems_come_in_one_error_with_the_lines_of_the_file(tmp_path: Path):
    text = "# note\nuri,score,split,subject_id\na.mp4,x,train,s1\n\nb.mp4,1,test,s1\nb.mp4,1,,\nc.mp4,1\n"
    with pytest.raises(DataError) as caught:
        read_manifest(write(tmp_path, text))
    message = str(caught.value)
    assert "clips.csv: 4 problems\n" in message
    assert "line 6, column clip_id: found 'b_" in message
    assert "line 3, column score: found 'x'" in message
    assert "line 7: expected 4 fields as in the header, not 2" in message
    assert "line 5, column split: found 'test', expected every subject in one split" in message
    assert "but s1 is in 'train' on line 3; move" in message
    assert "Nothing was imported" in message


def test_one_clip_twice_is_named_with_both_lines(tmp_path: Path):
    with pytest.raises(DataError, match=r"line 4, column clip_id: .*used once, but line 2 has it too"):
        read_manifest(write(tmp_path, "uri\na.mp4\nb.mp4\na.mp4\n"))


@pytest.mark.parametrize(
    ("column", "hint"),
    [
        ("Score", "Did you mean 'score'"),
        ("subject", "Did you mean 'subject_id'"),
        ("video", "Did you mean 'uri'"),
        ("start", "Did you mean 'start_s'"),
        ("difficulties", "Did you mean 'difficulty'"),
        ("zzz", "Delete the column"),
    ],
)
def test_an_unknown_column_is_refused_with_the_nearest_name(tmp_path: Path, column: str, hint: str):
    with pytest.raises(DataError, match=f"unknown column '{column}'; known: clip_id, uri.*{hint}"):
        read_manifest(write(tmp_path, f"uri,{column}\na.mp4,1\n"))


def test_the_required_column_and_rows(tmp_path: Path):
    with pytest.raises(DataError, match=r"the column 'uri' is absent\. Add it; found: score"):
        read_manifest(write(tmp_path, "score\n1\n"))
    with pytest.raises(DataError, match="there are no clips below the header"):
        read_manifest(write(tmp_path, "uri,score\n"))


def test_other_kinds_of_tables_are_refused(tmp_path: Path):
    with pytest.raises(DataError, match=r"a manifest is CSV or Parquet, not \.xlsx"):
        read_manifest(write(tmp_path, "x", "a.xlsx"))
    with pytest.raises(DataError, match="this is no readable Parquet file"):
        read_manifest(write(tmp_path, "PAR1 but not really", "a.parquet"))


def test_parquet_problems_are_named_by_row(tmp_path: Path):
    pq.write_table(pa.table({"uri": ["a", "b"], "score": [1.0, math.nan]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="row 2, column score: found nan, expected a finite number"):
        read_manifest(tmp_path / "a.parquet")
    pq.write_table(pa.table({"uri": ["a"], "score": [True]}), tmp_path / "b.parquet")
    with pytest.raises(DataError, match="row 1, column score: found True, expected a number; store"):
        read_manifest(tmp_path / "b.parquet")
    pq.write_table(pa.table({"uri": ["a"], "group": [{"x": 1}]}), tmp_path / "c.parquet")
    with pytest.raises(DataError, match=r"row 1, column group: .*expected text; store the column as text"):
        read_manifest(tmp_path / "c.parquet")


def test_where_each_clip_stands(tmp_path: Path):
    table, lines = read_manifest_lines(write(tmp_path, "# c\nuri\na\n\nb\n"))
    assert (table.num_rows, lines) == (2, ["line 3", "line 5"])


_EMPTY = [name for name in CLIPS.names if name not in ("clip_id", "uri", "score", "judge_scores", "start_s")]
_NAMES = st.text(
    st.characters(blacklist_categories=("Cc", "Cs"), blacklist_characters="/\\"), min_size=1, max_size=12
)
_POINTS = st.floats(-1e6, 1e6, allow_nan=False)


@REUSED
@given(
    rows=st.lists(
        st.fixed_dictionaries({
            "clip_id": _NAMES.filter(lambda text: text.strip() == text and not text.startswith("#")),
            "score": st.none() | _POINTS,
            "judge_scores": st.none() | st.lists(_POINTS, min_size=1, max_size=4),
            "start_s": st.none() | st.floats(0, 1e5),
        }),
        min_size=1, max_size=6, unique_by=lambda row: unicodedata.normalize("NFC", row["clip_id"]),
    )
)  # fmt: skip
def test_what_is_written_is_read_again(tmp_path: Path, rows: list[dict]):
    rows = [{**row, "uri": f"v{index}.mp4"} for index, row in enumerate(rows)]
    table = read_manifest(write_rows(tmp_path / "a.csv", rows))
    for name in ("score", "judge_scores", "start_s"):
        assert table[name].to_pylist() == [row[name] for row in rows]
    assert read_manifest(write_rows(tmp_path / "again.csv", table.drop_columns(_EMPTY).to_pylist())).equals(
        table
    )


@REUSED
@given(data=st.binary(max_size=300))
def test_arbitrary_bytes_raise_only_our_errors(tmp_path: Path, data: bytes):
    for name in ("a.csv", "a"):
        (tmp_path / name).write_bytes(data)
        with contextlib.suppress(AqaError):
            read_manifest(tmp_path / name)


@REUSED
@given(data=st.data())
def test_damaged_manifests_raise_only_our_errors(tmp_path: Path, data: st.DataObject):
    write_rows(tmp_path / "a.csv", [FULL, {**FULL, "clip_id": "d2"}])
    content = bytearray((tmp_path / "a.csv").read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place : place + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    (tmp_path / "a.csv").write_bytes(content)
    with contextlib.suppress(AqaError):
        read_manifest(tmp_path / "a.csv")
