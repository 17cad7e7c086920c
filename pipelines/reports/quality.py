"""How far the poses and features that were read can be trusted, and what was rejected."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
from markupsafe import Markup

from aqa_models.skeletons import skeleton
from pipelines.errors import REJECT_CODES, AqaError
from pipelines.reports import charts, page
from pipelines.reports.material import RunMaterial
from pipelines.reports.page import Section
from pipelines.store import Store

SAMPLE = 200  # clips whose joints are looked at one by one
_MEASURED = ("mean_confidence", "jitter_px", "missing_share", "num_frames")
_SHOWN = {
    "mean_confidence": "mean confidence",
    "jitter_px": "jitter (px per frame squared)",
    "missing_share": "share of frames without the person",
    "num_frames": "frames",
}


def quality_section(run: RunMaterial) -> Section:
    """The tables that a run read."""
    if run.store is None:
        return Section("Data quality", [page.note(run.no_store)])
    blocks = []
    for name, key in run.provenance.items():
        if not name.endswith("_key"):
            continue
        kind = name.removesuffix("_key")
        family = kind if kind == "poses" else f"features/{kind}"
        blocks.append(page.heading(f"{family}/{key}, version {run.provenance.get(f'{kind}_version')}"))
        try:
            blocks += table_blocks(run.store, family, key, run.provenance.get(f"{kind}_version"))
        except AqaError as error:
            blocks.append(page.note(str(error)))
    return Section("Data quality", blocks)


def table_blocks(store: Store, family: str, key: str, version: int | None = None) -> list[Markup]:
    """Rejects by code, and how the quality of the rest is distributed.

    Args:
        store: the feature store.
        family: of the table.
        key: of the table.
        version: of its rows; None = the newest.

    Raises:
        CorruptError: the table cannot be read.
    """
    table = store.table(family, key)
    present = [name for name in _MEASURED if name in table.schema.names]
    rows = table.read(version, columns=["clip_id", "person", "status", "error_code", *present]).to_pylist()
    ok = [row for row in rows if row["status"] == "ok"]
    blocks = rejects(Counter(row["error_code"] for row in rows if row["status"] != "ok"), len(rows))
    figures = []
    for name in present:
        values = np.array([row[name] for row in ok if row[name] is not None], float)
        values = values[np.isfinite(values)]
        if len(values) > 4 and np.ptp(values) > 0:
            figures.append(_histogram(values, _SHOWN[name]))
    if family == "poses" and ok:
        ids = sorted({row["clip_id"] for row in ok})
        joints = _joints(
            table.read(version, columns=_OF_JOINTS, clip_ids=set(ids[:: -(-len(ids) // SAMPLE)]))
        )
        if joints:
            low = min(joints, key=joints.__getitem__)
            alt = f"Mean confidence of each joint; the least sure is {low} with {joints[low]:.2f}."
            figures.append(page.picture(charts.bars(joints, "mean confidence", 1.0), alt, alt))
    return [*blocks, page.pictures(figures)] if figures else blocks


def rejects(by_code: Counter, rows: int) -> list[Markup]:
    """What was given up, the most frequent first, and what a person can do about it."""
    if not by_code:
        return [page.good_news(f"None of {rows} rows is rejected.")]
    most = max(by_code.values())
    told = [
        {"code": code, "rows": count, "share": page.bar(count / most), "meaning": REJECT_CODES.get(code, "")}
        for code, count in sorted(by_code.items(), key=lambda item: (-item[1], str(item[0])))
    ]
    return [page.warning(f"{by_code.total()} of {rows} rows are rejected."), page.table(told)]


_OF_JOINTS = ["person", "status", "skeleton", "num_joints", "confidence"]


def _joints(rows: pa.Table) -> dict[str, float]:
    """Joint -> mean confidence over the frames of some clips; empty for keypoints without confidence."""
    sums: dict[str, Any] = {}
    for row in rows.to_pylist():
        if row["status"] == "ok" and row["confidence"] and row["person"] == 0:
            values = np.asarray(row["confidence"], float).reshape(-1, row["num_joints"])
            total, frames = sums.get(row["skeleton"], (0.0, 0))
            sums[row["skeleton"]] = total + values.sum(axis=0), frames + len(values)
    if not sums:
        return {}
    name = max(sums, key=lambda one: sums[one][1])
    total, frames = sums[name]
    return dict(zip(skeleton(name).joints, (total / frames).tolist(), strict=True))


def _histogram(values: np.ndarray, shown: str) -> Markup:
    low, middle, high = np.quantile(values, [0.05, 0.5, 0.95])
    told = f"{shown}: median {middle:.3g}, 5 to 95 % {low:.3g} to {high:.3g}"
    return page.picture(charts.histogram(values, shown, float(middle)), f"Histogram of {told}.", f"{told}.")
