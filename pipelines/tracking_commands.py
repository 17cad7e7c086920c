"""`aqa tracking ...` on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from pipelines.call import Call
from pipelines.result import Result

tracking_app = App(name="tracking", help="What MLflow knows of the runs.")

_Call = Annotated[Call, Parameter(parse=False)]


@tracking_app.command
def send(*runs: Path, uri: str = "", call: _Call) -> Any:
    """Send to MLflow what its server lacks of some runs: it did not answer, or the run was killed.

    Example: aqa tracking send runs

    Parameters
    ----------
    runs
        Run folders, or folders that hold them.
    uri
        Server to send to; without it, each run's own.
    """
    from pipelines.tracking import settle

    rows = [row for folder in runs for row in settle(folder, uri)]
    return Result(rows, exit_code=0 if all(row["complete"] for row in rows) else 5)
