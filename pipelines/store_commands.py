"""`aqa store ...` on the command line: looks into the store, explains, exports, cleans."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from pipelines.call import Call
from pipelines.flags import settings
from pipelines.result import Result

store_app = App(name="store", help="The feature store: what is in it, is it whole, and why.")

_Call = Annotated[Call, Parameter(parse=False)]
_Store = Annotated[Path, Parameter(help="Folder of the feature store.")]
_DryRun = Annotated[bool, Parameter(help="Say what would be done; write nothing.", negative=())]


@store_app.command(name="inspect")
def inspect_(store: Path, *, call: _Call) -> Any:
    """Tables, versions, rows, keys and sizes of a store.

    Example: aqa store inspect store

    Parameters
    ----------
    store
        Folder of the feature store.
    """
    from pipelines import audit as verb

    tables = verb.inspect(store)
    return Result(tables, text="\n".join(verb.inspect_lines(tables)))


@store_app.command
def verify(store: Path, *, call: _Call) -> Any:
    """Read every file of the store again and compare it with its record.

    Example: aqa store verify store

    Parameters
    ----------
    store
        Folder of the feature store.
    """
    from pipelines import audit as verb

    return verb.verify(store)


@store_app.command
@settings("extract")
def why(clip_id: str, *, store: _Store, call: _Call, **given: Any) -> Any:
    """Say what the store holds of a clip, and what extraction with these settings would do with it and why.

    Example: aqa store why dive-17 --store store --weights new.safetensors

    Parameters
    ----------
    clip_id
        The clip.
    """
    from pipelines import extract as verb
    from pipelines.why import why_lines

    found = verb.explain(store, clip_id, call.config(given).extract)
    return Result(found, text="\n".join(why_lines(found)))


@store_app.command
def export(store: Path, *, kind: str, out: Path, poses: str = "", skeleton: str = "", call: _Call) -> Any:
    """Write poses for another program.

    Example: aqa store export store --kind coco --out coco --skeleton coco17

    Parameters
    ----------
    store
        Folder of the feature store.
    kind
        coco, mmpose, pyskl, finediving-pose, openpose or trc.
    out
        New folder.
    poses
        Key of the pose table; may be left out when there is only one.
    skeleton
        Map the joints to this skeleton first.
    """
    from pipelines.formats.export_poses import export_poses
    from pipelines.store import snapshot

    clips, rows, provenance = snapshot(store, poses)
    return export_poses(rows, clips, kind, out, skeleton=skeleton) | {"from": provenance}


@store_app.command
def vacuum(
    store: Path,
    *,
    older_than_h: float = 24.0,
    keep_versions: int = 0,
    dry_run: _DryRun = False,
    call: _Call,
) -> Any:
    """Delete files that no version of a table names: what killed runs left behind.

    Example: aqa store vacuum store --dry-run

    Parameters
    ----------
    store
        Folder of the feature store.
    older_than_h
        Leave files alone that are younger, in hours.
    keep_versions
        Also give up all but the newest versions of each table; 0 = keep every version.
    """
    from pipelines import audit as verb

    return verb.vacuum(store, dry_run=dry_run, older_than_h=older_than_h, keep_versions=keep_versions)
