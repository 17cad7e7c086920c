"""Every exception as the error a user sees, with its exit code; what is left over is a bug."""

from __future__ import annotations

import errno
import os
import re
import shutil
import sys
from pathlib import Path

from cyclopts import CycloptsError

from pipelines.errors import AqaError, ClusterError, ConfigError, SecurityError, StorageError


def as_aqa_error(error: BaseException) -> AqaError | None:
    """The error as a user should see it; None if it is a bug."""
    if isinstance(error, AqaError):
        return error
    if isinstance(error, CycloptsError):
        return usage_error(error)
    if isinstance(error, OSError) and error.errno in _STORAGE_ERRNOS:
        return _storage_error(error)
    return _cluster_error(error)


def usage_error(error: CycloptsError, line: str = "") -> ConfigError:
    """A wrong command line: what is wrong in it, the nearest right word, and where to read on.

    Args:
        error: of the parser; it lists all commands of a group, up to one that has no name.
        line: the command, where it is not the one that the user runs now.
    """
    command = " ".join(["aqa", *(getattr(error, "command_chain", None) or ())])
    text = re.sub(r" Available commands: .*", "", str(error), flags=re.DOTALL)
    cause, found, nearest = text.partition(" Did you mean ")
    hint = f"Did you mean {nearest} " if found else ""
    told = f"{line}: {cause}" if line else cause
    return ConfigError("command line", told.rstrip("."), f"{hint}See `{command} --help`")


def _cluster_error(error: BaseException) -> AqaError | None:
    """cluster/ may not import pipelines, so its errors get their exit codes here."""
    if "cluster.connect" not in sys.modules:  # then none of its errors can have come up
        return None
    from cluster.connect import ClusterUnavailable, InsecureCluster
    from cluster.secret import SecretFound

    if isinstance(error, SecretFound):
        return SecurityError(error.where, error.cause, error.remedy)
    if not isinstance(error, ClusterUnavailable):
        return None
    kind = SecurityError if isinstance(error, InsecureCluster) else ClusterError
    return kind(error.address, error.cause, error.remedy)


_STORAGE_ERRNOS = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EROFS,
    errno.EIO,
    errno.EACCES,
    errno.EPERM,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EISDIR,
}


def _storage_error(error: OSError) -> StorageError:
    """An operating-system error with the path it concerns and the room left there."""
    path = Path(os.fsdecode(error.filename)) if error.filename else Path.cwd()
    cause = os.strerror(error.errno or 0).lower()
    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EISDIR):
        return StorageError(path, cause, "Check the path")
    if error.errno in (errno.EACCES, errno.EPERM):
        return StorageError(path, cause, "Check the permissions")
    place = next((p for p in (path, *path.absolute().parents) if p.exists()), Path("/"))
    free = shutil.disk_usage(place).free
    return StorageError(
        path,
        f"{cause}; {free:,} bytes are free there",
        "Make room or choose another folder, then run the same command again",
    )
