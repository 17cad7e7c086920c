"""The twin: which dives, which files, going on after an interruption, and what is refused."""

from __future__ import annotations

import csv
import hashlib
import json
import pickle
from collections import Counter

import av
import numpy as np
import pyarrow.parquet as pq
import pytest

from pipelines import cli
from pipelines.datasets.manifest import read_manifest
from pipelines.errors import ClusterError, ConfigError, DataError, StorageError
from pipelines.rendered import dives, twin
from pipelines.rendered.annotated import AnnotatedDive
from pipelines.rendered.twin import annotated_dives, choose, render_twin

NAMES = {1: "Forward", 2: "Back", 17: "3.5 Soms.Pike", 31: "1.5 Twists", 15: "2.5 Soms.Pike", 36: "Entry"}
STEPS = {"107b": (1, 17, 36), "5253b": (2, 31, 15, 36), "205b": (2, 15, 36)}


def write_annotations(folder, *, each: int = 8):
    """Files like the published ones: `each` very short dives of three numbers, a quarter of them test."""
    aqa, coarse, splits = {}, {}, {"train": [], "test": []}
    for number, (action, steps) in enumerate(STEPS.items()):
        for index in range(each):
            key = (f"Final_10m_r{number}", index)
            labels = np.repeat(steps, 4)
            score = round(3 * 3.2 * (1 + index), 2)
            aqa[key] = [action, score, 3.2, np.flatnonzero(np.diff(labels)), labels]
            coarse[key] = {
                "action_type": action, "dive_score": score, "difficulty": 3.2,
                "judge_scores": [1.0 + index] * 3,
            }  # fmt: skip
            splits["test" if index % 4 == 0 else "train"].append(key)
    folder.mkdir(exist_ok=True)
    files = {
        "fine-grained_annotation_aqa": aqa, "FineDiving_coarse_annotation": coarse,
        "Sub_action_Types_Table": NAMES, "train_split": splits["train"], "test_split": splits["test"],
    }  # fmt: skip
    for name, values in files.items():
        (folder / f"{name}.pkl").write_bytes(pickle.dumps(values, protocol=3))
    return folder


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    return write_annotations(tmp_path_factory.mktemp("annotations"))


@pytest.fixture(scope="module")
def rendered(published, tmp_path_factory):
    out = tmp_path_factory.mktemp("twin")
    said: list[str] = []
    report = render_twin(published, out, n=20, seed=3, workers=1, say=said.append)
    with (out / "clips.csv").open(encoding="utf-8") as file:
        return out, report, list(csv.DictReader(file)), said


def digests(out) -> dict[str, str]:
    return {
        str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.suffix != ".npz"
    }


def test_rows_are_the_annotations_and_videos_have_the_annotated_frames(rendered):
    out, report, clips, said = rendered
    assert report["dives"] == len(clips) == 20
    assert (report["train"], report["test"]) == (15, 5)
    assert report["spearman_of_a_judge_who_knows_all_faults"] > 0.99
    assert said[0] == "0 of 20 dives are there, 20 to render"
    assert "20/20 dives" in said[-1]
    assert "ETA 0:00" in said[-1]
    for clip in clips:
        steps, index = STEPS[clip["action_type"]], int(clip["clip_id"].rsplit("_", 1)[1])
        assert clip["uri"] == f"videos/{clip['clip_id'].rsplit('_', 1)[0]}/{index}.mp4"
        assert float(clip["score"]) == pytest.approx(9.6 * (1 + index))
        assert json.loads(clip["judge_scores"]) == [1.0 + index] * 3
        assert clip["split"] == ("test" if index % 4 == 0 else "train")
        assert json.loads(clip["transitions_s"]) == [0.16 * step for step in range(1, len(steps))]
        assert json.loads(clip["procedures"]) == [NAMES[step] for step in steps]
        assert float(clip["splash"]) > 0
        assert clip["dataset"] == "fine_diving_twin"
        with av.open(str(out / clip["uri"])) as container:
            stream = container.streams.video[0]
            assert stream.average_rate == 25
            assert sum(1 for _ in container.decode(stream)) == 4 * len(steps)


