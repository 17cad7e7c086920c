"""The sound of overlay and side-by-side videos, read back with another decoder: its time and its pitch."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from pipelines.errors import ClipError
from pipelines.scoring.overlay import write_video
from pipelines.scoring.shown import WithSound
from pipelines.scoring.side_by_side import plain_frames
from pipelines.scoring.sound import Sound
from pipelines.stages.decode import DecodeGuard
from pipelines.stages.sound_reader import RATE_HZ

PITCHES_HZ = (440, 880, 1320)  # one second each
DATA = Path(os.environ.get("AQA_TEST_DATA", ""))


def tones(rate: int, first_s: float = 0.0) -> np.ndarray:
    """(n,) float32 of three seconds, less what comes before `first_s`."""
    time_s = np.arange(round(first_s * rate), 3 * rate) / rate
    return (0.4 * np.sin(2 * np.pi * np.array(PITCHES_HZ)[time_s.astype(int)] * time_s)).astype(np.float32)


def film(path: Path, *, codec: str = "aac", rate: int = 44_100, channels: int = 2, first_s: float = 0.0,
         video_codec: str = "libx264") -> Path:  # fmt: skip
    """Three seconds of grey pictures, 25 a second, and tones whose pitch changes with each second."""
    with av.open(str(path), "w") as container:
        video = container.add_stream(video_codec, rate=25)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        audio = container.add_stream(codec, rate=rate, layout="mono" if channels == 1 else "stereo")
        for k in range(75):
            picture = np.full((48, 64, 3), 3 * k, np.uint8)
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(video.encode())
        samples = np.tile(tones(rate, first_s), (channels, 1))
        frame = av.AudioFrame.from_ndarray(
            samples, format="fltp", layout="mono" if channels == 1 else "stereo"
        )
        frame.sample_rate, frame.time_base, frame.pts = rate, Fraction(1, rate), round(first_s * rate)
        container.mux(audio.encode(frame))
        container.mux(audio.encode())
    return path


def damage(source: Path, path: Path, which: range) -> Path:
    """A copy in which the bytes of some packets of the sound are noise; the pictures are whole."""
    noise, number = np.random.default_rng(0), -1
    with av.open(str(source)) as old, av.open(str(path), "w") as new:
        streams = {stream.index: new.add_stream_from_template(stream) for stream in old.streams}
        for packet in old.demux():
            if not packet.size:
                continue
            made, target = packet, streams[packet.stream.index]
            if target.type == "audio" and (number := number + 1) in which:
                made = av.Packet(noise.integers(0, 256, packet.size, np.uint8).tobytes())
                made.pts, made.dts, made.time_base = packet.pts, packet.dts, packet.time_base
                made.duration = packet.duration
            made.stream = target
            new.mux(made)
    return path


@dataclass
class Heard:
    """What a second reader finds in a written video."""

    codec: str
    samples: np.ndarray  # (n,) of the first channel
    channels: int
    pictures_s: float
    sound_s: float
    video_codec: str


def hear(path: Path) -> Heard:
    with av.open(str(path)) as container:
        video, audio = container.streams.video[0], next(iter(container.streams.audio), None)
        codec = video.codec_context.name
        pictures_s = float(video.duration * video.time_base)
        if audio is None:
            return Heard("", np.zeros(0), 0, pictures_s, 0.0, codec)
        frames = list(container.decode(audio))
        samples = np.concatenate([frame.to_ndarray()[0] for frame in frames])[: audio.duration]
        sound_s = float(audio.duration * audio.time_base)
        return Heard(audio.codec_context.name, samples, audio.channels, pictures_s, sound_s, codec)


def pitch(samples: np.ndarray, begin_s: float, end_s: float) -> float:
    """Strongest frequency in Hz; 0 where it is silent."""
    part = np.asarray(samples, float)[round(begin_s * RATE_HZ) : round(end_s * RATE_HZ)]
    part = part / (32768 if np.abs(part).max(initial=0) > 2 else 1)
    if np.abs(part).max(initial=0) < 0.02:
        return 0.0
    power = np.abs(np.fft.rfft(part * np.hanning(len(part))))
    return float(np.argmax(power) * RATE_HZ / len(part))


def shown(source: Path, path: Path, start_s: float | None = None, end_s: float | None = None) -> WithSound:
    """Writes the pictures of a span and its sound, as `aqa score` does."""
    spoken = WithSound({"uri": str(source), "start_s": start_s, "end_s": end_s}, end_s or 3.0)
    list(spoken.film(path, plain_frames(str(source), start_s, end_s)))
    return spoken


@pytest.fixture(scope="module")
def guard() -> Iterator[DecodeGuard]:
    with DecodeGuard(timeout_s=60, memory_mb=3000) as process:
        yield process


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    return film(tmp_path_factory.mktemp("sound") / "source.mp4")


def test_the_whole_sound_is_kept_as_aac(source, tmp_path):
    assert shown(source, tmp_path / "o.mp4").warnings == []
    heard = hear(tmp_path / "o.mp4")
    assert (heard.video_codec, heard.codec, heard.channels) == ("h264", "aac", 2)
    assert heard.pictures_s == pytest.approx(3, abs=0.05)
    assert heard.sound_s == pytest.approx(heard.pictures_s, abs=0.05)
    for second, hertz in enumerate(PITCHES_HZ):
        assert pitch(heard.samples, second + 0.05, second + 0.95) == pytest.approx(hertz, abs=3)


def test_it_is_cut_to_the_scored_span(source, tmp_path):
    shown(source, tmp_path / "o.mp4", 0.8, 2.2)
    heard = hear(tmp_path / "o.mp4")
    assert heard.sound_s == pytest.approx(1.4, abs=0.05)
    assert heard.sound_s == pytest.approx(heard.pictures_s, abs=0.05)
    for span, hertz in (((0.0, 0.18), 440), ((0.22, 1.18), 880), ((1.22, 1.38), 1320)):
        assert pitch(heard.samples, *span) == pytest.approx(hertz, abs=8)  # the seams are at 0.2 and 1.2 s


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "made"),
    [
        ("mono.mp4", {"rate": 16_000, "channels": 1}),
        ("mp3.mkv", {"codec": "libmp3lame"}),
        ("opus.webm", {"codec": "libopus", "rate": 48_000, "video_codec": "libvpx"}),
        ("stream.ts", {}),
    ],
)
def test_other_tracks_keep_pitch_and_time_too(tmp_path, name, made):
    shown(film(tmp_path / name, **made), tmp_path / "o.mp4", 1.0, 2.0)
    heard = hear(tmp_path / "o.mp4")
    assert heard.channels == made.get("channels", 2)
    assert heard.sound_s == pytest.approx(1, abs=0.05)
    assert pitch(heard.samples, 0.05, 0.9) == pytest.approx(880, abs=3)


def test_where_the_track_begins_late_it_is_silent(guard, tmp_path):
    late = film(tmp_path / "late.mkv", codec="pcm_s16le", first_s=1.5)
    samples = np.concatenate([part.samples for part in guard.sound(str(late), 1.0, 3.0)])[:, 0]
    assert len(samples) == pytest.approx(2 * RATE_HZ, abs=2)
    assert pitch(samples, 0.0, 0.49) == 0
    assert pitch(samples, 0.51, 0.99) == pytest.approx(880, abs=3)


def test_a_video_without_sound_stays_without(tmp_path):
    path = tmp_path / "dumb.mp4"
    frames = ((k / 25, np.full((48, 64, 3), 3 * k, np.uint8)) for k in range(10))
    list(write_video(path, frames))
    assert shown(path, tmp_path / "o.mp4").warnings == []
    assert hear(tmp_path / "o.mp4").codec == ""


def test_damaged_packets_are_silent_and_said(source, tmp_path):
    broken = damage(source, tmp_path / "broken.mp4", range(60, 80))  # from 1.37 to 1.86 s
    (warning,) = shown(broken, tmp_path / "o.mp4").warnings
    assert warning.code == "sound"
    assert "the sound is damaged: " in warning.text
    assert " packets cannot be read" in warning.text
    heard = hear(tmp_path / "o.mp4")
    assert heard.pictures_s == pytest.approx(3, abs=0.05)
    assert heard.sound_s == pytest.approx(3, abs=0.07)
    assert pitch(heard.samples, 0.05, 0.95) == pytest.approx(440, abs=3)
    assert pitch(heard.samples, 2.1, 2.95) == pytest.approx(1320, abs=3)


def test_a_track_of_noise_is_left_out_and_said(source, tmp_path):
    broken = damage(source, tmp_path / "noise.mp4", range(10_000))
    (warning,) = shown(broken, tmp_path / "o.mp4").warnings
    assert warning.code == "sound"
    assert hear(tmp_path / "o.mp4").pictures_s == pytest.approx(3, abs=0.05)


def test_a_reader_that_dies_costs_the_rest_of_the_sound_only(source, tmp_path):
    guard = DecodeGuard(timeout_s=60, memory_mb=3000)
    with Sound(str(source), 0.0, 3.0, guard) as sound:
        assert guard.child_pid
        os.kill(guard.child_pid, signal.SIGKILL)
        frames = ((k / 25, np.full((48, 64, 3), 3 * k, np.uint8)) for k in range(75))
        list(write_video(tmp_path / "o.mp4", frames, sound))
        assert sound.warning
        assert "cannot be read from" in sound.warning.text
        assert "ended by SIGKILL" in sound.warning.text
    assert hear(tmp_path / "o.mp4").pictures_s == pytest.approx(3, abs=0.05)


def test_what_is_no_video_has_no_sound(guard, source, tmp_path):
    text = tmp_path / "notes.mp4"
    text.write_text("no video at all")
    with pytest.raises(ClipError, match="no known container"):
        list(guard.sound(str(text), 0.0, 1.0))
    assert sum(len(part.samples) for part in guard.sound(str(source), 2.5, 9.0)) == pytest.approx(
        RATE_HZ / 2, abs=1500
    )


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.skipif(not DATA.name, reason="AQA_TEST_DATA is not set")
@pytest.mark.parametrize("name", ["moviepy__video_with_failing_audio.mp4", "torchcodec__nasa_13013.mp4"])
def test_real_sound(name, tmp_path):
    spoken = shown(DATA / "videos" / name, tmp_path / "o.mp4", 0.0, 2.0)
    heard = hear(tmp_path / "o.mp4")
    assert heard.pictures_s == pytest.approx(2, abs=0.1)
    assert spoken.warnings or heard.sound_s == pytest.approx(heard.pictures_s, abs=0.1)
