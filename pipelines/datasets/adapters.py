"""Which adapter reads a kind of data, with which options: the switch behind `aqa data import` and `check`.

Heavy modules are imported where they are used, so the command line starts quickly.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.datasets import KINDS
from pipelines.errors import ConfigError
from pipelines.formats import FORMATS

if TYPE_CHECKING:
    import pyarrow as pa

OPTIONS = (
    "samples", "tracking", "skeleton", "unit", "rate_hz", "width", "height", "videos", "steps_from",
    "repetitions", "splashes",
)  # fmt: skip
_FIT = {
    "kimore": {"repetitions"},
    "keypoints": {"samples", "tracking", "skeleton", "unit", "rate_hz"},
    "fine_diving": {"videos", "rate_hz", "splashes"},
    "mtl_aqa": {"videos", "rate_hz", "steps_from"},
    "utkinect": {"rate_hz"},
}


def read(kind: str, source: Path, given: dict[str, Any]) -> tuple[pa.Table, pa.Table | None, dict]:
    """Clips, poses (None where the source holds no keypoints) and report of a data set.

    Args:
        kind: a key of KINDS or FORMATS.
        source: its file or folder.
        given: a value for each of OPTIONS; those not given are empty.

    Raises:
        ConfigError: unknown kind.
        DataError, SecurityError, StorageError: as the adapters.
    """
    if kind in FORMATS:
        from pipelines.formats.import_poses import import_poses

        options = {name: given[name] for name in ("skeleton", "rate_hz", "width", "height")}
        return import_poses(kind, source, **options)
    if kind in ("manifest", "fine_diving", "mtl_aqa"):
        return _read_clips(kind, source, given)
    return _read_recordings(kind, source, given)


def _read_clips(kind: str, source: Path, given: dict[str, Any]) -> tuple[pa.Table, None, dict]:
    """What holds no keypoints."""
    if kind == "manifest":
        from pipelines.datasets.manifest import read_manifest

        return read_manifest(source), None, {"kind": kind, "source": str(source.absolute()), "warnings": []}
    rate_hz = given["rate_hz"] or 25.0
    if kind == "fine_diving":
        from pipelines.datasets.fine_diving import read_fine_diving

        clips, report = read_fine_diving(source, given["videos"], rate_hz, given["splashes"])
    else:
        from pipelines.datasets.mtl_aqa import read_mtl_aqa

        clips, report = read_mtl_aqa(source, given["videos"], rate_hz, given["steps_from"])
    return clips, None, report


def _read_recordings(kind: str, source: Path, given: dict[str, Any]) -> tuple[pa.Table, pa.Table, dict]:
    """What holds keypoints."""
    if kind == "kimore":
        return _read_kimore(source, given["repetitions"])
    if kind == "keypoints":
        from pipelines.datasets.keypoints_npz import ArraySource, read_keypoints

        positions, samples, tracking = array_files(source, given["samples"], given["tracking"])
        skeleton, unit, rate_hz = given["skeleton"], given["unit"], given["rate_hz"]
        return read_keypoints(ArraySource(positions, samples, skeleton, unit, rate_hz, tracking))
    if kind == "utkinect":
        from pipelines.datasets.utkinect import IDS_PER_S, read_utkinect

        return read_utkinect(source, given["rate_hz"] or IDS_PER_S)
    if kind == "nw_ucla":
        from pipelines.datasets.nw_ucla import read_nw_ucla

        return read_nw_ucla(source)
    if kind == "uwa3d":
        from pipelines.datasets.uwa3d import read_uwa3d

        return read_uwa3d(source)
    if kind == "ui_prmd":
        from pipelines.datasets.ui_prmd import read_ui_prmd

        return read_ui_prmd(source)
    if kind == "infants":
        from pipelines.datasets.infants import read_infants

        return read_infants(source)
    known = [*KINDS, *FORMATS]
    near = difflib.get_close_matches(kind, known, n=1)
    remedy = f"did you mean {near[0]!r}" if near else f"choose one of: {', '.join(known)}"
    raise ConfigError(kind, "unknown kind of data", remedy)


def check_options(kind: str, given: dict[str, Any]) -> None:
    """Refuse options that say what the data hold where the data say it themselves.

    Raises:
        ConfigError: an option that does not fit the kind, or a rate that is none.
    """
    fit = {"skeleton", "rate_hz", "width", "height"} if kind in FORMATS else _FIT.get(kind, set())
    wrong = [name for name, value in given.items() if value and name not in fit]
    if wrong:
        remedy = f"leave out {', '.join(wrong)}, or import as kind keypoints"
        raise ConfigError(kind, "this kind of data says itself what it holds", remedy)
    if not 0 <= given["rate_hz"] < 1e6:
        raise ConfigError("rate_hz", f"is {given['rate_hz']}", "give frames per second above 0")


def _read_kimore(source: Path, repetitions: Path | None) -> tuple[pa.Table, pa.Table, dict]:
    """The official folders, or the folder of arrays: Kinect v2, metres, nominal 30 Hz."""
    from pipelines.datasets.keypoints_npz import ArraySource, read_keypoints
    from pipelines.datasets.kimore import NOMINAL_HZ, read_kimore

    if any((source / top).is_dir() for top in ("CG", "GPP")) or not list(source.glob("*positions*.npz")):
        clips, poses, report = read_kimore(source)
    else:
        positions, samples, tracking = array_files(source, None, None)
        arrays = ArraySource(positions, samples, "kinect25", "m", NOMINAL_HZ, tracking, dataset="kimore")
        clips, poses, report = read_keypoints(arrays)
    if repetitions is not None:
        from pipelines.datasets.kimore_repetitions import read_repetitions, with_repetitions

        clips, warnings = with_repetitions(clips, poses, read_repetitions(Path(repetitions)))
        report["warnings"] += warnings
    return clips, poses, report


def array_files(source: Path, samples: Path | None, tracking: Path | None) -> tuple[Path, Path, Path | None]:
    """Positions, samples and tracking states: as given, else the one file of that name in the folder."""
    folder, positions = (
        (source, _only(source, "*positions*.npz")) if source.is_dir() else (source.parent, source)
    )
    samples = samples or _only(folder, "*samples*.csv")
    if tracking is None and source.is_dir() and list(folder.glob("*tracking*.npz")):
        tracking = _only(folder, "*tracking*.npz")
    return positions, samples, tracking


def _only(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        cause = f"{len(found)} files match {pattern}, expected one"
        raise ConfigError(folder, cause, "name the file on the command line")
    return found[0]
