from __future__ import annotations

import importlib.metadata
import json
import platform

from pipelines.environment import differing, environment


def test_the_environment_is_flat_text_and_tells_versions() -> None:
    found = environment()
    assert json.loads(json.dumps(found)) == found
    assert all(isinstance(value, str) for value in found.values())
    assert found["python"] == platform.python_version()
    assert found["package.numpy"] == importlib.metadata.version("numpy")
    assert int(found["threads"]) >= 1
    assert "cores" in found["processor"]
    assert environment() == found


def test_only_what_differs_is_listed() -> None:
    rows = differing({"a": "1", "b": "2", "gone": "x"}, {"a": "1", "b": "3", "new": "y"})
    assert rows == [
        {"what": "b", "recorded": "2", "now": "3"},
        {"what": "gone", "recorded": "x", "now": ""},
        {"what": "new", "recorded": "", "now": "y"},
    ]
