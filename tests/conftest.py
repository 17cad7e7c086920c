"""Fixtures shared by all tests: real data, one Ray for the session, no network."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pytest_socket import socket_allow_hosts

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")

DATA_VARIABLE = "AQA_TEST_DATA"


@pytest.fixture(autouse=True)
def _no_network() -> None:
    """Python sockets reach this machine only."""
    socket_allow_hosts(["127.0.0.1", "::1", "localhost"], allow_unix_socket=True)


@pytest.fixture(autouse=True)
def _denormals() -> Iterator[None]:
    """Stages flush tiny numbers to zero in their process, which is this one; other tests compare all bits."""
    yield
    if "torch" in sys.modules:
        sys.modules["torch"].set_flush_denormal(False)


@pytest.fixture(scope="session")
def test_data() -> Path:
    """Folder of the real data; tests that need it are skipped, and counted, without it."""
    value = os.environ.get(DATA_VARIABLE)
    if not value:
        pytest.skip(f"{DATA_VARIABLE} is not set")
    folder = Path(value)
    if not folder.is_dir():
        pytest.fail(f"{DATA_VARIABLE}={folder} is not a folder")
    return folder


@pytest.fixture(scope="session")
def local_ray() -> Iterator[None]:
    """One local Ray with two cores for every test that needs it."""
    from cluster.connect import connect

    os.environ.pop("RAY_ADDRESS", None)
    with connect(num_cpus=2):
        yield


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what is marked `data` when there is no data, so that no such test can pass without it."""
    if item.get_closest_marker("data") and not os.environ.get(DATA_VARIABLE):
        pytest.skip(f"{DATA_VARIABLE} is not set")


def pytest_terminal_summary(terminalreporter) -> None:
    """Say aloud how many tests did not run for want of data."""
    skipped = [r for r in terminalreporter.stats.get("skipped", []) if DATA_VARIABLE in str(r.longrepr)]
    if skipped:
        terminalreporter.write_line(
            f"NOT TESTED: {len(skipped)} tests need real data; set {DATA_VARIABLE} to its folder", yellow=True
        )
