"""What is asked about a video, from Python, the command line or a server."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields

from pipelines.errors import ConfigError


@dataclass(frozen=True)
class Request:
    """What is asked about a video.

    Attributes:
        action_type: as what it is to be scored; empty = the only one the model knows, or the exemplar's.
        difficulty: of a dive; None = that of the training dives of the same number.
        exemplar: auto, the name of one training dive, or with `exemplar_score` the path of a video.
        start_s, end_s: the part that is the performance; None = from the start, to the end.
        box: where the athlete is, x1, y1, x2, y2 in px of the upright frame; None = anywhere.
        exemplar_score: what judges gave the exemplar that is a video.
    """

    action_type: str = ""
    difficulty: float | None = None
    exemplar: str = "auto"
    start_s: float | None = None
    end_s: float | None = None
    box: tuple[float, float, float, float] | None = None
    exemplar_score: float | None = None


def request_of(texts: Mapping[str, str]) -> Request:
    """A request from the texts of a web address: names of `Request` and their values.

    Raises:
        ConfigError: there is no such name, or a value is no number.
    """
    # Whoever writes an address names no file of this machine.
    known = [field.name for field in fields(Request) if field.name != "exemplar_score"]
    for name in texts:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            remedy = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
            raise ConfigError(name, "is no option of a request", remedy.rstrip("?"))
    numbers = {
        name: _number(name, texts[name]) for name in ("difficulty", "start_s", "end_s") if name in texts
    }
    return Request(
        action_type=texts.get("action_type", ""),
        exemplar=texts.get("exemplar", "auto"),
        box=box_of(texts.get("box", ""), "box"),
        **numbers,
    )


def box_of(text: str, where: str) -> tuple[float, float, float, float] | None:
    """Four pixels from text such as 10,20,300,400; None if it is empty.

    Args:
        text: x1,y1,x2,y2.
        where: the option, for the error.

    Raises:
        ConfigError: it is no box.
    """
    if not text:
        return None
    try:
        x1, y1, x2, y2 = (float(part) for part in text.split(","))
    except ValueError:
        x1, y1, x2, y2 = 0.0, 0.0, 0.0, 0.0
    if not (0 <= x1 < x2 < float("inf") and 0 <= y1 < y2 < float("inf")):
        raise ConfigError(where, f"{text!r} is no box", "give x1,y1,x2,y2 in pixels, x1 < x2 and y1 < y2")
    return x1, y1, x2, y2


def _number(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ConfigError(name, f"{text!r} is no number", f"give for example {name}=3.2")
    return value
