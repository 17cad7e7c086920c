"""`aqa data ...` on the command line: clips tables, written, checked, imported, rendered and counted."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from pipelines.call import Call
from pipelines.result import Result, to_text

logger = logging.getLogger(__name__)

data_app = App(name="data", help="Clips tables: write, check, import and count them.")

_Call = Annotated[Call, Parameter(parse=False)]
_Store = Annotated[Path, Parameter(help="Folder of the feature store.")]


@data_app.command
def init(folder: Path = Path(), *, call: _Call) -> Any:
    """Write clips.csv, a clips table to fill in, and a page that explains its columns.

    Example: aqa data init mydata

    Parameters
    ----------
    folder
        Where to; existing files are left alone.
    """
    from pipelines import data

    return {"written": data.init(folder)}


@data_app.command
def validate(manifest: Path, *, call: _Call) -> Any:
    """Check a clips table (CSV or Parquet) and name each wrong row and column.

    Example: aqa data validate clips.csv

    Parameters
    ----------
    manifest
        The clips table.
    """
    from pipelines import data

    report = data.validate(manifest)
    return Result(report, text="\n".join(data.report_lines(report)))


@data_app.command(name="import")
def import_(
    kind: str,
    source: Path,
    *,
    store: _Store,
    samples: Path | None = None,
    tracking_states: Path | None = None,
    skeleton: str = "",
    unit: str = "",
    rate_hz: float = 0.0,
    split_index: int | None = None,
    splits: Path | None = None,
    width: int = 0,
    height: int = 0,
    videos: Path | None = None,
    steps_from: Path | None = None,
    repetitions: Path | None = None,
    splashes: Path | None = None,
    call: _Call,
) -> Any:
    """Read a data set into the store: its clips, and its keypoints where it has them.

    Example: aqa data import kimore /data/KiMoRe --store store

    Parameters
    ----------
    kind
        manifest, kimore, fine_diving, mtl_aqa, keypoints, utkinect, nw_ucla, uwa3d, ui_prmd, infants, coco,
        mmpose, pyskl, finediving-pose, openpose or trc.
    source
        File or folder of the data set.
    samples
        CSV of the clips (keypoints only).
    tracking_states
        NPZ of tracking states (keypoints only).
    skeleton
        Name of the joints' order, e.g. kinect25, where the file does not say it.
    unit
        px or m (keypoints only).
    rate_hz
        Frames per second, where the file does not say it (utkinect: frame ids per second).
    split_index
        Which repeat of the subject splits fills the column split.
    splits
        CSV of subject splits.
    width
        Width of the upright frame in px, where the file does not say it.
    height
        Its height.
    videos
        Folder of COMPETITION/NUMBER.mp4 or COMPETITION/NUMBER/*.jpg (fine_diving and mtl_aqa only).
    steps_from
        FineDiving's folder, whose steps the same dives of mtl_aqa take over.
    repetitions
        EGCN's tables of repetitions, a folder or repetitions_long.csv (kimore only).
    splashes
        Folder of COMPETITION/NUMBER.pkl with splash masks (fine_diving only).
    """
    from pipelines import data

    clips, poses, report = data.import_(
        kind, source, samples=samples, tracking=tracking_states, skeleton=skeleton, unit=unit,
        rate_hz=rate_hz, split_index=split_index, splits=splits, width=width, height=height, videos=videos,
        steps_from=steps_from, repetitions=repetitions, splashes=splashes,
    )  # fmt: skip
    report["store"] = data.put(store, kind, clips, poses)
    return Result(report, text="\n".join([*data.report_lines(report), to_text(report["store"])]))


@data_app.command
def check(kind: str, source: Path, *, repetitions: Path | None = None, call: _Call) -> Any:
    """Audit a data set: counts, hashes, missing cells, and what is known of the published one.

    Example: aqa data check kimore /data/KiMoRe

    Parameters
    ----------
    kind
        manifest, kimore, fine_diving, mtl_aqa, utkinect, nw_ucla, uwa3d, ui_prmd or infants.
    source
        File or folder of the data set.
    repetitions
        EGCN's tables of repetitions, a folder or repetitions_long.csv (kimore only).
    """
    from pipelines import data_check

    document = data_check.check(kind, source, repetitions=repetitions)
    return Result(document, text="\n".join(data_check.check_lines(document)))


@data_app.command
def split(
    source: Path,
    *,
    out: Path,
    folds: int | None = None,
    leave_one_out: bool = False,
    published: Path | None = None,
    seed: int = 0,
    call: _Call,
) -> Any:
    """Write a CSV of splits by subject, which `aqa data import --splits FILE --split-index K` reads.

    Example: aqa data split store --folds 5 --out five_folds.csv

    Parameters
    ----------
    source
        Clips table or folder of a store.
    out
        The CSV to write; an existing one is left alone.
    folds
        So many folds by subject, each group spread over them.
    leave_one_out
        One split per subject.
    published
        A CSV of splits by others: checked against the subjects of the source, and written out anew.
    seed
        Of the folds.
    """
    from pipelines import data

    return data.split(source, out, folds=folds, one_out=leave_one_out, published=published, seed=seed)


@data_app.command
def render_twin(
    annotations: Path,
    out: Path,
    *,
    dataset: str = "fine_diving",
    n: int = 600,
    seed: int = 0,
    workers: int | None = None,
    call: _Call,
) -> Any:
    """Render annotated dives as videos, for whoever has the annotations of a data set but not its videos.

    Example: aqa data render-twin FINEDIVING_FOLDER twin --n 600

    Parameters
    ----------
    annotations
        Folder of the published annotation files.
    out
        Where to; run again, the same command renders only what is missing.
    dataset
        fine_diving.
    n
        Number of dives; the official split and the shares of the dive numbers are kept.
    seed
        Same seed, same frames of a dive.
    workers
        Processes; default one per core.
    """
    from pipelines.rendered import twin

    return twin.render_twin(
        annotations, out, dataset=dataset, n=n, seed=seed, workers=workers, say=logger.info
    )


@data_app.command
def leaks(first: Path, second: Path, *, call: _Call) -> Any:
    """Dives that are in the test split of one data set and in the training split of the other.

    Example: aqa data leaks finediving-store mtl-store

    Parameters
    ----------
    first
        Clips table or folder of a store, of FineDiving or MTL-AQA.
    second
        The other one.
    """
    from pipelines import data
    from pipelines.datasets import dive_leaks

    report = dive_leaks.leaks(data.clips_of(first), data.clips_of(second))
    return Result(report, text="\n".join(dive_leaks.leak_lines(report, str(first), str(second))))


@data_app.command
def stats(source: Path, *, call: _Call) -> Any:
    """Count clips, subjects, scores and splits of a clips table or a store.

    Example: aqa data stats clips.csv

    Parameters
    ----------
    source
        Clips table or folder of a store.
    """
    from pipelines import data

    return data.stats(data.clips_of(source))
