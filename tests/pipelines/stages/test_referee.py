"""Real videos and damaged ones: agreement with FFmpeg, or a rejection."""

from __future__ import annotations

import csv
import os
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipelines.errors import REJECT_CODES
from pipelines.stages.decode import DecodeGuard
from pipelines.stages.pictures import Crop

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from decode_calls import read, reject  # noqa: E402

QUICK = {
    "decord__unordered.mov",
    "decord__video_90.mov",
    "decord__corrupted.mp4",
    "mmaction2__test.avi",
    "moviepy__bitmap.mp4",
    "mp4parse-rust__no_timescale.mp4",
    "mp4parse-rust__short-cenc.mp4",
    "mux.js__test-segment.ts",
    "nestegg__dancer1.webm",
    "nestegg__seek.webm",
    "nestegg__seek_encrypted.webm",
    "tfjs-models__pose_1.mp4",
    "torchcodec__discard_first_keyframe.mp4",
    "torchcodec__h265_video.mp4",
    "torchcodec__sine_stereo_mp2.mpg",
}
# Mean difference of the 16 x 16 thumbnails from FFmpeg 5.1's, of 255. Most files: 0.3. The rest is chroma
# upsampling of 10-bit, 4:4:4 and odd-sized pictures (other FFmpeg version), and a transparent GIF pixel.
THUMB_TOLERANCE = 0.3
THUMB_EXCEPTIONS = {
    "torchcodec__bt2020_10bit.mp4": 2.0,
    "torchcodec__h264_10bits.mp4": 2.5,
    "torchcodec__h265_10bits.mp4": 2.5,
    "torchcodec__testsrc2_444_10bit_hevc.mp4": 2.5,
    "torchcodec__testsrc2_odd_height_and_width_444.mp4": 2.5,
    "torchcodec__testsrc2_odd_height_and_width_mpeg2.mp4": 4.0,
    "torchcodec__testsrc2_odd_height_and_width_vp9.mp4": 2.5,
    "torchcodec__frame_exceeds_screen.gif": 33.0,
}
DAMAGED_DECODE = {
    "name with spaces.mp4": 5,
    "new\nline.mp4": 5,
    "ünï_视频_🤸.mp4": 5,
    "-leading-dash.mp4": 5,
    "one_frame.mp4": 1,
    "huge_container_size.mp4": 120,
}
DAMAGED_CODES = {
    "trunc10_moov_as_shipped.mp4": {"no_index"},
    "trunc50_moov_as_shipped.mp4": {"no_index"},
    "trunc90_moov_as_shipped.mp4": {"no_index"},
    "trunc10_faststart.mp4": {"truncated"},
    "trunc50_faststart.mp4": {"truncated"},
    "trunc90_faststart.mp4": {"truncated"},
    "zero_bytes.mp4": {"empty"},
    "text_renamed.mp4": {"not_media"},
    "html_renamed.mp4": {"not_media"},
    "bitflip_seed1.mp4": {"corrupt"},
    "bitflip_seed2.mp4": {"corrupt"},
    "bitflip_seed3.mp4": {"corrupt"},
    "missing_moov.mp4": {"no_index"},
    "audio_only.mp4": {"no_video"},
    "hls_playlist_renamed.mp4": {"playlist"},
    "concat_script_renamed.mp4": {"playlist"},
    "huge_bitstream_size.webm": {"too_large"},
    "large_bitstream_size.webm": {"too_large"},
    "zero_filled_tail.mp4": {"corrupt"},
    "random_bytes.mp4": {"not_media"},
}


def real_videos() -> Path:
    """Folder of the real files."""
    root = os.environ.get("AQA_TEST_DATA")
    if not root or not (Path(root) / "videos").is_dir():
        pytest.skip("AQA_TEST_DATA is not set")
    return Path(root) / "videos"


def check_real(guard: DecodeGuard, folder: Path, chosen: set[str] | None) -> None:
    """Every file ends as expected: whole with the right pictures, or rejected."""
    thumbs = np.load(folder / "expected_thumbs.npz", allow_pickle=False)
    with (folder / "expected_frames.csv").open() as table:
        rows = [row for row in csv.DictReader(table) if chosen is None or row["file"] in chosen]
    assert len(rows) == (86 if chosen is None else len(chosen))
    for row in rows:
        name = row["file"]
        if row["class"] != "decode":
            assert reject(guard, folder / name).code in REJECT_CODES
            continue
        clip = read(guard, folder / name, sampling="all")
        assert len(clip.frames) == int(row["n_frames"]), name
        assert (np.diff(clip.time_s) > 0).all(), name
        middle = [clip.frames[k] for k in (0, len(clip.frames) // 2, len(clip.frames) - 1)]
        ours = np.stack([cv2.resize(frame, (16, 16), interpolation=cv2.INTER_AREA) for frame in middle])
        apart = np.abs(ours.astype(int) - thumbs[name]).mean(axis=(1, 2, 3)).max()
        assert apart <= THUMB_EXCEPTIONS.get(name, THUMB_TOLERANCE), (name, apart)


@pytest.mark.data
def test_real_files_subset(guard):
    check_real(guard, real_videos(), QUICK)


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_real_files_all_through_one_guard():
    with DecodeGuard(timeout_s=120, memory_mb=6000) as guard:
        check_real(guard, real_videos(), None)


@pytest.mark.data
def test_damaged_files_through_one_guard():
    folder = real_videos() / "damaged"
    names = {path.name for path in folder.iterdir()} - {"README.md", "SHA256SUMS"}
    assert names == DAMAGED_DECODE.keys() | DAMAGED_CODES.keys()
    with DecodeGuard(timeout_s=60, memory_mb=3000) as guard:
        for name in sorted(names):
            if name in DAMAGED_DECODE:
                assert len(read(guard, folder / name).frames) == DAMAGED_DECODE[name]
            else:
                assert reject(guard, folder / name).code in DAMAGED_CODES[name]
            if "size" in name:
                status = Path(f"/proc/{guard.child_pid}/status").read_text()
                peak_kb = int(status.split("VmHWM:")[1].split()[0])
                assert peak_kb < 700_000, (name, peak_kb)


@pytest.mark.data
def test_crops_keep_memory_small(guard):
    with DecodeGuard(timeout_s=120, memory_mb=1200) as fresh:
        path = real_videos() / "pose2sim__single_cam03.mp4"  # 100 frames of 1088 x 1920: 627 MB as RGB
        clip = read(fresh, path, picture=Crop(192, 256))
        peak_kb = int(Path(f"/proc/{fresh.child_pid}/status").read_text().split("VmHWM:")[1].split()[0])
    assert clip.frames.shape == (100, 256, 192, 3)
    assert peak_kb < 400_000