def test_the_clips_table_can_be_extracted_and_the_truth_agrees_with_it(rendered):
    out, _, clips, _ = rendered
    table = read_manifest(out / "clips.csv")
    assert table.num_rows == 20
    truth = {row["clip_id"]: row for row in pq.read_table(out / "truth.parquet").to_pylist()}
    for clip in clips:
        row = truth[clip["clip_id"]]
        execution = float(clip["score"]) / (3 * float(clip["difficulty"]))
        assert dives.execution(json.loads(row["faults"])) == pytest.approx(execution, abs=0.05)
        assert len(row["joints"]) == row["num_frames"] * 16 * 2
        assert row["severity"] == pytest.approx(1 - execution / 10, abs=0.005)


def test_an_interrupted_run_goes_on_and_ends_with_the_same_bytes(rendered, published, tmp_path):
    out, *_ = rendered
    again, done = tmp_path / "again", 7

    def interrupt(dive, folder, seed, real=twin._render_one):
        if len(list(folder.rglob("*.mp4"))) == done:
            raise KeyboardInterrupt
        return real(dive, folder, seed)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(twin, "_render_one", interrupt)
        with pytest.raises(KeyboardInterrupt):
            render_twin(published, again, n=20, seed=3, workers=1, say=lambda text: None)
    assert not (again / "clips.csv").exists()
    first = next(again.rglob("*.mp4"))
    written = first.stat().st_mtime_ns
    (again / first.relative_to(again)).with_name(".0.part.mp4").write_bytes(b"cut off")  # as a kill leaves it
    said: list[str] = []
    report = render_twin(published, again, n=20, seed=3, workers=1, say=said.append)
    assert said[0] == f"{done} of 20 dives are there, {20 - done} to render"
    assert report["rendered"] == 20 - done
    assert first.stat().st_mtime_ns == written
    assert {k: v for k, v in digests(again).items() if ".part." not in k} == digests(out)


@pytest.mark.slow
def test_processes_and_larger_subsets_give_a_dive_the_same_bytes(rendered, published, tmp_path):
    out, _, clips, _ = rendered
    render_twin(published, tmp_path, n=24, seed=3, workers=2, say=lambda text: None)
    assert len(list(tmp_path.rglob("*.mp4"))) == 24
    for clip in clips:
        assert (tmp_path / clip["uri"]).read_bytes() == (out / clip["uri"]).read_bytes()


def plain(number: str, index: int, split: str) -> AnnotatedDive:
    return AnnotatedDive(number, index, number, 50.0, 3.0, (5.0,), ("a", "b", "c"), (1, 2), 3, split)


def test_the_subset_keeps_split_and_proportions_and_an_exemplar_for_every_tested_number():
    sizes = {"107b": (600, 200), "407c": (150, 38), "5172b": (1, 30), "636c": (5, 0)}
    known = [
        plain(number, index, "train" if index < train else "test")
        for number, (train, test) in sizes.items()
        for index in range(train + test)
    ]
    chosen = choose(known, 256, seed=0)
    counts = Counter((dive.split, dive.action_type) for dive in chosen)
    # 756 and 268 of 1024: 189 and 67 of 256
    assert sum(count for (split, _), count in counts.items() if split == "train") == 189
    assert counts["train", "107b"] in (149, 150)
    assert counts["train", "407c"] in (37, 38)
    assert counts["test", "107b"] == 50
    assert counts["test", "5172b"] in (7, 8)
    assert counts["train", "5172b"] == 1  # its share is a quarter of a dive
    splits = {dive.clip_id: dive.split for dive in known}
    assert all(splits[dive.clip_id] == dive.split for dive in chosen)
    assert [dive.clip_id for dive in chosen] == [d.clip_id for d in choose(known[::-1], 256, seed=0)][::-1]
    assert set(chosen) != set(choose(known, 256, seed=1))
    assert len(set(chosen) - set(choose(known, 512, seed=0))) < 10


@pytest.mark.data
def test_the_published_annotations_give_the_known_counts(test_data):
    known = annotated_dives(test_data / "finediving")
    assert Counter(dive.split for dive in known) == {"train": 2251, "test": 749}
    assert Counter(len(dive.procedures) for dive in known) == {3: 2205, 4: 537, 5: 258}
    assert np.mean([dive.num_frames for dive in known]) == pytest.approx(104.085, abs=1e-3)
    assert sum(dive.num_frames < 96 for dive in known) == 489
    chosen = choose(known, 600, seed=0)
    assert Counter(dive.split for dive in chosen) == {"train": 450, "test": 150}
    trained = {dive.action_type for dive in chosen if dive.split == "train"}
    assert {dive.action_type for dive in chosen if dive.split == "test"} <= trained


