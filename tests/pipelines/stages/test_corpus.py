"""Every frame of every kind of video is the right one, with its time, or the file is refused."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipelines.stages.sampling import sample_indices

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from corpus import CORPUS, Truth  # noqa: E402
from decode_calls import numbers, read, reject  # noqa: E402

REQUESTS = (
    {"sampling": "uniform:96", "frames_per_part": 50},
    {"sampling": "fps:10", "frames_per_part": 7},
    {"start_s": 0.3, "end_s": 1.1, "frames_per_part": 6},
    {"start_s": 0.55, "sampling": "uniform:9", "frames_per_part": 2},
)
# Their packets do not say what is shown, or decord counts otherwise: the referee is asked unasked.
ALWAYS_PROVEN = {name for name in CORPUS if name.endswith((".avi", ".ts", ".mpg"))} | {
    "h264_edit_list.mp4",
    "hevc_open_gop_cut.mkv",
    "hevc_open_gop_cut.mp4",
    "mpeg4_b_frames.mp4",
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Callable[[str], tuple[Path, Truth]]:
    """Path and truth of a file, which is made when first asked for."""
    folder = tmp_path_factory.mktemp("corpus")

    @functools.cache
    def find(name: str) -> tuple[Path, Truth]:
        return folder / name, CORPUS[name](folder / name)

    return find


@pytest.mark.parametrize("referee", [True, False])
@pytest.mark.parametrize("name", CORPUS)
def test_every_frame_is_exact_or_the_file_is_refused(corpus, guard, name, referee):
    path, truth = corpus(name)
    if truth.numbers is None:
        assert reject(guard, path, referee=referee).code in {"truncated", "corrupt"}
        return
    clip = read(guard, path, referee=referee)
    assert numbers(clip) == truth.numbers
    assert clip.frame_index.tolist() == list(range(len(truth.numbers)))
    np.testing.assert_allclose(clip.time_s * 1000, truth.time_ms, atol=1.5)  # containers round to 1 ms
    assert (clip.width_px, clip.height_px) == truth.size == clip.frames.shape[2:0:-1]
    assert (clip.decoder_note == "not refereed") == (not referee and name not in ALWAYS_PROVEN)
    for changes in REQUESTS:
        part = read(guard, path, referee=referee, **changes)
        wanted = {"sampling": "all", "start_s": None, "end_s": None} | changes
        del wanted["frames_per_part"]
        assert part.frame_index.tolist() == sample_indices(clip.time_s, **wanted).tolist()
        assert numbers(part) == [truth.numbers[k] for k in part.frame_index]
        np.testing.assert_array_equal(part.time_s, clip.time_s[part.frame_index])
