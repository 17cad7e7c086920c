"""Decode one clip in a child process that may crash, hang or run out of memory without harm.

Video files come from strangers and native decoders trust them, so decoding happens in
`decode_child.py`, a separate process with limits; this module holds what the two sides share (request,
result, crop geometry) and `DecodeGuard`, which owns the child. No Ray, no pickle: a request is one JSON
line, an answer is a series of JSON lines, those with frames followed by raw pixels. However long the clip,
child and guard hold no more than one part of it at a time (`PART_BYTES`).
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
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from pipelines.errors import ClipError
from pipelines.stages.pictures import Crop, Fit, Letterbox, Resize
from pipelines.stages.sampling import PersonBoxes, sample_indices

VERSION = 2  # raise when the same file and request give other frames
STARTUP_S = 60.0  # importing numpy, OpenCV, PyAV and decord on a busy machine
STDERR_BYTES = 4096  # decoders can write megabytes; only the end is kept
MAX_LINE_BYTES = 64 * 1024 * 1024  # frame numbers and time stamps of about a million frames
PART_BYTES = 64 * 1024 * 1024  # most pixels in one part, all persons together


@dataclass(frozen=True, eq=False)
class DecodeRequest:
    """What to read from one video.

    Args:
        uri: local path (or file:// address) of the video.
        start_s: first second of the clip, counted from the start of the file; None = the start.
        end_s: end of the clip in seconds, itself excluded; None = the end of the file.
        sampling: "all", "fps:10" (nearest frame of each tick) or "uniform:96".
        people: the people to follow, each with boxes of its own; None = one, in `box`.
        box: x1, y1, x2, y2 in pixels of the upright frame; None = the whole frame.
        picture: `Crop` = each person cut out, `Resize`, `Fit`, `Letterbox` = the frame scaled, None = whole
            upright frames.
        frames_per_part: most frames per part; fewer if they would exceed `PART_BYTES`.
        referee: whether PyAV must prove every frame (see `decode_child.py`).
    """

    uri: str
    start_s: float | None
    end_s: float | None
    sampling: str
    people: tuple[PersonBoxes, ...] | None
    box: tuple[float, float, float, float] | None
    picture: Crop | Resize | Fit | Letterbox | None
    frames_per_part: int
    referee: bool


@dataclass(frozen=True, eq=False)
class DecodedPart:
    """Consecutive frames of one person of a clip.

    Args:
        frames: (T, h, w, 3) uint8 RGB, upright, square pixels.
        frame_index: (T,) int32, position among the displayable frames of the file, from 0.
        time_s: (T,) float64, presentation time in seconds from the start of the file.
        box: (T, 4) float32, x1, y1, x2, y2 in pixels of the upright frame, before padding.
        person: rank of the person.
        part: number of the part, from 0; all persons of a clip have the same parts.
        last: whether the person's frames end here.
        width_px: width of the whole upright frame.
        height_px: height of the whole upright frame.
        decoder: "decord" or "pyav", whose pixels these are.
        decoder_note: empty = decord's, and PyAV proved every frame of the file; "not refereed" = decord's,
            and only the packets were checked; else why PyAV read it (after the full proof).
        source_sha256: of the whole file.
        source_bytes: size of the file.
        source_mtime_ns: modification time of the file.
    """

    frames: np.ndarray
    frame_index: np.ndarray
    time_s: np.ndarray
    box: np.ndarray
    person: int
    part: int
    last: bool
    width_px: int
    height_px: int
    decoder: str
    decoder_note: str
    source_sha256: str
    source_bytes: int
    source_mtime_ns: int


@dataclass(frozen=True, eq=False)
class SoundPart:
    """Consecutive samples of the sound of a clip.

    Args:
        samples: (n, C) int16 at `sound_reader.RATE_HZ`, one or two channels; C = 0: there is no sound.
        packets: packets of the track read so far.
        damaged: how many of them could not be decoded; there is silence instead.
        first_error: what was said of the first of these.
    """

    samples: np.ndarray
    packets: int
    damaged: int
    first_error: str


class _ChildDied(Exception):
    """The child closed its pipe before the last part."""


class _ChildLate(Exception):
    """The child showed no progress before the deadline."""


class DecodeGuard:
    """Owns one decode process and turns whatever happens to it into parts of a clip or a `ClipError`.

    The child is started on the first clip, kept for `recycle_after` clips (native decoders leak), and
    killed with its process group when it shows no progress for `timeout_s`. When a clip kills the child, a
    fresh one goes on after the last part that arrived, there with PyAV alone; a second death is
    `decode_crash`. Not for use by two threads at once, nor for two clips at once.

    Args:
        timeout_s: longest wait for the next part or sign of progress, seconds.
        memory_mb: address-space limit of the child, MiB.
        cpu_s: processor time that one clip may take in all, seconds.
        recycle_after: clips after which the child is replaced.
        child_module: module run as the child.
    """

    def __init__(
        self,
        *,
        timeout_s: float,
        memory_mb: int,
        cpu_s: float = 14_400.0,
        recycle_after: int = 200,
        child_module: str = "pipelines.stages.decode_child",
    ):
        self.timeout_s, self.memory_mb, self.cpu_s = timeout_s, memory_mb, cpu_s
        self.recycle_after, self._child_module = recycle_after, child_module
        self._process: subprocess.Popen[bytes] | None = None
        self._clips = 0
        self._unread = bytearray()  # of the child's answers
        self._log = -1  # descriptor the child's stderr can be read from
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

    def decode(self, request: DecodeRequest) -> Iterator[DecodedPart]:
        """Read one clip: its parts in order, of each part one per person.

        Raises:
            ClipError: while iterating, with a key of `REJECT_CODES`; what came before belongs to no whole
                clip, and the guard is ready for the next one.
            ValueError: if the request itself is wrong (unknown sampling, empty box).
            RuntimeError: if the child cannot be started at all (a broken installation, not a bad clip).
        """
        return self._parts(request, _message(request))

    def _parts(self, request: DecodeRequest, message: dict[str, Any]) -> Iterator[DecodedPart]:
        """Ask a child, and after its death another one for the rest."""
        message |= {"uri": _local_path(request.uri), "timeout_s": self.timeout_s, "cpu_s": self.cpu_s}
        deaths: list[str] = []
        while len(deaths) < 2:
            try:
                yield from self._ask(message)
                return
            except _ChildLate:
                self.close()
                cause = f"no progress within {self.timeout_s:g} s"
                raise ClipError("decode_timeout", request.uri, cause) from None
            except _ChildDied:
                deaths.append(self._bury())
                if "SIGXCPU" in deaths[-1]:
                    cause = f"more than {self.cpu_s:g} s of processor time"
                    raise ClipError("decode_timeout", request.uri, cause) from None
                if "out of memory" in deaths[-1]:
                    cause = f"limit {self.memory_mb} MiB: {deaths[-1]}"
                    raise ClipError("memory_limit", request.uri, cause) from None
                message |= {"reader": "pyav", "note": f"the process reading with decord died ({deaths[-1]})"}
        raise ClipError("decode_crash", request.uri, "; then ".join(deaths))

    def _ask(self, message: dict[str, Any]) -> Iterator[DecodedPart]:
        """Send one request and yield the parts that come back; `message` keeps count of the frames."""
        if self._clips >= self.recycle_after:
            self.close()
        self._start()
        self._write(json.dumps(message).encode() + b"\n")
        done = False
        try:
            while not done:
                header = self._read_line(self.timeout_s)
                if "beat" in header:
                    continue
                done = "code" in header or header["last"]
                self._clips += done
                if "code" in header:
                    raise ClipError(header["code"], message["uri"], header["cause"])
                frames = np.empty(header["shape"], np.uint8)
                self._read_into(frames.data.cast("B"))
                message["done"] += header["shape"][1]
                message["parts"] += 1
                message["file_frames"] = header["file_frames"]
                yield from _parts_of(header, frames, message["parts"] - 1)
                del frames  # before the next ones are allocated
        except (_ChildDied, _ChildLate):
            raise
        except BaseException:  # also GeneratorExit: nobody wants the rest of the answer
            if not done:
                self.close()
            raise

    def sound(self, uri: str, start_s: float, end_s: float) -> Iterator[SoundPart]:
        """Read the sound of a span of a file, seconds from its start: parts in order, the last may be empty.

        The span is silent where the track has nothing, and ends where the track ends.

        Raises:
            ClipError: while iterating: the file cannot be read, or reading its sound killed the child.
        """
        done = False
        try:
            self._start()
            message = {"sound": True, "uri": _local_path(uri), "start_s": start_s, "end_s": end_s}
            limits = {"timeout_s": self.timeout_s, "cpu_s": self.cpu_s}
            self._write(json.dumps(message | limits).encode() + b"\n")
            while not done:
                header = self._read_line(self.timeout_s)
                if "beat" in header:
                    continue
                done = "code" in header or header.pop("last")
                if "code" in header:
                    raise ClipError(header["code"], uri, header["cause"])
                samples = np.empty(header.pop("shape"), np.int16)
                if samples.size:
                    self._read_into(samples.data.cast("B"))
                yield SoundPart(samples, **header)
        except _ChildLate:
            raise ClipError("decode_timeout", uri, f"no progress within {self.timeout_s:g} s") from None
        except _ChildDied:
            done = True
            raise ClipError("decode_crash", uri, self._bury()) from None
        finally:
            if not done:  # also when nobody wants the rest of the answer
                self.close()

    def close(self) -> None:
        """End the child, if there is one."""
        process, self._process, self._clips = self._process, None, 0
        self._unread.clear()
        if self._log >= 0:
            os.close(self._log)
            self._log = -1
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # the child leads its own group
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe:
                pipe.close()

    def _start(self) -> None:
        """Start the child unless it runs, and wait for its first line."""
        if self._process is not None and self._process.poll() is None:
            return
        self.close()
        # What decoders print goes to a pipe that the child itself reads (a sign of damage) and empties;
        # after its death the last words are still there for us. Full, it swallows text, never blocks.
        self._log, stderr = os.pipe()
        for end in (self._log, stderr):
            os.set_blocking(end, False)
        try:
            # -P: the working directory is not searched for modules. Nothing of our environment goes along.
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", self._child_module, str(self.memory_mb), str(self._log)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                cwd="/",
                env=_child_environment(),
                pass_fds=(self._log,),
                start_new_session=True,
            )
        finally:
            os.close(stderr)
        for pipe in (self._process.stdin, self._process.stdout):
            os.set_blocking(pipe.fileno(), False)  # type: ignore[union-attr]
        try:
            self._hello = self._read_line(STARTUP_S)
        except (_ChildDied, _ChildLate) as error:
            why = self._bury()
            raise RuntimeError(f"the decode process {self._child_module} did not start: {why}") from error

    def _wait(self, stream: Any, event: int, deadline: float) -> None:
        """Return when `stream` is ready."""
        with selectors.DefaultSelector() as selector:
            selector.register(stream, event)
            if not selector.select(max(0.0, deadline - time.monotonic())):
                raise _ChildLate

    def _write(self, data: bytes) -> None:
        stdin = self._process.stdin if self._process else None
        assert stdin is not None
        view, deadline = memoryview(data), time.monotonic() + self.timeout_s
        while view:
            self._wait(stdin, selectors.EVENT_WRITE, deadline)
            try:
                view = view[os.write(stdin.fileno(), view) :]
            except BrokenPipeError:
                raise _ChildDied from None

    def _read_line(self, timeout_s: float) -> dict[str, Any]:
        """One JSON line; what comes after it stays in `_unread`."""
        stdout = self._process.stdout if self._process else None
        assert stdout is not None
        deadline = time.monotonic() + timeout_s
        while b"\n" not in self._unread:
            self._wait(stdout, selectors.EVENT_READ, deadline)
            more = os.read(stdout.fileno(), 1 << 16)
            if not more or len(self._unread) > MAX_LINE_BYTES:
                raise _ChildDied
            self._unread += more
        line, _, rest = self._unread.partition(b"\n")
        self._unread = rest
        return json.loads(line)

    def _read_into(self, view: memoryview) -> None:
        """Fill `view` with the bytes that follow."""
        stdout = self._process.stdout if self._process else None
        assert stdout is not None
        count = min(len(view), len(self._unread))
        view[:count] = self._unread[:count]
        del self._unread[:count]
        view, deadline = view[count:], time.monotonic() + self.timeout_s
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
        last_words = read_log(self._log)
        self.close()
        tail = "".join(c if c.isprintable() else " " for c in last_words.decode("utf-8", "replace"))
        if any(sign in tail for sign in ("bad_alloc", "MemoryError", "Cannot allocate memory")):
            return f"out of memory: {tail[-300:]}"
        if status is None:
            how = "closed its pipe"
        elif status < 0:
            how = f"ended by {signal.Signals(-status).name}"
        else:
            how = f"exit status {status}"
        return f"{how}: {tail[-300:].strip()}" if tail.strip() else how


def read_log(log: int) -> bytes:
    """Empty the pipe that stderr goes to; the end of what was in it."""
    kept = b""
    with contextlib.suppress(BlockingIOError):
        while more := os.read(log, 65536):
            kept = (kept + more)[-STDERR_BYTES:]
    return kept


def _child_environment() -> dict[str, str]:
    return {
        "PYTHONPATH": os.pathsep.join(os.path.abspath(entry or ".") for entry in sys.path),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUTF8": "1",
        "PATH": os.defpath,  # decord's import reads it
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }


def _message(request: DecodeRequest) -> dict[str, Any]:
    """The request as the child reads it.

    Raises:
        ValueError: if the request is wrong.
    """
    sample_indices(np.zeros(1), request.sampling)
    if request.frames_per_part < 1:
        raise ValueError(f"frames_per_part is {request.frames_per_part}; give 1 or more")
    people = request.people
    if people is None and request.box is not None:
        people = (PersonBoxes(0, np.zeros(1, int), np.array([request.box], float)),)
    if people is not None and not people:
        raise ValueError("the request names no person; give None for the whole frame")
    return {
        "start_s": request.start_s,
        "end_s": request.end_s,
        "sampling": request.sampling,
        "people": people and [person.as_json() for person in people],
        "picture": request.picture and asdict(request.picture) | {"kind": type(request.picture).__name__},
        "frames_per_part": request.frames_per_part,
        "referee": request.referee,
        "reader": "decord",
        "note": "",
        "done": 0,  # frames that have arrived, of each person
        "parts": 0,
        "file_frames": None,  # displayable frames of the file, as the first answer said
    }


def _parts_of(header: dict[str, Any], frames: np.ndarray, part: int) -> Iterator[DecodedPart]:
    """One part of each person from one answer; `frames` is (P, T, h, w, 3)."""
    names = ("last", "width_px", "height_px", "decoder", "decoder_note")
    facts = {name: header[name] for name in (*names, "source_sha256", "source_bytes", "source_mtime_ns")}
    for person, box, pixels in zip(header["people"], header["box"], frames, strict=True):
        yield DecodedPart(
            frames=pixels,
            frame_index=np.array(header["frame_index"], np.int32),
            time_s=np.array(header["time_s"], np.float64),
            box=np.array(box, np.float32),
            person=person,
            part=part,
            **facts,
        )


def _local_path(uri: str) -> str:
    """Absolute local path of a uri; other schemes are not read here."""
    if uri.startswith("file://"):
        from urllib.parse import unquote, urlsplit

        return unquote(urlsplit(uri).path)
    scheme, separator, _ = uri.partition("://")
    if separator and scheme.isalnum():
        raise ClipError("unreadable", uri, f"{scheme}:// is no local path")
    return os.path.abspath(uri)
