"""Dives that two data sets share but split otherwise."""

from __future__ import annotations

import pyarrow as pa

from pipelines.datasets.problems import first_names


def leaks(first: pa.Table, second: pa.Table) -> dict:
    """Clips that two tables share although they are split otherwise; FineDiving and MTL-AQA name dives alike.

    Args:
        first, second: schema CLIPS.

    Returns:
        `shared` clips, those of them with `other_score`, and the names of the clips in the test split of
        one and in the training split of the other: `test_in_first`, `test_in_second`.
    """
    columns = ("clip_id", "split", "score")
    rows, others = (
        {row["clip_id"]: row for row in table.select(columns).to_pylist()} for table in (first, second)
    )
    shared = [name for name in rows if name in others]
    return {
        "shared": len(shared),
        "other_score": [name for name in shared if rows[name]["score"] != others[name]["score"]],
        "test_in_first": [n for n in shared if (rows[n]["split"], others[n]["split"]) == ("test", "train")],
        "test_in_second": [n for n in shared if (rows[n]["split"], others[n]["split"]) == ("train", "test")],
    }


def leak_lines(report: dict, first: str, second: str) -> list[str]:
    """The report of `leaks` as lines of text."""
    lines = [
        f"{report['shared']:,} clips are in both, {len(report['other_score']):,} of them with another score"
    ]
    for key, test, train in (("test_in_first", first, second), ("test_in_second", second, first)):
        names = report[key]
        listed = f": {first_names(names)}" if names else ""
        lines.append(f"{len(names):,} test clips of {test} are training clips of {train}{listed}")
    return lines
