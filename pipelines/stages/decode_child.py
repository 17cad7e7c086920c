"""The decode process: reads one video at a time for `DecodeGuard` and proves each frame it returns.

Run as `python -m pipelines.stages.decode_child MEMORY_MB`. Requests and answers as in `decode.py`.

1. The file is opened once; type, first bytes and sha256 are looked at before any decoder is.
2. PyAV is the referee: it decodes the whole stream without colour conversion, strictly, and yields for every
   displayable frame its time and a fingerprint (32 x 32 luma samples); damage and missing frames end here.
3. decord reads the file in order (by index it returns wrong frames on real files). Every returned frame is
   compared with its fingerprint; if decord fails or disagrees, PyAV reads the frames instead.

Time stamps count from the start of the file (the container's start time is subtracted, edit lists are
honoured). AVI has no presentation times: there the first frame is at 0. Frames are upright with square pixels:
the display matrix and the sample aspect ratio are applied once (ratios within 2 % of one are
encoder rounding and left alone).
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import queue
import resource
import signal
import stat
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import av
import av.logging
import cv2
import numpy as np

from pipelines.errors import ClipError
from pipelines.stages.decode import Crop, box_to_center_scale, fix_aspect, sample_indices, warp_matrix

MAX_PIXELS = 8192 * 8192
BYTES_PER_PIXEL = 24  # reference pictures plus RGB copies while decoding, budgeted generously
MAX_FRAMES = 1_000_000
GRID = 32  # fingerprint: GRID x GRID luma samples
LUMA_TOLERANCE = 6.0  # mean absolute difference of 255 between a frame and its own fingerprint
NEIGHBOUR_MARGIN = 0.5  # a frame this much nearer to its neighbour's fingerprint is the neighbour
STRICT = "explode+crccheck+bitstream+buffer+careful"
# Codecs that store pictures which are never shown: fewer frames than packets is normal.
HIDDEN_FRAMES = {"vp8", "vp9", "av1", "libdav1d", "mpeg4"}
LUMA_WEIGHTS = {1: (0.2126, 0.7152, 0.0722), 9: (0.2627, 0.678, 0.0593)}  # BT.709, BT.2020; else BT.601
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


@dataclass
class Referee:
    """What the strict pass found: one entry per displayable frame, in presentation order."""

    format: str
    stream_index: int
    time_s: np.ndarray  # (N,) float64
    fingerprints: np.ndarray  # (N, GRID, GRID) uint8, coded orientation
    luma: tuple[float, float, float, bool]  # weights of R, G, B and whether luma has full range
    coded_size: tuple[int, int]  # width, height
    turn: np.ndarray  # (2, 2) integers: display matrix
    aspect: float  # width of a pixel over its height, as coded


# ---------------------------------------------------------------- the file, before any decoder


def open_regular(path: str) -> tuple[BinaryIO, os.stat_result]:
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
    return os.fdopen(fd, "rb", buffering=0), facts


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


def sha256_of(file: BinaryIO) -> str:
    """Digest of the whole file."""
    file.seek(0)
    return hashlib.file_digest(file, "sha256").hexdigest()


# ---------------------------------------------------------------- PyAV: the referee


def open_strict(path: str, fd: int, form: str, max_pixels: int) -> Any:
    """Open an already sniffed file with its demuxer forced, nothing but local files allowed."""
    options = {"protocol_whitelist": "file"}
    if form == "mov":
        options |= {"enable_drefs": "0", "use_absolute_path": "0"}
    os.lseek(fd, 0, os.SEEK_SET)
    try:
        return av.open(
            f"/dev/fd/{fd}",
            format=form,
            metadata_errors="replace",
            container_options=options,
            options={"max_pixels": str(max_pixels), "threads": "1"},
        )
    except MemoryError:
        raise
    except (av.error.FFmpegError, ValueError) as error:
        log = log_of(error)
        if "moov atom not found" in log:
            raise ClipError("no_index", path, "moov atom not found") from None
        raise ClipError("corrupt", path, f"the container cannot be read: {log}") from None


def log_of(error: Exception) -> str:
    """FFmpeg's own words about an error."""
    log = getattr(error, "log", None)
    return f"{log[1]}: {log[2].strip()}" if log else str(error)


