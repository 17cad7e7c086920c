"""Clips in parts: people, pictures, and what happens when a reader fails halfway."""

from __future__ import annotations

import functools
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipelines.errors import ClipError
from pipelines.stages.decode import PART_BYTES, DecodedPart, DecodeGuard
from pipelines.stages.pictures import Crop, Resize, box_to_center_scale, fix_aspect, warp_matrix
from pipelines.stages.sampling import PersonBoxes

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from decode_calls import join, numbers, read, reject, request  # noqa: E402
from make_videos import write_video  # noqa: E402


@pytest.fixture(scope="module")
def faulty() -> Iterator[DecodeGuard]:
    """A guard whose child fails on files of certain names."""
    with DecodeGuard(timeout_s=60, memory_mb=3000, child_module="decode_child_double") as guard:
        yield guard


# ---------------------------------------------------------------- parts, people, pictures


def test_parts_follow_one_another(guard, tmp_path):
    path = write_video(tmp_path / "a.mp4", count=30)
    parts = list(guard.decode(request(path, frames_per_part=12)))
    assert [numbers(part) for part in parts] == [list(range(12)), list(range(12, 24)), list(range(24, 30))]
    assert numbers(join(parts)) == list(range(30))
    stat = path.stat()
    assert {(p.source_bytes, p.source_mtime_ns) for p in parts} == {(stat.st_size, stat.st_mtime_ns)}
    assert [part.last for part in guard.decode(request(path, frames_per_part=30))] == [True]


def test_repeated_frames_may_lie_on_both_sides_of_a_boundary(guard, tmp_path):
    path = write_video(tmp_path / "a.mp4", count=3)
    parts = list(guard.decode(request(path, sampling="uniform:8", frames_per_part=3)))
    expected = np.floor(np.linspace(0, 2, 8)).astype(int).tolist()
    assert numbers(join(parts)) == expected
    assert [len(part.frames) for part in parts] == [3, 3, 2]


def test_large_pictures_make_small_parts(guard, tmp_path):
    path = write_video(tmp_path / "a.mp4", count=9)
    people = tuple(PersonBoxes(k, np.zeros(1, int), np.array([[0, 0, 50, 50.0]])) for k in range(2))
    parts = list(guard.decode(request(path, picture=Crop(2048, 2048), people=people)))
    assert [part.frames.shape[0] for part in parts[::2]] == [2, 2, 2, 2, 1]
    assert max(part.frames.nbytes for part in parts) * len(people) <= PART_BYTES


def test_each_person_is_followed(guard, tmp_path):
    path = write_video(tmp_path / "a.mp4", count=30)
    still = PersonBoxes(0, np.array([5]), np.array([[20.0, 10, 90, 80]]))
    moving = PersonBoxes(3, np.array([10, 20]), np.array([[0.0, 0, 40, 60], [80, 30, 120, 90]]))
    parts = list(
        guard.decode(request(path, people=(still, moving), picture=Crop(48, 64), frames_per_part=20))
    )
    assert [(part.person, part.part) for part in parts] == [(0, 0), (3, 0), (0, 1), (3, 1)]
    whole = read(guard, path).frames
    for person in (still, moving):
        clip = join([part for part in parts if part.person == person.person])
        boxes = person.at(np.arange(30))
        np.testing.assert_array_equal(clip.box, boxes)
        for frame, crop, box in zip(whole, clip.frames, boxes, strict=True):
            center, scale = box_to_center_scale(tuple(box), 1.25)
            matrix = warp_matrix(center, fix_aspect(scale, 48, 64), (48, 64))
            expected = cv2.warpAffine(frame, matrix, (48, 64), flags=cv2.INTER_LINEAR)
            np.testing.assert_array_equal(crop, expected)


def test_resize_shows_the_whole_frame(guard, tmp_path):
    path = write_video(tmp_path / "a.mp4", count=5, rotation=90, size=(160, 128))
    whole = read(guard, path).frames
    small, large = (read(guard, path, picture=Resize(*size)) for size in ((64, 40), (300, 200)))
    averaged = [cv2.resize(frame, (64, 40), interpolation=cv2.INTER_AREA) for frame in whole]
    np.testing.assert_array_equal(small.frames, averaged)
    enlarged = [cv2.resize(frame, (300, 200), interpolation=cv2.INTER_LINEAR) for frame in whole]
    np.testing.assert_array_equal(large.frames, enlarged)
    assert small.box.tolist() == [[0, 0, 128, 160]] * 5
    assert (small.width_px, small.height_px) == (128, 160)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frames_per_part": 0}, "frames_per_part is 0"),
        ({"people": ()}, "names no person"),
        ({"box": (5.0, 5.0, 5.0, 9.0)}, "is empty"),
        ({"sampling": "every:2"}, "is none of all"),
    ],
)
def test_a_wrong_request_is_named_before_anything_is_read(guard, changes, message):
    with pytest.raises(ValueError, match=message):
        guard.decode(request("/nowhere.mp4", **changes))


def test_an_abandoned_clip_does_not_reach_the_next(guard, tmp_path):
    path = write_video(tmp_path / "a.mp4", count=30)
    parts = guard.decode(request(path, frames_per_part=4))
    next(parts)
    parts.close()
    assert numbers(read(guard, path, start_s=0.8)) == list(range(20, 30))


# ---------------------------------------------------------------- faults halfway


