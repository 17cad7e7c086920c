"""A folder of pictures, read as a video: ordered by the number in their names, 25 to the second.

FineDiving comes so: `01/35/00012345.jpg`. The last digits of a name before its suffix are its number. Other
files, links, subfolders, numbers twice and numbers left out make the folder unusable, since every frame after
them might be a wrong one; names that begin with a dot are no pictures and do not count.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

from pipelines.errors import ClipError
from pipelines.stages.sampling import MAX_FRAMES

RATE_HZ = 25.0
MAX_PICTURE_BYTES = 64 * 2**20
_PICTURE = re.compile(r".*?(\d+)\D*\.(jpg|jpeg|png)", re.IGNORECASE | re.DOTALL)
_JPEG, _PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class PictureFolder:
    """What a folder holds.

    Attributes:
        path: of the folder.
        names: of its pictures, by number.
        size: bytes of all pictures.
        mtime_ns: latest modification of a picture or of the folder itself.
    """

    path: str
    names: tuple[str, ...]
    size: int
    mtime_ns: int

    def read(self, position: int) -> bytes:
        """Bytes of one picture, which must be a whole JPEG or PNG file.

        Raises:
            ClipError: a link, cut off, or something else than its name says.
        """
        name = self.names[position]
        try:
            fd = os.open(
                os.path.join(self.path, name), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            )
            with open(fd, "rb") as file:
                data = file.read(MAX_PICTURE_BYTES + 1)
        except OSError as error:
            raise ClipError("unreadable", self.path, f"{name}: {error.strerror or error}") from None
        if len(data) > MAX_PICTURE_BYTES:
            raise ClipError("too_large", self.path, f"{name} has more than {MAX_PICTURE_BYTES:,} bytes")
        if not data.startswith((_JPEG, _PNG)):
            cause = "has zero bytes" if not data else f"begins with {data[:8].decode('latin-1')!a}"
            raise ClipError("not_media", self.path, f"{name} is no JPEG or PNG picture: it {cause}")
        ended = b"IEND" in data[-12:] if data.startswith(_PNG) else data.rstrip(b"\0").endswith(b"\xff\xd9")
        if not ended:
            raise ClipError("truncated", self.path, f"{name} ends before its end mark")
        return data

    def digest(self, beat: Callable[[], None] = lambda: None) -> str:
        """sha256 over names and bytes of all pictures, which are checked by it; `beat` follows each of them.

        Raises:
            ClipError: see `read`.
        """
        total = hashlib.sha256()
        for position, name in enumerate(self.names):
            data = self.read(position)
            total.update(f"{len(name.encode('utf-8', 'surrogateescape'))}:{len(data)}:".encode())
            total.update(name.encode("utf-8", "surrogateescape"))
            total.update(data)
            beat()
        return total.hexdigest()


def look_into(path: str) -> PictureFolder:
    """List a folder of pictures.

    Raises:
        ClipError: it holds no pictures, or not only pictures, or some are missing.
    """
    try:
        with os.scandir(path) as entries:
            found = {
                entry.name: entry.stat(follow_symlinks=False) for entry in entries if entry.name[0] != "."
            }
        own = os.stat(path)
    except OSError as error:
        raise ClipError("unreadable", path, error.strerror or str(error)) from None
    numbers = {name: int(match[1]) for name in found if (match := _PICTURE.fullmatch(name))}
    if not numbers:
        raise ClipError("not_regular", path, "it is a directory without JPEG or PNG pictures")
    if len(numbers) > MAX_FRAMES:
        raise ClipError("too_long", path, f"more than {MAX_FRAMES} pictures")
    for name, facts in found.items():
        if not stat.S_ISREG(facts.st_mode):
            raise ClipError(
                "not_regular", path, f"{name[:100]!a} in it is a link, a folder or no file at all"
            )
        if name not in numbers:
            raise ClipError("not_media", path, f"{name[:100]!a} in it is no numbered JPEG or PNG picture")
    names = sorted(numbers, key=numbers.__getitem__)
    _check_numbers(path, [numbers[name] for name in names])
    return PictureFolder(
        path=path,
        names=tuple(names),
        size=sum(facts.st_size for facts in found.values()),
        mtime_ns=max(own.st_mtime_ns, *(facts.st_mtime_ns for facts in found.values())),
    )


def _check_numbers(path: str, numbers: list[int]) -> None:
    """Numbers must rise evenly; the smallest step is the right one."""
    steps = [later - earlier for earlier, later in pairwise(numbers)]
    smallest = min(steps, default=1)
    if smallest == 0:
        raise ClipError("not_media", path, f"two pictures have the number {numbers[steps.index(0)]}")
    for earlier, step in zip(numbers, steps, strict=False):
        if step > smallest:
            cause = f"pictures between the numbers {earlier} and {earlier + step} are missing"
            raise ClipError("truncated", path, cause)
