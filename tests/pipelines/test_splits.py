from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa
import pytest

from pipelines.config import HpMcoreTrainConfig
from pipelines.errors import DataError
from pipelines.schema import CLIPS, empty_row
from pipelines.splits import check_subjects, choose_validation, without_test


@dataclass(frozen=True)
class Clip:
    subject: str
    group: str = "a"
    split: str = "train"
    score: float | None = 1.0


def choosing(share: float, seed: int = 0) -> HpMcoreTrainConfig:
    return HpMcoreTrainConfig(validation_share=share, seed=seed)


def chosen(clips: list[Clip], share: float, seed: int = 0) -> set[str]:
    splits = choose_validation(clips, choosing(share, seed))
    assert set(splits) == {clip.subject for clip in clips}
    return {subject for subject, split in splits.items() if split == "val"}


def table(*rows: dict) -> pa.Table:
    made = [empty_row(CLIPS, **{"clip_id": f"c{k}", "uri": "u"} | row) for k, row in enumerate(rows)]
    return pa.Table.from_pylist(made, schema=CLIPS)


def test_rows_that_say_val_decide():
    clips = [Clip(str(k), split="val" if k in (1, 4) else "train") for k in range(9)]
    assert chosen(clips, 0.5) == {"1", "4"}


def test_otherwise_every_kth_subject_in_the_order_of_group_and_score():
    """A fifth of 4 groups with 5 subjects each: one of each group, at the same place in its scores."""
    clips = [Clip(f"{group}{k}", group, "", score=float(k)) for group in "abcd" for k in range(5)]
    for seed in range(5):
        found = chosen(clips, 0.2, seed)
        assert {name[0] for name in found} == set("abcd")
        assert len({name[1] for name in found}) == 1
    assert len({frozenset(chosen(clips, 0.2, seed)) for seed in range(10)}) > 1
    assert chosen(clips, 0.2) == chosen(clips[::-1], 0.2)


def test_a_subject_is_placed_by_its_mean_score_and_never_split():
    clips = [Clip(str(k), score=float(score)) for k in range(4) for score in (10 * k, 10 * k + 100)]
    assert len(chosen(clips, 0.5)) == 2
    low, high = sorted(chosen(clips, 0.5))
    assert int(high) - int(low) == 2


def test_at_least_one_is_chosen_even_without_scores():
    assert len(chosen([Clip(str(k), score=None) for k in range(3)], 0.01)) == 1


@pytest.mark.parametrize(
    ("clips", "counts"),
    [
        ([Clip("a"), Clip("b")], "2 training and 0 validation"),
        ([Clip("a"), Clip("b", split="val")], "1 training and 1 validation"),
        ([], "0 training and 0 validation"),
    ],
)
def test_too_few_subjects_are_refused(clips, counts):
    with pytest.raises(DataError, match=f"has {counts} subjects with usable poses. At least 2 and 1 are"):
        choose_validation(clips, choosing(0.2))


def test_test_rows_are_dropped_and_no_others():
    clips = table({"split": "train"}, {"split": "test"}, {"split": None}, {"split": "val"}, {"split": "test"})
    assert without_test(clips)["clip_id"].to_pylist() == ["c0", "c2", "c3"]
    assert without_test(clips.slice(0, 0)).num_rows == 0


def test_subjects_stay_in_one_split():
    same = {"dataset": "d", "subject_id": "p"}
    check_subjects(table({**same, "split": "train"}, {**same, "split": None}))
    check_subjects(table({**same, "split": "train"}, {**same, "dataset": "other", "split": "test"}))
    check_subjects(table({"split": "train"}, {"split": "test"}))  # nobody is named: each clip is its own
    with pytest.raises(DataError, match="subject d/p: is in the splits train and test. Put all clips of a"):
        check_subjects(table({**same, "split": None}, {**same, "split": "test"}))
    with pytest.raises(DataError, match="clip c0: has split 'Test'. Use train, val, test or leave it empty"):
        check_subjects(table({"split": "Test"}))
