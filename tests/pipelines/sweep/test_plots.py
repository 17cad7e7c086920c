from __future__ import annotations

from pipelines.sweep import plots


def test_the_setting_that_decides_is_the_important_one(begun, trained):
    sweep = begun()
    for number in range(6):
        params = sweep.start(number).params
        trained(sweep, number, [1.0 + params["expert.feature_dropout"]] * 9)
    shares = plots.importances(sweep, sweep.trials())
    assert shares.keys() == {"expert.feature_dropout", "expert.optimizer.learning_rate"}
    assert shares["expert.feature_dropout"] > 0.6
    assert abs(sum(shares.values()) - 1) < 1e-9


def test_few_or_equal_trials_have_no_importances(begun, trained):
    sweep = begun()
    for number in range(3):
        trained(sweep, number, [float(number)] * 9)
    assert plots.importances(sweep, sweep.trials()) == {}


def test_pictures_are_png(begun, trained):
    sweep = begun()
    trained(sweep, 0, [0.5] * 9)
    trained(sweep, 1, [0.7] * 3)
    drawn = [
        plots.draw_parallel(sweep, sweep.trials(), sweep.folder / "plots" / "parallel.png"),
        plots.draw_importances({"a": 0.7, "b": 0.3}, sweep.folder / "plots" / "importances.png"),
    ]
    for path in drawn:
        assert path.read_bytes().startswith(b"\x89PNG")
        assert path.stat().st_size > 5000
