"""What the decode process may use of the machine."""

from __future__ import annotations

import ctypes
import os
import resource
import sys


def harden(memory_mb: int) -> bool:
    """Limit this process; returns whether it has no network any more. Call before threads exist."""
    limit = memory_mb * 1024 * 1024
    if sys.platform == "linux":  # elsewhere the address space is shared with the system
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for what in (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE):
        resource.setrlimit(what, (0, 0))
    if sys.platform != "linux":
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
    new_user, new_network = 0x10000000, 0x40000000  # CLONE_NEWUSER, CLONE_NEWNET
    # Root keeps its right to read every file only in its own user namespace.
    flags = new_network if os.geteuid() == 0 else new_user | new_network
    return libc.unshare(flags) == 0


def memory_limit() -> float:
    """Address space of this process, bytes."""
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return limit if limit > 0 else float("inf")
