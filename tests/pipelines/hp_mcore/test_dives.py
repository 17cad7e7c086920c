"""The join of clips, poses and features, and what is refused."""

from __future__ import annotations

import math

import made_dives
import numpy as np
import pyarrow as pa
import pytest
from made_dives import changed, make_tables

from pipelines.errors import DataError
from pipelines.hp_mcore.dives import Dives, dive_table, sampled_transitions, slots
from pipelines.run_folder import read_table, write_table

EVERY = ("keypoints", "dynamic", "static")


@pytest.fixture(scope="module")
def tables() -> tuple[pa.Table, dict[str, pa.Table]]:
    return make_tables(train=2, val=0, test=1, streams=EVERY)


def test_clips_are_joined_with_their_streams_in_the_order_of_the_clips(tables):
    clips, streams = tables
    shuffled = {
        name: table.take(pa.array(np.random.default_rng(0).permutation(len(table))))
        for name, table in streams.items()
    }
    dives = Dives(dive_table(clips, shuffled, 96))
    assert dives.shapes == {"keypoints": (96, 16, 2), "dynamic": (9, 1024), "static": (96, 368)}
    assert [fact.clip_id for fact in dives.facts] == clips["clip_id"].to_pylist()
    for name in EVERY:
        column = streams[name]["keypoints" if name == "keypoints" else "features"]
        expected = np.array(column.to_pylist(), np.float32).reshape(len(clips), *made_dives.SHAPES[name])
        np.testing.assert_array_equal(dives.stream(name, [4, 0, 4]), expected[[4, 0, 4]])
        assert dives.stream(name, [0]).dtype == np.float32


def test_facts_are_those_of_the_clips_table(tables):
    clips, streams = tables
    told = {"splash": 0.25, "judge_scores": [7.0, 7.5]}
    first, second, *_ = Dives(
        dive_table(changed(clips, lambda row: told if row["clip_id"] == "107b_0" else {}), streams, 96)
    ).facts
    row = clips.to_pylist()[0]
    assert (first.clip_id, first.subject, first.subject_id) == ("107b_0", "made/107b-0", "107b-0")
    assert (first.action_type, first.group, first.split) == ("107b", "107b", "train")
    assert (first.score, first.difficulty) == (row["score"], 3.0)
    assert (first.splash, first.judge_scores) == (0.25, (7.0, 7.5))
    assert first.procedures == ("Take-off", "Flight", "Entry")
    assert [frame / 25 for frame in first.transitions] == row["transitions_s"]
    assert math.isnan(second.splash)
    assert second.judge_scores == ()


def test_a_clip_without_its_own_subject_is_its_own(tables):
    clips = changed(tables[0], lambda row: {"subject_id": None, "action_type": None, "split": None})
    fact = Dives(dive_table(clips, tables[1], 96)).facts[0]
    assert (fact.subject, fact.subject_id, fact.action_type, fact.split) == ("made/clip:107b_0", "", "", "")


@pytest.mark.parametrize(
    "values", [{"status": "rejected"}, {"person": 1}, {"clip_id": "somebody else"}], ids=str
)
def test_clips_without_a_stream_are_left_out(tables, values):
    clips, streams = tables
    static = changed(streams["static"], lambda row: values if row["clip_id"] == "407c_1" else {})
    table = dive_table(clips, {**streams, "static": static}, 96)
    assert len(table) == len(clips) - 1
    assert "407c_1" not in table["clip_id"].to_pylist()
    assert "407c_0" in table["clip_id"].to_pylist()


def test_nothing_to_join_is_an_empty_table(tables):
    table = dive_table(tables[0].slice(0, 0), tables[1], 96)
    assert (len(table), Dives(table).facts, Dives(table).shapes) == (0, [], {})


def refused(tables, stream: str, values: dict, match: str, clip_id: str = "407c_1") -> None:
    clips, streams = tables
    wrong = changed(streams[stream], lambda row: values if row["clip_id"] == clip_id else {})
    with pytest.raises(DataError, match=match):
        dive_table(clips, {**streams, stream: wrong}, 96)


