"""`aqa train ...` on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from pipelines.call import Call
from pipelines.flags import settings

train_app = App(name="train", help="Train: the two-stage model (pretrain, then expert), angles, or hp-mcore.")

_Call = Annotated[Call, Parameter(parse=False)]
_Store = Annotated[Path, Parameter(help="Folder of the feature store.")]
_Name = Annotated[str, Parameter(help="Name of the run; the same name resumes it.")]
_Runs = Annotated[Path, Parameter(help="Folder that holds the runs.")]
_DryRun = Annotated[bool, Parameter(help="Say what would be done; write nothing.", negative=())]


@train_app.command
@settings("pretrain")
def pretrain(
    *,
    store: _Store,
    name: _Name,
    runs: _Runs = Path("runs"),
    dry_run: _DryRun = False,
    call: _Call,
    **given: Any,
) -> Any:
    """Phase 1: the non-expert learns pace and inpainting from healthy motion.

    Example: aqa train pretrain --store store --name base --epochs 30 --model.encoder-units 64
    """
    config = call.config(given)
    from pipelines import train

    return train.pretrain(store, name, config, runs=runs, dry_run=dry_run)


@train_app.command
@settings("expert")
def expert(
    *,
    store: _Store,
    name: _Name,
    pretrained: Path | None = None,
    runs: _Runs = Path("runs"),
    dry_run: _DryRun = False,
    call: _Call,
    **given: Any,
) -> Any:
    """Phase 2: the expert learns scores on top of a pretrained encoder.

    Example: aqa train expert --store store --name es5 --pretrained runs/base --action-types Es5

    Parameters
    ----------
    pretrained
        Run of `aqa train pretrain`; without it the encoder starts from random weights.
    """
    config = call.config(given)
    from pipelines import train

    return train.expert(store, name, pretrained, config, runs=runs, dry_run=dry_run)


@train_app.command
@settings("angles")
def angles(
    *,
    store: _Store,
    name: _Name,
    runs: _Runs = Path("runs"),
    dry_run: _DryRun = False,
    call: _Call,
    **given: Any,
) -> Any:
    """Scores exercises from body-frame angles of 3-D poses, in one model for all action types.

    Example: aqa train angles --store store --name angles
    """
    config = call.config(given)
    from pipelines import train

    return train.angles(store, name, config, runs=runs, dry_run=dry_run)


@train_app.command(name="hp-mcore")
@settings("hp_mcore")
def hp_mcore(
    *,
    store: _Store,
    name: _Name,
    runs: _Runs = Path("runs"),
    dry_run: _DryRun = False,
    call: _Call,
    **given: Any,
) -> Any:
    """HP-MCoRe: scores a dive by comparing it, procedure by procedure, with dives whose score is known.

    Example: aqa train hp-mcore --store store --name dives --preset best
    """
    config = call.config(given)
    from pipelines import train

    return train.hp_mcore(store, name, config, runs=runs, dry_run=dry_run)
