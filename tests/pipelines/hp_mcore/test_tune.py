"""A trial of HP-MCoRe, in this process."""

from __future__ import annotations

import json

from made_dives import make_tables, settings

from pipelines import tune
from pipelines.config import Config, TuneConfig
from pipelines.hp_mcore.fit import FAMILIES
from pipelines.store import open_store
from pipelines.sweep import trial
from pipelines.sweep.folder import Sweep
from pipelines.sweep.space import Range


def test_a_trial_trains_hp_mcore_on_the_rows_of_the_sweep(tmp_path, monkeypatch):
    clips, streams = make_tables(train=2, test=2)
    store = open_store(tmp_path / "store", create=True)
    store.put_clips(clips)
    for name, rows in streams.items():
        table = store.create(FAMILIES[name], {"made": name})
        with table.writer() as writer:
            writer.commit([table.write_file(rows)])
    config = Config(hp_mcore=settings(epochs=2), tune=TuneConfig(metric="val_mae"))
    space = (Range("hp_mcore.optimizer.learning_rate", "log_uniform", (1e-4, 1e-2)),)
    asked = Sweep(tmp_path / "s", "hp-mcore", config, space, 1, None, {})
    tune._check(asked)
    begun = tune._begin(asked, tune._rows(asked, tmp_path / "store"), 1)
    begun.start(0)
    monkeypatch.setattr(trial, "_tell", lambda row: None)
    trial._train(begun, begun.trial(0), None)
    ended = begun.trial(0)
    assert ended.status == "finished"
    assert ended.value is not None
    trained = json.loads((begun.trial_folder(0) / "config.json").read_text())
    assert trained["config"]["optimizer"]["learning_rate"] == next(iter(ended.params.values()))
    assert len(trained["subjects"]) == sum(split != "test" for split in clips["split"].to_pylist())
