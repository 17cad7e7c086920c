"""What a computation runs on: versions, processor, threads. They decide its last digits."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path

from pipelines import __version__

PACKAGES = (
    *("torch", "torchvision", "timm", "einops", "safetensors", "numpy", "scipy"),
    *("ray", "pyarrow", "deltalake", "mlflow", "decord2", "av", "mmpose"),
)


def environment() -> dict[str, str]:
    """Name -> text: aqa, git.commit, python, system, processor, threads, gpu, and each package."""
    from pipelines.tracking import git_tags

    return {
        "aqa": __version__,
        **git_tags(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "threads": _threads(),
        "gpu": _gpu(),
        **{f"package.{name}": version for name in PACKAGES if (version := _version(name))},
    }


def differing(recorded: dict[str, str], now: dict[str, str]) -> list[dict[str, str]]:
    """Rows of what, recorded and now, for all that is not the same; "" = not there."""
    return [
        {"what": name, "recorded": recorded.get(name, ""), "now": now.get(name, "")}
        for name in dict.fromkeys([*recorded, *now])
        if recorded.get(name, "") != now.get(name, "")
    ]


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _processor() -> str:
    """As Linux names it; elsewhere what Python knows."""
    told = Path("/proc/cpuinfo")
    lines = told.read_text(errors="replace").splitlines() if told.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor() or 'unknown'}, {os.cpu_count()} cores"


def _threads() -> str:
    import torch

    return str(torch.get_num_threads())


def _gpu() -> str:
    import torch

    if not torch.cuda.is_available():
        return ""
    return f"{torch.cuda.get_device_name(0)}, CUDA {torch.version.cuda}"
