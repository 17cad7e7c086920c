from __future__ import annotations

import csv
import io
from typing import Literal

import numpy as np
import pytest

from aqa_models.metrics import resampled_interval
from pipelines.experiments.figures import Block, document_of, figures
from pipelines.experiments.material import Material
from pipelines.experiments.plot import draw
from pipelines.experiments.rows import FLOORS, TABLE1, TABLE2, TABLE3
from pipelines.experiments.table import csv_text, markdown
from pipelines.schema import CLIPS, POSES

ROW, TREES = TABLE1[0], FLOORS[1]


def material(task: Literal["score", "classes"] = "score", pooled: bool = False, splits: int = 2) -> Material:
    parts = [{f"s{k}": "test" if k < 4 else "train" for k in range(12)}] * splits
    names = ("Es1", "Es2") if task == "score" else ("",)
    return Material(
        "kimore", "KIMORE", CLIPS.empty_table(), POSES.empty_table(), None, parts, names, task, pooled
    )  # fmt: skip


def answers(told: list[float], part: str) -> list[dict]:
    """Four people with true scores 1, 2, 3, 4."""
    return [
        {"clip": f"{k}{part}", "subject": f"s{k}", "part": part, "true": float(k + 1), "predicted": value}
        for k, value in enumerate(told)
    ]


ORDERED, SWAPPED, REVERSED = [1.0, 2, 3, 4], [2.0, 1, 3, 4], [4.0, 3, 2, 1]  # rho 1, .8, -1
RESULTS = {
    ROW.name: {
        0: answers(ORDERED, "Es1") + answers(SWAPPED, "Es2"),
        1: answers(SWAPPED, "Es1") + answers(SWAPPED, "Es2"),
    },
    TREES.name: {k: answers(SWAPPED, "Es1") + answers(REVERSED, "Es2") for k in (0, 1)},
}


def score_document(**changes) -> dict:
    block = Block(material(**changes), [ROW, TREES], RESULTS, {ROW.name: 1.5, TREES.name: 0.5})
    return document_of("table1", [block], "note")


def test_means_over_splits_and_exercises_by_hand():
    row, trees = score_document()["blocks"][0]["rows"]
    assert row["rho"] == pytest.approx({"Es1": 0.9, "Es2": 0.8})
    assert row["mean_rho"]["value"] == pytest.approx(0.85)  # of .9 and .8
    assert row["mean_mae"]["value"] == pytest.approx(0.375)  # of (0 + .5) / 2 and .5
    low, high = resampled_interval(np.array([0.9, 0.8]), 8, 4)
    assert (row["mean_rho"]["low"], row["mean_rho"]["high"]) == pytest.approx((low, high))
    assert row["against_trees"]["rho"] == pytest.approx(
        {"mean": 0.95, "positive": 2, "of": 2, "p": row["against_trees"]["rho"]["p"]}
    )
    assert row["paper_mean"] == pytest.approx(0.5392, abs=1e-4)
    assert trees["mean_rho"]["value"] == pytest.approx(-0.1)
    assert "against_trees" not in trees


def test_a_row_is_compared_with_its_random_start():
    us, s = TABLE1[2], TABLE1[1]
    results = {us.name: RESULTS[ROW.name], s.name: RESULTS[TREES.name]}
    block = Block(material(), [us, s], results, {us.name: 0.0, s.name: 0.0})
    document = document_of("table1", [block], "")
    pretrained, random = document["blocks"][0]["rows"]
    assert pretrained["against_random"]["rho"]["mean"] == pytest.approx(0.95)
    assert pretrained["against_random"]["mae"]["mean"] == pytest.approx(0.375 - 1.25)
    assert pretrained["against_trees"] == {"rho": None, "mae": None}
    assert "against_random" not in random
    assert "| +0.950, 2 of 2, p " in markdown(document)


def test_figures_of_one_split_without_intervals():
    found = figures(material(), RESULTS[ROW.name][0])
    told = {"rho_Es1": 1.0, "rho_Es2": 0.8, "mean_rho": 0.9, "mean_mae": 0.25}
    assert found == pytest.approx(told)