@pytest.mark.data
def test_a_judge_who_knows_the_faults_ranks_as_the_real_ones(test_data):
    from aqa_models.metrics import spearman_rho
    from pipelines.rendered.annotated import faults_for, random_of

    chosen = choose(annotated_dives(test_data / "finediving"), 600, seed=0)
    execution = [dives.execution(faults_for(random_of(0, d.clip_id), d.execution)) for d in chosen]
    true = np.array([3 * dive.difficulty for dive in chosen]) * execution
    assert spearman_rho(true, np.array([dive.score for dive in chosen])) > 0.99


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            {"dataset": "mtl_aqa"},
            "dataset 'mtl_aqa': no twin of this data set can be rendered. Choose one of: fine_diving.",
        ),
        (
            {"n": 25},
            "n 25: a twin has 20 to 24 dives, as many as are annotated. Give a number from 20 to 24.",
        ),
        ({"n": 3}, "n 3: a twin has 20 to 24 dives"),
        ({"workers": 0}, "workers 0: at least one process must render. Give 1 or more."),
    ],
)
def test_wrong_options_are_refused_and_nothing_is_written(change, text, published, tmp_path):
    with pytest.raises(ConfigError) as caught:
        render_twin(published, tmp_path / "out", **({"n": 20} | change))
    assert text in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_folder_without_annotations_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"the folder holds no fine-grained_annotation_aqa.pkl"):
        render_twin(tmp_path, tmp_path / "out", n=20)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({0: "107Q"}, "dive Final_10m_r0_0: dive number '107q': expected three or four digits and a letter"),
        ({2: 0.0}, "dive Final_10m_r0_0: a performance needs take-off, flight and entry, and a difficulty"),
        (
            {4: np.array([1, 1, 36, 36])},
            "dive Final_10m_r0_0: a performance needs take-off, flight and entry",
        ),
        (None, "the sub-actions have no names. Add the table of sub-actions, Sub_action_Types_Table.pkl."),
    ],
)
def test_dives_that_nobody_can_perform_are_refused(change, text, tmp_path):
    folder = write_annotations(tmp_path / "annotations")
    if change is None:
        (folder / "Sub_action_Types_Table.pkl").unlink()
    else:
        path = folder / "fine-grained_annotation_aqa.pkl"
        records = pickle.loads(path.read_bytes())  # written above
        for place, value in change.items():
            records["Final_10m_r0", 0][place] = value
        path.write_bytes(pickle.dumps(records, protocol=3))
    with pytest.raises(DataError) as caught:
        annotated_dives(folder)
    assert text in str(caught.value)


def test_a_folder_of_another_twin_or_a_damaged_note_is_refused(rendered, published):
    out, *_ = rendered
    with pytest.raises(ConfigError, match="the folder holds another twin; it differs in: seed") as caught:
        render_twin(published, out, n=20, seed=4, workers=1)
    assert "Give another folder, or remove this one." in str(caught.value)


def test_a_note_that_is_no_json_and_a_folder_that_cannot_be_written_are_refused(published, tmp_path):
    (tmp_path / "twin.json").write_text("{")
    with pytest.raises(DataError, match="this is no JSON"):
        render_twin(published, tmp_path, n=20, workers=1)
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be written"):
        render_twin(published, tmp_path / "file" / "out", n=20, workers=1)


def test_a_killed_process_is_told_from_a_bug(published, tmp_path, monkeypatch):
    class Broken:
        def __init__(self, *args):
            pass

        def submit(self, *args):
            raise twin.BrokenProcessPool

        def shutdown(self, **kwargs):
            pass

    monkeypatch.setattr(twin, "ProcessPoolExecutor", Broken)
    with pytest.raises(ClusterError, match="a rendering process was killed") as caught:
        render_twin(published, tmp_path, n=20, workers=2, say=lambda text: None)
    assert "with fewer workers" in str(caught.value)


def test_the_command_renders_and_reports(rendered, published, capsys):
    out, *_ = rendered
    arguments = ["data", "render-twin", str(published), str(out), "--n", "20", "--seed", "3", "--json"]
    assert cli.main(arguments) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["dives"], report["rendered"]) == (20, 0)
    assert cli.main(["data", "render-twin", str(published), str(out), "--dataset", "finediving"]) == 2
