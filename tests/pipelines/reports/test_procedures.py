from __future__ import annotations

from pathlib import Path

from test_run import plain

from pipelines.reports import page
from pipelines.reports.agreement import tables_section, tiles
from pipelines.reports.material import RunMaterial
from pipelines.reports.procedures import annotated_frames, procedures_section
from pipelines.schema import CLIPS, PREDICTIONS, empty_row
from pipelines.store import open_store


def dives(tmp_path: Path) -> RunMaterial:
    """Two test dives of 96 frames at 24 Hz; the second has four procedures, the model knows three."""
    import pyarrow as pa

    from pipelines.schema import FEATURES

    store = open_store(tmp_path / "store", create=True)
    table = store.create("features/static", {"made by": "test"})
    times = [frame / 24 for frame in range(96)]
    rows = [
        empty_row(FEATURES, clip_id=name, person=0, status="ok", attempts=1, num_frames=96, time_s=times)
        for name in ("a", "b")
    ]
    with table.writer() as writer:
        writer.commit([table.write_file(pa.Table.from_pylist(rows, schema=FEATURES))])
    cuts = {"a": [1.0, 2.0], "b": [0.5, 1.0, 3.0]}
    clips = {name: empty_row(CLIPS, clip_id=name, uri=name, transitions_s=cut) for name, cut in cuts.items()}
    predictions = [
        empty_row(PREDICTIONS, clip_id=name, split="test", score=1.0, predicted=1.0, transition_frames=frames)
        for name, frames in (("a", [24, 48]), ("b", [20, 70]))
    ]
    record = {
        "phase": "hp_mcore",
        "config": {"model": {"num_procedures": 3}},
        "provenance": {"static_key": table.path.name, "static_version": 1},
    }
    metrics = {"segmentation": {"aiou_50": 0.5}, "segmentation_baselines": {"median": {"aiou_50": 0.25}}}
    return RunMaterial(tmp_path, record, {}, {}, [], metrics, predictions, store, "", clips)


def test_annotated_times_become_frames_of_as_many_procedures_as_the_model_knows(tmp_path) -> None:
    assert annotated_frames(dives(tmp_path)) == {"a": [24, 48], "b": [12, 72]}


def test_ribbons_tell_their_frames_and_the_worst_comes_first(tmp_path) -> None:
    text = str(page.join(procedures_section(dives(tmp_path)).blocks))
    assert "b: annotated [12, 72], predicted [20, 70]; a: annotated [24, 48], predicted [24, 48]" in text
    assert "this run 0.500 median 0.250" in plain(text)


def test_classes_are_shown_as_a_confusion_table() -> None:
    said = [("x", "x"), ("x", "y"), ("y", "y")]
    rows = [
        empty_row(PREDICTIONS, clip_id=str(k), split="test", group=true, predicted_group=told)
        for k, (true, told) in enumerate(said)
    ]
    number = {"value": 2 / 3, "low": None, "high": None}
    floor = {"group": "x", "micro_f1": 2 / 3, "macro_f1": 0.4}
    metrics = {"classes": {}, "micro_f1": number, "macro_f1": number, "majority_floor": floor}
    run = RunMaterial(Path("r"), {"phase": "expert", "config": {}}, {}, {}, [], metrics, rows)
    assert "judged said x said y x 1 1 y 0 1" in plain(str(page.join(tables_section(run).blocks)))
    assert "always x: 0.67" in plain(str(page.join(tiles(run))))
