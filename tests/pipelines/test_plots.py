from __future__ import annotations

from pathlib import Path

import numpy as np

from pipelines.plots import loss_curves, score_scatter


def pixels(path: Path) -> np.ndarray:
    from matplotlib.image import imread

    return imread(path)


def test_losses_are_drawn_and_another_run_looks_different(tmp_path):
    rows = [{"epoch": e, "loss": 100.0 / (e + 1) ** 3, "val_loss": 2.0, "val_mae": 9.0} for e in range(8)]
    one = pixels(loss_curves(rows, tmp_path / "plots" / "a.png"))
    same = pixels(loss_curves(rows, tmp_path / "b.png"))
    other = pixels(loss_curves([{**row, "loss": 1.0} for row in rows], tmp_path / "c.png"))
    assert one.shape == same.shape == other.shape
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


def test_scores_are_drawn_where_there_are_any(tmp_path):
    rows = [{"score": float(k), "predicted": k + 1.0, "action_type": f"Es{k % 2}"} for k in range(5)]
    drawn = score_scatter(rows, tmp_path / "a.png")
    assert drawn is not None
    assert pixels(drawn).std() > 0
    groups = [{"score": None, "predicted": None, "action_type": "Es1", "group": "x"}]
    assert score_scatter(groups, tmp_path / "b.png") is None
    assert not (tmp_path / "b.png").exists()
