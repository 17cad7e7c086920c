"""The referee: PyAV looks at a whole video stream and says what its frames must be.

`referee` decodes every packet strictly. No colour is converted: per displayable frame there is a presentation
time and a fingerprint (32 x 32 luma samples), with which the pixels another reader returns are proven to be
that frame. `survey` decodes the first frame only and takes the rest from the packets: times, counts, damage
marked by the demuxer; it is many times faster and proves no picture. Damage, missing frames, encryption and
pictures beyond the size limit end here as `ClipError`.

Time stamps count from the start of the file: the container's start time is subtracted and edit lists are
honoured, as FFmpeg does. AVI has no presentation times: there the first frame is at 0.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import av
import av.logging
import numpy as np

from pipelines.errors import ClipError
from pipelines.stages.sampling import MAX_FRAMES

GRID = 32  # fingerprint: GRID x GRID luma samples
STRICT = "explode+crccheck+bitstream+buffer+careful"
# Codecs that store pictures which are never shown: fewer frames than packets is normal.
HIDDEN_FRAMES = {"vp8", "vp9", "av1", "libdav1d", "mpeg4"}
# Containers and codecs whose packets say what is shown: one packet is one frame, with its time.
SURVEY_FORMATS = {"mov", "matroska"}
SURVEY_CODECS = {"h264", "hevc", "vp8", "vp9", "av1"}
LUMA_WEIGHTS = {1: (0.2126, 0.7152, 0.0722), 9: (0.2627, 0.678, 0.0593)}  # BT.709, BT.2020; else BT.601


@dataclass
class Referee:
    """What a pass over the stream found: one entry per displayable frame, in presentation order."""

    format: str
    stream_index: int
    time_s: np.ndarray  # (N,) float64
    fingerprints: np.ndarray | None  # (N, GRID, GRID) uint8, coded orientation; None = only surveyed
    luma: tuple[float, float, float, bool]  # weights of R, G, B and whether luma has full range
    coded_size: tuple[int, int]  # width, height
    turn: np.ndarray  # (2, 2) integers: display matrix
    aspect: float  # width of a pixel over its height, as coded


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


def referee(path: str, fd: int, form: str, max_pixels: int, beat: Callable[[], None]) -> Referee:
    """Decode the whole stream strictly; raise `ClipError` unless it is whole and undamaged.

    `beat` is called after every packet, so that a long file can be told from one that hangs.
    """
    with av.logging.Capture() as log, open_strict(path, fd, form, max_pixels) as container:
        scan = Scan(path, container, strict_stream(path, container, max_pixels), prove=True)
        scan.run(log, beat)
        scan.judge()
        return scan.result(form)


def survey(path: str, fd: int, form: str, max_pixels: int, beat: Callable[[], None]) -> Referee | None:
    """Look at every packet but decode one frame only; None where packets do not tell what is shown."""
    if form not in SURVEY_FORMATS:
        return None
    with av.logging.Capture() as log, open_strict(path, fd, form, max_pixels) as container:
        stream = strict_stream(path, container, max_pixels)
        if stream.codec_context.codec.canonical_name not in SURVEY_CODECS:
            return None
        scan = Scan(path, container, stream, prove=False)
        scan.run(log, beat)
        if not scan.tells_all():
            return None
        scan.judge()
        return scan.result(form)


def strict_stream(path: str, container: Any, max_pixels: int) -> Any:
    """The stream to read, its decoder set to report every fault."""
    stream = video_stream(path, container)
    context = stream.codec_context
    if context.width * context.height > max_pixels:
        raise ClipError("too_large", path, f"{context.width} x {context.height} pixels")
    context.options = {"err_detect": STRICT, "max_pixels": str(max_pixels)}
    context.thread_count = 1
    return stream


class Scan:
    """A pass over one stream and its tally; `prove` = decode every frame."""

    def __init__(self, path: str, container: Any, stream: Any, prove: bool):
        self.path, self.container, self.stream, self.prove = path, container, stream, prove
        self.packets = self.discarded = self.errors = self.corrupt = 0
        self.times: list[float | None] = []  # of frames in order of decoding
        self.packet_times: list[float | None] = []  # of packets whose frame is shown
        self.fingerprints = bytearray()
        self.size = (0, 0)
        self.turn = np.eye(2, dtype=int)
        self.luma = (0.299, 0.587, 0.114, False)
        self.end_s = 0.0  # latest end of any packet of any stream
        self.first_error = ""
        self.encrypted = "enc_key_id" in stream.metadata
        self.cut = False

    def run(self, log: list[tuple[int, str, str]], beat: Callable[[], None]) -> None:
        """Demux everything, decode the chosen stream."""
        packets = self.container.demux()
        while True:
            beat()
            try:
                packet = next(packets)
            except StopIteration:
                return
            except MemoryError:
                raise
            except (
                av.error.FFmpegError,
                ValueError,
                IndexError,
            ) as error:  # IndexError: a stream not in the header
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
            if len(self.packet_times) > MAX_FRAMES:
                raise ClipError("too_long", self.path, f"more than {MAX_FRAMES} frames in the file")
            if not packet.is_discard:
                time = None if packet.pts is None else float(packet.pts * packet.time_base)
                self.packet_times.append(time)
        if self.times and not self.prove:
            return
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
        self.corrupt += frame.is_corrupt
        self.times.append(frame.time)
        if self.prove:
            self.fingerprints += luma_grid(frame).tobytes()

    def tells_all(self) -> bool:
        """After a survey: whether the packets alone give every frame's time, the first one's proven."""
        known = [time for time in self.packet_times if time is not None]
        if not known or len(set(known)) < len(self.packet_times) or not self.times:
            return False  # hidden pictures, or frames that the decoder leaves out at the start
        first = min(known)
        self.times, decoded = self.packet_times, self.times[0]
        return decoded == first

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
        shown, codec = self.packets - self.discarded, self.stream.codec_context.name
        exact = codec == "h264" and self.container.format.name.startswith(("mov", "matroska"))
        # Elsewhere a packet may be one field, and leading pictures of a cut stream are left out rightly.
        slack = 0 if exact else 2 + shown // 50
        if codec not in HIDDEN_FRAMES and frames < shown - slack:
            raise ClipError("truncated", self.path, f"{shown} packets gave {frames} frames")
        self.judge_duration(promised)

    def judge_duration(self, promised: int) -> None:
        """Without a frame count, the promised duration must be there."""
        if promised:
            return
        times = [time for time in self.times if time is not None]
        tag = self.stream.metadata.get("DURATION", "")
        if len(times) > 1 and re.fullmatch(r"\d+:\d\d:\d\d\.\d+", tag):  # Matroska: of this very stream
            hours, minutes, seconds = tag.split(":")
            want = int(hours) * 3600 + int(minutes) * 60 + float(seconds)
            longest = max(np.diff(np.sort(times)))
            have, slack = max(times) + longest, 0.5 * longest + 0.002
        elif self.container.duration:  # of the longest stream, from the header; players round it
            matroska = self.container.format.name.startswith("matroska")  # counts from 0, not the first frame
            start = 0.0 if matroska else (self.container.start_time or 0) / 1e6
            want, have = self.container.duration / 1e6, self.end_s - start
            slack = max(0.5, 0.01 * want)
        else:
            return
        if have < want - slack:
            raise ClipError("truncated", self.path, f"{have:.2f} s of {want:.2f} s are there")

    def result(self, form: str) -> Referee:
        """The tally as arrays."""
        aspect = float(self.stream.sample_aspect_ratio or 1)
        return Referee(
            format=form,
            stream_index=self.stream.index,
            time_s=presentation_times(self.times, self.container, self.stream),
            fingerprints=self.fingerprint_array(),
            luma=self.luma,
            coded_size=self.size,
            turn=self.turn,
            aspect=aspect if abs(aspect - 1) > 0.02 else 1.0,
        )

    def fingerprint_array(self) -> np.ndarray | None:
        """(N, GRID, GRID) uint8 without another copy; None after a survey."""
        return np.frombuffer(self.fingerprints, np.uint8).reshape(-1, GRID, GRID) if self.prove else None


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


@functools.lru_cache(maxsize=8)
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
        rgb = frame.to_ndarray(format="rgb24")
        return np.rint(luma_from_rgb(rgb, (0.299, 0.587, 0.114, True))[0]).astype(np.uint8)
    plane = frame.planes[0]
    bits = frame.format.components[0].bits
    words = np.frombuffer(plane, np.uint8 if bits == 8 else np.uint16)
    picture = words.reshape(plane.height, -1)[: frame.height, : frame.width]
    samples = picture[grid(frame.height, frame.width)] >> (bits - 8)
    full = luma_of(frame)[3]
    return samples.astype(np.uint8) if full else np.clip(samples, 16, 235).astype(np.uint8)  # RGB has no more


def luma_from_rgb(rgb: np.ndarray, luma: tuple[float, float, float, bool]) -> tuple[np.ndarray, np.ndarray]:
    """Luma samples of an RGB frame in coded orientation, and where they can be trusted.

    Returns:
        (GRID, GRID) float32 luma, and (GRID, GRID) bool: no channel can have been clipped there.
    """
    picked = rgb[grid(*rgb.shape[:2])]
    samples = picked.astype(np.float32) @ np.array(luma[:3], np.float32)
    # x - 1 wraps 0 to 255, so that one comparison finds both ends.
    whole = (picked - np.uint8(1)).max(axis=-1) < 254
    return samples if luma[3] else samples * np.float32(219 / 255) + np.float32(16), whole


def distance(samples: np.ndarray, fingerprint: np.ndarray) -> float:
    """Mean absolute difference of luma samples, 0 to 255, less their common offset (rounding)."""
    if not samples.size:
        return 0.0
    difference = samples - fingerprint
    return float(np.abs(difference - difference.mean()).mean())


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
                    "unsupported",
                    path,
                    f"display matrix {[float(x) for x in (a, b, c, d)]} is no turn by 90 degrees",
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
