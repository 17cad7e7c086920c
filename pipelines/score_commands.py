"""`aqa score` on the command line."""

from __future__ import annotations

import logging
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from pipelines.call import Call
from pipelines.flags import settings
from pipelines.result import Result

logger = logging.getLogger(__name__)

_Call = Annotated[Call, Parameter(parse=False)]
Store = Annotated[Path | None, Parameter(help="Where the store of the training is now, if it was moved.")]
Weights = Annotated[
    Path | None, Parameter(help="Weights file of the network of such features, if the model reads them.")
]
_Overlay = Annotated[
    Path | None, Parameter(help="Write a video with skeleton, confidence and parts to this .mp4 file.")
]
_Report = Annotated[Path | None, Parameter(help="Write one self-contained page to this .html file.")]
_SideBySide = Annotated[
    Path | None,
    Parameter(help="Write the dive beside its exemplar, aligned by procedure, to this .mp4 file."),
]

_Judged = Annotated[
    float | None,
    Parameter(
        help="What judges gave the dive that --exemplar FILE shows; of the same number and difficulty."
    ),
]
_Out = Annotated[
    Path | None,
    Parameter(help="Add a JSON line per finished video to this file; videos it holds are not scored again."),
]


@settings("extract")
def score(
    *video: Annotated[Path, Parameter(negative=(), required=True)],
    model: Path,
    action_type: str = "",
    difficulty: float | None = None,
    exemplar: str = "auto",
    exemplar_score: _Judged = None,
    start_s: float | None = None,
    end_s: float | None = None,
    box: str = "",
    max_seconds: float = 120.0,
    store: Store = None,
    i3d_weights: Weights = None,
    static_weights: Weights = None,
    c3d_weights: Weights = None,
    overlay: _Overlay = None,
    report: _Report = None,
    out: _Out = None,
    workers: int = 0,
    side_by_side: _SideBySide = None,
    call: _Call,
    **given: Any,
) -> Any:
    """Score videos with a trained model: points, interval, what each part adds, and doubts.

    Example: aqa score squat.mp4 --model runs/expert --action-type Es5 --report squat.html

    Parameters
    ----------
    video
        Video files, and folders of which every video is scored.
    model
        Run of `aqa train expert` or `aqa train hp-mcore`.
    action_type
        What was performed: an exercise or a dive number; needed if the model knows several.
    difficulty
        Degree of difficulty of a dive; else that of the training dives of the same number.
    exemplar
        auto, the clip_id of the one training dive to compare with, or a video file with --exemplar-score.
    start_s
        First second of the performance; else the start of the file.
    end_s
        Its end in seconds; else the end of the file.
    box
        Where the athlete is: x1,y1,x2,y2 in pixels of the upright picture.
    max_seconds
        Longest performance that is scored.
    workers
        Processes of Ray that score at the same time; 0 = everything in this process, without Ray.
    """
    config = call.config(given)
    from pipelines import score as verb
    from pipelines.scoring.request import Request, box_of

    asked = Request(action_type, difficulty, exemplar, start_s, end_s, box_of(box, "--box"), exemplar_score)
    result = verb.score(
        list(video),
        model,
        config.extract,
        asked,
        store=store,
        weights={"i3d": i3d_weights, "static": static_weights, "c3d_fc6": c3d_weights},
        max_seconds=max_seconds,
        files={"--overlay": overlay, "--report": report, "--side-by-side": side_by_side},
        out=out,
        workers=workers,
        command=shlex.join(["aqa", *sys.argv[1:]]),
        progress=logger.info,
    )
    return Result(result, exit_code=3 if result["refused"] else 0, text="\n".join(verb.lines(result)))
