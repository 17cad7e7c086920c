"""Configs of the MMPose and MMDetection zoos by name; only files of the installed packages are executed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.errors import ConfigError

if TYPE_CHECKING:
    from mmengine import Config


def read_zoo_config(name: str, folders: dict[Path, str], setting: str, zoo: str) -> Config:
    """The MMEngine config of a name.

    Args:
        name: file name without `.py`; must be one of those found, so that no path can be given.
        folders: where to look, in order; with the shell pattern of the files to offer.
        setting: the user's setting, named in errors.
        zoo: what the folders are called, for people.

    Raises:
        ConfigError: there is no such config; the nearest name is told.
    """
    import difflib

    from pipelines.stages import mmpose_compat

    mmpose_compat.install()
    from mmengine import Config

    found: dict[str, Path] = {}
    for folder, pattern in folders.items():
        for path in sorted(folder.rglob(pattern)):
            if "_base_" not in path.parts:
                found.setdefault(path.stem, path)
    if name not in found:
        near = difflib.get_close_matches(name, found, n=1, cutoff=0.3)
        raise ConfigError(
            setting,
            f"{name!r} is no config of {zoo}",
            f"Did you mean {near[0]}?" if near else "Use the name of a config in the zoo, without .py",
        )
    return Config.fromfile(found[name])
