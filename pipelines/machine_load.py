"""How busy this machine is, named as MLflow names system metrics, so that its page of them shows these."""

from __future__ import annotations

import sys
from pathlib import Path

import psutil

_MB = 1e6


def machine_load(folder: Path) -> dict[str, float]:
    """Processor, memory, disk and network of this machine now; GPU memory if torch uses a GPU here.

    Args:
        folder: the disk it lies on is measured.

    Returns:
        `system/...` -> percent or megabytes; the processor's since the call before.
    """
    memory, disk, network = psutil.virtual_memory(), psutil.disk_usage(str(folder)), psutil.net_io_counters()
    load = {
        "cpu_utilization_percentage": psutil.cpu_percent(),
        "system_memory_usage_megabytes": memory.used / _MB,
        "system_memory_usage_percentage": memory.percent,
        "disk_usage_percentage": disk.percent,
        "disk_available_megabytes": disk.free / _MB,
        "network_receive_megabytes": network.bytes_recv / _MB if network else 0.0,
        "network_transmit_megabytes": network.bytes_sent / _MB if network else 0.0,
        "process_memory_megabytes": psutil.Process().memory_info().rss / _MB,
    }
    return {f"system/{name}": round(value, 1) for name, value in {**load, **_gpus()}.items()}


def _gpus() -> dict[str, float]:
    """Of the GPUs of this process; torch must not be loaded or a GPU taken only to measure."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return {}
    load = {}
    for device in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(device)
        load[f"gpu_{device}_memory_usage_megabytes"] = (total - free) / _MB
        load[f"gpu_{device}_memory_usage_percentage"] = 100 * (total - free) / total
    return load
