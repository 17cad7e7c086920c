"""`aqa score`: from videos to scores that a person can use.

Everything runs in this process: decoding (in its guarded child process), finding the athlete, poses, model;
or in workers of Ray, for many videos. A video that cannot be scored does not stop the others.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipelines.config import ExtractConfig
from pipelines.errors import ConfigError
from pipelines.scoring.explanation import ASSOCIATED
from pipelines.scoring.interval import LEVEL
from pipelines.scoring.many import ScoreStage, score_over_ray
from pipelines.scoring.refusal import Refused
from pipelines.scoring.request import Request
from pipelines.scoring.score_file import ScoreFile, question
from pipelines.scoring.shown import Shown
from pipelines.scoring.video_scorer import Scored, VideoScorer

UNIT = "points, as the training scores"
LIMITS = "This is a model's estimate, not a judge and not a medical device."
VIDEO_ENDINGS = (
    ".mp4",
    ".m4v",
    ".mov",
    ".avi",
    ".mkv",
    ".webm",
    ".mpg",
    ".mpeg",
    ".wmv",
    ".flv",
    ".ogv",
    ".3gp",
)
MANY = 5
"""With more videos than this, people get a line of each."""

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
    files: dict[str, Path | None] | None = None,
    out: Path | None = None,
    workers: int = 0,
    command: str = "",
    progress: Progress = lambda line: None,
) -> dict[str, Any]:
    """Scores videos with one model.

    Args:
        videos: files, and folders of which all videos are taken.
        model: run folder of `aqa train expert` or `aqa train hp-mcore`, its model folder, or a bundle.
        given: settings of `aqa extract` that somebody set; the others are as in the training.
        request: the same of all videos.
        store: where the store of the training is now; None = where it was.
        weights: kind of visual features -> weights file of its network.
        max_seconds: longest performance.
        files: --overlay, --report, --side-by-side -> file to write, of one video; see `Shown`.
        out: file of JSON lines that every finished video is added to; those it holds are not scored again.
        workers: processes of Ray; 0 = everything in this process.
        command: what was typed, for the page.
        progress: receives a line per video.

    Returns:
        scored: one document per video (see `document`); refused: video, code, cause, remedy; both in the
        order of the videos; earlier: how many of them were taken from `out`.

    Raises:
        ConfigError: the model cannot score videos, or the request does not say enough.
        StorageError: overlay or page cannot be written; WriterError, CorruptError: see `ScoreFile`.
    """
    found = find_videos(videos)
    shown = Shown(files or {}, command)
    shown.check(len(found), workers)
    stage = ScoreStage(model, given, request, store, weights or {}, max_seconds, use_gpu=False)
    told: dict[Path, dict[str, Any]] = {}
    with stage.load(use_gpu=not workers and _has_gpu()) as scorer, contextlib.ExitStack() as stack:
        stage = replace(stage, request=(request := scorer.settled(request)))
        scorer.check(request)
        shown.check_kind(scorer.kind)
        specs = {family: work.spec for family, work in scorer.extractor.works.items()}
        file = None
        if out is not None:
            asked = question(scorer.description, specs, request, max_seconds, scorer.exemplar_sha256(request))
            file = stack.enter_context(ScoreFile(out, asked))
            told = {video: known for video in found if (known := file.done(video)) and not shown.wanted}
        earlier, todo = len(told), [video for video in found if video not in told]
        results = score_over_ray(todo, stage, workers) if workers and todo else (
            (video, told_of(scorer, video, request, shown)) for video in todo
        )  # fmt: skip
        for video, one in results:
            told[video] = one
            if file is not None:
                file.add(video, one)
            said = f"{one['score']:.2f}" if "score" in one else f"no score ({one['code']})"
            progress(f"{len(told)}/{len(found)} {video.name}: {said}")
    ordered = [told[video] for video in found]
    result = {"model": str(model), **_sorted_out(ordered)}
    return result | ({"earlier": earlier} if out is not None else {})


def _sorted_out(told: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    return {
        "scored": [one for one in told if "score" in one],
        "refused": [one for one in told if "score" not in one],
    }


def find_videos(places: list[Path]) -> list[Path]:
    """Files that were named, and all videos below folders that were named; each once.

    Raises:
        ConfigError: a folder holds no video.
    """
    found: dict[Path, None] = {}
    for place in places:
        if not place.is_dir():
            found[place] = None
            continue
        below = [p for p in place.rglob("*") if p.suffix.lower() in VIDEO_ENDINGS and p.is_file()]
        below = sorted(path for path in below if not path.name.startswith("."))
        if not below:
            cause = f"holds no file that ends like a video ({', '.join(VIDEO_ENDINGS)})"
            raise ConfigError(place, cause, "name the files")
        found |= dict.fromkeys(below)
    return list(found)


def told_of(
    scorer: VideoScorer,
    video: Path,
    request: Request,
    shown: Shown | None = None,
) -> dict[str, Any]:
    """The document of a video, or why it has no score.

    Args:
        scorer: the model.
        video: file.
        request: what is asked.
        shown: what to write besides.
    """
    try:
        found = scorer.score(video, request)
    except Refused as error:
        return error.as_document() | {"video": str(video)}
    told = document(found, scorer, video)
    if shown:
        shown.write(found, told)
    return told


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
        "warnings": [one.document() for one in found.warnings],
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
        made += [_line_of(told)] if len(result["scored"]) > MANY else [*_lines_of(told), ""]
    for told in result["refused"]:
        made += [f"{told['video']}: no score", f"  {told['cause']}", f"  {_sentence(told['remedy'])}", ""]
    return [*made, ASSOCIATED, LIMITS] if result["scored"] else made[:-1]


def _line_of(told: dict[str, Any]) -> str:
    interval = told["interval"]
    span = "" if interval["low"] is None else f" ({interval['low']:.1f} to {interval['high']:.1f})"
    doubts = ", ".join(one["code"] for one in told["warnings"])
    return f"{told['score']:8.2f}{span}  {told['video']}" + (f"  doubts: {doubts}" if doubts else "")


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


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()