def video_stream(path: str, container: Any) -> Any:
    """The stream to read: FFmpeg's choice, cover art excluded; ready for strict single-threaded decoding."""
    stream = container.streams.best("video")
    if stream is None or stream.disposition & av.stream.Disposition.attached_pic:
        raise ClipError("no_video", path, "no video stream" if stream is None else "only cover art")
    if stream.codec_context is None:
        raise ClipError("unsupported", path, "unknown codec")
    return stream


def referee(path: str, fd: int, form: str, max_pixels: int) -> Referee:
    """Decode the whole stream strictly; raise `ClipError` unless it is whole and undamaged."""
    with av.logging.Capture() as log, open_strict(path, fd, form, max_pixels) as container:
        stream = video_stream(path, container)
        context = stream.codec_context
        if context.width * context.height > max_pixels:
            raise ClipError("too_large", path, f"{context.width} x {context.height} pixels")
        context.options = {"err_detect": STRICT, "max_pixels": str(max_pixels)}
        context.thread_count = 1
        scan = Scan(path, container, stream)
        scan.run(log)
        scan.judge()
        return scan.result(form)


class Scan:
    """The referee's pass over one stream and its tally."""

    def __init__(self, path: str, container: Any, stream: Any):
        self.path, self.container, self.stream = path, container, stream
        self.packets = self.discarded = self.errors = self.corrupt = 0
        self.times: list[float | None] = []
        self.fingerprints: list[np.ndarray] = []
        self.size = (0, 0)
        self.turn = np.eye(2, dtype=int)
        self.luma = (0.299, 0.587, 0.114, False)
        self.end_s = 0.0  # latest end of any packet of any stream
        self.first_error = ""
        self.encrypted = "enc_key_id" in stream.metadata
        self.cut = False

    def run(self, log: list[tuple[int, str, str]]) -> None:
        """Demux everything, decode the chosen stream."""
        packets = self.container.demux()
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except (av.error.FFmpegError, ValueError) as error:
                self.note_error(error)
                return  # the demuxer gave up; what is missing shows in the counts
            self.cut |= any("ended prematurely" in line[2] or "partial file" in line[2] for line in log)
            log.clear()
            if packet.pts is not None and packet.duration is not None and packet.time_base:
                self.end_s = max(self.end_s, float((packet.pts + packet.duration) * packet.time_base))
            if packet.stream.index == self.stream.index:
                self.decode(packet)

    def decode(self, packet: Any) -> None:
        """Decode one packet (or flush) and take down its frames."""
        if packet.size:
            self.packets += 1
            self.discarded += packet.is_discard
            self.corrupt += packet.is_corrupt
            self.encrypted |= packet.has_sidedata("encryption_info")
        try:
            frames = packet.decode()
        except MemoryError:
            raise
        except (av.error.FFmpegError, ValueError) as error:
            self.note_error(error)
            return
        for frame in frames:
            self.add(frame)

    def note_error(self, error: Exception) -> None:
        """Count an error; a picture that is too large ends the scan."""
        text = log_of(error)
        if "max pixel count" in text or "Picture size" in text:
            raise ClipError("too_large", self.path, text) from None
        self.errors += 1
        self.first_error = self.first_error or text

    def add(self, frame: Any) -> None:
        """Take down one displayable frame."""
        size = (frame.width, frame.height)
        if not self.times:
            self.size, self.turn, self.luma = size, display_turn(self.path, frame), luma_of(frame)
        elif size != self.size:
            cause = f"the frame size changes from {self.size} to {size} at frame {len(self.times)}"
            raise ClipError("unsupported", self.path, cause)
        if len(self.times) >= MAX_FRAMES:
            raise ClipError("too_long", self.path, f"more than {MAX_FRAMES} frames in the file")
        self.corrupt += frame.is_corrupt
        self.times.append(frame.time)
        self.fingerprints.append(luma_grid(frame))

    def judge(self) -> None:
        """Raise unless every promised frame came out undamaged."""
        frames, promised = len(self.times), self.stream.frames
        if self.encrypted and not frames:
            raise ClipError("unsupported", self.path, "the stream is encrypted")
        # AVI counts frames that were dropped while recording; one in a hundred is no damage.
        slack = 1 + promised // 100 if self.container.format.name == "avi" else 0
        if self.cut or self.packets < promised - slack:
            raise ClipError("truncated", self.path, f"{self.packets} of {promised or '?'} packets are there")
        if self.errors or self.corrupt:
            cause = f"{self.errors} packets failed, {self.corrupt} frames are damaged, {frames} came out"
            raise ClipError(
                "corrupt", self.path, f"{cause}; first: {self.first_error or 'flagged by the decoder'}"
            )
        if not frames:
            raise ClipError("no_video", self.path, "the video stream has no frame")
        shown = self.packets - self.discarded
        if self.stream.codec_context.name not in HIDDEN_FRAMES and frames < 0.98 * shown - 2:
            raise ClipError("truncated", self.path, f"{shown} packets gave {frames} frames")
        self.judge_duration(promised)

    def judge_duration(self, promised: int) -> None:
        """Without a frame count, the promised duration must be there."""
        if promised or not self.container.duration:
            return
        start = (self.container.start_time or 0) / 1e6
        want, have = self.container.duration / 1e6, self.end_s - start
        if have < want - max(0.5, 0.01 * want):
            raise ClipError("truncated", self.path, f"{have:.2f} s of {want:.2f} s are there")

    def result(self, form: str) -> Referee:
        """The tally as arrays."""
        aspect = float(self.stream.sample_aspect_ratio or 1)
        return Referee(
            format=form,
            stream_index=self.stream.index,
            time_s=presentation_times(self.times, self.container, self.stream),
            fingerprints=np.stack(self.fingerprints),
            luma=self.luma,
            coded_size=self.size,
            turn=self.turn,
            aspect=aspect if abs(aspect - 1) > 0.02 else 1.0,
        )


