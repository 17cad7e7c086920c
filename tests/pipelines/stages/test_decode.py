"""decode.py and its child: exact frames or a clear rejection, whatever the file does."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipelines.stages.decode import DecodeGuard
from pipelines.stages.pictures import Crop, box_to_center_scale, fix_aspect, warp_matrix

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from decode_calls import numbers, read, reject  # noqa: E402
from make_videos import draw, read_number, write_video  # noqa: E402

# ---------------------------------------------------------------- crop geometry


def test_warp_matrix_maps_the_padded_box_onto_the_input():
    center, scale = box_to_center_scale((100, 50, 200, 250), 1.25)
    assert center.tolist() == [150, 150]
    assert scale.tolist() == [125, 250]
    scale = fix_aspect(scale, 192, 256)
    assert scale.tolist() == [187.5, 250]
    matrix = warp_matrix(center, scale, (192, 256))
    corners = np.array([[150 - 93.75, 150 - 125, 1], [150 + 93.75, 150 + 125, 1]])
    np.testing.assert_allclose(corners @ matrix.T, [[0, 0], [192, 256]], atol=1e-3)


def test_crop_equals_mmpose_bit_for_bit():
    compat = pytest.importorskip("pipelines.stages.mmpose_compat")
    compat.install()
    from mmpose.datasets.transforms import GetBBoxCenterScale, TopdownAffine

    random = np.random.default_rng(0)
    for _ in range(100):
        frame = random.integers(0, 256, (random.integers(40, 300), random.integers(40, 300), 3), np.uint8)
        x1, y1 = random.uniform(-20, 150, 2)
        box = (x1, y1, x1 + random.uniform(2, 250), y1 + random.uniform(2, 250))
        size = (int(random.integers(8, 400)), int(random.integers(8, 400)))
        expected = {"img": frame, "bbox": np.array([box], np.float32)}
        expected = TopdownAffine(input_size=size)(GetBBoxCenterScale(padding=1.25)(expected))
        center, scale = box_to_center_scale(box, 1.25)
        matrix = warp_matrix(center, fix_aspect(scale, *size), size)
        ours = cv2.warpAffine(frame, matrix, size, flags=cv2.INTER_LINEAR)
        np.testing.assert_array_equal(ours, expected["img"])
        np.testing.assert_array_equal(fix_aspect(scale, *size), expected["input_scale"])
        np.testing.assert_array_equal(center, expected["input_center"])


def test_cropped_frames_are_the_warped_whole_frames(guard, tmp_path):
    path = write_video(tmp_path / "a.mp4")
    whole = read(guard, path)
    box = (20.0, 10.0, 90.0, 80.0)
    clip = read(guard, path, box=box, picture=Crop(48, 64))
    center, scale = box_to_center_scale(box, 1.25)
    matrix = warp_matrix(center, fix_aspect(scale, 48, 64), (48, 64))
    expected = [cv2.warpAffine(frame, matrix, (48, 64), flags=cv2.INTER_LINEAR) for frame in whole.frames]
    np.testing.assert_array_equal(clip.frames, expected)
    assert (clip.width_px, clip.height_px, clip.box.tolist()) == (128, 96, [list(box)] * 30)
    assert whole.box.tolist() == [[0.0, 0.0, 128.0, 96.0]] * 30


# ---------------------------------------------------------------- generated videos: every frame exact

VIDEOS = {
    "h264_b_frames.mp4": {"codec_options": {"bf": "3", "g": "12"}},
    "h264_b_frames.mkv": {"codec_options": {"bf": "3", "g": "12"}},
    "h264_b_frames.avi": {"codec_options": {"bf": "3", "g": "12"}},
    "h264_open_gop.mp4": {"codec_options": {"bf": "3", "g": "8", "x264-params": "open-gop=1"}},
    "h264.ts": {"codec_options": {"bf": "2"}},
    "mpeg4.avi": {"codec": "mpeg4", "codec_options": {"bf": "2"}},
    "vp9.webm": {"codec": "libvpx-vp9", "codec_options": {"cpu-used": "8"}},
    "hevc.mp4": {"codec": "libx265", "codec_options": {"x265-params": "log-level=none:bframes=3:pools=1"}},
    "hevc_10_bit.mkv": {
        "codec": "libx265",
        "pixel_format": "yuv420p10le",
        "codec_options": {"x265-params": "log-level=none:pools=1"},
    },
    "mjpeg.avi": {"codec": "mjpeg", "pixel_format": "yuvj420p"},
    "h264_444_odd_size.mp4": {"size": (129, 97), "pixel_format": "yuv444p"},
    "vp9_odd_size.mkv": {"codec": "libvpx-vp9", "size": (131, 99), "codec_options": {"cpu-used": "8"}},
    "one_frame.mp4": {"count": 1},
    "two_frames.mkv": {"count": 2},
    "long.mp4": {"count": 250},
}


@pytest.mark.parametrize("name", VIDEOS)
def test_every_frame_and_time_is_exact(guard, tmp_path, name):
    path = write_video(tmp_path / name, **VIDEOS[name])
    count = VIDEOS[name].get("count", 30)
    clip = read(guard, path)
    assert numbers(clip) == list(range(count))
    assert clip.frame_index.tolist() == list(range(count))
    np.testing.assert_allclose(clip.time_s, np.arange(count) * 0.04, atol=2e-3)
    assert clip.source_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert clip.source_bytes == path.stat().st_size


def test_variable_frame_rate_keeps_its_times(guard, tmp_path):
    times = [0, 10, 30, 60, 61, 200, 205, 700, 730, 1400]
    for suffix in (".mp4", ".mkv"):
        path = write_video(tmp_path / f"vfr{suffix}", times_ms=times, codec_options={"bf": "2"})
        clip = read(guard, path)
        assert numbers(clip) == list(range(10))
        np.testing.assert_allclose(clip.time_s * 1000, times, atol=1.01)
        clip = read(guard, path, sampling="fps:10", start_s=0.2, end_s=0.8)
        assert clip.frame_index.tolist() == [5, 6, 7]  # nearest to ticks .2, .3 .4, .5 .6 .7


@pytest.mark.parametrize("start_ms", [2000, 8333])
def test_start_offset_is_subtracted(guard, tmp_path, start_ms):
    path = write_video(tmp_path / "late.mkv", times_ms=[start_ms + 40 * k for k in range(20)])
    clip = read(guard, path)
    np.testing.assert_allclose(clip.time_s, np.arange(20) * 0.04, atol=2e-3)
    assert numbers(clip) == list(range(20))


@pytest.mark.parametrize("rotation", [90, 180, 270])
@pytest.mark.parametrize("reader", ["decord", "pyav"])
def test_rotation_is_applied_once(guard, tmp_path, rotation, reader):
    path = write_video(tmp_path / "turned.mp4", rotation=rotation, size=(160, 128))
    if reader == "pyav":
        with DecodeGuard(timeout_s=60, memory_mb=3000, child_module="decode_child_double") as other:
            clip = read(other, path.rename(tmp_path / "abort_decord.mp4"))
    else:
        clip = read(guard, path)
    assert clip.decoder == reader
    expected = (160, 128) if rotation == 180 else (128, 160)
    assert (clip.width_px, clip.height_px) == expected == clip.frames.shape[2:0:-1]
    assert numbers(clip) == list(range(30))


def test_decords_padded_rows_are_noticed(guard, tmp_path):
    # decord takes the padding of rows for a fourth channel where 96 columns of 3 bytes are stored in 384.
    clip = read(guard, write_video(tmp_path / "turned.mp4", rotation=90, size=(128, 96)))
    assert numbers(clip) == list(range(30))


def test_pixel_aspect_is_applied_once(guard, tmp_path):
    clip = read(guard, write_video(tmp_path / "wide.mp4", aspect=Fraction(4, 3)))
    assert (clip.width_px, clip.height_px) == (171, 96) == clip.frames.shape[2:0:-1]
    assert numbers(clip) == list(range(30))
    turned = read(guard, write_video(tmp_path / "tall.mp4", aspect=Fraction(4, 3), rotation=90))
    assert (turned.width_px, turned.height_px) == (96, 171)
    rounding = read(guard, write_video(tmp_path / "same.mp4", aspect=Fraction(225, 224)))
    assert (rounding.width_px, rounding.height_px) == (128, 96)


def test_both_decoders_give_the_same_pixels(guard, tmp_path):
    path = write_video(tmp_path / "abort_decord.mp4", codec_options={"bf": "3"})
    with DecodeGuard(timeout_s=60, memory_mb=3000, child_module="decode_child_double") as other:
        second = read(other, path)
    first = read(guard, path)
    assert (first.decoder, first.decoder_note, second.decoder) == ("decord", "", "pyav")
    assert "died" in second.decoder_note
    np.testing.assert_array_equal(first.frames, second.frames)


def test_wrong_pictures_from_decord_are_noticed(tmp_path):
    path = write_video(tmp_path / "late.mp4", codec_options={"bf": "3"})
    with DecodeGuard(timeout_s=60, memory_mb=3000, child_module="decode_child_double") as late:
        clip = read(late, path)
        early = read(late, path, end_s=0.3)  # before the frame that is left out
    assert clip.decoder == "pyav"
    assert "decord's frame 9" in clip.decoder_note
    assert numbers(clip) == list(range(30))
    assert early.decoder == "decord"


@pytest.mark.data
def test_one_late_picture_of_a_slow_real_video_is_noticed(test_data, tmp_path):
    source = test_data / "videos" / "tfjs-models__asl_hand.25fps.mp4"
    (tmp_path / "late.mp4").write_bytes(source.read_bytes())
    with DecodeGuard(timeout_s=60, memory_mb=3000, child_module="decode_child_double") as late:
        clip = read(late, tmp_path / "late.mp4", picture=Crop(64, 64))
    assert clip.decoder == "pyav"
    assert "decord's frame 9 looks like frame 10" in clip.decoder_note


def test_clip_range_and_sampling(guard, tmp_path):
    path = write_video(tmp_path / "long.mp4", count=250)
    clip = read(guard, path, start_s=2.0, end_s=4.0, sampling="uniform:96", picture=Crop(64, 48, 1.0))
    assert len(clip.frames) == 96
    assert clip.frame_index.tolist() == np.floor(np.linspace(50, 99, 96)).astype(int).tolist()
    assert numbers(clip) == clip.frame_index.tolist()
    error = reject(guard, path, start_s=11.0, end_s=12.0)
    assert (error.code, "0.000 to 9.960 s" in error.cause) == ("empty_range", True)


def test_a_wrong_request_is_no_bad_clip(guard, tmp_path):
    path = write_video(tmp_path / "a.mp4", count=3)
    with pytest.raises(ValueError, match="is none of all, fps:R, uniform:M"):
        read(guard, path, sampling="every:2")
    for box in ((5.0, 5.0, 5.0, 9.0), (9.0, 0.0, 1.0, 9.0), (float("nan"), 0.0, 1.0, 9.0)):
        with pytest.raises(ValueError, match=r"box .* is empty"):
            read(guard, path, box=box)


def test_a_file_that_changes_between_clips_is_read_anew(guard, tmp_path):
    path = write_video(tmp_path / "a.mp4", count=3)
    first = read(guard, path, start_s=0.04)
    second = read(guard, path, end_s=0.08)
    assert (numbers(first), numbers(second)) == ([1, 2], [0, 1])
    assert first.source_sha256 == second.source_sha256
    write_video(path, count=5)
    third = read(guard, path)
    assert numbers(third) == [0, 1, 2, 3, 4]
    assert third.source_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


# ---------------------------------------------------------------- the guard


def test_a_faulty_child_ends_with_the_right_code_and_the_next_file_decodes(tmp_path):
    good = write_video(tmp_path / "good.mp4", count=3)
    with DecodeGuard(timeout_s=4, memory_mb=1500, child_module="decode_child_double") as faulty:
        for name, code in (
            ("abort.mp4", "decode_crash"),
            ("hang.mp4", "decode_timeout"),
            ("allocate.mp4", "memory_limit"),
            ("exit.mp4", "decode_crash"),
        ):
            (tmp_path / name).write_bytes(good.read_bytes())
            begin = time.monotonic()
            error = reject(faulty, tmp_path / name)
            assert error.code == code, error
            assert time.monotonic() - begin < 30
            assert numbers(read(faulty, good)) == [0, 1, 2]
        crash = reject(faulty, tmp_path / "abort.mp4").cause
    assert crash.count("SIGABRT") == 2
    assert "invalid pointer" in crash
    assert "\x1b" not in crash
    assert len(crash) < 1000


def test_the_child_is_recycled_and_closed(tmp_path):
    path = write_video(tmp_path / "a.mp4", count=3)
    with DecodeGuard(timeout_s=60, memory_mb=3000, recycle_after=2) as guard:
        pids = []
        for _ in range(4):
            read(guard, path)
            pids.append(guard.child_pid)
    assert pids[0] == pids[1] != pids[2] == pids[3]
    assert guard.child_pid is None
    for pid in set(pids):
        assert not Path(f"/proc/{pid}").exists()


def test_the_child_has_little(guard, tmp_path):
    read(guard, write_video(tmp_path / "a.mp4", count=3))
    process = Path(f"/proc/{guard.child_pid}")
    variables = {line.split("=")[0] for line in (process / "environ").read_text().split("\0") if line}
    threads = {"OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"}
    assert variables == {"PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "PYTHONUTF8", "PATH"} | threads
    limits = (process / "limits").read_text()
    assert f"{3000 << 20}" in limits.split("Max address space")[1].split("\n")[0]
    assert limits.split("Max core file size")[1].split()[:2] == ["0", "0"]
    assert limits.split("Max file size")[1].split()[:2] == ["0", "0"]
    if guard.network_isolated:
        assert (process / "ns/net").readlink() != Path("/proc/self/ns/net").readlink()
        assert (process / "net/route").read_text().count("\n") <= 1
    assert os.getsid(guard.child_pid) == guard.child_pid


def test_the_parents_death_ends_a_hanging_child(tmp_path):
    path = write_video(tmp_path / "hang.mp4", count=3)
    script = f"""
