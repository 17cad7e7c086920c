"""The plan computes what changed and nothing else, wherever files lie and whatever they are called."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pyarrow as pa
import pytest

from pipelines import plan, sources
from pipelines import store as stores
from pipelines.schema import CLIPS, PEOPLE, POSES, empty_row


@pytest.fixture
def table(tmp_path: Path) -> stores.Table:
    return stores.open_store(tmp_path / "store", create=True).create_poses({"kind": "poses"})


def make_clips(*files: Path, **values: object) -> pa.Table:
    rows = [empty_row(CLIPS, clip_id=path.stem, uri=str(path), **values) for path in files]
    return pa.Table.from_pylist(rows, schema=CLIPS)


def video(path: Path, content: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(content)
    os.utime(path, ns=(1_000_000_000, 1_000_000_000))
    return path


def compute(table: stores.Table, found: plan.Plan, status: str = "ok") -> None:
    """Commit what the plan asks for, as extraction does, with the text of the file as result."""
    with table.writer() as writer:
        writer.replace(found.outdated | found.replaced, found.adopted)
        rows = []
        for clip in found.todo.to_pylist():
            path = Path(clip["uri"])
            source = {
                "source_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
                "source_bytes": path.stat().st_size,
                "source_mtime_ns": path.stat().st_mtime_ns,
                "decoder_note": path.read_text(),
            }
            names = {name: clip[name] for name in ("clip_id", "uri", "clip_digest")}
            rows.append(empty_row(POSES, **names, person=0, status=status, attempts=1, **source))
        if rows:
            writer.commit([table.write_file(pa.Table.from_pylist(rows, schema=POSES))])


def results(table: stores.Table) -> dict[str, str]:
    """Row -> text of the file it was computed from; each row once."""
    rows = table.read(columns=["clip_id", "decoder_note"])
    names = rows["clip_id"].to_pylist()
    assert len(names) == len(set(names))
    return dict(zip(names, rows["decoder_note"].to_pylist(), strict=True))


def names(clips: pa.Table) -> list[str]:
    return clips["clip_id"].to_pylist()


@pytest.fixture
def collection(tmp_path: Path, table) -> list[Path]:
    """Three files whose clips are computed."""
    files = [video(tmp_path / "videos" / f"{name}.mp4", f"film {name}") for name in "abc"]
    compute(table, plan.find_work(make_clips(*files), table))
    return files


def test_all_is_new_then_nothing_then_only_the_new(table, tmp_path):
    files = [video(tmp_path / f"{name}.mp4", name) for name in "ab"]
    first = plan.find_work(make_clips(*files), table)
    assert (names(first.todo), first.reasons, first.already_done) == (["a", "b"], {"new": 2}, 0)
    compute(table, first)
    again = plan.find_work(make_clips(*files), table)
    assert (again.todo.num_rows, again.outdated, again.adopted.num_rows, again.already_done) == (
        0,
        set(),
        0,
        2,
    )
    more = plan.find_work(make_clips(*files, video(tmp_path / "c.mp4", "c")), table)
    assert (names(more.todo), more.already_done) == (["c"], 2)


def test_a_table_that_is_not_there_yet_means_everything(tmp_path):
    table = stores.Table(tmp_path / "none", POSES)
    assert names(plan.find_work(make_clips(tmp_path / "a.mp4"), table).todo) == ["a"]


def test_a_changed_range_or_box_is_computed_anew_and_a_changed_label_is_not(table, collection):
    assert plan.find_work(make_clips(*collection, score=7.5), table).todo.num_rows == 0
    for values in ({"start_s": 0.5}, {"box_x1_px": 1.0}):
        found = plan.find_work(make_clips(*collection, **values), table)
        assert names(found.todo) == ["a", "b", "c"]
        assert found.outdated == {"a", "b", "c"}
        assert found.reasons == {"range or boxes changed": 3}


def test_digests_depend_on_range_and_box_alone():
    rows = [
        empty_row(CLIPS, clip_id="a", uri="x", start_s=1.0),
        empty_row(CLIPS, clip_id="b", uri="y", start_s=1.0, score=2.0),
        empty_row(CLIPS, clip_id="c", uri="x", end_s=1.0),
    ]
    first, second, third = plan.clip_digests(pa.Table.from_pylist(rows, schema=CLIPS)).to_pylist()
    assert first == second != third
    expected = hashlib.sha256(b"[1.0, null, null, null, null, null]").hexdigest()[:16]
    assert first == expected


def test_rejected_clips_are_tried_again_only_when_asked(table, tmp_path):
    clips = make_clips(video(tmp_path / "a.mp4", "a"))
    compute(table, plan.find_work(clips, table), status="rejected")
    assert plan.find_work(clips, table).todo.num_rows == 0
    found = plan.find_work(clips, table, retry_rejected=True)
    assert (names(found.todo), found.outdated, found.reasons) == (["a"], {"a"}, {"rejected before": 1})
    compute(table, found)
    assert plan.find_work(clips, table, retry_rejected=True).todo.num_rows == 0


def test_a_file_with_other_content_is_computed_anew(table, collection):
    video(collection[0], "another film")  # another size
    video(collection[1], "FILM b")  # same size
    os.utime(collection[1], ns=(2_000_000_000, 2_000_000_000))
    os.utime(collection[2], ns=(2_000_000_000, 2_000_000_000))  # same content
    found = plan.find_work(make_clips(*collection), table)
    assert names(found.todo) == ["a", "b"]
    assert found.reasons == {"source file changed": 2}
    assert names(found.adopted) == ["c"], "its row gets the new time stamp"
    compute(table, found)
    assert results(table) == {"a": "another film", "b": "FILM b", "c": "film c"}
    lines: list[str] = []
    settled = plan.find_work(make_clips(*collection), table, progress=lines.append)
    assert (settled.todo.num_rows, settled.adopted.num_rows) == (0, 0)
    assert lines == [], "no file is read again"


def test_a_vanished_file_keeps_its_row(table, collection):
    collection[0].unlink()
    found = plan.find_work(make_clips(*collection), table)
    assert (found.todo.num_rows, found.already_done, found.replaced) == (0, 3, set())


def test_a_moved_collection_is_not_computed_again(table, collection, tmp_path):
    (tmp_path / "videos").rename(tmp_path / "moved")
    files = [tmp_path / "moved" / path.name for path in collection]
    found = plan.find_work(make_clips(*files), table)
    assert (found.todo.num_rows, found.adopted.num_rows) == (0, 0)


def test_renamed_files_keep_their_rows_under_the_new_name(table, collection):
    renamed = [path.rename(path.with_stem(f"dive_{path.stem}")) for path in collection]
    found = plan.find_work(make_clips(*renamed), table)
    assert (found.todo.num_rows, found.already_done, found.replaced) == (0, 3, {"a", "b", "c"})
    compute(table, found)
    assert results(table) == {"dive_a": "film a", "dive_b": "film b", "dive_c": "film c"}
    assert set(table.read(columns=["uri"])["uri"].to_pylist()) == {str(path) for path in renamed}
    again = plan.find_work(make_clips(*renamed), table)
    assert (again.todo.num_rows, again.adopted.num_rows) == (0, 0)


def test_files_that_swap_their_names_swap_their_rows(table, tmp_path):
    long, short = video(tmp_path / "a.mp4", "a long film"), video(tmp_path / "b.mp4", "short")
    compute(table, plan.find_work(make_clips(long, short), table))
    long.rename(tmp_path / "c.mp4")
    short.rename(long)
    (tmp_path / "c.mp4").rename(short)
    found = plan.find_work(make_clips(long, short), table)
    assert found.todo.num_rows == 0
    compute(table, found)
    assert results(table) == {"a": "short", "b": "a long film"}


def test_a_copy_shares_the_result_and_the_original_keeps_its_row(table, collection):
    copy = video(collection[0].with_stem("copy"), "film a")
    found = plan.find_work(make_clips(copy), table)
    assert (found.todo.num_rows, found.replaced) == (0, set())
    compute(table, found)
    assert results(table) == {"a": "film a", "b": "film b", "c": "film c", "copy": "film a"}


def test_the_same_file_with_another_range_is_new_work(table, collection):
    found = plan.find_work(make_clips(collection[0].rename(collection[0].with_stem("d")), start_s=1.0), table)
    assert (names(found.todo), found.adopted.num_rows) == (["d"], 0)


def test_a_new_file_of_the_same_size_is_new_work(table, collection):
    found = plan.find_work(make_clips(video(collection[0].with_stem("d"), "FILM d")), table)
    assert (names(found.todo), found.adopted.num_rows) == (["d"], 0)


def test_other_boxes_of_the_people_mean_other_poses(table, collection):
    def people(**changes: object) -> pa.Table:
        base = {"person": 0, "status": "ok", "attempts": 1, "clip_digest": "d", "source_sha256": "s"}
        rows = [empty_row(PEOPLE, **base, clip_id=name, num_frames=5) for name in "ab"]
        rows[1] |= changes
        return pa.Table.from_pylist(rows, schema=PEOPLE)

    clips = make_clips(*collection)
    before = plan.clip_digests(clips, people()).to_pylist()
    assert before == plan.clip_digests(clips, people().take([1, 0])).to_pylist(), (
        "the order of rows is no matter"
    )
    after = plan.clip_digests(clips, people(num_frames=6)).to_pylist()
    assert [old == new for old, new in zip(before, after, strict=True)] == [True, False, True]
    assert before[2] != before[0] == before[1]
    assert plan.find_work(clips, table, people=people()).reasons == {"range or boxes changed": 3}


def test_addresses_pipes_and_folders_are_no_files(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_text("12345")
    uris = ["s3://bucket/a.mp4", str(tmp_path), str(tmp_path / "pipe"), None, str(tmp_path / "file"), "nul\0"]
    sizes, _ = sources.look(pa.array(uris))
    assert sizes.tolist() == [-1, -1, -1, -1, 5, -1]
    expected = hashlib.sha256(b"12345").hexdigest()
    assert sources.digests(pa.array(uris)) == [None, None, None, None, expected, None]
