"""Builds every top-down config of the packaged MMPose zoo whose skeleton we know, and runs one batch.

    python benchmarks/pose_zoo.py [--match PATTERN] [--out FILE]

Weights are random and go through a file, as a user's do. Printed: how many configs give finite keypoints,
and the cause for each that does not. Networks of more than --largest million parameters are only counted.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np


def try_config(name: str, folder: Path, largest: float) -> str:
    """'ok', or the reason why not."""
    import torch
    from mmengine.registry import init_default_scope
    from mmpose.models import build_pose_estimator
    from safetensors.torch import save_file

    from pipelines.errors import AqaError
    from pipelines.stages import pose

    path = folder / "weights.safetensors"
    path.write_bytes(b"")
    try:
        model = pose.find_pose_model(name, path)
        config = pose.read_pose_config(name)
        config.model.backbone.init_cfg = None
        init_default_scope("mmpose")
        network = build_pose_estimator(config.model)
        if sum(value.numel() for value in network.parameters()) > largest * 1e6:
            return "not tried: large"
        save_file({key: value.contiguous() for key, value in network.state_dict().items()}, path)
        del network
        crops = np.random.default_rng(0).integers(0, 255, (2, model.height, model.width, 3), dtype=np.uint8)
        centers, scales = np.full((2, 2), 100.0), np.full((2, 2), 200.0)
        torch.manual_seed(0)
        flip = "output_keypoint_indices" not in config.model.get("test_cfg", {})
        network = pose.PoseNetwork(model, "cpu", flip_test=flip)
        keypoints, confidence = network.predict(crops, centers, scales)
    except AqaError as error:
        return str(error)
    # The point of this script is to name every cause, whatever MMPose raises.
    except Exception as error:  # noqa: BLE001
        return f"{type(error).__name__}: {str(error).strip().splitlines()[-1:]}"
    joints = len(pose.skeleton(model.skeleton).joints)
    if keypoints.shape != (2, joints, 2) or confidence.shape != (2, joints):
        return f"keypoints {keypoints.shape}, confidence {confidence.shape}, {joints} joints wanted"
    return "ok" if np.isfinite(keypoints).all() else "keypoints that are not finite"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--match", default="*")
    parser.add_argument("--largest", type=float, default=120.0, help="million parameters")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    from pipelines.stages import mmpose_compat

    mmpose_compat.install()
    import mmpose
    import torch

    torch.set_flush_denormal(True)
    zoo = Path(str(mmpose.__file__)).parent / ".mim" / "configs" / "body_2d_keypoint"
    names = {path.stem: path.parts[-3] for path in sorted(zoo.rglob(f"{arguments.match}.py"))}
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            found[name] = try_config(name, Path(folder), arguments.largest)
            print(f"{name}: {found[name]}", file=sys.stderr, flush=True)
    unknown = {name: cause for name, cause in found.items() if "skeleton not known" in cause}
    other = {name: cause for name, cause in found.items() if "no top-down network" in cause}
    tried = {name: cause for name, cause in found.items() if name not in unknown and name not in other}
    result = {
        "configs": len(found),
        "other_skeleton": len(unknown),
        "not_top_down": len(other),
        "tried": len(tried),
        "ok": Counter(tried.values())["ok"],
        "not_ok": {name: cause for name, cause in tried.items() if cause != "ok"},
    }
    text = json.dumps(result, indent=2)
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