import sys, threading, time
sys.path[:0] = [{str(HERE)!r}]
from pipelines.stages.decode import DecodeGuard, DecodeRequest
guard = DecodeGuard(timeout_s=600, memory_mb=3000, child_module="decode_child_double")
request = DecodeRequest({str(path)!r}, None, None, "all", None, None, None, 100, True)
threading.Thread(target=lambda: list(guard.decode(request)), daemon=True).start()
while not guard._hello:
    time.sleep(0.05)
time.sleep(1)
print(guard.child_pid, flush=True)
time.sleep(600)
"""
    parent = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)},
    )
    child = int(parent.stdout.readline())
    assert Path(f"/proc/{child}").exists()
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    deadline = time.monotonic() + 10
    while _alive(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _alive(child)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_missing_child_module_is_no_bad_clip(tmp_path):
    path = write_video(tmp_path / "a.mp4", count=1)
    with (
        DecodeGuard(timeout_s=5, memory_mb=3000, child_module="no_such_module") as guard,
        pytest.raises(RuntimeError, match=r"no_such_module did not start: exit status 1"),
    ):
        read(guard, path)


def test_every_drawn_number_can_be_read():
    assert [read_number(draw(number, 128, 96)) for number in range(256)] == list(range(256))
    with pytest.raises(ValueError, match="bars"):
        read_number(np.rot90(draw(77, 128, 128)))
