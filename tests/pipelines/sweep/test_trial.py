from __future__ import annotations

import pytest

from aqa_models.two_stage.config import SequenceConfig
from pipelines import fit
from pipelines.config import ExpertTrainConfig, HpMcoreTrainConfig, TrackingConfig
from pipelines.errors import WriterError
from pipelines.journal import Journal
from pipelines.run_folder import alone, read_json
from pipelines.sweep import trial as module
from pipelines.sweep.trial import resources, run_trial


@pytest.fixture(autouse=True)
def _outside_of_ray(monkeypatch):
    """No Ray here: what would be reported to Tune is dropped."""
    monkeypatch.setattr(module, "_tell", lambda row: None)


def test_a_trial_in_its_own_process_holds_a_core_or_a_gpu():
    assert resources(ExpertTrainConfig()) == ({"CPU": 1.0}, {"CPU": 1.0})
    own, total = resources(ExpertTrainConfig(use_gpu=True))
    assert own == total == {"CPU": 1.0, "GPU": 1.0}


def test_a_trial_that_waits_for_workers_holds_no_core_itself():
    own, total = resources(ExpertTrainConfig(num_workers=4, use_gpu=True))
    assert "CPU" not in own
    assert total == {"CPU": 4.0, "GPU": 4.0}
    streaming = HpMcoreTrainConfig(num_workers=2, encoders="finetune", decode_workers=3)
    assert resources(streaming)[1] == {"CPU": 7.0}


def test_values_that_cannot_be_trained_end_the_trial_and_not_the_sweep(begun):
    sweep = begun()
    sweep.start(0)
    (sweep.folder / "data").mkdir()
    journal = Journal(sweep.folder)
    journal.open("s", "aqa", None, {"tags": {}, "params": {}})
    folder = sweep.trial_folder(0)
    told = read_json(folder / "trial.json")
    told["params"]["expert.feature_dropout"] = 2.0  # not below 1
    module.write_json(folder / "trial.json", told)
    run_trial({"sweep": str(sweep.folder), "number": 0}, TrackingConfig())
    ended = sweep.trial(0)
    assert ended.status == "failed"
    assert "feature_dropout" in ended.error
    child = Journal(folder)
    assert child.status == "FAILED"
    assert next(child.read(0))[0]["name"] == "trial-000"
    run_trial({"sweep": str(sweep.folder), "number": 0}, TrackingConfig())  # has ended: nothing happens
    assert Journal(folder).end() == child.end()


def test_the_process_of_a_killed_sweep_is_waited_for(begun, monkeypatch):
    sweep = begun()
    sweep.start(0)
    monkeypatch.setattr(module, "WAIT_FOR_A_DEAD_ONE_S", 0.0)
    calls = []

    def train(*given):
        calls.append(given)
        with alone(sweep.trial_folder(0)):
            pass

    monkeypatch.setattr(module, "_train", train)
    with alone(sweep.trial_folder(0)), pytest.raises(WriterError):
        run_trial({"sweep": str(sweep.folder), "number": 0}, TrackingConfig())
    assert len(calls) >= 1
    assert sweep.trial(0).status == "unfinished"


def test_a_stopped_training_is_a_finished_run_of_fewer_epochs(waving_tables, tmp_path):
    """Its model is the best so far, and no checkpoint lies behind the question, so a kill asks it again."""
    asked = []

    def watch(row: dict[str, float]) -> bool:
        asked.append(row["epoch"])
        return row["epoch"] == 1

    config = ExpertTrainConfig(
        epochs=5, encoder_units=4, checkpoint_every=1, sequence=SequenceConfig(skeleton="c15")
    )
    summary = fit.train_expert(*waving_tables, config, tmp_path / "run", None, {}, watch=watch)
    assert (summary["epochs"], asked) == (2, [0, 1])
    assert summary["best_epoch"] in (0, 1)
    assert (tmp_path / "run" / "model" / "model.safetensors").is_file()
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["epoch-000001"]
