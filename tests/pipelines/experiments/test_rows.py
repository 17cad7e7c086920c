from __future__ import annotations

import numpy as np
import pytest

from pipelines.errors import ConfigError
from pipelines.experiments.rows import (
    PRETEXTS,
    QUOTED,
    TABLES,
    chosen_rows,
    recognition_settings,
    size_settings,
)
from pipelines.settings import load_config

MEANS = {  # as the paper's own columns "Avg." say
    ("table1", "full"): 0.7308,
    ("table1", "only_expert"): 0.6655,
    ("table1", "nonexpert_U"): 0.5392,
    ("table1", "nonexpert_S"): 0.5878,
    ("table1", "nonexpert_US"): 0.6170,
    ("table1", "c3d_as_expert"): 0.6754,
    ("table1", "wo_inpaint"): 0.6899,
    ("table1", "wo_pace"): 0.7109,
    ("table2", "recon"): 0.6717,
    ("table2", "recon_pace"): 0.6793,
    ("table2", "motion"): 0.6972,
    ("table2", "motion_pace"): 0.7082,
    ("table2", "order"): 0.6554,
    ("table2", "inpaint_pace"): 0.7308,
}


@pytest.mark.parametrize(("table", "name"), MEANS)
def test_the_papers_figures_have_the_means_that_the_paper_prints(table, name):
    (row,) = (row for row in TABLES[table] if row.name == name)
    assert np.mean(row.paper[:5]) == pytest.approx(MEANS[table, name], abs=6e-5)


def test_quoted_rows_have_the_means_that_the_paper_prints():
    means = {name: np.mean(figures) for name, figures in QUOTED["table1"].items()}
    told = {"C3D": 0.6240, "I3D": 0.5600, "EAGLE-Eye": 0.6609, "VI-Net": 0.6680}
    assert means == pytest.approx(told, abs=6e-5)


@pytest.mark.parametrize("table", TABLES)
def test_every_row_is_a_valid_configuration(table):
    for row in TABLES[table]:
        told = {f"expert.{path}": text for path, text in row.expert.items()}
        pretext = PRETEXTS[row.pretext] if row.pretext else {}
        told |= {f"pretrain.{path}": text for path, text in pretext.items()}
        config = load_config(flags=told | size_settings(table, "quick"))
        assert (config.expert.model.appearance != "none") == row.video
        if row.kind == "expert":
            starts = {"nonexpert_U": "pretrained", "nonexpert_US": "pretrained", "skeleton_only": "any"}
            start = starts.get(row.expert["preset"], config.expert.encoder_start)
            assert config.expert.encoder_start in (start, "random")
            assert (config.expert.encoder_start == "random") == (row.pretext is None)


def test_full_size_is_the_papers():
    config = load_config(flags=size_settings("table1", "full"))
    assert (config.pretrain.model.encoder_units, config.expert.model.lstm_units) == (1000, 100)
    assert (config.pretrain.epochs, config.expert.epochs) == (300, 1000)


@pytest.mark.parametrize("size", ["quick", "reduced", "full"])
def test_recognition_reads_the_same_in_both_phases(size):
    config = load_config(flags=size_settings("table2", size) | recognition_settings(size))
    assert config.pretrain.sequence == config.expert.sequence
    assert (config.expert.sequence.inputs, config.expert.sequence.heading) == ("both", "body")
    units = {"quick": 12, "reduced": 64, "full": 1000}[size]
    assert config.pretrain.model.encoder_units == config.expert.encoder_units == units


def test_rows_are_chosen_by_name_and_the_trees_stay():
    names = [row.name for row in chosen_rows("table1", ("angles", "nonexpert_U"))]
    assert names == ["nonexpert_U", "angles", "floor_trees"]
    with pytest.raises(ConfigError, match="table1 has no row nonsense"):
        chosen_rows("table1", ("nonsense",))
