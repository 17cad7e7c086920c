"""What pretraining learned of its pretexts: pace, inpainting, order, beside untrained guesses."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from pipelines.reports import charts, page
from pipelines.reports.material import RunMaterial
from pipelines.reports.page import Section

_GUESSES = {
    "val_limb_error": "this run",
    "val_limb_error_of_zero": "always zero",
    "val_limb_error_of_mean_pose": "the mean pose",
    "val_limb_error_of_mirror": "the other side, mirrored",
}
_SHARES = {
    "val_pace_accuracy": "pace told rightly",
    "val_pace_accuracy_guarded": "pace, low-pass guard",
    "val_pace_accuracy_unguarded": "pace, no guard",
    "val_order_accuracy": "order told rightly",
}


def pretext_section(run: RunMaterial) -> Section:
    """Validation numbers of the chosen epoch, and their course."""
    if run.phase != "pretrain" or not run.epochs:
        return Section("Pretexts", [])
    best = next((row for row in run.epochs if row["epoch"] == run.summary.get("best_epoch")), run.epochs[-1])
    paces = run.record["config"].get("model", {}).get("paces", [])
    blocks = [page.tiles(_tiles(best, len(paces)))]
    rows = [
        {"limb hidden, guessed by": shown, "squared error": best[name]}
        for name, shown in _GUESSES.items()
        if name in best
    ]
    if rows:
        blocks += [
            page.table(rows, own=1),
            page.note(
                "Mean squared error of the joints of one hidden limb, in the scale of the sequences, on "
                "validation clips of people who were not trained on."
            ),
        ]
    figures = [
        _course(run, _SHARES, "share of validation clips"),
        _course(run, _GUESSES, "squared error of the limb"),
    ]
    return Section("Pretexts", [*blocks, page.pictures([one for one in figures if one])])


def _tiles(best: dict[str, float], paces: int) -> list[tuple[str, str, str]]:
    found = []
    for name, shown in _SHARES.items():
        if name in best:
            chance = f"by chance {1 / paces:.0%}" if "pace" in name and paces else "of 25 places"
            found.append((shown, f"{best[name]:.0%}", chance))
    guesses = {shown: best[name] for name, shown in _GUESSES.items() if name in best}
    own = guesses.pop("this run", None)
    if own is not None and guesses:
        rival = min(guesses, key=guesses.__getitem__)
        found.append(("inpainting error", f"{own:.3f}", f"{rival}: {guesses[rival]:.3f}"))
    return found


def _course(run: RunMaterial, names: dict[str, str], y: str) -> Markup | None:
    drawn: dict[str, Any] = {}
    for name, shown in names.items():
        rows = [row for row in run.epochs if name in row]
        if rows:
            drawn[shown] = [row["epoch"] for row in rows], [row[name] for row in rows]
    if not drawn:
        return None
    ends = ", ".join(f"{shown} {values[0]:.2f} to {values[-1]:.2f}" for shown, (_, values) in drawn.items())
    data = charts.curves(drawn, "epoch", y, run.summary.get("best_epoch"))
    return page.picture(
        data, f"{y} over the epochs, first to last: {ends}.", f"{y}; dotted: the chosen epoch."
    )
