"""The metrics of an evaluation of dives as lines for people."""

from __future__ import annotations

from typing import Any


def lines(metrics: dict[str, Any]) -> list[str]:
    """The model above the floors, then segmentation, exemplars and the single dive numbers."""
    made = [
        f"{metrics['n']} test dives",
        f"{'':46} {'Spearman (95 %)':20} {'MAE (95 %)':22} R-l2 x 100 (95 %)",
    ]
    rows = {"HP-MCoRe": metrics, **metrics["baselines"]}
    for name, row in rows.items():
        rho, error, squared = (_cell(row[key]) for key in ("spearman", "mae", "relative_l2_x100"))
        made.append(f"{name:46} {rho:20} {error:22} {squared}")
    ceiling = metrics["human_ceiling"]
    if ceiling["spearman"] is not None:
        made.append(
            f"{'one judge against the other six':46} {ceiling['spearman']:.2f}  ({ceiling['n']} dives)"
        )
    limits = metrics["score_range"]
    made.append(f"R-l2 divides by {limits['low']:g} to {limits['high']:g}: {limits['source']}")
    if metrics["segmentation"]:
        made += ["", f"{'flight found':46} AIoU@0.5   AIoU@0.75"]
        for name, row in {"HP-MCoRe": metrics["segmentation"], **metrics["segmentation_baselines"]}.items():
            made.append(f"{name:46} {row['aiou_50']:8.3f}   {row['aiou_75']:9.3f}")
    made += ["", *_exemplar_lines(metrics["exemplars"])]
    made += ["", f"{'dive number':12} {'dives':>5} {'MAE':>6} {'bias':>6} Spearman"]
    for name, row in metrics["by_action_type"].items():
        rho = "" if row["spearman"] is None else f"{row['spearman']:.2f}"
        made.append(f"{name:12} {row['n']:5} {row['mae']:6.2f} {row['bias']:6.2f} {rho}")
    if metrics["stored"]:
        made.append("These test clips were scored before; this is the stored result.")
    return made


def _exemplar_lines(facts: dict[str, Any]) -> list[str]:
    found = [f"Exemplars: {facts['wanted']} training dives of {_KINDS[facts['rule']]}"]
    if facts["fewer"]:
        found.append(f"{facts['fewer']} dives had fewer")
    for rule, count in facts["fallback"].items():
        instead = f"compared with dives of {_KINDS[rule]} instead"
        found.append(f"{count} dives had none: {instead}; their scores are less sure")
    return found


_KINDS = {
    "number": "the same dive number",
    "difficulty": "the same difficulty",
    "rotation": "the same rotation group",
    "any": "any kind",
}


def _cell(number: dict[str, Any]) -> str:
    if number["value"] is None:
        return f"none: {number['reason']}"
    if number["low"] is None:
        return f"{number['value']:.3f}"
    return f"{number['value']:.3f} [{number['low']:.3f}, {number['high']:.3f}]"
