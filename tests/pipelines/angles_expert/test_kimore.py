"""The angles expert on the patients of one published split."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines.angles_expert.evaluate import evaluate_tables
from pipelines.angles_expert.fit import fit
from pipelines.config import AnglesTrainConfig, EvaluateConfig
from pipelines.data import import_


@pytest.mark.data
@pytest.mark.slow
def test_patients_of_a_published_split_are_ranked(test_data, tmp_path):
    clips, poses, _ = import_("kimore", test_data / "kimore", split_index=0)
    fit(clips, poses, AnglesTrainConfig(network_seeds=0), tmp_path / "run", {})
    found = evaluate_tables(tmp_path / "run", clips, poses, EvaluateConfig(pool_people=True))
    assert len(found["by_action_type"]) == 5
    for level, rho, error in ((found, 0.65, 5.5), (found["person_level"], 0.7, 5.2)):
        rows = level["by_action_type"].values()
        assert np.mean([row["spearman"]["value"] for row in rows]) > rho
        assert np.mean([row["mae"]["value"] for row in rows]) < error
        assert all(row["mae"]["value"] < row["median_floor"]["mae"] for row in rows)
