"""What a model learned from, as the store of its provenance still holds it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipelines.errors import CorruptError, DataError
from pipelines.store import open_store


class Training:
    """The snapshot a model was trained on.

    Args:
        description: of the model, with its provenance.
        store: where the store is now; None = where it was.
        kept: folder of the weights; in a bundle, preprocessing.json beside them says how the rows were made.

    Attributes:
        available: whether it is there; if not, nothing but `keys` may be asked.
        place: the folder that was looked at.
        keys: family -> key of the table that was read.

    Raises:
        DataError: the store that was named does not hold a table of the training.
        StorageError: there is no store at the place that was named.
        CorruptError: the bundle's description of its tables is damaged.
    """

    def __init__(self, description: dict[str, Any], store: Path | None = None, kept: Path | None = None):
        told = description.get("provenance", {})
        self.place = store or Path(told.get("store", ""))
        self._kept = _preprocessing(kept) if kept else {}
        self._versions = {"clips": told.get("clips_version")}
        self.keys: dict[str, str] = {}
        for name, key in told.items():
            if name.endswith("_key"):
                kind = name.removesuffix("_key")
                family = kind if kind == "poses" else f"features/{kind}"
                self.keys[family], self._versions[family] = key, told.get(f"{kind}_version")
        self.available = (self.place / "store.json").is_file()
        if store is not None:
            self._check(store)
        self._store = open_store(self.place) if self.available else None
        self._clips: pa.Table | None = None
        self._last: dict[str, tuple[set[str], pa.Table]] = {}

    def spec(self, family: str) -> dict[str, Any]:
        """What the key of a table means; empty if neither store nor bundle say."""
        known = self._spec(family, self.keys.get(family, ""))
        return known or self._kept.get(family, {}).get("spec", {})

    def people_spec(self) -> dict[str, Any]:
        """The detection that the boxes of the poses came from; empty if there was none."""
        boxes = self.spec("poses").get("boxes", "")
        family, _, key = boxes.partition("/")
        if family != "people":
            return {}
        return self._spec("people", key) or self._kept.get("people", {}).get("spec", {})

    def clips(self) -> pa.Table:
        """Rows of CLIPS of the training's version."""
        assert self._store is not None
        if self._clips is None:
            self._clips = self._store.clips.read(self._versions["clips"])
        return self._clips

    def table(self, family: str, clip_ids: set[str]) -> pa.Table:
        """Rows of some clips of a table, of the training's version; the last ones are kept in memory."""
        assert self._store is not None
        if self._last.get(family, (None,))[0] != clip_ids:
            table = self._store.table(family, self.keys[family])
            self._last[family] = clip_ids, table.read(self._versions[family], clip_ids=clip_ids)
        return self._last[family][1]

    def _spec(self, family: str, key: str) -> dict[str, Any]:
        path = self.place / family / f"{key}.spec.json"
        return json.loads(path.read_text()) if self.available and key and path.is_file() else {}

    def _check(self, store: Path) -> None:
        found = open_store(store)
        for family, key in self.keys.items():
            if key not in found.keys(family):
                held = ", ".join(found.keys(family)) or "none"
                cause = f"it holds no table {family}/{key}, which the model learned from (it holds {held})"
                raise DataError(store, cause, "name the store of the training, or leave --store out")


def _preprocessing(folder: Path) -> dict[str, Any]:
    """What a bundle says of its tables, by family; empty if this is none."""
    path = folder / "preprocessing.json"
    if not path.is_file():
        return {}
    try:
        return dict(json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise CorruptError(path, "is not readable as JSON", "copy the bundle again") from error
