"""`aqa pose train` and `aqa pose evaluate` on the command line; the work is done in verbs.py."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from pipelines.call import Call
from pipelines.flags import settings
from pipelines.result import Result

pose_app = App(name="pose", help="The pose network: fine-tune it on manual labels, and measure it.")

_Call = Annotated[Call, Parameter(parse=False)]
_Name = Annotated[str, Parameter(help="Name of the run; the same name resumes it.")]
_Runs = Annotated[Path, Parameter(help="Folder that holds the runs.")]
_Images = Annotated[Path, Parameter(help="Folder of the images named in the labels.")]
_PoseConfig = Annotated[str, Parameter(help="MMPose config with MPII's 16 joints, or aqa-rendered.")]
_Weights = Annotated[Path | None, Parameter(help="Weights file; without it that of the package.")]
_Groups = Annotated[Path | None, Parameter(help="CSV image,group: what belongs together, e.g. a dive.")]
_Rotations = Annotated[int, Parameter(help="Turns of the box shown when measuring; the surest is kept.")]


@pose_app.command
@settings("pose_train")
def train(
    labels: Path,
    *,
    images: _Images,
    name: _Name,
    pose_config: _PoseConfig = "aqa-rendered",
    weights: _Weights = None,
    groups: _Groups = None,
    hold_out: str = "",
    rotations: _Rotations = 1,
    runs: _Runs = Path("runs"),
    call: _Call,
    **given: Any,
) -> Any:
    """Fine-tune a pose network on manual labels; its weights are for `aqa extract --weights`.

    Example: aqa pose train labels.json --images images --name dives --groups dives.csv --hold-out third

    Parameters
    ----------
    labels
        JSON of labels in the MPII style (docs/data.md).
    hold_out
        Groups kept from training, separated by commas; before and after are measured on them.
    """
    config = call.config(given)
    from pipelines.pose_labels import verbs

    summary = verbs.train(
        labels,
        images,
        name,
        config.pose_train,
        pose_config=pose_config,
        weights=weights,
        groups=groups,
        hold_out=tuple(filter(None, hold_out.split(","))),
        rotations=rotations,
        runs=runs,
        tracking=config.tracking,
    )
    return Result(summary, text="\n".join(verbs.summary_lines(summary)))


@pose_app.command(name="evaluate")
def evaluate_pose(
    labels: Path,
    *,
    images: _Images,
    pose_config: _PoseConfig = "aqa-rendered",
    weights: _Weights = None,
    groups: _Groups = None,
    only: str = "",
    rotations: _Rotations = 1,
    flip: Annotated[bool, Parameter(negative=())] = False,
    call: _Call,
) -> Any:
    """Measure a pose network on manual labels: PCK@0.2, PCKh@0.5, OKS-AP, error of each joint.

    Example: aqa pose evaluate labels.json --images images --weights runs/dives/model/model.safetensors

    Parameters
    ----------
    labels
        JSON of labels in the MPII style (docs/data.md).
    only
        Groups to measure, separated by commas; without it all.
    flip
        Also show the mirrored box and take the mean.
    """
    from pipelines.pose_labels import verbs

    measures = verbs.evaluate(
        labels,
        images,
        pose_config=pose_config,
        weights=weights,
        groups=groups,
        only=tuple(filter(None, only.split(","))),
        rotations=rotations,
        flip=flip,
    )
    return Result(measures, text="\n".join(verbs.measure_lines({"": measures})))
