"""`aqa score`: from videos to scores that a person can use.

Everything runs in this process, without Ray: decoding (in its guarded child process), finding the athlete,
poses, model. A video that cannot be scored does not stop the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from pipelines.config import ExtractConfig
from pipelines.errors import ConfigError
from pipelines.scoring.explanation import ASSOCIATED
from pipelines.scoring.interval import LEVEL
from pipelines.scoring.refusal import Refused
from pipelines.scoring.video_scorer import Request, Scored, VideoScorer

UNIT = "points, as the training scores"
LIMITS = "This is a model's estimate, not a judge and not a medical device."

Progress = Callable[[str], None]


def score(
    videos: list[Path],
    model: Path,
    given: ExtractConfig,
    request: Request,
    *,
    store: Path | None = None,
    weights: dict[str, Path | None] | None = None,
    max_seconds: float = 120.0,
    overlay: Path | None = None,
    report: Path | None = None,
    side_by_side: Path | None = None,
    command: str = "",
    progress: Progress = lambda line: None,
) -> dict[str, Any]:
    """Scores videos with one model.

    Args:
        videos: files.
        model: run folder of `aqa train expert` or `aqa train hp-mcore`, its model folder, or a bundle.
        given: settings of `aqa extract` that somebody set; the others are as in the training.
        request: what is asked, the same of all videos.
        store: where the store of the training is now; None = where it was.
        weights: kind of visual features -> weights file of its network.
        max_seconds: longest performance.
        overlay: MP4 file to write, of one video.
        report: HTML file to write, of one video.
        side_by_side: MP4 file to write, of one video beside its exemplar.
        command: what was typed, for the page.
        progress: receives a line per video.

    Returns:
        scored: one document per video (see `document`); refused: video, code, cause, remedy.

    Raises:
        ConfigError: the model cannot score videos, or the request does not say enough.
        StorageError: overlay or page cannot be written.
    """
    wanted = {"--overlay": overlay, "--report": report, "--side-by-side": side_by_side}
    _check_files(wanted)
    if len(videos) > 1 and any(wanted.values()):
        flag = next(flag for flag, path in wanted.items() if path)
        raise ConfigError(flag, "names one file, and there are several videos", "score one video at a time")
    scored, refused = [], []
    with VideoScorer(
        model, given, store=store, weights=weights, max_seconds=max_seconds, use_gpu=_has_gpu()
    ) as scorer:
        if side_by_side and scorer.kind != "hp_mcore":
            cause = "shows a dive beside its exemplar, and this model compares with none"
            raise ConfigError("--side-by-side", cause, "leave it out, or give a run of `aqa train hp-mcore`")
        for video in videos:
            try:
                found = scorer.score(video, request)
            except Refused as error:
                refused.append(error.as_document())
                continue
            told = document(found, scorer, video)
            if any(wanted.values()):
                _show(found, told, wanted, command)
            scored.append(told)
            progress(f"{len(scored) + len(refused)}/{len(videos)} {video.name}: {told['score']:.2f}")
    return {"model": str(model), "scored": scored, "refused": refused}


def document(found: Scored, scorer: VideoScorer, video: Path) -> dict[str, Any]:
    """What is said of one video: plain values, times in seconds from the start of the file.

    `base.points` and the `delta` of all `parts` add up to `score`.
    """
    verdict, interval, pose = found.verdict, found.interval, found.pose
    times = pose["time_s"]
    return {
        "video": str(video),
        "score": verdict.score,
        "unit": UNIT,
        "interval": _interval(verdict.score, interval),
        "action_type": verdict.action_type or None,
        "start_s": float(times[0]),
        "end_s": float(times[-1]),
        "base": {"points": verdict.base, "meaning": verdict.base_meaning},
        "parts": [
            {"name": part.name, "start_s": part.start_s, "end_s": part.end_s, "delta": part.delta}
            for part in verdict.parts
        ],
        "explanation": found.explanation.document(),
        "exemplars": [
            {"clip_id": one.clip_id, "score": one.score, "vote": one.vote} for one in verdict.exemplars
        ],
        "exemplar_rule": verdict.rule or None,
        "votes_interval": None if verdict.low is None else {"low": verdict.low, "high": verdict.high},
        "warnings": [
            {"code": one.code, "text": one.text, "value": one.value, "limit": one.limit}
            for one in found.warnings
        ],
        "distances": {
            one.block: {"value": one.value, "limit": one.limit, "nearest": one.nearest}
            for one in found.distances
        },
        "provenance": {
            "model": str(scorer.model),
            "model_kind": scorer.kind,
            "model_sha256": scorer.description["sha256"],
            "video_sha256": pose["source_sha256"],
            "decoder": " ".join(filter(None, (pose["decoder"], pose["decoder_note"]))),
            "extraction": {family: work.spec for family, work in scorer.extractor.works.items()},
        },
        "limits": LIMITS,
    }


def _interval(score: float, interval: Any) -> dict[str, Any]:
    told = {"low": None, "high": None, "level": LEVEL, "clips": interval.clips, "source": interval.reason}
    if interval.reach is not None:
        told |= {"low": score - interval.reach, "high": score + interval.reach}
    return told


def lines(result: dict[str, Any]) -> list[str]:
    """The result for people."""
    made: list[str] = []
    for told in result["scored"]:
        made += [*_lines_of(told), ""]
    for told in result["refused"]:
        made += [f"{told['video']}: no score", f"  {told['cause']}", f"  {_sentence(told['remedy'])}", ""]
    return [*made, ASSOCIATED, LIMITS] if result["scored"] else made[:-1]


def _lines_of(told: dict[str, Any]) -> list[str]:
    interval = told["interval"]
    span = "no interval" if interval["low"] is None else (
        f"{interval['low']:.1f} to {interval['high']:.1f} in {interval['level']:.0%} of such clips"
    )  # fmt: skip
    action = f" as {told['action_type']}" if told["action_type"] else ""
    made = [
        f"{told['video']}{action}: {told['score']:.1f} points ({span})",
        f"  interval: {interval['source']}",
        f"  {told['base']['points']:8.2f}                    {told['base']['meaning']}",
    ]
    for part in told["parts"]:
        made.append(
            f"  {part['delta']:+8.2f}  {part['start_s']:6.2f} - {part['end_s']:6.2f} s  {part['name']}"
        )
    made += [f"  why: {sentence}" for sentence in told["explanation"]["sentences"]]
    made += [f"  not said: {reason}" for reason in told["explanation"]["missing"]]
    if told["exemplars"]:
        names = ", ".join(f"{one['clip_id']} ({one['score']:g})" for one in told["exemplars"])
        made.append(f"  compared with: {names}")
    made += [f"  warning: {one['text']}" for one in told["warnings"]]
    return made


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _check_files(wanted: dict[str, Path | None]) -> None:
    """A file of another kind, or a folder that is not there, would be noticed after the work only."""
    for flag, path in wanted.items():
        if path is None:
            continue
        suffix = ".html" if flag == "--report" else ".mp4"
        if path.suffix.lower() != suffix:
            raise ConfigError(flag, f"{path} does not end with {suffix}", f"name a {suffix} file")
        if not path.absolute().parent.is_dir():
            raise ConfigError(flag, f"the folder of {path} does not exist", "make it first")


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _show(found: Scored, told: dict[str, Any], wanted: dict[str, Path | None], command: str) -> None:
    """Writes the files that were asked for; the video is decoded once more for each kind of picture."""
    from pipelines.scoring.drawing import Drawer
    from pipelines.scoring.overlay import drawn_frames, write_video
    from pipelines.scoring.page import write_page
    from pipelines.scoring.side_by_side import ExemplarFrames, paired_frames, plain_frames

    clip = found.recording.clip.to_pylist()[0]
    where = (clip["uri"], clip["start_s"], clip["end_s"])
    drawer, shown = Drawer(found.pose, found.verdict), found.explanation.shown
    middles = [(part.start_s + part.end_s) / 2 for part in found.verdict.parts]
    stills, pairs = [], []
    if wanted["--overlay"] or (wanted["--report"] and shown is None):
        frames = drawn_frames(drawer, *where)
        if wanted["--overlay"]:
            frames = write_video(wanted["--overlay"], frames)
        stills = _nearest(frames, middles)
    if shown is not None and (wanted["--side-by-side"] or wanted["--report"]):
        frames = paired_frames(plain_frames(*where), drawer, ExemplarFrames(shown))
        if wanted["--side-by-side"]:
            frames = write_video(wanted["--side-by-side"], frames)
        pairs = _nearest(frames, _moments(found))
    if wanted["--report"]:
        write_page(wanted["--report"], told, found, stills, pairs, command)


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
