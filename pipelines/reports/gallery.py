"""The clips that the run scored best and worst, with pictures and with what each score is made of."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from pipelines.errors import AqaError
from pipelines.reports import page
from pipelines.reports.material import RunMaterial
from pipelines.reports.page import Section
from pipelines.reports.thumbnails import thumbnails

SHOWN = 5


def gallery_section(run: RunMaterial) -> Section:
    """Five best and five worst by absolute error."""
    if not run.told_scores:
        return Section("Best and worst", [])
    ordered = sorted(run.predictions, key=lambda row: (abs(row["predicted"] - row["score"]), row["clip_id"]))
    count = min(SHOWN, len(ordered) // 2)
    best, worst = ordered[:count], ordered[::-1][:count]
    made, blocks = {}, []
    if run.store is not None and run.pose_key():
        clips = [run.clips[row["clip_id"]] for row in best + worst if row["clip_id"] in run.clips]
        try:
            made = thumbnails(run.store, run.pose_key(), clips)
        except AqaError as error:
            blocks.append(page.note(f"No pictures: {error}"))
    else:
        blocks.append(page.note(f"No pictures. {run.no_store or 'The run reads no poses.'}"))
    for title, rows in (("Smallest errors", best), ("Largest errors", worst)):
        blocks += [page.heading(title), page.stills([_still(row, made.get(row["clip_id"])) for row in rows])]
    return Section("Best and worst", blocks)


def _still(row: dict[str, Any], picture: tuple[bytes, str] | None) -> Markup:
    told = Markup("<strong>{}</strong> {}<br>judged {:.1f}, predicted {:.1f} ({:+.1f})").format(
        row["clip_id"],
        row["action_type"] or "",
        row["score"],
        row["predicted"],
        row["predicted"] - row["score"],
    )
    if row["contributions"]:
        parts = ", ".join(f"{value:+.1f}" for value in row["contributions"])
        told += Markup("<br>by procedure against the exemplars: {} points").format(parts)
    if row["exemplar_ids"]:
        told += Markup("<br>compared with {}").format(_few(row["exemplar_ids"]))
    if picture is None:
        return Markup("<figure><figcaption>{}</figcaption></figure>").format(told)
    data, shows = picture
    alt = f"{row['clip_id']} at three moments: {shows}."
    return page.picture(data, alt, told)


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
