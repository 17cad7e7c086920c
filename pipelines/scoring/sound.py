"""The sound of a performance, read by the guarded process and handed out in step with its pictures."""

from __future__ import annotations

import numpy as np

from pipelines.errors import ClipError
from pipelines.scoring.quality import Warning
from pipelines.stages.decode import DecodeGuard, SoundPart
from pipelines.stages.sound_reader import RATE_HZ


class Sound:
    """Samples from the start of a performance on, each handed out once; a few seconds of them in memory.

    Sound that cannot be read is no reason to show nothing: it is left out, and `warning` says so.

    Args:
        uri: of the video.
        start_s, end_s: of the performance, seconds from the start of the file.
        guard: process that reads; closed at the end. None = one of its own.
    """

    def __init__(self, uri: str, start_s: float, end_s: float, guard: DecodeGuard | None = None):
        self._at_s, self._waiting, self._fault = start_s, np.zeros((0, 0), np.int16), ""
        self._guard = guard or DecodeGuard(timeout_s=120.0, memory_mb=3000)
        self._parts = self._guard.sound(uri, start_s, end_s)
        self._last: SoundPart | None = None
        self._more()

    def __enter__(self) -> Sound:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._guard.close()

    @property
    def channels(self) -> int:
        """1 or 2; 0 = there is no sound."""
        return self._waiting.shape[1]

    @property
    def warning(self) -> Warning | None:
        """What is wrong with the sound that was handed out, or with what is missing."""
        last = self._last
        if self._fault:
            text = f"the sound cannot be read from {self._read_s():.2f} s on, and is left out: {self._fault}"
            return Warning("sound", text)
        if last is None or not last.damaged:
            return None
        share = last.damaged / max(1, last.packets)
        text = f"the sound is damaged: {last.damaged} of {last.packets} packets cannot be read "
        text += f"({last.first_error}); " + (
            "it is silent there" if self.channels else "there is nothing to hear"
        )
        return Warning("sound", text, share, 0.0)

    def until(self, time_s: float) -> np.ndarray:
        """(n, channels) int16 from where the last call ended to a time; fewer where the sound ends."""
        count = round((time_s - self._at_s) * RATE_HZ)
        while len(self._waiting) < count and self._more():
            pass
        taken, self._waiting = self._waiting[: max(0, count)], self._waiting[max(0, count) :]
        self._at_s += len(taken) / RATE_HZ
        return taken

    def _more(self) -> bool:
        """Reads a part; whether there was one."""
        try:
            part = next(self._parts, None)
        except ClipError as error:
            self._fault = error.cause
            return False
        if part is None:
            return False
        self._last = part
        if part.samples.size:
            known = self._waiting.reshape(-1, part.samples.shape[1])
            self._waiting = np.concatenate([known, part.samples])
        return True

    def _read_s(self) -> float:
        """Time up to which samples have come."""
        return self._at_s + len(self._waiting) / RATE_HZ
