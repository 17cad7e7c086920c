"""Videos of every kind that readers get wrong, each frame showing its own number; and what is right for each.

    python tests/pipelines/stages/corpus.py FOLDER

writes them all. Nothing is damaged except the files that say so: those must be refused.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
from make_videos import write_video

COUNT = 48
X264 = {"preset": "veryfast"}
X265 = "log-level=none:pools=1:keyint=12:min-keyint=12:no-scenecut=1:bframes=3"
UNEVEN_MS = [0, 10, 30, 60, 61, 200, 205, 700, 730, 1400, 1433, 1466, 1500, 2900, 2901, 3000]


@dataclass(frozen=True)
class Truth:
    """What a reader must return.

    Args:
        numbers: shown by the displayable frames, in order; None = the file must be refused.
        time_ms: of each frame, from the start of the file.
        size: width and height of the upright frame with square pixels.
    """

    numbers: list[int] | None
    time_ms: list[int]
    size: tuple[int, int] = (128, 96)


def regular(first: int = 0, count: int = COUNT, size: tuple[int, int] = (128, 96)) -> Truth:
    """Frames `first` to `count` - 1 at 25 per second, the first one at 0."""
    return Truth(list(range(first, count)), [40 * k for k in range(count - first)], size)


def plain(truth: Truth | None = None, **settings: object) -> Callable[[Path], Truth]:
    """A file as the encoder writes it."""

    def make(path: Path) -> Truth:
        write_video(path, **({"count": COUNT} | settings))  # type: ignore[arg-type]
        return truth or regular()

    return make


def edit_list(path: Path) -> Truth:
    """An MP4 file whose edit list hides the first 10 frames; the box is changed by hand."""
    data = bytearray(write_video(path, count=COUNT, codec_options=X264 | {"bf": "2", "g": "12"}).read_bytes())
    entry = data.index(b"elst") + 12  # after version and count: duration, media time, rate
    duration, media = (int.from_bytes(data[entry + k : entry + k + 4], "big") for k in (0, 4))
    movie = data.index(b"mvhd") + 16
    per_second = int.from_bytes(data[movie : movie + 4], "big")
    media_per_second = int.from_bytes(data[(at := data.index(b"mdhd") + 16) : at + 4], "big")
    data[entry : entry + 4] = (duration - per_second * 2 // 5).to_bytes(4, "big")
    data[entry + 4 : entry + 8] = (media + media_per_second * 2 // 5).to_bytes(4, "big")
    path.write_bytes(data)
    return regular(first=10)


def cut_at_key_frame(codec: str, options: dict[str, str]) -> Callable[[Path], Truth]:
    """Packets from the second key frame of an open group on: leading pictures miss their references."""

    def make(path: Path) -> Truth:
        source = write_video(path.with_name(f"whole_{path.name}"), codec=codec, codec_options=options)
        with av.open(str(source)) as whole, av.open(str(path), "w") as target:
            stream = target.add_stream_from_template(whole.streams.video[0])
            keys = 0
            for packet in whole.demux(video=0):
                keys += packet.is_keyframe
                if keys >= 2 and packet.size:
                    packet.stream = stream
                    target.mux(packet)
        source.unlink()
        return regular(first=12, count=30)

    return make


def cut_short(path: Path) -> Truth:
    """Six tenths of a file whose index is in front."""
    whole = write_video(path, count=COUNT, faststart=True).read_bytes()
    path.write_bytes(whole[: len(whole) * 6 // 10])
    return Truth(None, [])


def overwritten(path: Path) -> Truth:
    """Some bytes in the middle of the pictures replaced."""
    data = bytearray(write_video(path, count=COUNT, faststart=True, codec_options={"g": "12"}).read_bytes())
    middle = (data.index(b"mdat") + len(data)) // 2
    data[middle : middle + 24] = bytes(range(100, 124))
    path.write_bytes(data)
    return Truth(None, [])


def turned(degrees: int) -> Callable[[Path], Truth]:
    """A display matrix."""
    size = (160, 128) if degrees == 180 else (128, 160)
    return plain(regular(size=size), rotation=degrees, size=(160, 128), codec_options=X264 | {"bf": "2"})


OPEN_GOP = X264 | {"bf": "3", "g": "12", "sc_threshold": "0", "x264-params": "open-gop=1"}
CORPUS: dict[str, Callable[[Path], Truth]] = {
    "h264_b_frames.mp4": plain(codec_options=X264 | {"bf": "3", "g": "12"}),
    "h264_b_frames.mkv": plain(codec_options=X264 | {"bf": "3", "g": "12"}),
    "h264_b_frames.avi": plain(codec_options=X264 | {"bf": "3", "g": "12"}),
    "h264_b_frames.ts": plain(codec_options=X264 | {"bf": "3", "g": "12"}),
    "h264_open_gop.mp4": plain(codec_options=OPEN_GOP),
    "h264_open_gop_cut.mkv": cut_at_key_frame("libx264", OPEN_GOP),
    "h264_10_bit.mp4": plain(pixel_format="yuv420p10le", codec_options=X264 | {"bf": "2"}),
    "h264_444.mp4": plain(pixel_format="yuv444p", codec_options=X264 | {"bf": "2"}),
    "h264_interlaced.mp4": plain(codec_options=X264 | {"bf": "2", "x264-params": "interlaced=1"}),
    "h264_odd_size.mp4": plain(
        regular(size=(129, 97)), size=(129, 97), pixel_format="yuv444p", codec_options=X264
    ),
    "h264_uneven_times.mp4": plain(
        Truth(list(range(16)), UNEVEN_MS), times_ms=UNEVEN_MS, codec_options=X264 | {"bf": "2"}
    ),
    "h264_uneven_times.mkv": plain(
        Truth(list(range(16)), UNEVEN_MS), times_ms=UNEVEN_MS, codec_options=X264 | {"bf": "2"}
    ),
    "h264_starts_late.mkv": plain(times_ms=[8333 + 40 * k for k in range(COUNT)], codec_options=X264),
    "h264_starts_late.mp4": plain(times_ms=[2000 + 40 * k for k in range(COUNT)], codec_options=X264),
    "h264_edit_list.mp4": edit_list,
    "h264_turned_90.mp4": turned(90),
    "h264_turned_180.mp4": turned(180),
    "h264_turned_270.mp4": turned(270),
    "h264_wide_pixels.mp4": plain(regular(size=(171, 96)), aspect=Fraction(4, 3), codec_options=X264),
    "hevc_b_frames.mp4": plain(codec="libx265", codec_options={"x265-params": X265}),
    "hevc_open_gop.mkv": plain(codec="libx265", codec_options={"x265-params": f"{X265}:open-gop=1"}),
    "hevc_open_gop_cut.mkv": cut_at_key_frame("libx265", {"x265-params": f"{X265}:open-gop=1"}),
    "hevc_open_gop_cut.mp4": cut_at_key_frame("libx265", {"x265-params": f"{X265}:open-gop=1"}),
    "hevc_10_bit.mp4": plain(
        codec="libx265", pixel_format="yuv420p10le", codec_options={"x265-params": X265}
    ),
    "vp8.webm": plain(codec="libvpx", codec_options={"cpu-used": "8", "auto-alt-ref": "1"}),
    "vp9.webm": plain(codec="libvpx-vp9", codec_options={"cpu-used": "8", "auto-alt-ref": "1"}),
    "vp9.mp4": plain(codec="libvpx-vp9", codec_options={"cpu-used": "8", "auto-alt-ref": "1"}),
    "vp9_odd_size.mkv": plain(
        regular(size=(131, 99)), codec="libvpx-vp9", size=(131, 99), codec_options={"cpu-used": "8"}
    ),
    "av1.mp4": plain(codec="libsvtav1", codec_options={"preset": "12", "svtav1-params": "lp=1"}),
    "av1.mkv": plain(codec="libsvtav1", codec_options={"preset": "12", "svtav1-params": "lp=1"}),
    "mpeg4_b_frames.avi": plain(codec="mpeg4", codec_options={"bf": "2"}),
    "mpeg4_b_frames.mp4": plain(codec="mpeg4", codec_options={"bf": "2"}),
    "mpeg2_interlaced.ts": plain(codec="mpeg2video", codec_options={"bf": "2", "flags": "+ilme+ildct"}),
    "mpeg2.mpg": plain(codec="mpeg2video", codec_options={"bf": "2"}),
    "mjpeg.avi": plain(codec="mjpeg", pixel_format="yuvj420p"),
    "cut_short.mp4": cut_short,
    "overwritten.mp4": overwritten,
}


def main() -> None:
    """Write the corpus."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, make in CORPUS.items():
        make(folder / name)


if __name__ == "__main__":
    main()
