"""`aqa doctor`: what this machine has, what it lacks, and the command that adds it.

Each check returns rows (name, value, status, remedy); status is ok, warn or missing. `missing` means that the
main job cannot run. Nothing is started or changed, and no token is ever printed.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import socket
import sys
from pathlib import Path

from pipelines import __version__
from pipelines.redact import redact

_SYNC = "make demo (or: uv sync)"
_POSE = "uv sync --group pose (pip: see the README)"
LOW_DISK_GB = 5.0
LOW_MEMORY_GB = 4.0

Row = dict[str, str]


def report() -> list[Row]:
    """All checks, in the order a person would ask."""
    return [*_machine(), *_packages(), *_gpu(), *_decoders(), *_pose(), *_ray(), *_tracking()]


def _row(name: str, value: object, status: str = "ok", remedy: str = "") -> Row:
    return {"name": name, "value": str(value), "status": status, "remedy": remedy}


def _machine() -> list[Row]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    free = shutil.disk_usage(Path.cwd()).free / 1e9
    python_ok = (3, 11) <= sys.version_info[:2] <= (3, 12)
    return [
        _row("aqa", __version__),
        _row(
            "python",
            f"{platform.python_version()} ({sys.executable})",
            "ok" if python_ok else "missing",
            "" if python_ok else "use Python 3.11 or 3.12",
        ),
        _row("system", f"{platform.system()} {platform.release()} {platform.machine()}"),
        _row("cores", len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()),
        _row(
            "memory",
            f"{memory:.1f} GB",
            "ok" if memory >= LOW_MEMORY_GB else "warn",
            "" if memory >= LOW_MEMORY_GB else "set extract.decode_workers and extract.network_workers to 1",
        ),
        _row(
            "disk",
            f"{free:.1f} GB free in {Path.cwd()}",
            "ok" if free >= LOW_DISK_GB else "warn",
            "" if free >= LOW_DISK_GB else "work in a folder with more room",
        ),
    ]


def _packages() -> list[Row]:
    required = ("torch", "ray", "pyarrow", "deltalake", "mlflow", "numpy", "scipy")
    return [_package(name, name, "missing", _SYNC) for name in required]


def _package(name: str, distribution: str, status: str, remedy: str) -> Row:
    try:
        return _row(name, importlib.metadata.version(distribution))
    except importlib.metadata.PackageNotFoundError:
        return _row(name, "not installed", status, remedy)


def _gpu() -> list[Row]:
    if importlib.util.find_spec("torch") is None:
        return []
    import torch

    if not torch.cuda.is_available():
        return [_row("gpu", "none that torch can use; everything runs on the CPU")]
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return [_row("gpu", f"{len(names)} x {', '.join(sorted(set(names)))} (CUDA {torch.version.cuda})")]


def _decoders() -> list[Row]:
    rows = []
    try:
        decord = importlib.import_module("decord")
        rows.append(_row("decord", f"{decord.__version__} (default reader)"))
    except (ImportError, OSError) as error:
        rows.append(_row("decord", f"not usable: {error}", "warn", "PyAV reads instead; " + _SYNC))
    try:
        av = importlib.import_module("av")
        codec = ".".join(map(str, av.library_versions["libavcodec"]))
        rows.append(_row("pyav", f"{av.__version__}, FFmpeg {av.ffmpeg_version_info}, libavcodec {codec}"))
    except (ImportError, OSError) as error:
        rows.append(_row("pyav", f"not usable: {error}", "missing", _SYNC))
    return rows


def _pose() -> list[Row]:
    rows = [
        _package(name, distribution, "warn", _POSE)
        for name, distribution in (("mmpose", "mmpose"), ("mmcv", "mmcv-lite"), ("mmengine", "mmengine"))
    ]
    if any(row["status"] != "ok" for row in rows):
        return rows
    try:
        importlib.import_module("pipelines.stages.mmpose_compat").install()
        importlib.import_module("mmpose.apis")
    except (ImportError, AttributeError, RuntimeError, OSError) as error:
        return [*rows, _row("pose estimation", f"MMPose cannot be imported: {error}", "warn", _POSE)]
    return [*rows, _row("pose estimation", "MMPose can be imported")]


def _ray() -> list[Row]:
    from cluster.connect import ALLOW_INSECURE, protected, reachable_from_outside, token_source

    address = os.environ.get("RAY_ADDRESS", "")
    if address in ("", "local"):
        return [_row("ray address", "none set: a local Ray, protected by a token of its own")]
    mode = os.environ.get("RAY_AUTH_MODE", "not set")
    token = f"token from {token_source()}" if token_source() else "no token"
    open_to_all = reachable_from_outside(_host(address)) and not protected()
    return [
        _row("ray address", address, *_answers(address)),
        _row(
            "ray token",
            f"{token}, RAY_AUTH_MODE {mode}",
            "warn" if open_to_all else "ok",
            f"set RAY_AUTH_TOKEN_PATH, or {ALLOW_INSECURE}=1 in a closed network" if open_to_all else "",
        ),
    ]


def _host(address: str) -> str:
    return address.rpartition("://")[2].rpartition(":")[0].strip("[]")


def _answers(address: str) -> tuple[str, str]:
    """Status and remedy of a RAY_ADDRESS."""
    if address == "auto":
        return "ok", ""
    try:
        socket.create_connection((_host(address), int(address.rpartition(":")[2])), timeout=2).close()
    except (OSError, ValueError) as error:
        return "warn", f"nobody answers there ({error}); start the cluster or unset RAY_ADDRESS"
    return "ok", ""


def _tracking() -> list[Row]:
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    folder = uri.startswith(("file:", "./", "/")) or (uri != "" and ":" not in uri)
    rows = [
        _row(
            "mlflow store",
            redact(uri) or "mlflow.db beside each run (SQLite)",
            "warn" if folder else "ok",
            "this MLflow refuses file stores; use sqlite:///path/mlflow.db" if folder else "",
        )
    ]
    for name, off in (("RAY_USAGE_STATS_ENABLED", "0"), ("MLFLOW_DISABLE_TELEMETRY", "true")):
        value = os.environ.get(name, off)
        is_off = value.lower() == off
        rows.append(
            _row(name, value, "ok" if is_off else "warn", "" if is_off else f"{name}={off} turns it off")
        )
    return rows
