"""Published results of the same data set, to stand beside a run's: always with their source and protocol.

They were made by others, on other splits or with the epoch chosen on the test rows, and are no comparison
on equal terms; the page says so.
"""

from __future__ import annotations

from typing import Any

_TABLE_1 = "HP-MCoRe (Qi et al. 2025, arXiv 2501.03674), table I, with dive number"
_AWESOME = "as listed by iSEE-Laboratory/Awesome-AQA, Benchmarks.md; with difficulty"
_BMVC = "Nekoui & Cheng, BMVC 2021, table 1 (mean of five exercises, 70/30 split)"

_DIVES = (
    "Official test split. The released codes of CoRe, TSA, MCoRe and HP-MCoRe choose the best epoch on the "
    "test dives, each metric at an epoch of its own."
)
_KIMORE = (
    "Mean over five exercises, each with a model of its own, on a 70/30 split whose list was not published; "
    "how the epoch was chosen is not said."
)

# Data set -> protocol, and rows of method, Spearman, R-l2 x 100 (None = not given), source.
PUBLISHED: dict[str, tuple[str, list[tuple[str, float, float | None, str]]]] = {
    "fine_diving": (
        _DIVES,
        [
            ("USDL 2020", 0.8504, 0.583, _TABLE_1),
            ("MUSDL 2020", 0.8978, 0.370, _TABLE_1),
            ("CoRe 2021", 0.9061, 0.361, _TABLE_1),
            ("TSA 2022", 0.9203, 0.342, _TABLE_1),
            ("MCoRe 2024", 0.9232, 0.326, _TABLE_1),
            ("T2CR 2024", 0.9275, 0.330, _TABLE_1),
            ("HP-MCoRe 2025", 0.9383, 0.269, _TABLE_1),
        ],
    ),
    "mtl_aqa": (
        _DIVES,
        [
            ("USDL 2020", 0.9231, 0.468, _AWESOME),
            ("MUSDL 2020", 0.9273, 0.451, _AWESOME),
            ("CoRe 2021", 0.9512, 0.260, _AWESOME),
            ("TPT", 0.9607, 0.238, _AWESOME),
        ],
    ),
    "kimore": (
        _KIMORE,
        [
            ("C3D", 0.6240, None, _BMVC),
            ("I3D", 0.5600, None, _BMVC),
            ("EAGLE-Eye", 0.6609, None, _BMVC),
            ("VI-Net 2020", 0.6680, None, _BMVC),
            ("two-stage, no expert (U+S)", 0.6170, None, _BMVC),
            ("two-stage, skeleton and video", 0.7308, None, _BMVC),
        ],
    ),
}


def published(datasets: set[str]) -> tuple[str, list[dict[str, Any]]]:
    """Protocol and rows for the one data set that the test clips are of; nothing for any other.

    Args:
        datasets: names in the column `dataset`; rendered copies of a data set are another data set.
    """
    if len(datasets) != 1:
        return "", []
    protocol, rows = PUBLISHED.get(next(iter(datasets)), ("", []))
    names = ("method", "Spearman", "R-l2 x 100", "source")
    return protocol, [
        {name: value for name, value in zip(names, row, strict=True) if value is not None} for row in rows
    ]
