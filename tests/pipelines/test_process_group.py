from __future__ import annotations

import os

import psutil
import pytest


@pytest.mark.slow  # importing Ray Train takes five seconds
def test_gloo_is_told_the_interface_of_the_node(monkeypatch):
    import ray

    from pipelines.process_group import choose_interface

    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "mine")
    choose_interface()
    assert os.environ["GLOO_SOCKET_IFNAME"] == "mine"
    monkeypatch.delenv("GLOO_SOCKET_IFNAME")
    choose_interface()
    found = psutil.net_if_addrs()[os.environ["GLOO_SOCKET_IFNAME"]]
    assert ray.util.get_node_ip_address() in [each.address for each in found]