def test_wrong_streams_are_refused_naming_the_clip(tables):
    another = "clip 407c_1: has 2-D keypoints of skeleton coco17. Extract with a network for 2-D mpii16"
    refused(tables, "keypoints", {"skeleton": "coco17"}, another)
    refused(tables, "keypoints", {"num_coordinates": 3}, "clip 407c_1: has 3-D keypoints of skeleton mpii16")
    shorter = "clip 407c_1: has static of 95 frames, the model reads 96. Extract with --sampling uniform:96"
    refused(tables, "static", {"num_frames": 95}, shorter)
    frames = "clip 407c_1: its keypoints and dynamic and static were taken of different frames. Extract poses"
    refused(tables, "dynamic", {"frame_index": list(range(1, 97))}, frames)
    shapes = r"has dynamic of shape \(8, 1024\), the clips before it \(9, 1024\). Extract all clips with"
    refused(tables, "dynamic", {"num_segments": 8}, f"clip 407c_1: {shapes}")


CLIP = {"clip_id": "a", "transitions_s": [0.4, 0.8]}
TIMES = np.arange(30) / 25 + 1.0  # 1.00 to 2.16 s


@pytest.mark.parametrize(
    ("seconds", "frames"),
    [
        ([1.4, 1.8], [10, 20]),
        ([1.41, 1.8], [11, 20]),  # the first frame that does not show the procedure before
        ([1.4004, 1.8], [10, 20]),  # a time of milliseconds still means its frame
        ([1.4, 1.405, 1.8], [10, 11, 20]),
        ([1.4, 1.41, 1.415, 1.8], [10, 11, 20]),  # no frame lies between 1.41 and 1.415 s
        ([1.0, 1.8], [20]),  # nothing was sampled of the first procedure
        ([1.4, 2.17], [10]),  # nor of the last
        (None, []),
    ],
)
def test_transitions_become_sampled_frames_and_empty_procedures_collapse(seconds, frames):
    assert sampled_transitions({"clip_id": "a", "transitions_s": seconds}, TIMES) == frames


@pytest.mark.parametrize("seconds", [[1.8, 1.4], [1.4, 1.4]], ids=str)
def test_transitions_out_of_order_are_refused(seconds):
    with pytest.raises(DataError, match=r"clip a: its transitions \[.*\] are not in order. Correct trans"):
        sampled_transitions({"clip_id": "a", "transitions_s": seconds}, TIMES)


@pytest.mark.parametrize("seconds", [[0.4, 1.8], [1.4, 2.2]], ids=str)
def test_transitions_outside_of_the_clip_are_refused(seconds):
    outside = r"clip a: its transitions \[.*\] lie outside the frames from 1.00 to 2.16 s. Correct trans"
    with pytest.raises(DataError, match=outside):
        sampled_transitions({"clip_id": "a", "transitions_s": seconds}, TIMES)


def test_the_join_reports_wrong_transitions(tables):
    clips = changed(tables[0], lambda row: {"transitions_s": [2.0, 1.0]})
    with pytest.raises(DataError, match=r"clip 107b_0: its transitions \[2.0, 1.0\] are not in order"):
        dive_table(clips, tables[1], 96)


