"""One decode process for the tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pipelines.stages.decode import DecodeGuard


@pytest.fixture(scope="session")
def guard() -> Iterator[DecodeGuard]:
    """One guard for all files: a bad file must not harm the next."""
    with DecodeGuard(timeout_s=60, memory_mb=3000) as process:
        yield process
