"""Every recomputation has a reason that a person can read."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa
import pytest

from pipelines import plan
from pipelines import store as stores
from pipelines.errors import DataError
from pipelines.schema import CLIPS, PEOPLE, POSES, empty_row
from pipelines.sources import digests
from pipelines.why import why, why_lines

OLD, NEW = "ab" * 32, "cd" * 32
SPEC = {"kind": "poses", "network": "rtmpose-t", "sampling": "all", "weights_sha256": OLD}


@pytest.fixture
def video(tmp_path: Path) -> Path:
    path = tmp_path / "dive.mp4"
    path.write_text("film of a dive")
    return path


def put(store: stores.Store, video: Path, **values: object) -> pa.Table:
    clips = pa.Table.from_pylist([empty_row(CLIPS, clip_id="dive", uri=str(video), **values)], schema=CLIPS)
    store.put_clips(clips)
    return clips


def compute(store: stores.Store, clips: pa.Table, spec: dict = SPEC, **values: object) -> None:
    """A row of the clip as extraction leaves it."""
    table, uri = store.create("poses", spec), clips["uri"][0].as_py()
    facts = os.stat(uri)
    row = {
        "person": 0,
        "status": "ok",
        "attempts": 1,
        "uri": uri,
        "clip_digest": plan.clip_digests(clips)[0].as_py(),
        "source_sha256": digests(pa.array([uri]))[0],
        "source_bytes": facts.st_size,
        "source_mtime_ns": facts.st_mtime_ns,
    }
    rows = [empty_row(POSES, clip_id="dive", **row | values)]
    with table.writer() as writer:
        writer.commit([table.write_file(pa.Table.from_pylist(rows, schema=POSES))])


@pytest.fixture
def store(tmp_path: Path, video: Path) -> stores.Store:
    store = stores.open_store(tmp_path / "store", create=True)
    compute(store, put(store, video))
    return store


def verdict(store: stores.Store, spec: dict = SPEC) -> list[str]:
    return why(store.path, "dive", {"poses": spec})["next"]["poses"]


KEY = stores.spec_key(SPEC)


def test_a_row_that_fits(store):
    assert verdict(store) == [f"nothing to compute, its row in poses/{KEY} fits"]


def test_other_weights_and_sampling_are_named(store):
    spec = SPEC | {"weights_sha256": NEW, "sampling": "fps:10", "flip_test": True}
    assert verdict(store, spec) == [
        f"computed, poses/{KEY} has it under other settings",
        "flip test changed from nothing to True",
        "sampling changed from all to fps:10",
        f"weights sha256 changed from {OLD[:12]} to {NEW[:12]}",
    ]


def test_the_newest_table_is_compared_and_imports_are_not(store):
    clips = store.clips.read()
    compute(store, clips, SPEC | {"weights_sha256": NEW})
    compute(store, clips, {"stage": "import", "kind": "kimore"})
    newest = stores.spec_key(SPEC | {"weights_sha256": NEW})
    assert verdict(store, SPEC | {"weights_sha256": NEW, "sampling": "fps:5"}) == [
        f"computed, poses/{newest} has it under other settings",
        "sampling changed from all to fps:5",
    ]


def test_a_changed_range(store, video):
    put(store, video, start_s=1.0)
    assert verdict(store) == [
        f"computed anew, its row in poses/{KEY} no longer fits",
        "range or boxes changed",
    ]


def test_boxes_come_from_the_table_of_people_that_the_key_names(store):
    people = store.create("people", {"kind": "people"})
    row = empty_row(PEOPLE, clip_id="dive", person=0, status="ok", attempts=1, num_frames=5)
    detected = pa.Table.from_pylist([row], schema=PEOPLE)
    with people.writer() as writer:
        writer.commit([people.write_file(detected)])
    spec = SPEC | {"boxes": f"people/{people.path.name}"}
    clips = store.clips.read()
    compute(store, clips, spec, clip_digest=plan.clip_digests(clips, detected)[0].as_py())
    assert verdict(store, spec)[0].startswith("nothing to compute")
    with people.writer() as writer:
        writer.remove({"dive"})
        other = pa.Table.from_pylist([row | {"num_frames": 4}], schema=PEOPLE)
        writer.commit([people.write_file(other)])
    assert verdict(store, spec)[1:] == ["range or boxes changed"]


def test_a_changed_file_by_size_and_by_content(store, video):
    before = digests(pa.array([str(video)]))[0]
    video.write_text("FILM OF A DIVE")
    os.utime(video, ns=(1, 1))
    after = digests(pa.array([str(video)]))[0]
    assert verdict(store)[1:] == [f"source file changed: its sha256 from {before[:12]} to {after[:12]}"]
    video.write_text("a longer film of a dive")
    assert verdict(store)[1:] == ["source file changed: from 14 to 23 bytes"]


def test_a_moved_file_fits_and_is_mentioned(store, video, tmp_path):
    (tmp_path / "moved").mkdir()
    put(store, video.rename(tmp_path / "moved" / "dive.mp4"))
    (entry,) = why(store.path, "dive")["tables"]
    assert (entry["fits"], entry["because"]) == (True, [f"its file was moved from {video}"])


def test_a_rejected_clip_and_what_to_do(store):
    spec = SPEC | {"sampling": "fps:10"}
    clips = store.clips.read()
    compute(store, clips, spec, status="rejected", error_code="empty", error_message="zero bytes")
    lines = why_lines(why(store.path, "dive", {"poses": spec}))
    assert lines[0] == f"clip dive: {clips['uri'][0]}"
    expected = f"poses/{stores.spec_key(spec)}: rejected: empty (zero bytes); the file has zero bytes; copy"
    assert any(line.startswith(expected) for line in lines)
    assert lines[-1].startswith("poses with the present settings: nothing to compute")


def test_a_clip_never_computed(store, video):
    clips = [empty_row(CLIPS, clip_id="new", uri=str(video))]
    store.put_clips(pa.Table.from_pylist(clips, schema=CLIPS))
    found = why(store.path, "new", {"poses": SPEC, "features/i3d": {"network": "i3d"}})
    assert found["next"] == {name: ["computed, it has never been"] for name in ("poses", "features/i3d")}
    assert f"poses/{KEY}: no row" in why_lines(found)


def test_a_row_whose_clip_is_gone(store):
    store.drop_clips({"dive"})
    found = why(store.path, "dive")
    assert found["tables"][0]["because"] == ["the clip is no longer in the clips table"]
    assert why_lines(found)[0] == "clip dive: not in the clips table"


def test_an_unknown_clip(store):
    with pytest.raises(DataError, match="there is no clip 'drive'. Check its name"):
        why(store.path, "drive")
