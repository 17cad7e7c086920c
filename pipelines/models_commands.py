"""`aqa models ...` on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from pipelines.call import Call
from pipelines.flags import settings

models_app = App(name="models", help="Registered models: list them, check them, choose the champion.")

_Call = Annotated[Call, Parameter(parse=False)]
_Runs = Annotated[Path, Parameter(help="Folder that holds the runs, and mlflow.db if no server is named.")]


@models_app.command(name="list")
@settings("tracking")
def list_(*, runs: _Runs = Path("runs"), call: _Call, **given: Any) -> Any:
    """Every version of every registered model, with its metrics on the test clips.

    Example: aqa models list
    """
    from pipelines import models as verb

    return verb.list_models(_uri(call, given, runs)) or None


@models_app.command
@settings("tracking")
def verify(model: str, *, runs: _Runs = Path("runs"), call: _Call, **given: Any) -> Any:
    """Check every file of a model, load it without pickles, and score its examples again.

    Example: aqa models verify expert/3

    Parameters
    ----------
    model
        NAME (the champion), NAME/VERSION, NAME@ALIAS, or the folder of a bundle.
    """
    from pipelines import models as verb

    return verb.verify(model, _uri(call, given, runs))


@models_app.command
@settings("tracking")
def promote(
    name: str,
    version: int,
    *,
    require: tuple[str, ...] = (),
    replace: Annotated[bool, Parameter(negative=())] = False,
    runs: _Runs = Path("runs"),
    call: _Call,
    **given: Any,
) -> Any:
    """Make a version the champion, if it verifies, beats guessing, and is no worse than the champion.

    Example: aqa models promote expert 3 --require "spearman>=0.5"

    Parameters
    ----------
    name
        The registered model.
    version
        Its version.
    require
        What must hold of metrics.json, e.g. mae<=6; may be given several times.
    replace
        Do not compare with the champion.
    """
    from pipelines import models as verb

    return verb.promote(name, version, _uri(call, given, runs), require, replace)


def _uri(call: Call, given: dict[str, Any], runs: Path) -> str:
    from pipelines.tracking import tracking_uri

    return tracking_uri(call.config(given).tracking, runs / "any")
