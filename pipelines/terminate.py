"""SIGTERM, as a stopped job or a spot instance that is taken back gets it: a command ends within two seconds.

The command is interrupted as by Ctrl-C; what takes longer than the grace, such as a server that does not
answer or the end of a local Ray, is cut off. Nothing depends on this: a command that was killed goes on too.
Ray's job manager sends SIGKILL 3 s after SIGTERM.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

GRACE_S = 1.5
TERMINATED = 128 + signal.SIGTERM
TOLD = "aqa: terminated; the same command resumes where it stopped"


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Raises KeyboardInterrupt in the block when SIGTERM comes; 1.5 s later it ends the process.

    Does nothing in a thread other than the first: only that one gets signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def terminated() -> bool:
    """Whether SIGTERM has come. A kind of KeyboardInterrupt could not tell: Ray makes a plain one of it."""
    return signal.getsignal(signal.SIGTERM) is signal.SIG_IGN


def leave() -> None:
    """Ends the process without taking the interpreter down first, which takes seconds on a busy machine."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(TERMINATED)


def _interrupt(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough
    cut = threading.Timer(GRACE_S, _end)
    cut.daemon = True
    cut.start()
    raise KeyboardInterrupt


def _end() -> None:
    with contextlib.suppress(OSError):
        os.write(2, f"{TOLD}\n".encode())  # print might wait for a lock of the first thread
    os._exit(TERMINATED)
