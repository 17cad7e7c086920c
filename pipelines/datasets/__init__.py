"""Adapters: what a user has on disk -> the clips table (and poses, where the source holds keypoints).

Each adapter is one module with one `read_*` function; `adapters.read` calls them by these names.
Nothing here imports ray or torch, and nothing a file contains is ever executed.
"""

from __future__ import annotations

KINDS: dict[str, str] = {
    "manifest": "a CSV or Parquet table of clips; only the column uri is required",
    "kimore": "KIMORE: the official folders (CG, GPP), or a folder of arrays (*positions*.npz) and csv",
    "fine_diving": "FineDiving: the folder of its annotation pickles, read without running them",
    "mtl_aqa": "MTL-AQA: the folder of its annotation pickles; steps from FineDiving's folder",
    "keypoints": "your own keypoints: an npz of (T, J, C) arrays by clip name and a csv of clips",
    "utkinect": "UTKinect-Action3D: the text files of joints and labels, or arrays (*joints*.npz) and csv",
    "nw_ucla": "NW-UCLA Multiview Action 3D: CTR-GCN's JSON files, or arrays (*joints*.npz)",
    "uwa3d": "UWA3D Multiview Activity II: the skeletons' mat files (MATLAB 7.3)",
    "ui_prmd": "UI-PRMD: the Kinect's positions and angles, put together by forward kinematics",
    "infants": "infants' videos of Chambers et al.: OpenPose keypoints, frames converted to plain arrays",
}
