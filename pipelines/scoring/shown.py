"""The files that show one score to people: overlay video, video beside the exemplar, page."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.errors import ConfigError
from pipelines.scoring.quality import Warning
from pipelines.scoring.video_scorer import Scored


@dataclass(frozen=True)
class Shown:
    """What to write besides the score.

    Args:
        files: --overlay, --report, --side-by-side -> file, or None; those that lack are not wanted.
        command: what was typed, for the page.
    """

    files: dict[str, Path | None]
    command: str

    @property
    def wanted(self) -> bool:
        """Whether anything is to be written."""
        return any(self.files.values())

    def check(self, videos: int, workers: int = 0) -> None:
        """Several videos or workers, a file of another kind, or no such folder: noticed before the work.

        Raises:
            ConfigError: the flag, and what is wrong.
        """
        for flag, path in self.files.items():
            if path is None:
                continue
            if videos > 1:
                cause = "names one file, and there are several videos"
                raise ConfigError(flag, cause, "score one video at a time")
            if workers:
                cause = "is written by this process, and --workers scores in others"
                raise ConfigError(flag, cause, "leave --workers out")
            suffix = ".html" if flag == "--report" else ".mp4"
            if path.suffix.lower() != suffix:
                raise ConfigError(flag, f"{path} does not end with {suffix}", f"name a {suffix} file")
            if not path.absolute().parent.is_dir():
                raise ConfigError(flag, f"the folder of {path} does not exist", "make it first")

    def check_kind(self, kind: str) -> None:
        """Only dives have an exemplar to stand beside.

        Raises:
            ConfigError: the model is another.
        """
        if self.files.get("--side-by-side") and kind != "hp_mcore":
            cause = "shows a dive beside its exemplar, and this model compares with none"
            raise ConfigError("--side-by-side", cause, "leave it out, or give a run of `aqa train hp-mcore`")

    def write(self, found: Scored, told: dict[str, Any]) -> None:
        """Writes what was asked for; the video is decoded once more for each kind of picture.

        Args:
            found: the score, and what it was made of.
            told: its document; what is wrong with the sound is added to its warnings.

        Raises:
            StorageError: a file cannot be written.
        """
        if not self.wanted:
            return
        from pipelines.scoring.drawing import Drawer
        from pipelines.scoring.overlay import drawn_frames
        from pipelines.scoring.page import write_page
        from pipelines.scoring.side_by_side import ExemplarFrames, paired_frames, plain_frames

        overlay, report, beside = (self.files.get(f) for f in ("--overlay", "--report", "--side-by-side"))
        clip = found.recording.clip.to_pylist()[0]
        where = (clip["uri"], clip["start_s"], clip["end_s"])
        drawer, shown = Drawer(found.pose, found.verdict), found.explanation.shown
        middles = [(part.start_s + part.end_s) / 2 for part in found.verdict.parts]
        stills, pairs = [], []
        spoken = WithSound(clip, float(found.pose["time_s"][-1]))
        if overlay or (report and shown is None):
            stills = _nearest(spoken.film(overlay, drawn_frames(drawer, *where)), middles)
        if shown is not None and (beside or report):
            frames = paired_frames(plain_frames(*where), drawer, ExemplarFrames(shown))
            pairs = _nearest(spoken.film(beside, frames), _moments(found))
        told["warnings"] += [one.document() for one in spoken.warnings]
        if report:
            write_page(report, told, found, stills, pairs, self.command)


class WithSound:
    """Films of one performance with its sound.

    Args:
        clip: row of CLIPS.
        last_s: time of the last pose; there may be a few pictures after it.

    Attributes:
        warnings: what was wrong with the sound, each once.
    """

    def __init__(self, clip: dict[str, Any], last_s: float):
        self.uri, self.start_s = clip["uri"], clip["start_s"] or 0.0
        self.end_s = clip["end_s"] or last_s + 1.0
        self.warnings: list[Warning] = []

    def film(self, path: Path | None, frames: Iterator[tuple[float, Any]]) -> Iterator[tuple[float, Any]]:
        """The frames; on the way they are written to the file, if there is to be one."""
        from pipelines.scoring.overlay import write_video
        from pipelines.scoring.sound import Sound

        if path is None:
            yield from frames
            return
        with Sound(self.uri, self.start_s, self.end_s) as sound:
            yield from write_video(path, frames, sound)
            if sound.warning and sound.warning not in self.warnings:
                self.warnings.append(sound.warning)


def _moments(found: Scored) -> list[float]:
    """Middles of the parts, and those of the strongest differences in the part that lost most; rising."""
    middles = [(part.start_s + part.end_s) / 2 for part in found.verdict.parts]
    lost = found.explanation.facts["procedure"]
    there = [one for one in found.explanation.differences if one.part == lost][:2]
    return sorted({*middles, *((one.start_s + one.end_s) / 2 for one in there)})


def _nearest(frames: Iterable[tuple[float, Any]], wanted: list[float]) -> list[tuple[float, Any]]:
    """The frame that is nearest to each time; all frames are taken."""
    found: dict[float, tuple[float, Any]] = {}
    for time_s, picture in frames:
        for moment in wanted:
            if moment not in found or abs(time_s - moment) < abs(found[moment][0] - moment):
                found[moment] = (time_s, picture)
    return [found[moment] for moment in wanted if moment in found]
