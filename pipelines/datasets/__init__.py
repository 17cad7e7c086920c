"""Adapters: what a user has on disk -> the clips table (and poses, where the source holds keypoints).

Each adapter is one module with one `read_*` function; `pipelines.data.import_` calls them by these names.
Nothing here imports ray or torch, and nothing a file contains is ever executed.
"""

from __future__ import annotations

KINDS: dict[str, str] = {
    "manifest": "a CSV or Parquet table of clips; only the column uri is required",
    "kimore": "KIMORE: the official folders (CG, GPP), or a folder of arrays (*positions*.npz) and csv",
    "fine_diving": "FineDiving: the folder of its annotation pickles, read without running them",
    "mtl_aqa": "MTL-AQA: the folder of its annotation pickles; steps from FineDiving's folder",
    "keypoints": "your own keypoints: an npz of (T, J, C) arrays by clip name and a csv of clips",
}
