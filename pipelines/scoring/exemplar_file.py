"""A dive of one's own to compare with: its video, and the score that judges gave it.

Where its procedures begin nobody has annotated, so the model finds them first, as in any other video.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.errors import ConfigError
from pipelines.scoring.request import Request
from pipelines.scoring.verdict import Verdict


def settle(request: Request, dives: Iterable[dict[str, Any]]) -> Request:
    """A request whose exemplar is `auto`, the name of a training dive, or an absolute path with a score.

    Args:
        request: as typed on this machine, never from a web address: it looks whether a file exists.
        dives: rows of CLIPS of the training dives.

    Raises:
        ConfigError: a video without a score, a score without a video, or a score that is no number.
    """
    named, score = request.exemplar, request.exemplar_score
    of_file = {str(Path(row["uri"]).absolute()): row["clip_id"] for row in dives}
    path = Path(named).absolute()
    if named == "auto" or named in of_file.values() or not path.is_file():
        if score is None:
            return request
        cause = f"is the judged score of a video, and --exemplar names none: {named!r}"
        raise ConfigError("--exemplar-score", cause, "name a video file, or leave it out")
    if score is None:
        if str(path) in of_file:
            return replace(request, exemplar=of_file[str(path)])
        remedy = "say what its judges gave it, for example --exemplar-score 82.5"
        raise ConfigError("--exemplar", f"the score of {named} is not known", remedy)
    if not math.isfinite(score) or score <= 0:
        raise ConfigError("--exemplar-score", f"{score} is no score", "give points above 0, for example 82.5")
    return replace(request, exemplar=str(path))


def guest_row(
    clip: dict[str, Any], verdict: Verdict, score: float, time_s: np.ndarray, schema: pa.Schema
) -> pa.Table:
    """One row of CLIPS: a dive with its judged score and the procedures that the model found in it.

    Args:
        clip: what is known of it.
        verdict: what the model said of it.
        score: what judges gave it.
        time_s: (T,) of its sampled frames, more than there are procedures.
        schema: of the row.
    """
    count, times = len(verdict.parts) - 1, np.unique(time_s)  # short videos show frames twice
    frames = np.searchsorted(times, [part.start_s for part in verdict.parts[1:]])
    for number in range(count):  # a procedure of no length gets a frame: annotated ones have some
        first = frames[number - 1] + 1 if number else 1
        frames[number] = min(max(frames[number], first), len(times) - count + number)
    cuts = [float(times[frame]) for frame in frames]
    told = {"score": score, "transitions_s": cuts, "procedures": [part.name for part in verdict.parts]}
    return pa.Table.from_pylist([clip | told], schema=schema)
