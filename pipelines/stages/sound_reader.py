"""The sound of a video as the decode process reads it: one span, as samples of one rate and one shape.

The answer to the guard is a series of seconds of sound that begin at the start of the span. Where the track
has none, or a packet cannot be read, there is silence. Only decoded samples leave the process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from io import FileIO
from typing import Any

import av
import numpy as np

from pipelines.errors import ClipError
from pipelines.stages.media_file import sniff
from pipelines.stages.referee import log_of, open_strict

RATE_HZ = 48_000
PART_SAMPLES = RATE_HZ
MAX_PIXELS = 8192 * 8192  # FFmpeg looks at the pictures too while it opens the file
SLACK_S = 0.05  # time stamps of sound jitter by less; beyond it there is a gap, or an overlap
RUN_IN_S = 1.0  # decoders of sound need what came just before

SoundAnswer = Iterator[tuple[dict[str, Any], np.ndarray | None]]


@dataclass
class Tally:
    """What became of the packets of a track."""

    packets: int = 0
    damaged: int = 0
    first_error: str = ""

    def fault(self, error: Exception) -> None:
        """One packet more cannot be read."""
        self.damaged += 1
        self.first_error = self.first_error or log_of(error)


@dataclass
class Span:
    """Puts samples where they belong in the span.

    Attributes:
        start_s, end_s: seconds from the start of the file.
        filled: samples of the span that are known.
        waiting: pieces (n, C) int16 that fill no part yet.
    """

    start_s: float
    end_s: float
    filled: int = 0
    waiting: list[np.ndarray] = field(default_factory=list)

    @property
    def wanted(self) -> int:
        """Samples of the whole span."""
        return round((self.end_s - self.start_s) * RATE_HZ)

    def put(self, time_s: float | None, samples: np.ndarray) -> Iterator[np.ndarray]:
        """Adds samples (n, C) that begin at a time; None = after those before. Yields whole parts."""
        place = self.filled if time_s is None else round((time_s - self.start_s) * RATE_HZ)
        gap = place - self.filled
        if abs(gap) <= SLACK_S * RATE_HZ and self.filled:
            gap = 0
        for begin in range(0, min(gap, self.wanted - self.filled), PART_SAMPLES):
            count = min(PART_SAMPLES, gap - begin, self.wanted - self.filled)
            yield from self._take(np.zeros((count, samples.shape[1]), np.int16))
        yield from self._take(samples[max(0, -gap) :][: self.wanted - self.filled])

    def rest(self, channels: int) -> np.ndarray:
        """(n, C) what is left over at the end."""
        return np.concatenate([np.zeros((0, channels), np.int16), *self.waiting])

    def _take(self, samples: np.ndarray) -> Iterator[np.ndarray]:
        self.filled += len(samples)
        self.waiting.append(samples)
        if sum(map(len, self.waiting)) >= PART_SAMPLES:
            yield np.concatenate(self.waiting)
            self.waiting.clear()


def read_sound(request: dict[str, Any], file: FileIO, beat: Callable[[], None]) -> SoundAnswer:
    """Headers and samples (n, C) int16 of the span `start_s` to `end_s`, one or two channels.

    Raises:
        ClipError: the container cannot be read, or nothing here decodes such a track.
    """
    path, span, tally, channels = request["uri"], Span(request["start_s"], request["end_s"]), Tally(), 0
    form = sniff(path, file.read(4096))
    with open_strict(path, file.fileno(), form, MAX_PIXELS) as container:
        for time_s, samples in _samples(path, container, span, tally, beat):
            channels = samples.shape[1]
            for part in span.put(time_s, samples):
                yield _header(part, tally, last=False), part
            if span.filled >= span.wanted:
                break
        rest = span.rest(channels)
        yield _header(rest, tally, last=True), rest if rest.size else None


def _header(part: np.ndarray, tally: Tally, *, last: bool) -> dict[str, Any]:
    told = {"packets": tally.packets, "damaged": tally.damaged, "first_error": tally.first_error}
    return {"shape": part.shape, "last": last, **told}


def _samples(
    path: str, container: Any, span: Span, tally: Tally, beat: Callable[[], None]
) -> Iterator[tuple[float | None, np.ndarray]]:
    """Time and samples (n, C) of the track from a little before the span on, without what is damaged."""
    stream = container.streams.best("audio")
    if stream is None:
        return
    if stream.codec_context is None:
        raise ClipError("unsupported", path, "the codec of the sound is unknown")
    zero_s, resampler = (container.start_time or 0) / 1e6, None
    packets = container.demux(stream)
    while True:
        beat()
        try:
            packet = next(packets)
        except StopIteration:
            break
        except (av.error.FFmpegError, ValueError, IndexError) as error:  # the demuxer gave up
            tally.fault(error)
            break
        if packet.pts is not None and packet.time_base:
            time_s = float(packet.pts * packet.time_base) - zero_s
            if time_s < span.start_s - RUN_IN_S:
                continue
        tally.packets += bool(packet.size)
        try:
            for frame in packet.decode():
                if resampler is None:
                    layout = "mono" if frame.layout.nb_channels == 1 else "stereo"
                    resampler = av.AudioResampler("s16", layout, RATE_HZ)
                time_s = None if frame.time is None else frame.time - zero_s
                for made in resampler.resample(frame):
                    yield time_s, _interleaved(made)
                    time_s = None
        except (av.error.FFmpegError, ValueError) as error:
            tally.fault(error)
    for made in resampler.resample(None) if resampler else []:  # the last few, which it still holds
        yield None, _interleaved(made)


def _interleaved(frame: Any) -> np.ndarray:
    """(n, C) int16."""
    return frame.to_ndarray().reshape(-1, frame.layout.nb_channels)
