"""Folders of pictures: read like videos, or refused by name."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipelines.errors import ClipError
from pipelines.sources import digests, look
from pipelines.stages.picture_folder import look_into
from pipelines.stages.picture_reader import picture_size
from pipelines.stages.pictures import Fit

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from decode_calls import join, read, reject, request  # noqa: E402

DATA = Path(os.environ.get("AQA_TEST_DATA", ".")) / "finediving_pose_sample" / "images"


def grey(folder: Path, count: int = 12, first: int = 95, size=(64, 48), suffix: str = ".jpg") -> Path:
    """Pictures named by unpadded numbers; picture k has the grey value 8 + 15 k."""
    folder.mkdir(exist_ok=True)
    for k in range(count):
        picture = np.full((size[1], size[0], 3), 8 + 15 * k, np.uint8)
        assert cv2.imwrite(str(folder / f"f{first + k}{suffix}"), picture)
    return folder


def shown(frames: np.ndarray) -> list[int]:
    return [round((float(frame.mean()) - 8) / 15) for frame in frames]


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".JPEG"])
def test_pictures_come_in_the_order_of_their_numbers(guard, tmp_path, suffix):
    folder = grey(tmp_path / "a", suffix=suffix)  # f95 ... f106: by text f100 would come first
    (folder / ".DS_Store").write_bytes(b"x")
    clip = read(guard, folder)
    assert shown(clip.frames) == list(range(12))
    assert clip.frames.shape == (12, 48, 64, 3)
    np.testing.assert_array_equal(clip.time_s, np.arange(12) / 25)
    assert (clip.decoder, clip.decoder_note, clip.width_px, clip.height_px) == ("opencv", "", 64, 48)


def test_colours_are_rgb_and_equal_another_reader(guard, tmp_path):
    from PIL import Image

    (tmp_path / "a").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a" / "1.png")
    np.testing.assert_array_equal(read(guard, tmp_path / "a").frames[0], pixels)


def test_ranges_and_sampling_work_as_for_videos(guard, tmp_path):
    folder = grey(tmp_path / "a")
    assert shown(read(guard, folder, start_s=2 / 25, end_s=5 / 25).frames) == [2, 3, 4]
    expected = np.floor(np.linspace(0, 11, 96)).astype(int).tolist()
    clip = read(guard, folder, sampling="uniform:96")
    assert shown(clip.frames) == clip.frame_index.tolist() == expected
    parts = list(guard.decode(request(folder, frames_per_part=5, picture=Fit(32, 24, False))))
    assert [len(part.frames) for part in parts] == [5, 5, 2]
    assert shown(join(parts).frames) == list(range(12))
    error = reject(guard, folder, start_s=9.0)
    assert (error.code, error.cause) == ("empty_range", "the file has frames from 0.000 to 0.440 s")


def test_every_second_number_is_as_good(guard, tmp_path):
    folder = grey(tmp_path / "a", count=6)
    for k in range(5, -1, -1):
        (folder / f"f{95 + k}.jpg").rename(folder / f"{10 + 2 * k:05d}.jpg")
    assert shown(read(guard, folder).frames) == list(range(6))


def cut(folder: Path) -> None:
    data = (folder / "f99.jpg").read_bytes()
    (folder / "f99.jpg").write_bytes(data[: len(data) * 9 // 10])


def fake(folder: Path) -> None:
    (folder / "f99.jpg").write_bytes(b"MZ this is a program")


def garble(folder: Path) -> None:
    data = bytearray((folder / "f99.jpg").read_bytes())
    data[4:200] = bytes(196)
    (folder / "f99.jpg").write_bytes(data)


def huge(folder: Path) -> None:
    data = bytearray(cv2.imencode(".png", np.zeros((4, 4, 3), np.uint8))[1].tobytes())
    data[16:24] = (60000).to_bytes(4, "big") * 2
    (folder / "f95.jpg").write_bytes(data)


def link(folder: Path) -> None:
    (folder.parent / "secret.jpg").write_bytes((folder / "f99.jpg").read_bytes())
    (folder / "f99.jpg").unlink()
    (folder / "f99.jpg").symlink_to(folder.parent / "secret.jpg")


def resize(folder: Path) -> None:
    cv2.imwrite(str(folder / "f99.jpg"), np.zeros((48, 60, 3), np.uint8))


@pytest.mark.parametrize(
    ("damage", "code", "cause"),
    [
        (cut, "truncated", "f99.jpg ends before its end mark"),
        (fake, "not_media", "f99.jpg is no JPEG or PNG picture: it begins with 'MZ this '"),
        (lambda folder: (folder / "f99.jpg").write_bytes(b""), "not_media", "it has zero bytes"),
        (garble, "corrupt", "f99.jpg: "),
        (huge, "too_large", "f95.jpg has 60000 x 60000 pixels"),
        (link, "not_regular", "'f99.jpg' in it is a link, a folder or no file at all"),
        (lambda folder: (folder / "sub1.jpg").mkdir(), "not_regular", "'sub1.jpg' in it is a link, a folder"),
        (lambda folder: os.mkfifo(folder / "f107.jpg"), "not_regular", "'f107.jpg' in it is a link"),
        (lambda folder: (folder / "a.txt").touch(), "not_media", "'a.txt' in it is no numbered JPEG or PNG"),
        (lambda folder: (folder / "x.jpg").touch(), "not_media", "'x.jpg' in it is no numbered JPEG or PNG"),
        (
            lambda folder: (folder / "f99.jpg").unlink(),
            "truncated",
            "between the numbers 98 and 100 are missing",
        ),
        (lambda folder: (folder / "g099.jpg").touch(), "not_media", "two pictures have the number 99"),
        (resize, "unsupported", "the picture size changes from (64, 48) to (60, 48) at f99.jpg"),
    ],
)
def test_a_bad_folder_is_refused_and_harms_nothing(guard, tmp_path, damage, code, cause):
    folder = grey(tmp_path / "a")
    damage(folder)
    error = reject(guard, folder)
    assert error.code == code
    assert cause in error.cause
    assert shown(read(guard, grey(tmp_path / "b", count=2)).frames) == [0, 1]


def test_a_picture_that_is_not_wanted_must_be_whole_too(guard, tmp_path):
    folder = grey(tmp_path / "a")
    cut(folder)
    assert reject(guard, folder, end_s=1 / 25).code == "truncated"


def test_a_folder_without_pictures_is_no_video(guard, tmp_path):
    (tmp_path / "a").mkdir()
    error = reject(guard, tmp_path / "a")
    assert (error.code, error.cause) == ("not_regular", "it is a directory without JPEG or PNG pictures")


def test_the_plan_sees_what_the_reader_saw(guard, tmp_path):
    import pyarrow as pa

    folder = grey(tmp_path / "a")
    clip, uri = read(guard, folder), pa.array([str(folder)])
    sizes, times = look(uri)
    assert (clip.source_bytes, clip.source_mtime_ns) == (sizes[0], times[0])
    assert sizes[0] == sum(path.stat().st_size for path in folder.iterdir())
    assert digests(uri) == [clip.source_sha256]
    folder.rename(tmp_path / "moved")
    assert look_into(str(tmp_path / "moved")).digest() == clip.source_sha256
    assert look(uri)[0][0] == -1
    assert digests(uri) == [None]


def test_the_digest_depends_on_names_and_bytes(tmp_path):
    folder = grey(tmp_path / "a", count=3)
    before = look_into(str(folder))
    assert look_into(str(folder)) == before
    digest = before.digest()
    (folder / "f95.jpg").rename(folder / "f98.jpg")
    assert look_into(str(folder)).digest() != digest
    assert look_into(str(folder)) != before
    (folder / "f98.jpg").rename(folder / "f95.jpg")
    assert look_into(str(folder)).digest() == digest
    one, two = (folder / name for name in ("f95.jpg", "f96.jpg"))
    data = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(data)
    assert look_into(str(folder)).digest() != digest


def test_a_vanished_picture_is_an_error_of_the_clip(tmp_path):
    folder = look_into(str(grey(tmp_path / "a", count=2)))
    (tmp_path / "a" / "f96.jpg").unlink()
    with pytest.raises(ClipError, match="f96.jpg: No such file"):
        folder.digest()


def test_sizes_are_read_without_decoding():
    for size in ((7, 5), (455, 256)):
        picture = np.zeros((size[1], size[0], 3), np.uint8)
        assert picture_size(cv2.imencode(".png", picture)[1].tobytes()) == size
        assert picture_size(cv2.imencode(".jpg", picture)[1].tobytes()) == size
        progressive = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()
        assert picture_size(progressive) == size
    assert picture_size(b"\xff\xd8\xff\xe0") == (0, 0)


@pytest.mark.data
@pytest.mark.skipif("AQA_TEST_DATA" not in os.environ, reason="AQA_TEST_DATA is not set")
def test_real_pictures_equal_another_reader(guard):
    from PIL import Image

    clip = read(guard, DATA, sampling="uniform:8")
    names = sorted(DATA.glob("*.jpg"))
    assert clip.frame_index.tolist() == [0, 14, 28, 42, 57, 71, 85, 100]
    assert (clip.width_px, clip.height_px) == (455, 256)
    for frame, k in zip(clip.frames, clip.frame_index, strict=True):
        np.testing.assert_array_equal(frame, np.asarray(Image.open(names[k])))