def test_a_batch_holds_slots_classes_and_arrays(tables):
    steps = {"107b_0": [1.0, 1.4, 1.8, 2.2], "107b_1": [1.0, 2.0], "107b_2": [1.0]}
    clips = changed(
        tables[0], lambda r: {"transitions_s": steps[r["clip_id"]]} if r["clip_id"] in steps else {}
    )
    dives = Dives(dive_table(clips, tables[1], 96))
    batch = dives.batch([0, 1, 2, 3], 4, {"107b": 0})
    # The last procedure has the last slot; the fifth step of 107b_0 is one too many for four slots.
    assert batch.transitions.tolist()[:3] == [[25, 35, 55], [25, -1, 50], [-1, -1, 25]]
    assert batch.present.tolist()[:3] == [[1, 1, 1, 1], [1, 1, 0, 1], [1, 0, 0, 1]]
    assert batch.number.tolist() == [0, 0, 0, -1]
    assert batch.splash.isnan().all()
    assert batch.keypoints.shape == (4, 96, 16, 2)
    assert batch.dynamic.shape == (4, 9, 1024)
    assert batch.static.shape == (4, 96, 368)
    found = slots([dives.facts[1]], 3)
    assert (found[0].tolist(), found[1].tolist()) == ([[25, 50]], [[True, True, True]])


def test_procedures_may_be_counted_like_those_of_others(tables):
    """A dive to be scored may have no annotation, and its own is never looked at."""
    clips = changed(tables[0], lambda r: {"transitions_s": None} if r["clip_id"] == "107b_0" else {})
    dives = Dives(dive_table(clips, tables[1], 96))
    assert dives.facts[0].transitions == ()
    batch = dives.batch([0, 1], 3, {}, like=[dives.facts[1], dives.facts[3]])
    assert batch.transitions.tolist() == [list(dives.facts[1].transitions), list(dives.facts[3].transitions)]
    np.testing.assert_array_equal(batch.static, dives.stream("static", [0, 1]))


def test_chunks_that_are_mapped_from_a_file_give_the_same_arrays(tables, tmp_path):
    whole = dive_table(*tables, 96)
    parts = pa.Table.from_batches(
        [batch for begin in (0, 4, 5) for batch in whole.slice(begin, 4 if begin == 0 else 1).to_batches()]
        + whole.slice(6).to_batches(),
        whole.schema,
    )
    assert parts["static"].num_chunks == 4
    (tmp_path / "data").mkdir()
    write_table(tmp_path / "data" / "dives.arrow", parts)
    mapped = read_table(tmp_path, "dives")
    assert mapped["static"].num_chunks == 4
    first, second = Dives(whole), Dives(mapped)
    # repr, because the splash that is not known is NaN
    assert repr(first.facts) == repr(second.facts)
    for name in EVERY:
        rows = [8, 0, 3, 4, 5, 6, 4]
        np.testing.assert_array_equal(first.stream(name, rows), second.stream(name, rows))


def test_filtered_rows_give_their_own_arrays(tables):
    whole = dive_table(*tables, 96)
    some = Dives(whole.filter(pa.array([k % 2 == 1 for k in range(len(whole))])))
    every = Dives(whole)
    np.testing.assert_array_equal(some.stream("dynamic", [0, 2]), every.stream("dynamic", [1, 5]))


def test_statistics_are_those_of_numpy(tables, monkeypatch):
    dives = Dives(dive_table(*tables, 96))
    for name in ("dynamic", "static"):
        rows = [0, 2, 3, 7]
        values = dives.stream(name, rows).reshape(-1, made_dives.SHAPES[name][-1]).astype(np.float64)
        mean, deviation = dives.statistics(name, rows)
        np.testing.assert_allclose(mean.numpy(), values.mean(0), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(deviation.numpy(), values.std(0), rtol=1e-4)


def test_statistics_of_many_dives_are_read_in_parts(tables):
    dives = Dives(dive_table(*tables, 96))
    rows = [0, 1, 2, 3, 4] * 26 + [5]  # 131 performances: three parts
    mean, deviation = dives.statistics("dynamic", rows)
    weight = np.array([26.0] * 5 + [1.0])
    values = dives.stream("dynamic", list(range(6))).astype(np.float64)
    expected = np.average(values.mean(1), axis=0, weights=weight)
    squares = np.average(np.square(values).mean(1), axis=0, weights=weight)
    np.testing.assert_allclose(mean.numpy(), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(deviation.numpy(), np.sqrt(squares - expected**2), rtol=1e-4)
