"""The page of a store: what was extracted, what was rejected, how good it is, what it cost."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from markupsafe import Markup

from pipelines.audit import inspect
from pipelines.cards.example_frames import example_frames
from pipelines.errors import AqaError
from pipelines.reports import page
from pipelines.reports.cost import extraction_costs
from pipelines.reports.material import RENDERED, is_rendered
from pipelines.reports.page import Section
from pipelines.reports.quality import table_blocks
from pipelines.store import Store, open_store

MOST_KINDS = 40


def extraction_page(folder: Path) -> str:
    """The page (HTML) of a store.

    Raises:
        StorageError, CorruptError: it cannot be read.
    """
    store = open_store(folder.absolute())
    clips = store.clips.read().to_pylist()
    tables = inspect(store.path)
    sections = [Section("Clips", _clips(clips)), Section("Tables", [_tables(tables)])]
    for family in store.families():
        for key in store.keys(family):
            sections.append(Section(f"{family}/{key}", _table(store, family, key)))
    sections.append(Section("Provenance", _provenance(store, tables)))
    return page.page(f"Store: {folder.name}", _banner(clips, tables), sections)


def _banner(clips: list[dict[str, Any]], tables: list[dict[str, Any]]) -> list[Markup]:
    rejected = sum(table["rejected"] for table in tables)
    size = sum(table["bytes"] for table in tables) / 1e6
    blocks = []
    if any(is_rendered(clip["dataset"] or "") for clip in clips):
        blocks.append(page.warning(RENDERED))
    rows = [
        ("clips", f"{len(clips):,}", ", ".join(sorted({c["dataset"] or "unnamed" for c in clips})[:5])),
        ("tables", f"{len(tables) - 1}", f"{size:,.1f} MB with the clips"),
        ("rejected rows", f"{rejected:,}", "by code below"),
    ]
    return [*blocks, page.tiles(rows)]


def _clips(clips: list[dict[str, Any]]) -> list[Markup]:
    """Counts by data set, split and action type."""
    blocks = []
    for column, shown in (("dataset", "data set"), ("action_type", "action type")):
        names = Counter(clip[column] or "none" for clip in clips)
        rows = []
        for name, count in names.most_common(MOST_KINDS):
            mine = [clip for clip in clips if (clip[column] or "none") == name]
            splits = Counter(clip["split"] or "none" for clip in mine)
            rows.append(
                {
                    shown: name,
                    "clips": count,
                    "subjects": len({clip["subject_id"] for clip in mine if clip["subject_id"]}),
                    "with a score": sum(clip["score"] is not None for clip in mine),
                    **{split: splits.get(split, 0) for split in ("train", "val", "test", "none")},
                }
            )
        blocks.append(page.table(rows))
        if len(names) > MOST_KINDS:
            blocks.append(page.note(f"and {len(names) - MOST_KINDS} more."))
    return blocks


def _tables(tables: list[dict[str, Any]]) -> Markup:
    names = ("table", "version", "ok", "rejected", "files")
    return page.table(
        [{**{name: row[name] for name in names}, "MB": round(row["bytes"] / 1e6, 2)} for row in tables]
    )


def _table(store: Store, family: str, key: str) -> list[Markup]:
    spec = store.spec(key, family)
    blocks = [page.details("What the key stands for", [page.facts(spec)])]
    blocks += table_blocks(store, family, key)
    blocks += extraction_costs(store, family, key)
    if family != "poses" or spec.get("stage") == "import":
        return blocks
    try:
        shown = example_frames(store.path, key)
    except AqaError as error:
        return [*blocks, page.note(f"No example frames: {error}")]
    if not shown:
        return [*blocks, page.note("No example frames: the videos are not there any more.")]
    # The cards' figures are escaped where they are made.
    return [*blocks, page.heading("Example frames"), page.stills([Markup(one) for one in shown])]  # noqa: S704


def _provenance(store: Store, tables: list[dict[str, Any]]) -> list[Markup]:
    told = {"folder": str(store.path.absolute())}
    told |= {f"version of {row['table']}": row["version"] for row in tables}
    return [
        page.facts(told),
        page.note("aqa store verify reads every file again and compares it with its record."),
    ]
