from __future__ import annotations

import shutil

from test_run import plain

from pipelines.reports.sweep import sweep_page


def test_the_page_of_a_sweep_names_the_best_and_what_failed(sweep) -> None:
    text = sweep_page(sweep.folder)
    told = plain(text)
    assert "best trial 2 trial-002" in told
    assert "1 failed, 4 finished, 1 stopped" in told
    assert "clip &lt;i&gt;7: is not finite" in told
    assert "<i>" not in text
    assert "Test clips never reached a trial" in told
    assert "aqa train expert --store /store" in told
    assert text.count("data:image/png") == 2  # parallel coordinates, importances
    assert "training of all trials, seconds 32 epochs of all trials 16" in told


def test_a_sweep_that_has_only_begun_has_a_page(sweep) -> None:
    shutil.rmtree(sweep.folder / "trials")
    told = plain(sweep_page(sweep.folder))
    assert "Some trials have not ended" in told
    assert "No trial has begun" in told
