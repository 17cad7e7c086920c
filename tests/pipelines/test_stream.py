"""Clips that were with lost workers start again, each ends in one row; the pools are a script here."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pyarrow as pa
import pytest

from pipelines import collect, stream
from pipelines.config import ExtractConfig
from pipelines.errors import ClusterError
from pipelines.pools import Sizes
from pipelines.schema import POSES
from pipelines.stages import base
from pipelines.table import Table
from tests.pipelines.test_collect import part

PLAN = pa.table({"clip_id": ["a", "b", "c"]})
WORK = SimpleNamespace(decode=None, on_gpu=lambda gpu: None)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Plays a script: per attempt the tables that come back, or an error; gives rows, told lines, plans."""

    def play(*attempts: list) -> SimpleNamespace:
        found = SimpleNamespace(told=[], plans=[])
        script = iter(attempts)

        def run_pools(plan, pools, rows_per_block):
            found.plans.append(plan["clip_id"].to_pylist())
            for event in next(script):
                if isinstance(event, Exception):
                    raise event
                yield event.append_column(base.SECONDS, pa.array([json.dumps({"NoneType": 1.0})]))

        monkeypatch.setattr(base, "run_pools", run_pools)
        table = Table(tmp_path / "table", POSES)
        with table.writer() as writer:
            collector = collect.Collector(table, writer, lambda rows: rows.select(POSES.names))
            sizes = Sizes(1, 1, 2, 0)
            found.cost, _ = stream.stream(PLAN, WORK, sizes, ExtractConfig(), collector, found.told.append)
            collector.commit()
        found.rows = table.read().to_pylist()
        return found

    return play


def whole(name: str) -> pa.Table:
    return part(name, 0, range(2), True)


LOST = base.WorkersLost("node died")


def test_clips_of_lost_workers_start_again(run):
    found = run(
        [whole("a"), part("b", 0, range(3), False), LOST],
        [part("b", 0, range(3), False), whole("c"), part("b", 1, range(3, 4), True)],
    )
    assert found.plans == [["a", "b", "c"], ["b", "c"]]
    assert {row["clip_id"]: row["frame_index"] for row in found.rows} == {
        "a": [0, 1],
        "b": [0, 1, 2, 3],
        "c": [0, 1],
    }
    assert len(found.rows) == 3
    assert "workers were lost (node died); starting 2 clips again" in found.told
    assert sorted(found.cost.frames) == [2, 2, 4]


def test_workers_lost_after_the_last_clip(run):
    found = run([whole("a"), whole("b"), whole("c"), LOST])
    assert len(found.rows) == 3
    assert len(found.plans) == 1


def test_workers_that_are_lost_without_finishing_anything_end_the_run(run):
    with pytest.raises(ClusterError, match="were lost 4 times while not one clip was finished.*node died"):
        run(*[[LOST]] * 9)
    assert run([whole("a"), LOST], [LOST], [LOST], [whole("b"), LOST], [LOST], [LOST], [whole("c")]).rows