@pytest.mark.parametrize("referee", [True, False])
def test_after_a_crash_halfway_the_rest_follows_once(faulty, tmp_path, referee):
    path = write_video(tmp_path / "abort_midway.mp4", count=40, codec_options={"bf": "3"})
    parts = list(faulty.decode(request(path, frames_per_part=8, referee=referee)))
    assert [part.decoder for part in parts] == ["decord", "decord", "pyav", "pyav", "pyav"]
    assert numbers(join(parts)) == list(range(40))
    assert "died (ended by SIGABRT" in parts[-1].decoder_note
    np.testing.assert_allclose(join(parts).time_s, np.arange(40) * 0.04, atol=1e-3)


def test_after_a_second_crash_the_clip_is_refused(faulty, tmp_path):
    path = write_video(tmp_path / "abort_twice.mp4", count=40)
    parts = faulty.decode(request(path, frames_per_part=4))
    firsts = [numbers(next(parts)) for _ in range(5)]  # four of decord's, one of PyAV's
    assert firsts == [list(range(k, k + 4)) for k in range(0, 20, 4)]
    with pytest.raises(ClipError, match=r"SIGABRT.*; then ended by SIGABRT") as caught:
        next(parts)
    assert caught.value.code == "decode_crash"


def test_a_complaint_calls_the_referee_who_proves_what_was_handed_out(faulty, tmp_path):
    path = write_video(tmp_path / "complain.mp4", count=40, codec_options={"bf": "3"})
    parts = list(faulty.decode(request(path, frames_per_part=8, referee=False)))
    assert numbers(join(parts)) == list(range(40))
    assert [part.decoder_note for part in parts[:2]] == ["not refereed"] * 2
    assert parts[-1].decoder_note == "decord complains: error while decoding MB 3 4, bytestream -5"
    assert read(faulty, path).decoder_note == "", "with proof a complaint is of no account"


def test_wrong_frames_handed_out_on_trust_are_found_when_decord_fails_later(faulty, tmp_path):
    path = write_video(tmp_path / "late_complain.mp4", count=40)
    parts = faulty.decode(request(path, frames_per_part=12, referee=False))
    next(parts)
    with pytest.raises(ClipError, match="decord's frame 9 is another picture") as caught:
        next(parts)
    assert caught.value.code == "corrupt"


def test_progress_is_no_timeout_and_a_slow_reader_neither(tmp_path):
    good = write_video(tmp_path / "slow.mp4", count=30)
    with DecodeGuard(timeout_s=2, memory_mb=3000, child_module="decode_child_double") as guard:
        parts: list[DecodedPart] = []
        begin = time.monotonic()
        for part in guard.decode(request(good, picture=Resize(500, 500), frames_per_part=10)):
            parts.append(part)
            time.sleep(0.8)
        assert time.monotonic() - begin > 4
        assert len(join(parts).frames) == 30


def test_processor_time_is_limited(tmp_path):
    path = write_video(tmp_path / "endless.mp4", count=3)
    with DecodeGuard(timeout_s=30, memory_mb=3000, cpu_s=1, child_module="decode_child_double") as guard:
        error = reject(guard, path)
        assert (error.code, error.cause) == ("decode_timeout", "more than 1 s of processor time")
        assert numbers(read(guard, write_video(tmp_path / "good.mp4", count=3))) == [0, 1, 2]


# ---------------------------------------------------------------- memory


@pytest.mark.parametrize("referee", [True, False])
def test_what_decord_could_not_hold_is_read_strictly_by_pyav(faulty, tmp_path, referee):
    path = write_video(tmp_path / "long.mp4", count=40, codec_options={"bf": "3"}, faststart=True)
    parts = list(faulty.decode(request(path, referee=referee, frames_per_part=9)))
    assert numbers(join(parts)) == list(range(40))
    assert {part.decoder for part in parts} == {"pyav"}
    assert parts[0].decoder_note == "decord may keep all 40 frames of (128, 96) in memory"
    data = bytearray(path.read_bytes())
    middle = (data.index(b"mdat") + len(data)) // 2
    data[middle : middle + 24] = bytes(range(100, 124))
    (tmp_path / "long_damaged.mp4").write_bytes(data)
    assert reject(faulty, tmp_path / "long_damaged.mp4", referee=referee).code == "corrupt"


def peak_mb(pid: int | None) -> float:
    """Largest resident memory of a process so far, MiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


@pytest.fixture(scope="module")
def long_hd(tmp_path_factory) -> Callable[[int], Path]:
    """1920 x 1080 video of so many frames."""
    folder = tmp_path_factory.mktemp("long")

    @functools.cache
    def find(count: int) -> Path:
        options = {"preset": "ultrafast", "g": "50"}
        return write_video(folder / f"{count}.mp4", size=(1920, 1080), count=count, codec_options=options)

    return find


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="needs /proc")
@pytest.mark.parametrize("referee", [True, False])
@pytest.mark.parametrize(
    "count", [80, pytest.param(3000, marks=[pytest.mark.slow, pytest.mark.timeout(600)])]
)
def test_memory_does_not_grow_with_the_clip(long_hd, count, referee):
    path = long_hd(count)  # 80 frames: 498 MB of pixels, 3000: 18.7 GB
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    with DecodeGuard(timeout_s=120, memory_mb=1500) as guard:
        frames = 0
        for part in guard.decode(request(path, referee=referee)):
            assert part.frame_index[0] == frames
            frames += len(part.frames)
        child = peak_mb(guard.child_pid)
    assert frames == count
    assert child < 800  # 40 % of 1500 MB for decord's frames, a part, and what starting needs
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before < 3 * PART_BYTES / 2**20
