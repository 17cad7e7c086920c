"""A file somebody calls a video: opened safely, and its container recognised before any decoder sees it."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable
from io import FileIO

from pipelines.errors import ClipError

SIGNATURES = (
    (0, b"\x1a\x45\xdf\xa3", "matroska"),
    (0, b"GIF8", "gif"),
    (0, b"FLV\x01", "flv"),
    (0, b"OggS", "ogg"),
    (0, b"\x00\x00\x01\xba", "mpeg"),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "asf"),
    *((4, box, "mov") for box in (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot", b"styp")),
)
PLAYLISTS = (b"#extm3u", b"ffconcat", b"[playlist]", b"<smil", b"<asx", b"v=0\r", b"v=0\n", b"[reference]")


def open_regular(path: str) -> tuple[FileIO, os.stat_result]:
    """Open a regular, non-empty file without ever blocking on a pipe or device."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        kind = "a dangling link" if "\0" not in path and os.path.islink(path) else "no such file"
        raise ClipError("missing", path, kind) from None
    except OSError as error:
        code = "not_regular" if stat_kind(path) else "unreadable"
        raise ClipError(code, path, error.strerror or str(error)) from None
    facts = os.fstat(fd)
    if not stat.S_ISREG(facts.st_mode):
        os.close(fd)
        raise ClipError("not_regular", path, f"it is a {stat_kind(path) or 'special file'}")
    if facts.st_size == 0:
        os.close(fd)
        raise ClipError("empty", path, "zero bytes")
    os.set_blocking(fd, True)
    return FileIO(fd, "rb"), facts


def stat_kind(path: str) -> str:
    """Name of a non-regular file's type; empty for a regular or unknown one."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return ""
    kinds = {"directory": stat.S_ISDIR, "pipe": stat.S_ISFIFO, "socket": stat.S_ISSOCK}
    kinds |= {"device": stat.S_ISCHR, "block device": stat.S_ISBLK}
    return next((name for name, test in kinds.items() if test(mode)), "")


def sniff(path: str, head: bytes) -> str:
    """Demuxer name from the first bytes; anything that is no media container is refused here."""
    for offset, magic, name in SIGNATURES:
        if head[offset : offset + len(magic)] == magic:
            return name
    if head[:4] == b"RIFF" and head[8:11] == b"AVI":
        return "avi"
    for start, step in ((0, 188), (4, 192)):
        if len(head) > start + 2 * step and all(head[start + k * step] == 0x47 for k in range(3)):
            return "mpegts"
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith(PLAYLISTS) or (text.startswith((b"<?xml", b"<mpd")) and b"<mpd" in text):
        raise ClipError("playlist", path, f"it begins with {printable(text[:16])}")
    if text.startswith(b"version https://git-lfs"):
        raise ClipError("not_media", path, "it is a Git LFS pointer, not the video; run git lfs pull")
    if text.startswith((b"<!doctype html", b"<html")):
        raise ClipError("not_media", path, "it is an HTML page (a failed download?)")
    raise ClipError("not_media", path, f"no known container begins with {printable(head[:16])}")


def printable(data: bytes) -> str:
    """Bytes as text that is safe in a log."""
    return ascii(data.decode("latin-1"))


def sha256_of(file: FileIO, beat: Callable[[], None]) -> str:
    """Digest of the whole file; `beat` is called after every mebibyte."""
    digest, block = hashlib.sha256(), bytearray(1 << 20)
    file.seek(0)
    while count := file.readinto(block):
        digest.update(memoryview(block)[:count])
        beat()
    return digest.hexdigest()


def promised_bytes(file: FileIO, form: str, size: int) -> int:
    """Length of the file according to its own outermost size fields; at most `size` if it is whole.

    A cut that takes only the last few frames shows in no frame count or duration, but it does show here.
    """
    if form == "mov":
        return _end_of_boxes(file, size)
    head = os.pread(file.fileno(), 4096, 0)
    if form == "mpegts":  # only that whole transport packets are there
        packet = 188 if head[0] == 0x47 else 192
        return -(-size // packet) * packet
    if form == "avi":
        length = int.from_bytes(head[4:8], "little")
        return 8 + length if length != 0xFFFFFFFF else 0
    start = head.find(b"\x18\x53\x80\x67")  # Matroska's Segment; its size is one to eight bytes long
    if form != "matroska" or start < 0 or not any(head[start + 4 : start + 5]):
        return 0
    width = 9 - head[start + 4].bit_length()
    length = int.from_bytes(head[start + 4 : start + 4 + width], "big") - (1 << 7 * width)
    return start + 4 + width + length if length != (1 << 7 * width) - 1 else 0  # all ones: not known


def _end_of_boxes(file: FileIO, size: int) -> int:
    """End of the last MP4 box that begins inside the file."""
    position = end = 0
    while position + 8 <= size:
        head = os.pread(file.fileno(), 16, position)
        length = int.from_bytes(head[:4], "big")
        if length == 1:
            length = int.from_bytes(head[8:16], "big")
        if length < 8 or not head[4:8].isalnum():  # 0: to the end of the file; else no box
            break
        position += length
        end = position
    return end