def test_pooled_material_is_judged_together_and_its_interval_is_by_subject():
    row, _ = score_document(pooled=True)["blocks"][0]["rows"]
    assert row["mean_mae"]["value"] == pytest.approx((0.25 + 0.5) / 2)
    assert row["mean_rho"]["low"] <= row["mean_rho"]["value"] <= row["mean_rho"]["high"]
    assert "against_trees" not in row


def test_a_constant_prediction_has_no_rank_correlation():
    constant = {ROW.name: {k: answers([2.0] * 4, "Es1") + answers([2.0] * 4, "Es2") for k in (0, 1)}}
    block = Block(material(), [ROW], constant, {ROW.name: 0.0})
    document = document_of("table1", [block], "")
    (row,) = document["blocks"][0]["rows"]
    assert row["mean_rho"]["value"] is None
    assert row["mean_mae"]["value"] == 1.0
    assert "| undefined |" in markdown(document)


def test_a_row_with_some_splits_says_so_and_one_without_any_is_left_out():
    partial = {ROW.name: {0: RESULTS[ROW.name][0]}}
    block = Block(material(), [ROW, TREES], partial, {ROW.name: 0.0, TREES.name: 0.0})
    document = document_of("table1", [block], "")
    assert [row["row"] for row in document["blocks"][0]["rows"]] == [ROW.name]
    assert "(1 of 2 splits)" in markdown(document)


def test_classes_by_hand():
    rows = [("low", "low"), ("low", "high"), ("high", "high"), ("high", "high")]
    told = [
        {"clip": str(k), "subject": f"s{k}", "part": "", "true": a, "predicted": b}
        for k, (a, b) in enumerate(rows)
    ]
    block = Block(
        material("classes", pooled=True),
        [TABLE3[1]],
        {TABLE3[1].name: {0: told[:1], 1: told[1:]}},
        {TABLE3[1].name: 0},
    )
    document = document_of("table3", [block], "")
    (row,) = document["blocks"][0]["rows"]
    assert row["micro_f1"]["value"] == 0.75
    assert row["macro_f1"]["value"] == pytest.approx((2 / 3 + 0.8) / 2)
    assert row["paper_micro_f1"] == 0.69
    assert "0.750" in markdown(document)
    assert "micro_f1,0.750000," in csv_text(document)


def test_a_random_start_is_compared_clip_by_clip_of_the_same_people():
    def told(right: tuple[int, ...]) -> list[dict]:
        pairs = [(f"s{k // 2}", "low" if k in right else "high") for k in range(8)]
        return [
            {"clip": str(k), "subject": who, "part": "", "true": "low", "predicted": said}
            for k, (who, said) in enumerate(pairs)
        ]

    rows = [row for row in TABLE2 if row.name in ("order", "random_encoder")]
    results = {"order": {0: told((0, 1, 2, 4, 6))}, "random_encoder": {0: told((0, 1, 2))}}
    block = Block(material("classes", pooled=True), rows, results, {row.name: 0.0 for row in rows})
    document = document_of("table2", [block], "")
    order, random = document["blocks"][0]["rows"]
    assert order["against_random"] == {"value": 0.25, "low": 0.0, "high": 0.5}
    assert "against_random" not in random
    assert "| 0.250 [0.000, 0.500] |" in markdown(document)


def test_the_files_say_what_the_document_says(tmp_path):
    document = score_document()
    text = markdown(document)
    assert "| Only Non-expert (U) | 0.900 (0.608) | 0.800 (0.570) | 0.850 [" in text
    assert "+0.950, 2 of 2" in text
    assert "| VI-Net | 0.790, 0.690, 0.570, 0.590, 0.700 | 0.668 |" in text
    lines = list(csv.DictReader(io.StringIO(csv_text(document))))
    (mean,) = (line for line in lines if (line["row"], line["figure"]) == (ROW.name, "rho mean"))
    assert (mean["value"], mean["paper"], mean["splits"]) == ("0.850000", "0.539240", "2")
    draw(document, tmp_path / "table.png")
    assert (tmp_path / "table.png").read_bytes().startswith(b"\x89PNG")
