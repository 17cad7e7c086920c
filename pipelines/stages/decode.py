"""Decode one clip in a child process that may crash, hang or run out of memory without harm.

Video files come from strangers and native decoders trust them, so decoding happens in
`decode_child.py`, a separate process with limits; this module holds what the two sides share (request,
result, sampling, crop geometry) and `DecodeGuard`, which owns the child. No Ray, no pickle: a request is
one JSON line, an answer is one JSON line followed by raw pixels.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from pipelines.errors import ClipError

VERSION = 1  # raise when the same file and request give other frames
STARTUP_S = 60.0  # importing numpy, OpenCV, PyAV and decord on a busy machine
STDERR_BYTES = 4096  # decoders can write megabytes; only the end is kept
MAX_HEADER_BYTES = 64 * 1024 * 1024  # frame numbers and time stamps of about a million frames


@dataclass(frozen=True)
class Crop:
    """Size of the pose network's input.

    Args:
        width: pixels.
        height: pixels.
        padding: factor by which the box grows before cropping (MMPose: 1.25).
    """

    width: int
    height: int
    padding: float = 1.25


@dataclass(frozen=True)
class DecodeRequest:
    """What to read from one video.

    Args:
        uri: local path (or file:// address) of the video.
        start_s: first second of the clip, counted from the start of the file; None = the start.
        end_s: end of the clip in seconds, itself excluded; None = the end of the file.
        sampling: "all", "fps:10" (nearest frame of each tick) or "uniform:96".
        box: x1, y1, x2, y2 in pixels of the upright frame; None = the whole frame.
        crop: size to crop and scale to; None = whole upright frames.
        max_bytes: most bytes of pixels to return; more is rejected as `too_long`.
    """

    uri: str
    start_s: float | None
    end_s: float | None
    sampling: str
    box: tuple[float, float, float, float] | None
    crop: Crop | None
    max_bytes: int


@dataclass(frozen=True)
class DecodedClip:
    """Frames of one clip, each proven to be the frame it claims to be.

    Args:
        frames: (T, h, w, 3) uint8 RGB, upright, square pixels.
        frame_index: (T,) int32, position among the displayable frames of the file, from 0.
        time_s: (T,) float64, presentation time in seconds from the start of the file.
        width_px: width of the whole upright frame.
        height_px: height of the whole upright frame.
        box: x1, y1, x2, y2 the crop was made from, pixels of the upright frame.
        decoder: "decord" or "pyav", whose pixels these are.
        decoder_note: why not decord, in words; empty for decord.
        source_sha256: of the whole file.
        source_bytes: size of the file.
    """

    frames: np.ndarray
    frame_index: np.ndarray
    time_s: np.ndarray
    width_px: int
    height_px: int
    box: tuple[float, float, float, float]
    decoder: str
    decoder_note: str
    source_sha256: str
    source_bytes: int


def sample_indices(
    time_s: np.ndarray, sampling: str, start_s: float | None = None, end_s: float | None = None
) -> np.ndarray:
    """Choose frames of a clip by their time stamps.

    Args:
        time_s: (N,) presentation times in seconds, non-decreasing.
        sampling: "all"; "fps:R" takes for each tick k/R seconds after the start of the clip the nearest
            frame, each frame once; "uniform:M" takes floor(linspace(first, last, M)), so frames repeat
            when there are fewer than M.
        start_s: frames at or after this time; None = from the first.
        end_s: frames before this time; None = to the last.

    Returns:
        (T,) int64 indices into `time_s`, non-decreasing; empty if no frame lies in the range.

    Raises:
        ValueError: if `sampling` is none of the three forms.
    """
    inside = np.ones(len(time_s), bool)
    if start_s is not None:
        inside &= time_s >= start_s
    if end_s is not None:
        inside &= time_s < end_s
    indices = np.flatnonzero(inside)
    if sampling == "all" or len(indices) == 0:
        return indices
    kind, _, number = sampling.partition(":")
    if kind == "uniform" and number.isdigit() and int(number) > 0:
        return np.floor(np.linspace(indices[0], indices[-1], int(number))).astype(np.int64)
    if kind == "fps" and number.replace(".", "", 1).isdigit() and float(number) > 0:
        return indices[_nearest(time_s[indices], float(number), start_s or 0.0)]
    raise ValueError(f"sampling {sampling!r} is none of all, fps:R, uniform:M")


def _nearest(time_s: np.ndarray, rate: float, origin: float) -> np.ndarray:
    """Positions of the frames that are nearest to some tick origin + k / rate, k = 0, 1, ...

    Frame i is nearest to the ticks between the midpoints to its neighbours: it is taken if a k lies there.
    """
    upper = np.append((time_s[1:] + time_s[:-1]) / 2, time_s[-1])
    # Ticks and frames that are meant to coincide differ by rounding; a millionth of a tick is no time.
    last_tick = np.floor((upper - origin) * rate + 1e-6)
    return np.flatnonzero(np.diff(last_tick, prepend=-1.0) > 0)


def box_to_center_scale(
    box: tuple[float, float, float, float], padding: float
) -> tuple[np.ndarray, np.ndarray]:
    """Centre and padded size of a box, as MMPose's `GetBBoxCenterScale`.

    Args:
        box: x1, y1, x2, y2 in pixels.
        padding: factor on width and height.

    Returns:
        centre (2,) and scale (2,), float32 pixels.
    """
    corners = np.asarray(box, np.float32)
    return (corners[2:] + corners[:2]) * 0.5, (corners[2:] - corners[:2]) * padding


def fix_aspect(scale: np.ndarray, width: int, height: int) -> np.ndarray:
    """Grow the shorter side so that the box has the network's aspect ratio (`TopdownAffine`).

    Args:
        scale: (2,) width and height in pixels.
        width: network input width.
        height: network input height.

    Returns:
        (2,) width and height with ratio width / height.
    """
    ratio = width / height
    w, h = scale[:1], scale[1:]
    return np.where(w > h * ratio, np.hstack([w, w / ratio]), np.hstack([h * ratio, h]))


def warp_matrix(center: np.ndarray, scale: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Affine matrix from frame to network input, as MMPose's `get_warp_matrix` without rotation.

    Args:
        center: (2,) pixels of the frame.
        scale: (2,) width and height, pixels of the frame, aspect already fixed.
        size: width and height of the network input.

    Returns:
        (2, 3) float64 matrix for `cv2.warpAffine`.
    """
    import cv2

    width, height = size
    source = np.zeros((3, 2), np.float32)
    source[0] = center
    source[1] = center + np.array([scale[0] * -0.5, 0.0])
    target = np.zeros((3, 2), np.float32)
    target[0] = [width * 0.5, height * 0.5]
    target[1] = np.array([width * 0.5, height * 0.5]) + np.array([width * -0.5, 0.0])
    for points in (source, target):  # third corner: the first edge turned by 90 degrees
        edge = points[0] - points[1]
        points[2] = points[1] + np.r_[-edge[1], edge[0]]
    return cv2.getAffineTransform(source, target)


class _ChildDied(Exception):
    """The child closed its pipe before answering."""


class _ChildLate(Exception):
    """The child did not answer before the deadline."""


class DecodeGuard:
    """Owns one decode process and turns whatever happens to it into a clip or a `ClipError`.

    The child is started on the first clip, kept for `recycle_after` clips (native decoders leak), and
    killed with its process group when a clip takes longer than `timeout_s`. A clip that kills the child is
    tried once more in a fresh one, there with PyAV alone; a second death is `decode_crash`.
    Not for use by two threads at once.

    Args:
        timeout_s: wall-clock limit for one attempt at one clip, seconds.
        memory_mb: address-space limit of the child, MiB.
        recycle_after: clips after which the child is replaced.
        child_module: module run as the child.
    """

    def __init__(
        self,
        *,
        timeout_s: float,
        memory_mb: int,
        recycle_after: int = 200,
        child_module: str = "pipelines.stages.decode_child",
    ):
        self.timeout_s, self.memory_mb, self.recycle_after = timeout_s, memory_mb, recycle_after
        self._child_module = child_module
        self._process: subprocess.Popen[bytes] | None = None
        self._clips = 0
        self._stderr = b""
        self._hello: dict[str, Any] = {}

    def __enter__(self) -> DecodeGuard:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @property
    def network_isolated(self) -> bool:
        """Whether the running child has no network (False before the first clip)."""
        return bool(self._hello.get("network_isolated"))

    @property
    def child_pid(self) -> int | None:
        """Process id of the running child, None if there is none."""
        return self._process.pid if self._process else None

    def decode(self, request: DecodeRequest) -> DecodedClip:
        """Read one clip.

        Raises:
            ClipError: with a key of `REJECT_CODES`; the guard is ready for the next clip afterwards.
            ValueError: if the request itself is wrong (unknown sampling, empty box).
            RuntimeError: if the child cannot be started at all (a broken installation, not a bad clip).
        """
        sample_indices(np.zeros(1), request.sampling)
        if request.box and not (request.box[0] < request.box[2] and request.box[1] < request.box[3]):
            raise ValueError(f"box {request.box} is empty; give x1 < x2 and y1 < y2 in pixels")
        message = asdict(request) | {"reader": "decord", "note": ""}
        message["uri"] = _local_path(request.uri)
        deaths: list[str] = []
        while len(deaths) < 2:
            if self._clips >= self.recycle_after:
                self.close()
            self._start()
            try:
                return self._ask(message, time.monotonic() + self.timeout_s)
            except _ChildLate:
                self.close()
                raise ClipError(
                    "decode_timeout", request.uri, f"no answer within {self.timeout_s:g} s"
                ) from None
            except _ChildDied:
                deaths.append(self._bury())
                if "out of memory" in deaths[-1]:
                    raise ClipError(
                        "memory_limit", request.uri, f"limit {self.memory_mb} MiB: {deaths[-1]}"
                    ) from None
                message |= {"reader": "pyav", "note": f"the process reading with decord died ({deaths[-1]})"}
        raise ClipError("decode_crash", request.uri, "; then ".join(deaths))

    def close(self) -> None:
        """End the child, if there is one."""
        process, self._process, self._clips = self._process, None, 0
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # the child leads its own group
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe:
                pipe.close()

    def _start(self) -> None:
        """Start the child unless it runs, and wait for its first line."""
        if self._process is not None and self._process.poll() is None:
            return
        self.close()
        self._stderr = b""
        # -P: the working directory is not searched for modules. Nothing of our environment goes along.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", self._child_module, str(self.memory_mb)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd="/",
            env={
                "PYTHONPATH": os.pathsep.join(os.path.abspath(entry or ".") for entry in sys.path),
                "PYTHONDONTWRITEBYTECODE": "1",
                "PYTHONUTF8": "1",
                "PATH": os.defpath,  # decord's import reads it
                "OMP_NUM_THREADS": "1",
                "OPENBLAS_NUM_THREADS": "1",
            },
            close_fds=True,
            start_new_session=True,
        )
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            os.set_blocking(pipe.fileno(), False)  # type: ignore[union-attr]
        try:
            self._hello = self._read_header(time.monotonic() + STARTUP_S)[0]
        except (_ChildDied, _ChildLate) as error:
            why = self._bury()
            raise RuntimeError(f"the decode process {self._child_module} did not start: {why}") from error

    def _ask(self, message: dict[str, Any], deadline: float) -> DecodedClip:
        """Send one request and read its answer before the deadline."""
        message["timeout_s"] = self.timeout_s
        self._write(json.dumps(message).encode() + b"\n", deadline)
        header, rest = self._read_header(deadline)
        self._clips += 1
        if "code" in header:
            raise ClipError(header["code"], message["uri"], header["cause"])
        frames = np.empty(header["shape"], np.uint8)
        pixels = frames.data.cast("B") if frames.size else memoryview(b"")
        pixels[: len(rest)] = rest
        self._read_into(pixels[len(rest) :], deadline)
        return DecodedClip(
            frames=frames,
            frame_index=np.array(header["frame_index"], np.int32),
            time_s=np.array(header["time_s"], np.float64),
            width_px=header["width_px"],
            height_px=header["height_px"],
            box=tuple(header["box"]),
            decoder=header["decoder"],
            decoder_note=header["decoder_note"],
            source_sha256=header["source_sha256"],
            source_bytes=header["source_bytes"],
        )

    def _wait(self, stream: Any, event: int, deadline: float) -> None:
        """Return when `stream` is ready; meanwhile keep the end of what the child writes to stderr."""
        process = self._process
        assert process is not None
        assert process.stderr is not None
        while True:
            with selectors.DefaultSelector() as selector:
                selector.register(stream, event)
                if not process.stderr.closed:
                    selector.register(process.stderr, selectors.EVENT_READ)
                ready = selector.select(max(0.0, deadline - time.monotonic()))
            if not ready:
                raise _ChildLate
            if any(key.fileobj is process.stderr for key, _ in ready):
                self._drain_stderr()
            if any(key.fileobj is stream for key, _ in ready):
                return

    def _drain_stderr(self) -> None:
        """Move what lies in the stderr pipe into the kept tail; close the pipe at its end."""
        stderr = self._process.stderr if self._process else None
        while stderr is not None and not stderr.closed:
            try:
                part = os.read(stderr.fileno(), 65536)
            except BlockingIOError:
                return
            self._stderr = (self._stderr + part)[-STDERR_BYTES:]
            if not part:
                stderr.close()

    def _write(self, data: bytes, deadline: float) -> None:
        stdin = self._process.stdin if self._process else None
        assert stdin is not None
        view = memoryview(data)
        while view:
            self._wait(stdin, selectors.EVENT_WRITE, deadline)
            try:
                view = view[os.write(stdin.fileno(), view) :]
            except BrokenPipeError:
                raise _ChildDied from None

    def _read_header(self, deadline: float) -> tuple[dict[str, Any], bytes]:
        """One JSON line, and whatever bytes of the pixels came with it."""
        stdout = self._process.stdout if self._process else None
        assert stdout is not None
        data = bytearray()
        while b"\n" not in data:
            self._wait(stdout, selectors.EVENT_READ, deadline)
            part = os.read(stdout.fileno(), 1 << 20)
            if not part or len(data) > MAX_HEADER_BYTES:
                raise _ChildDied
            data += part
        line, _, rest = bytes(data).partition(b"\n")
        return json.loads(line), rest

    def _read_into(self, view: memoryview, deadline: float) -> None:
        stdout = self._process.stdout if self._process else None
        assert stdout is not None
        while view:
            self._wait(stdout, selectors.EVENT_READ, deadline)
            count = os.readv(stdout.fileno(), [view])
            if not count:
                raise _ChildDied
            view = view[count:]

    def _bury(self) -> str:
        """End the child and say in words how it died."""
        process = self._process
        assert process is not None
        try:
            status = process.wait(timeout=1.0)  # its pipe is closed, so it is gone or about to be
        except subprocess.TimeoutExpired:
            status = None
        self._drain_stderr()
        self.close()
        tail = "".join(c if c.isprintable() else " " for c in self._stderr.decode("utf-8", "replace"))
        if any(sign in tail for sign in ("bad_alloc", "MemoryError", "Cannot allocate memory")):
            return f"out of memory: {tail[-300:]}"
        if status is None:
            how = "closed its pipe"
        elif status < 0:
            how = f"ended by {signal.Signals(-status).name}"
        else:
            how = f"exit status {status}"
        return f"{how}: {tail[-300:].strip()}" if tail.strip() else how


def _local_path(uri: str) -> str:
    """Absolute local path of a uri; other schemes are not read here."""
    if uri.startswith("file://"):
        from urllib.parse import unquote, urlsplit

        return unquote(urlsplit(uri).path)
    scheme, separator, _ = uri.partition("://")
    if separator and scheme.isalnum():
        raise ClipError("unreadable", uri, f"{scheme}:// is no local path")
    return os.path.abspath(uri)
