from __future__ import annotations

import dataclasses

import pytest

from pipelines.config import Config, TrackingConfig
from pipelines.errors import ConfigError
from pipelines.sweep.plan import read_sweep, resumed


def changed(sweep, section: str, **values):
    config: Config = sweep.config
    part = getattr(config, section).model_copy(update=values)
    return dataclasses.replace(sweep, config=config.model_copy(update={section: part}))


def test_a_sweep_is_read_as_it_was_written(begun):
    sweep = begun()
    assert read_sweep(sweep.folder) == sweep


def test_the_password_of_a_tracking_server_is_not_written_down(begun):
    sweep = begun()
    told = TrackingConfig(uri="http://me:pl4nted@host")
    resumed(dataclasses.replace(sweep, config=sweep.config.model_copy(update={"tracking": told})))
    assert "pl4nted" not in (sweep.folder / "sweep.json").read_text()


def test_a_sweep_may_go_on_with_more_trials_and_keeps_its_lag(begun):
    sweep = begun(lag=3)
    more = changed(dataclasses.replace(sweep, lag=1, provenance={}), "tune", trials=50, max_concurrent=1)
    kept = resumed(more)
    assert (kept.tune.trials, kept.lag, kept.provenance) == (50, 3, {"store": "/store"})
    assert read_sweep(sweep.folder) == kept


@pytest.mark.parametrize(
    ("section", "values", "told"),
    [
        ("tune", {"seed": 1}, "tune.seed"),
        ("tune", {"in_order": False}, "tune.in_order"),
        ("expert", {"epochs": 12}, "expert.epochs"),
    ],
)
def test_another_sweep_in_the_folder_is_refused(begun, section, values, told):
    with pytest.raises(ConfigError, match=told):
        resumed(changed(begun(), section, **values))


def test_another_space_is_refused(begun):
    sweep = begun()
    with pytest.raises(ConfigError, match=r"space\.expert\.optimizer\.learning_rate"):
        resumed(dataclasses.replace(sweep, space=sweep.space[:1]))
