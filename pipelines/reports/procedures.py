"""Where a run saw the procedures of dives begin, beside where they were annotated."""

from __future__ import annotations

from typing import Any

import numpy as np
from markupsafe import Markup

from pipelines.errors import AqaError
from pipelines.reports import charts, page
from pipelines.reports.material import RunMaterial
from pipelines.reports.page import Section

SHOWN = 12
FRAMES = 96  # of a performance, as HP-MCoRe reads it


def procedures_section(run: RunMaterial) -> Section:
    """Segmentation metrics beside floors, and ribbons of the test dives, the worst first."""
    metrics = run.metrics.get("segmentation")
    if not metrics:
        return Section("Procedures", [])
    floors = run.metrics.get("segmentation_baselines", {})
    names = {
        "aiou_50": "AIoU@0.5",
        "aiou_75": "AIoU@0.75",
        "aiou_50_all": "all procedures @0.5",
        "aiou_75_all": "all procedures @0.75",
        "transition_error": "transition error (frames)",
    }
    rows = [
        {"": name} | {shown: found[key] for key, shown in names.items() if key in found}
        for name, found in {"this run": metrics, **floors}.items()
    ]
    blocks = [page.table(rows, own=1)]
    blocks.append(page.note(f"A dive is {FRAMES} frames; floors are medians of the training dives."))
    return Section("Procedures", [*blocks, *_ribbons(run)])


def _ribbons(run: RunMaterial) -> list[Markup]:
    predicted = {row["clip_id"]: row["transition_frames"] or [] for row in run.predictions}
    try:
        true = annotated_frames(run)
    except AqaError as error:
        return [page.note(f"No ribbons: {error}")]
    if not true:
        return [page.note("No ribbons: the store does not hold the annotated times of these clips.")]
    rows = [(_error(true[name], predicted[name]), name) for name in true]
    rows.sort(key=lambda item: (-item[0], item[1]))
    chosen = rows if len(rows) <= SHOWN else rows[: SHOWN // 2] + _middle(rows, SHOWN - SHOWN // 2)
    shown = [(_short(name), true[name], predicted[name]) for _, name in chosen]
    told = "; ".join(
        f"{n}: annotated {list(map(int, t))}, predicted {list(map(int, p))}" for n, t, p in shown
    )
    caption = (
        "Above the annotated procedures, below the predicted ones (paler); blue is the first. The "
        f"{min(SHOWN // 2, len(rows))} dives with the largest error, then some of the middle."
    )
    data = charts.ribbons(shown, FRAMES, f"sampled frame (of {FRAMES})")
    return [page.picture(data, f"Ribbons of procedures. First frames: {told}.", caption)]


def annotated_frames(run: RunMaterial) -> dict[str, list[float]]:
    """Test clip -> annotated first frame of each later procedure; clips without annotation are left out."""
    from aqa_models.hp_mcore.procedure import slots_of
    from pipelines.hp_mcore.dives import sampled_transitions

    if run.store is None:
        return {}
    procedures = run.record["config"]["model"]["num_procedures"]
    tables = {"poses": "poses"} | {kind: f"features/{kind}" for kind in ("i3d", "static", "frames")}
    family, key = next(
        (family, run.provenance[f"{kind}_key"])
        for kind, family in tables.items()
        if f"{kind}_key" in run.provenance
    )
    wanted = {row["clip_id"] for row in run.predictions if row["transition_frames"] is not None}
    read = run.store.table(family, key).read(columns=["clip_id", "person", "time_s"], clip_ids=wanted)
    found: dict[str, Any] = {}
    for row in read.to_pylist():
        clip = run.clips.get(row["clip_id"])
        if clip and clip["transitions_s"] and row["time_s"] and not row["person"]:
            frames = sampled_transitions(clip, np.asarray(row["time_s"], float))
            if frames:  # as many procedures as the model knows; more of them are taken together
                found[row["clip_id"]] = [start for start in slots_of(frames, procedures)[0] if start >= 0]
    return found


def _short(name: str) -> str:
    return name if len(name) <= 30 else f"...{name[-28:]}"


def _error(true: list[float], predicted: list[float]) -> float:
    """Mean distance in frames; dives of another number of procedures come first."""
    if len(true) != len(predicted):
        return float("inf")
    return float(np.mean(np.abs(np.subtract(true, predicted)))) if true else 0.0


def _middle(rows: list[tuple[float, str]], count: int) -> list[tuple[float, str]]:
    begin = max(SHOWN // 2, len(rows) // 2 - count // 2)
    return rows[begin : begin + count]
