"""Files that are no whole video are refused by name, and none of them harms the next."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from pipelines.errors import ClipError
from pipelines.stages.decode import DecodeGuard

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from decode_calls import numbers, read, reject  # noqa: E402
from make_videos import write_audio, write_video  # noqa: E402


def test_truncated_files_are_refused(guard, tmp_path):
    for name, faststart in (("a.mp4", True), ("a.mkv", False), ("a.avi", False)):
        whole = write_video(tmp_path / name, count=200, faststart=faststart).read_bytes()
        for share in (0.5, 0.9, 0.98):
            part = tmp_path / f"cut_{name}"
            part.write_bytes(whole[: int(len(whole) * share)])
            assert reject(guard, part).code in {"truncated", "corrupt"}, (name, share)
    stream = write_video(tmp_path / "a.ts", count=200).read_bytes()  # promises nothing but whole packets
    (tmp_path / "cut.ts").write_bytes(stream[: len(stream) // 2 // 188 * 188 + 100])
    assert reject(guard, tmp_path / "cut.ts").code in {"truncated", "corrupt"}
    index_at_end = write_video(tmp_path / "b.mp4", count=200).read_bytes()
    (tmp_path / "cut.mp4").write_bytes(index_at_end[: len(index_at_end) // 2])
    assert reject(guard, tmp_path / "cut.mp4").code == "no_index"


def test_bit_flips_never_pass_wrong_frames(guard, tmp_path):
    whole = write_video(tmp_path / "a.mp4", count=60, faststart=True).read_bytes()
    right = read(guard, tmp_path / "a.mp4").frames
    random, refused = np.random.default_rng(0), 0
    start = whole.index(b"mdat") + 800
    for _ in range(20):
        data = bytearray(whole)
        for position in random.integers(start, len(data), 8):
            data[position] ^= 1 << random.integers(8)
        (tmp_path / "b.mp4").write_bytes(data)
        try:
            clip = read(guard, tmp_path / "b.mp4")
        except ClipError as error:
            refused += error.code in {"corrupt", "truncated", "unsupported"}
        else:
            assert len(clip.frames) == len(right)
    assert refused >= 18


NO_VIDEO = {
    "text.mp4": (b"This is not a video\n" * 40, "not_media", "no known container"),
    "page.mp4": (b"<!DOCTYPE html><html>404</html>", "not_media", "HTML"),
    "pointer.mp4": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n",
        "not_media",
        "git lfs pull",
    ),
    "archive.mp4": (b"PK\x03\x04" + bytes(200), "not_media", "no known container"),
    "zeros.mp4": (bytes(5000), "not_media", "no known container"),
    "one.mp4": (b"\x00", "not_media", "no known container"),
    "empty.mp4": (b"", "empty", "zero bytes"),
    "hls.mp4": (b"#EXTM3U\n#EXTINF:1,\nvictim.mp4\n#EXT-X-ENDLIST\n", "playlist", "#extm3u"),
    "bom.mp4": (b"\xef\xbb\xbf\n#EXTM3U\nvictim.mp4\n", "playlist", "#extm3u"),
    "concat.avi": (b"ffconcat version 1.0\nfile victim.mp4\n", "playlist", "ffconcat"),
    "dash.mp4": (b'<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"/>', "playlist", "xml"),
    "session.mp4": (b"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\nc=IN IP4 127.0.0.1\r\n", "playlist", "v=0"),
    "no_index.mp4": (b"\0\0\0\x18ftypisom\0\0\0\0isomiso2" + bytes(64), "no_index", "moov"),
}


@pytest.mark.parametrize("name", NO_VIDEO)
def test_what_is_no_video_is_named(guard, tmp_path, name):
    write_video(tmp_path / "victim.mp4", count=3)
    content, code, cause = NO_VIDEO[name]
    (tmp_path / name).write_bytes(content)
    error = reject(guard, tmp_path / name)
    assert error.code == code
    assert cause in error.cause
    assert str(tmp_path / name) in str(error)


def test_special_files_do_not_block(guard, tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "gone.mp4").symlink_to(tmp_path / "nowhere")
    begin = time.monotonic()
    assert reject(guard, tmp_path / "pipe.mp4").code == "not_regular"
    assert reject(guard, tmp_path).code == "not_regular"
    assert reject(guard, "/dev/zero").code == "not_regular"
    assert reject(guard, tmp_path / "none.mp4").code == "missing"
    assert "dangling" in reject(guard, tmp_path / "gone.mp4").cause
    assert reject(guard, tmp_path / "nul\0.mp4").code == "missing"
    assert reject(guard, "s3://bucket/a.mp4").code == "unreadable"
    assert time.monotonic() - begin < 10


def test_sound_alone_is_no_video(guard, tmp_path):
    assert reject(guard, write_audio(tmp_path / "a.mp4")).code == "no_video"


@pytest.mark.parametrize(
    "name", ["a b.mp4", "new\nline.mp4", "ünï_视频_🤸.mp4", "-i.mp4", "%d.mp4", "file:x.mp4"]
)
def test_awkward_names(guard, tmp_path, name):
    assert numbers(read(guard, write_video(tmp_path / "a.mp4", count=3).rename(tmp_path / name)))[2] == 2


def test_file_address_and_relative_path(guard, tmp_path, monkeypatch):
    write_video(tmp_path / "a b.mp4", count=3)
    monkeypatch.chdir(tmp_path)
    assert len(read(guard, "a b.mp4").frames) == 3
    assert len(read(guard, f"file://{tmp_path}/a%20b.mp4").frames) == 3


def test_header_sizes_are_not_believed(tmp_path):
    with DecodeGuard(timeout_s=60, memory_mb=600) as small:  # 600 MiB allow 26 million pixels
        path = write_video(
            tmp_path / "a.mp4", size=(8000, 4000), count=1, codec_options={"preset": "ultrafast"}
        )
        assert reject(small, path).code == "too_large"
        assert len(read(small, write_video(tmp_path / "b.mp4", count=3)).frames) == 3
