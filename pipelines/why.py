"""Why a clip is, is not, or will again be computed: `aqa store why CLIP`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa

from pipelines import plan, sources
from pipelines.errors import REJECT_CODES, DataError
from pipelines.store import Store, open_store, spec_key

_NOT_ASKED: Mapping[str, dict] = {}


def why(path: Path, clip_id: str, wanted: Mapping[str, dict] = _NOT_ASKED) -> dict:
    """What the store knows of a clip, and what extraction would do with it now.

    Args:
        path: folder of the store.
        clip_id: the clip.
        wanted: family ("poses", "features/i3d", ...) -> specification of the present settings.

    Returns:
        `clip_id`, `uri`, `tables`: one entry per table with `row`, `fits` and `because`, and `next`: in
        words, what the present settings mean for the clip, by family.

    Raises:
        DataError: the store has neither such a clip nor a row of it.
    """
    store = open_store(path)
    clips = store.clips.read(clip_ids={clip_id})
    tables = {
        family: {key: _look_at(store, family, key, clip_id, clips) for key in store.keys(family)}
        for family in store.families()
    }
    if not clips.num_rows and not any(entry["row"] for keys in tables.values() for entry in keys.values()):
        raise DataError(
            path, f"there is no clip {clip_id!r}", "Check its name, or extract the manifest that has it"
        )
    return {
        "clip_id": clip_id,
        "uri": clips["uri"][0].as_py() if clips.num_rows else None,
        "tables": [entry for keys in tables.values() for entry in keys.values()],
        "next": {family: explain(spec, tables.get(family, {})) for family, spec in wanted.items()},
    }


def why_lines(found: dict) -> list[str]:
    """What `why` found, for people."""
    lines = [f"clip {found['clip_id']}: {found['uri'] or 'not in the clips table'}"]
    for entry in found["tables"]:
        lines.append(f"{entry['table']}: {entry['row'] or 'no row'}")
        lines += [f"    {reason}" for reason in entry["because"]]
    for family, sentences in found["next"].items():
        lines.append(f"{family} with the present settings: {sentences[0]}")
        lines += [f"    {sentence}" for sentence in sentences[1:]]
    return lines


def explain(spec: dict, tables: Mapping[str, dict]) -> list[str]:
    """What a specification means for a clip: a verdict, then its reasons.

    Args:
        spec: what the present settings would compute.
        tables: key -> entry of `why`'s `tables`, oldest first, all of one family.
    """
    entry = tables.get(spec_key(spec))
    if entry and entry["row"]:
        if entry["fits"]:
            return [f"nothing to compute, its row in {entry['table']} fits"]
        return [f"computed anew, its row in {entry['table']} no longer fits", *entry["because"]]
    others = [other for other in tables.values() if other["row"] and other["spec"].get("stage") != "import"]
    if not others:
        return ["computed, it has never been"]
    newest = others[-1]
    return [f"computed, {newest['table']} has it under other settings", *changes(newest["spec"], spec)]


def changes(old: dict, new: dict) -> list[str]:
    """Fields in which two specifications differ, in words."""
    return [
        f"{name.replace('_', ' ')} changed from {_short(old.get(name))} to {_short(new.get(name))}"
        for name in sorted({*old, *new})
        if old.get(name) != new.get(name)
    ]


def _look_at(store: Store, family: str, key: str, clip_id: str, clips: pa.Table) -> dict:
    """One table's row of the clip, whether it still fits, and why not."""
    spec, table = store.spec(key, family), store.table(family, key)
    columns = [*plan.ROW_COLUMNS, "error_code", "error_message", "attempts"]
    rows = table.read(columns=columns, clip_ids={clip_id})
    entry = {"table": f"{family}/{key}", "spec": spec, "row": "", "fits": False, "because": []}
    if not rows.num_rows:
        return entry
    row = rows.slice(0, 1).to_pylist()[0]
    entry["row"] = _outcome(row, rows.num_rows)
    if not clips.num_rows:
        return entry | {"because": ["the clip is no longer in the clips table"]}
    if spec.get("stage") == "import":
        return entry | {"fits": True}
    people = None
    source, _, people_key = str(spec.get("boxes", "")).partition("/")
    if source == "people":
        people = store.table("people", people_key).read(columns=plan.PEOPLE_COLUMNS, clip_ids={clip_id})
    digested = clips.append_column("clip_digest", plan.clip_digests(clips, people))
    found = plan.compare(digested, rows)
    moved = f"its file was moved from {row['uri']}"
    notes = [moved] if row["uri"] and row["uri"] != clips["uri"][0].as_py() else []
    reasons = [f"{reason}{_detail(reason, row, clips)}" for reason in found.reasons]
    return entry | {"fits": not reasons, "because": reasons + notes}


def _outcome(row: dict, count: int) -> str:
    if row["status"] == "ok":
        return f"ok, {count} people" if count > 1 else "ok"
    code = row["error_code"]
    return f"rejected: {code} ({row['error_message']}); {REJECT_CODES.get(code, 'a code of another version')}"


def _detail(reason: str, row: dict, clips: pa.Table) -> str:
    """Numbers behind "source file changed"."""
    if not reason.startswith("source"):
        return ""
    uri = clips["uri"].combine_chunks()
    (size,), _ = sources.look(uri)
    if size != row["source_bytes"]:
        return f": from {row['source_bytes']} to {size} bytes"
    return f": its sha256 from {_short(row['source_sha256'])} to {_short(sources.digests(uri)[0])}"


def _short(value: object) -> str:
    """A sha256 by its first digits."""
    if value is None:
        return "nothing"
    text = str(value)
    return text[:12] if len(text) == 64 and set(text) <= set("0123456789abcdef") else text
