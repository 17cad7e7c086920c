"""`aqa train`: reads a snapshot of the store and fits a model to it (fit.py)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines import fit
from pipelines.config import Config
from pipelines.errors import ConfigError
from pipelines.store import snapshot, snapshot_of

if TYPE_CHECKING:
    import pyarrow as pa


def pretrain(
    store: Path, name: str, config: Config, *, runs: Path = Path("runs"), dry_run: bool = False
) -> dict[str, Any]:
    """Phase 1: the non-expert learns from the healthy motion of a store.

    Args:
        store: the feature store.
        name: of the run; the same name resumes it.
        config: the sections `pretrain` and `tracking` are used.
        runs: folder of the runs.
        dry_run: only say what would be read and trained.

    Returns:
        Summary of the run; errors see `fit.pretrain`.
    """
    run_dir = run_folder(runs, name)
    clips, poses, provenance = snapshot(store, config.pretrain.poses)
    if dry_run:
        return _plan(run_dir, clips, poses, provenance)
    return fit.pretrain(clips, poses, config.pretrain, run_dir, provenance, config.tracking)


def expert(
    store: Path,
    name: str,
    pretrained: Path | None,
    config: Config,
    *,
    runs: Path = Path("runs"),
    dry_run: bool = False,
) -> dict[str, Any]:
    """Phase 2: the expert learns the scores of a store.

    Args:
        pretrained: run folder of `pretrain`; None = an encoder with random weights.

    Other arguments: see `pretrain`; of config the sections `expert` and `tracking` are used.
    """
    run_dir = run_folder(runs, name)
    family, wanted = f"features/{config.expert.feature_kind}", {"poses": config.expert.poses}
    if config.expert.model.appearance != "none":
        wanted[family] = config.expert.features
    clips, tables, provenance = snapshot_of(store, wanted, {"poses": "--poses", family: "--features"})
    poses, features = tables["poses"], tables.get(family)
    if dry_run:
        return _plan(run_dir, clips, poses, provenance)
    return fit.train_expert(
        clips, poses, config.expert, run_dir, pretrained, provenance, config.tracking, features
    )


def angles(
    store: Path, name: str, config: Config, *, runs: Path = Path("runs"), dry_run: bool = False
) -> dict[str, Any]:
    """The angles expert learns the scores of a store from body-frame angles.

    Arguments: see `pretrain`; of config the sections `angles` and `tracking` are used.
    """
    from pipelines.angles_expert.fit import fit

    run_dir = run_folder(runs, name)
    clips, poses, provenance = snapshot(store, config.angles.poses)
    if dry_run:
        return _plan(run_dir, clips, poses, provenance)
    return fit(clips, poses, config.angles, run_dir, provenance, config.tracking)


def hp_mcore(
    store: Path, name: str, config: Config, *, runs: Path = Path("runs"), dry_run: bool = False
) -> dict[str, Any]:
    """HP-MCoRe learns the scores of dives by comparing them.

    Arguments: see `pretrain`; of config the sections `hp_mcore` and `tracking` are used.
    """
    from pipelines.hp_mcore.fit import FAMILIES, fit, wanted_streams

    run_dir = run_folder(runs, name)
    wanted = wanted_streams(config.hp_mcore)
    flags = {FAMILIES[stream]: f"--{stream}" for stream in wanted} | {"poses": "--poses"}
    clips, tables, provenance = snapshot_of(
        store, {FAMILIES[stream]: key for stream, key in wanted.items()}, flags
    )
    streams = {stream: tables[FAMILIES[stream]] for stream in wanted}
    if dry_run:
        return _plan(run_dir, clips, next(iter(streams.values())), provenance)
    return fit(clips, streams, config.hp_mcore, run_dir, provenance, config.tracking)


def run_folder(runs: Path, name: str) -> Path:
    """The folder of a run; ConfigError if the name is no plain folder name."""
    if not name or Path(name).name != name or name in (".", ".."):
        raise ConfigError(f"name {name!r}", "is not a plain folder name", "use letters, digits, - and _")
    return runs / name


def _plan(run_dir: Path, clips: pa.Table, poses: pa.Table, provenance: dict[str, Any]) -> dict[str, Any]:
    splits = [split or "none" for split in clips["split"].to_pylist()]
    return {
        "dry_run": True,
        "run_dir": str(run_dir),
        "clips": len(clips),
        "extracted": poses["status"].to_pylist().count("ok"),
        "splits": {split: splits.count(split) for split in sorted(set(splits))},
        **provenance,
    }
