"""The process group of Ray Train workers, on the network on which their nodes know each other.

Gloo binds to the address of the host's name. Debian and many images let /etc/hosts map that name to loopback,
and then workers on two nodes wait for each other in vain.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import psutil
import ray
from ray.train.torch import TorchConfig


def choose_interface() -> None:
    """Tells gloo the interface that has this node's address in Ray, unless the user has told it one."""
    address = ray.util.get_node_ip_address()
    for name, found in psutil.net_if_addrs().items():
        if any(each.address == address for each in found):
            os.environ.setdefault("GLOO_SOCKET_IFNAME", name)


class _Backend(TorchConfig().backend_cls):
    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        worker_group.execute(choose_interface)
        super().on_start(worker_group, backend_config)


@dataclass
class NodeNetwork(TorchConfig):
    """For `TorchTrainer(torch_config=...)`."""

    @property
    def backend_cls(self) -> type:
        return _Backend
