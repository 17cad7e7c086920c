from __future__ import annotations

import json

import pytest

from pipelines import recorder as module
from pipelines.journal import Journal
from pipelines.machine_load import machine_load
from pipelines.recorder import Recorder


@pytest.fixture
def journal(tmp_path):
    made = Journal(tmp_path / "run")
    made.open("run", "waves", None, {"tags": {}, "params": {}})
    return made


def write(journal: Journal, epochs: range, loss: float) -> None:
    rows = "".join(json.dumps({"epoch": e, "loss": loss + e}) + "\n" for e in epochs)
    (journal.run_dir / "metrics.jsonl").write_text(rows)


def losses(journal: Journal) -> list[tuple[int, float]]:
    events = [event for event, _ in journal.read(0) if event["event"] == "metrics"]
    return [(event["step"], event["values"]["loss"]) for event in events if "loss" in event["values"]]


def test_epochs_are_copied_once_though_a_resumed_training_writes_them_again(journal):
    recorder = Recorder(journal)
    recorder.copy_epochs()  # nothing there yet
    write(journal, range(4), 10.0)
    recorder.copy_epochs()
    write(journal, range(2), 10.0)  # cut back to the newest checkpoint
    recorder.copy_epochs()
    write(journal, range(6), 10.0)
    recorder.copy_epochs()
    assert losses(journal) == [(e, 10.0 + e) for e in range(6)]
    write(journal, range(7), 10.0)
    Recorder(Journal(journal.run_dir)).copy_epochs()  # the process after a kill
    assert losses(Journal(journal.run_dir)) == [(e, 10.0 + e) for e in range(7)]


def test_the_load_of_the_machine_is_sampled_now_and_then(journal, monkeypatch):
    recorder = Recorder(journal)
    recorder.record()
    recorder.record()  # too soon
    monkeypatch.setattr(module, "MEASURE_EVERY_S", 0.0)
    Recorder(Journal(journal.run_dir)).record()
    samples = [event for event, _ in journal.read(0) if event["event"] == "metrics"]
    assert [event["step"] for event in samples] == [0, 1]


def test_the_load_has_the_names_that_mlflow_shows(tmp_path):
    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
    from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor

    load = machine_load(tmp_path)
    for monitor in (CPUMonitor(), DiskMonitor()):
        monitor.collect_metrics()
        names = {f"system/{name}" for name in monitor.aggregate_metrics()}
        assert names & load.keys()
    assert names | {"system/cpu_utilization_percentage"} - load.keys()
    assert 0 < load["system/system_memory_usage_percentage"] <= 100
    assert load["system/process_memory_megabytes"] > 10
