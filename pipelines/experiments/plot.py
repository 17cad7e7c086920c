"""A table as a picture: each row's figure with its interval, the paper's as a hollow mark."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def draw(document: dict[str, Any], path: Path) -> None:
    """Writes the picture, one panel per data set; rows from the top in the order of the table.

    Args:
        document: of `figures.document_of`.
        path: PNG file, replaced whole.
    """
    from matplotlib.figure import Figure

    blocks = [block for block in document["blocks"] if block["rows"]]
    heights = [len(block["rows"]) + 2 for block in blocks]
    figure = Figure(figsize=(9, 0.32 * sum(heights) + 0.6), layout="constrained")
    panels = figure.subplots(len(blocks), 1, squeeze=False, height_ratios=heights)[:, 0] if blocks else []
    for panel, block in zip(panels, blocks, strict=True):
        _panel(panel, block)
    partial = path.with_name(f".{path.name}.partial")
    figure.legend(handles=_legend(), fontsize=8, loc="outside lower right", ncols=3, frameon=False)
    figure.savefig(partial, format="png", dpi=120)
    partial.replace(path)


def _panel(panel: Any, block: dict[str, Any]) -> None:
    key, paper = ("mean_rho", "paper_mean") if block["task"] == "score" else ("micro_f1", "paper_micro_f1")
    rows = block["rows"]
    for height, row in enumerate(reversed(rows)):
        number = row[key]
        if number["value"] is not None:
            low, high = (
                number[side] if number[side] is not None else number["value"] for side in ("low", "high")
            )
            colour = "tab:grey" if row["row"].startswith("floor") else "tab:blue"
            panel.plot([low, high], [height, height], color=colour)
            panel.plot([number["value"]], [height], "o", color=colour)
        if row[paper] is not None:
            panel.plot([row[paper]], [height], "D", color="tab:orange", fillstyle="none")
    panel.set_yticks(range(len(rows)), [row["title"] for row in reversed(rows)], fontsize=8)
    panel.set_title(block["title"], fontsize=9, loc="left")
    panel.set_xlabel("mean Spearman" if key == "mean_rho" else "micro F1", fontsize=8)
    panel.grid(axis="x", alpha=0.3)


def _legend() -> list[Any]:
    from matplotlib.lines import Line2D

    return [
        Line2D([], [], color="tab:blue", marker="o", label="here, 95 %"),
        Line2D([], [], color="tab:grey", marker="o", label="floor, 95 %"),
        Line2D([], [], color="tab:orange", marker="D", fillstyle="none", linestyle="", label="paper"),
    ]
