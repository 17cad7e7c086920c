"""All problems of one file, collected, so that a user corrects them in one go."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pipelines.errors import DataError

SHOWN = 20


class Problems:
    """Collects what is wrong in a file and raises once.

    Args:
        path: the file, named first in the error.
    """

    def __init__(self, path: Path):
        self.path = path
        self.count = 0
        self._first: list[str] = []

    def add(self, where: str, expected: str, remedy: str, *, column: str = "", value: object = None) -> None:
        """Note one problem: `where` as in "line 5", what was expected instead, what to do."""
        self.count += 1
        if len(self._first) < SHOWN:
            place = f"{where}, column {column}" if column else where
            found = "" if value is None else f"found {shorten(value)}, "
            self._first.append(f"{place}: {found}expected {expected}; {remedy}")

    def raise_if_any(self) -> None:
        """Raise one DataError with the first problems and the count of the rest."""
        if not self.count:
            return
        lines = [f"{self.count} problem{'s' if self.count > 1 else ''}", *self._first]
        if self.count > SHOWN:
            lines.append(f"and {self.count - SHOWN} more")
        raise DataError(self.path, "\n  ".join(lines), "nothing was imported; correct the file and run again")


def shorten(value: object, width: int = 60) -> str:
    """A value as it may be printed: quoted, control characters escaped, cut to `width` characters."""
    text = repr(value[: 2 * width] if isinstance(value, (str, list)) else value)
    return text if len(text) <= width else f"{text[:width]}..."


def first_names(names: Iterable[str], count: int = 10) -> str:
    """The first names and how many follow."""
    listed = list(names)
    return ", ".join(listed[:count]) + (f" and {len(listed) - count} more" if len(listed) > count else "")
