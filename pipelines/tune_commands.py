"""`aqa tune ...` on the command line."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from pipelines.call import Call
from pipelines.flags import settings
from pipelines.result import Result, to_text

tune_app = App(name="tune", help="Tune: which values of some settings serve the validation people best.")

_Call = Annotated[Call, Parameter(parse=False)]
_Store = Annotated[Path, Parameter(help="Folder of the feature store.")]
_Name = Annotated[str, Parameter(help="Name of the sweep; the same name goes on with it.")]
_Space = Annotated[Path, Parameter(help="TOML file of what varies, see docs/sweeps.md.")]
_Runs = Annotated[Path, Parameter(help="Folder that holds the runs.")]
_DryRun = Annotated[bool, Parameter(help="Say what would be tried first; write nothing.", negative=())]
_log = logging.getLogger(__name__)


@tune_app.command(name="two-stage")
@settings("tune")
def two_stage(
    *,
    store: _Store,
    name: _Name,
    space: _Space,
    pretrained: Path | None = None,
    runs: _Runs = Path("runs"),
    dry_run: _DryRun = False,
    call: _Call,
    **given: Any,
) -> Any:
    """Search settings of the expert, and of its pretraining if the space names some.

    Example: aqa tune two-stage --store store --name search --space space.toml --trials 20

    Parameters
    ----------
    pretrained
        Run of `aqa train pretrain` that every trial starts from.
    """
    config = call.config(given)
    return _searched("two-stage", dry_run, store, name, space, config, pretrained=pretrained, runs=runs)


@tune_app.command(name="hp-mcore")
@settings("tune")
def hp_mcore(
    *,
    store: _Store,
    name: _Name,
    space: _Space,
    runs: _Runs = Path("runs"),
    dry_run: _DryRun = False,
    call: _Call,
    **given: Any,
) -> Any:
    """Search settings of HP-MCoRe.

    Example: aqa tune hp-mcore --store store --name search --space space.toml --metric val_spearman
    """
    config = call.config(given)
    return _searched("hp-mcore", dry_run, store, name, space, config, runs=runs)


def _searched(target: str, dry_run: bool, *given: Any, **named: Any) -> Result:
    from pipelines import tune

    found = tune.sweep(target, *given, **named, dry_run=dry_run, progress=_log.info)
    text = "" if dry_run else "\n".join([to_text(found["trials"]), *tune.lines(found)])
    return Result(found, text=text)
