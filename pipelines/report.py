"""`aqa report`: one HTML file about a training run, a sweep or a store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipelines.checkpoint import write_durably
from pipelines.errors import ConfigError, StorageError


def report(path: Path, out: Path, store: Path | None = None) -> dict[str, Any]:
    """Writes the page.

    Args:
        path: folder of a run, a sweep or a store.
        out: .html file; an old one is replaced.
        store: where the store of the run is now; None = where it was.

    Returns:
        report (the file), about (run, sweep or store), bytes.

    Raises:
        ConfigError: the folder is none of them.
        CorruptError: a file of it cannot be read.
        StorageError: the page cannot be written.
    """
    about = _kind(path)
    if about == "sweep":
        from pipelines.reports.sweep import sweep_page

        text = sweep_page(path)
    elif about == "store":
        from pipelines.reports.extraction import extraction_page

        text = extraction_page(path)
    else:
        from pipelines.reports.run import run_page

        text = run_page(path, store)
    data = text.encode("utf-8", "replace")  # a file name need not be a text
    try:
        write_durably(out, data)
    except OSError as error:
        raise StorageError(
            out, f"the page cannot be written ({error.strerror})", "check the folder"
        ) from error
    return {"report": str(out), "about": about, "bytes": len(data)}


def _kind(path: Path) -> str:
    marks = {"sweep": "sweep.json", "store": "store.json", "run": "config.json"}
    for about, name in marks.items():
        if (path / name).is_file():
            return about
    raise ConfigError(
        path,
        "is no run, no sweep and no store",
        "give a folder that `aqa train`, `aqa tune` or `aqa extract` wrote",
    )
