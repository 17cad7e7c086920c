"""The last stage: writes finished rows to a file of the store and hands its facts to the driver."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa

from pipelines.errors import StorageError
from pipelines.store import Table

FACTS = pa.schema(
    [
        ("name", pa.string()),
        ("sha256", pa.string()),
        ("size", pa.int64()),
        ("rows", pa.int64()),
        ("clip_ids", pa.list_(pa.string())),
        ("frames", pa.int64()),
        ("rejected", pa.list_(pa.string())),
        ("refusal", pa.list_(pa.string())),
    ]
)


@dataclass(frozen=True)
class WriteStage:
    """Reads rows of `table`; gives one row of facts per file, or of the disk's refusal.

    The driver alone commits.
    """

    table: Table

    def setup(self) -> None:
        return None

    def process(self, state: None, rows: pa.Table) -> Iterator[pa.Table]:
        yield pa.Table.from_pylist([self._write(rows)], schema=FACTS)

    def _write(self, rows: pa.Table) -> dict:
        try:
            facts = self.table.write_file(rows)
        except StorageError as error:
            # Ray would wrap the exception beyond recognition; as a row it reaches the driver as it is.
            refusal = {"refusal": [error.where, error.cause, error.remedy]}
            return dict.fromkeys(FACTS.names) | refusal
        codes = Counter(code for code in rows.column("error_code").to_pylist() if code)
        return {
            "name": facts.name,
            "sha256": facts.sha256,
            "size": facts.size,
            "rows": facts.rows,
            "clip_ids": list(facts.clip_ids),
            "frames": sum(count or 0 for count in rows.column("num_frames").to_pylist()),
            "rejected": list(codes.elements()),
            "refusal": None,
        }