def presentation_times(times: list[float | None], container: Any, stream: Any) -> np.ndarray:
    """Seconds from the start of the file, non-decreasing.

    AVI stores decode order only, so its time stamps come permuted: sorted they are right, and the decoder's
    delay of a frame or two is taken off. Where a stamp is missing, the average rate counts.
    """
    if any(time is None for time in times):
        return np.arange(len(times)) / float(stream.average_rate or 25)
    time_s = np.sort(np.array(times, np.float64))
    if container.format.name == "avi":
        return time_s - time_s[0]
    return time_s - (container.start_time or 0) / 1e6


# ---------------------------------------------------------------- luma fingerprints and orientation


def grid(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the fingerprint's samples."""
    rows = (np.arange(GRID) * 2 + 1) * height // (2 * GRID)
    return rows[:, None], ((np.arange(GRID) * 2 + 1) * width // (2 * GRID))[None]


def has_luma_plane(frame: Any) -> bool:
    """Whether plane 0 is luma of whole bytes or 16-bit words."""
    form = frame.format
    return (
        form.is_planar
        and not form.is_rgb
        and form.name.startswith(("yuv", "gray", "nv"))
        and (form.components[0].bits == 8 or form.name.endswith("le"))
    )


def luma_of(frame: Any) -> tuple[float, float, float, bool]:
    """Luma weights and range of a frame, as FFmpeg's conversion to RGB will use them."""
    if not has_luma_plane(frame):
        return (0.299, 0.587, 0.114, True)  # fingerprint made from RGB
    full = int(frame.color_range) == 2 or frame.format.name.startswith("yuvj")
    return (*LUMA_WEIGHTS.get(int(frame.colorspace), (0.299, 0.587, 0.114)), full)


def luma_grid(frame: Any) -> np.ndarray:
    """(GRID, GRID) uint8 luma samples of a decoded frame, without converting the frame."""
    if not has_luma_plane(frame):
        return luma_from_rgb(frame.to_ndarray(format="rgb24"), (0.299, 0.587, 0.114, True))
    plane = frame.planes[0]
    bits = frame.format.components[0].bits
    words = np.frombuffer(plane, np.uint8 if bits == 8 else np.uint16)
    picture = words.reshape(plane.height, -1)[: frame.height, : frame.width]
    samples = picture[grid(frame.height, frame.width)]
    return samples if bits == 8 else (samples >> (bits - 8)).astype(np.uint8)


def luma_from_rgb(rgb: np.ndarray, luma: tuple[float, float, float, bool]) -> np.ndarray:
    """(GRID, GRID) uint8 luma samples of an RGB frame in coded orientation."""
    red, green, blue, full = luma
    samples = rgb[grid(*rgb.shape[:2])] @ np.array([red, green, blue])
    return np.rint(samples if full else samples * (219 / 255) + 16).astype(np.uint8)


def display_turn(path: str, frame: Any) -> np.ndarray:
    """(2, 2) integer display matrix: [[a, b], [c, d]] sends (x, y) to (ax + cy, bx + dy).

    Rotations by 90 degrees and mirror images are possible; any other matrix is refused.
    """
    for side in frame.side_data:
        if side.type.name == "DISPLAYMATRIX":
            a, b, _, c, d = np.frombuffer(bytes(side), "<i4")[:5] / 65536
            matrix = np.rint([[a, b], [c, d]]).astype(int)
            if np.abs(matrix - [[a, b], [c, d]]).max() > 0.01 or abs(round(np.linalg.det(matrix))) != 1:
                raise ClipError(
                    "unsupported", path, f"display matrix {[a, b, c, d]} is no turn by 90 degrees"
                )
            return matrix
    return np.eye(2, dtype=int)


def upright(rgb: np.ndarray, turn: np.ndarray) -> np.ndarray:
    """Coded picture -> picture as displayed (a view)."""
    if turn[0, 0] == 0:  # x goes to y
        rgb, flip_y, flip_x = rgb.transpose(1, 0, 2), turn[0, 1] < 0, turn[1, 0] < 0
    else:
        flip_x, flip_y = turn[0, 0] < 0, turn[1, 1] < 0
    return rgb[:: -1 if flip_y else 1, :: -1 if flip_x else 1]


def as_coded(rgb: np.ndarray, turn: np.ndarray) -> np.ndarray:
    """Inverse of `upright` (a view)."""
    return upright(rgb, turn.T)


# ---------------------------------------------------------------- reading pixels


def read_decord(fd: int, ruling: Referee, wanted: np.ndarray) -> Iterator[np.ndarray]:
    """Upright RGB frames `wanted` (ascending) from decord, in order, each checked against the referee.

    Raises:
        Disagreement: if decord fails, counts differently, or returns another picture.
    """
    try:
        import decord
    except (ImportError, OSError) as error:
        raise Disagreement(f"decord is not installed here ({error})") from None
    try:
        reader = decord.VideoReader(f"/dev/fd/{fd}", ctx=decord.cpu(0), num_threads=1)
        if len(reader) != len(ruling.time_s):
            raise Disagreement(f"decord counts {len(reader)} frames, the stream shows {len(ruling.time_s)}")
        position = 0
        for index in wanted:
            while position <= index:
                picture = reader.next()
                position += 1
            frame = picture.asnumpy()
            check(as_coded(frame, ruling.turn), ruling, int(index))
            yield frame
    except (decord.DECORDError, RuntimeError, StopIteration, IndexError) as error:
        raise Disagreement(
            f"decord failed: {(str(error).splitlines() or [type(error).__name__])[0][:200]}"
        ) from None


class Disagreement(Exception):
    """decord's frames cannot be used; the text says why."""


def check(coded: np.ndarray, ruling: Referee, index: int) -> None:
    """Raise `Disagreement` unless an RGB frame is frame `index` of the stream."""
    if coded.shape[1::-1] != ruling.coded_size:
        raise Disagreement(f"decord's frame is {coded.shape[1::-1]}, the stream's {ruling.coded_size}")
    samples = luma_from_rgb(coded, ruling.luma).astype(int)
    near = range(max(0, index - 1), min(len(ruling.fingerprints), index + 2))
    apart = {k: float(np.abs(samples - ruling.fingerprints[k]).mean()) for k in near}
    if apart[index] > LUMA_TOLERANCE or apart[index] > min(apart.values()) + NEIGHBOUR_MARGIN:
        raise Disagreement(
            f"decord's frame {index} is another picture (luma differs by {apart[index]:.1f} of 255)"
        )


def read_pyav(
    path: str, fd: int, ruling: Referee, wanted: np.ndarray, max_pixels: int
) -> Iterator[np.ndarray]:
    """Upright RGB frames `wanted` (ascending) from PyAV."""
    with open_strict(path, fd, ruling.format, max_pixels) as container:
        stream = video_stream(path, container)
        stream.codec_context.thread_count = 1
        remaining = iter(wanted)
        target = next(remaining, None)
        for index, frame in enumerate(container.decode(stream)):
            if target is None:
                return
            if index == target:
                # Bicubic as FFmpeg's own command line: equal to decord bit for bit on 8-bit video.
                yield upright(frame.to_ndarray(format="rgb24", interpolation="BICUBIC"), ruling.turn)
                target = next(remaining, None)


# ---------------------------------------------------------------- one request


def answer(request: dict[str, Any], memory_mb: int) -> tuple[dict[str, Any], np.ndarray]:
    """Do one request: header and (T, h, w, 3) frames."""
    path = request["uri"]
    max_pixels = min(MAX_PIXELS, memory_mb * 1024 * 1024 // BYTES_PER_PIXEL)
    file, facts = open_regular(path)
    with file:
        form = sniff(path, os.pread(file.fileno(), 4096, 0))
        digest = sha256_of(file)
        ruling = referee(path, file.fileno(), form, max_pixels)
        header, frames = read_clip(request, file.fileno(), ruling, max_pixels)
        after = os.fstat(file.fileno())
        if (after.st_size, after.st_mtime_ns) != (facts.st_size, facts.st_mtime_ns):
            raise ClipError("unreadable", path, "the file changed while it was read")
    return header | {"source_sha256": digest, "source_bytes": facts.st_size}, frames


def read_clip(
    request: dict[str, Any], fd: int, ruling: Referee, max_pixels: int
) -> tuple[dict[str, Any], np.ndarray]:
    """Sample, read, crop."""
    path, crop = request["uri"], Crop(**request["crop"]) if request["crop"] else None
    indices = sample_indices(ruling.time_s, request["sampling"], request["start_s"], request["end_s"])
    if len(indices) == 0:
        cause = f"the file has frames from {ruling.time_s[0]:.3f} to {ruling.time_s[-1]:.3f} s"
        raise ClipError("empty_range", path, cause)
    width, height = display_size(ruling)
    if width * height > max_pixels:
        raise ClipError("too_large", path, f"{width} x {height} pixels after the pixel aspect is applied")
    shape = (len(indices), crop.height, crop.width, 3) if crop else (len(indices), height, width, 3)
    if int(np.prod(shape, dtype=object)) > request["max_bytes"]:
        cause = f"{shape[0]} frames of {shape[2]} x {shape[1]} exceed {request['max_bytes']} bytes"
        raise ClipError("too_long", path, cause)
    box = tuple(request["box"] or (0.0, 0.0, float(width), float(height)))
    frames = np.empty(shape, np.uint8)
    decoder, note = fill(frames, indices, request, fd, ruling, (width, height), box, max_pixels)
    header = {
        "shape": list(shape),
        "frame_index": indices.tolist(),
        "time_s": ruling.time_s[indices].tolist(),
        "width_px": width,
        "height_px": height,
        "box": box,
        "decoder": decoder,
        "decoder_note": note,
    }
    return header, frames


def display_size(ruling: Referee) -> tuple[int, int]:
    """Width and height of the upright frame with square pixels."""
    width, height = ruling.coded_size
    width = max(1, round(width * ruling.aspect))
    return (width, height) if ruling.turn[0, 0] else (height, width)


def fill(
    frames: np.ndarray,
    indices: np.ndarray,
    request: dict[str, Any],
    fd: int,
    ruling: Referee,
    size: tuple[int, int],
    box: tuple[float, ...],
    max_pixels: int,
) -> tuple[str, str]:
    """Read the frames into `frames`, one full frame in memory at a time; which decoder, and why."""
    wanted, places = np.unique(indices, return_inverse=True)
    matrix = crop_matrix(request["crop"], box)

    def store(pictures: Iterator[np.ndarray]) -> None:
        for number, picture in enumerate(pictures):
            frames[places == number] = fit(picture, size, matrix, frames.shape[2:0:-1])

    note = request["note"]
    if request["reader"] == "decord":
        try:
            store(read_decord(fd, ruling, wanted))
            return "decord", ""
        except Disagreement as reason:
            note = str(reason)
    seen = 0
    for seen, picture in enumerate(read_pyav(request["uri"], fd, ruling, wanted, max_pixels), 1):  # noqa: B007
        frames[places == seen - 1] = fit(picture, size, matrix, frames.shape[2:0:-1])
    if seen != len(wanted):
        raise ClipError("corrupt", request["uri"], f"the second reading gave {seen} of {len(wanted)} frames")
    return "pyav", note


def crop_matrix(crop: dict[str, Any] | None, box: tuple[float, ...]) -> np.ndarray | None:
    """Affine matrix of the crop, None for whole frames."""
    if crop is None:
        return None
    center, scale = box_to_center_scale(box, crop["padding"])  # type: ignore[arg-type]
    scale = fix_aspect(scale, crop["width"], crop["height"])
    return warp_matrix(center, scale, (crop["width"], crop["height"]))


def fit(
    picture: np.ndarray, size: tuple[int, int], matrix: np.ndarray | None, out_size: tuple[int, ...]
) -> np.ndarray:
    """Upright picture -> square pixels -> crop, if one is asked for."""
    if picture.shape[1::-1] != size:
        picture = cv2.resize(np.ascontiguousarray(picture), size, interpolation=cv2.INTER_LINEAR)
    if matrix is None:
        return picture
    return cv2.warpAffine(np.ascontiguousarray(picture), matrix, tuple(out_size), flags=cv2.INTER_LINEAR)


# ---------------------------------------------------------------- the process


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


def read_requests(requests: queue.SimpleQueue[bytes]) -> None:
    """Thread: hand over request lines; the parent's death (end of stdin) ends this process at once."""
    for line in sys.stdin.buffer:
        requests.put(line)
    os._exit(0)


def respond(out: BinaryIO, header: dict[str, Any], frames: np.ndarray | None = None) -> None:
    """Write one answer."""
    out.write(json.dumps(header).encode() + b"\n")
    if frames is not None and frames.size:
        out.write(memoryview(frames).cast("B"))
    out.flush()


def serve_one(line: bytes, memory_mb: int) -> tuple[dict[str, Any], np.ndarray | None]:
    """Answer one request line; a failing clip becomes a code and a cause."""
    request = json.loads(line)
    # A decoder that hangs after the parent's death is ended by the kernel. SIGALRM keeps its default action.
    signal.setitimer(signal.ITIMER_REAL, request["timeout_s"] + 5.0)
    try:
        return answer(request, memory_mb)
    except ClipError as error:
        return {"code": error.code, "cause": error.cause}, None
    except (MemoryError, cv2.error) as error:
        if isinstance(error, cv2.error) and error.code != cv2.Error.StsNoMem:
            raise
        return {
            "code": "memory_limit",
            "cause": f"an allocation failed under the limit of {memory_mb} MiB",
        }, None
    except OSError as error:
        return {"code": "unreadable", "cause": error.strerror or str(error)}, None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)


def main() -> None:
    """Serve requests until stdin ends."""
    memory_mb = int(sys.argv[1])
    isolated = harden(memory_mb)
    # Answers leave through a private descriptor; whatever a library prints goes to stderr.
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    cv2.setNumThreads(1)
    av.logging.set_level(av.logging.ERROR)
    requests: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=read_requests, args=(requests,), daemon=True).start()
    respond(out, {"network_isolated": isolated})
    while True:
        header, frames = serve_one(requests.get(), memory_mb)
        respond(out, header, frames)


if __name__ == "__main__":
    main()
