from __future__ import annotations

import platform
import socket
import sys
import time

import pytest

from cluster.connect import ALLOW_INSECURE, ClusterUnavailable, InsecureCluster
from cluster.preflight import check_door, check_resources, check_storage, check_versions
from cluster.probe import LIBRARIES, look
from cluster.secret import SecretFound

HERE = ".".join(platform.python_version_tuple()[:2])


def test_a_cluster_of_this_ray_is_let_through(dashboard):
    assert check_door(dashboard.address) == dashboard.version


def test_another_ray(dashboard):
    dashboard.version = "2.9.3"
    with pytest.raises(ClusterUnavailable, match=r"runs Ray 2\.9\.3, this machine Ray .* Use the versions"):
        check_door(dashboard.address)


def test_no_ray_at_all(dashboard, monkeypatch):
    monkeypatch.setattr(dashboard, "answer", lambda *_: (200, {"hello": "world"}))
    with pytest.raises(ClusterUnavailable, match=r"what answers there is no Ray dashboard \(HTTP 200\)"):
        check_door(dashboard.address)
    monkeypatch.setattr(dashboard, "answer", lambda *_: (404, "<html>"))
    with pytest.raises(ClusterUnavailable, match=r"no Ray dashboard \(HTTP 404\)"):
        check_door(dashboard.address)


def test_nobody_answers(dashboard):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(ClusterUnavailable, match=r"no Ray dashboard answers there \(connection refused\)"):
        check_door(f"http://127.0.0.1:{port}")


def test_a_silent_port_is_given_up(dashboard, monkeypatch):
    monkeypatch.setattr("cluster.preflight.ANSWER_S", 0.3)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        started = time.monotonic()
        with pytest.raises(ClusterUnavailable, match=r"no Ray dashboard answers there \(timed out\)"):
            check_door(f"http://127.0.0.1:{silent.getsockname()[1]}")
        assert time.monotonic() - started < 5


@pytest.mark.parametrize("address", ["10.0.0.1:8265", "ray://10.0.0.1:10001", "http://", "localhost", ""])
def test_addresses_that_are_none(address, monkeypatch):
    monkeypatch.setenv(ALLOW_INSECURE, "1")
    with pytest.raises(ClusterUnavailable, match="this is no address of a dashboard"):
        check_door(address)


def test_a_password_in_the_address_is_refused_and_not_shown():
    with pytest.raises(SecretFound, match="the address holds a password") as caught:
        check_door("https://anna:" + "hunter22@ray.example")
    assert "hunter22" not in str(caught.value)


def test_token(dashboard, monkeypatch):
    from ray._raylet import AuthenticationTokenLoader, Config

    def use(token: str) -> None:
        """As if this process had started with it."""
        monkeypatch.setenv("RAY_AUTH_MODE", "token")
        monkeypatch.setenv("RAY_AUTH_TOKEN", token)
        Config.initialize("")
        AuthenticationTokenLoader.instance().reset_cache()

    dashboard.token = "cd" * 32
    with pytest.raises(ClusterUnavailable, match="asks for a token and there is none here"):
        check_door(dashboard.address)
    try:
        use("ef" * 32)
        with pytest.raises(ClusterUnavailable, match="the cluster refused the token"):
            check_door(dashboard.address)
        use(dashboard.token)
        assert check_door(dashboard.address) == dashboard.version
        assert (
            b"authorization" not in dashboard.bodies[-2].lower()
        )  # the token is shown to those only who ask
        assert b"authorization" in dashboard.bodies[-1].lower()
    finally:
        monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
        Config.initialize("")
        AuthenticationTokenLoader.instance().reset_cache()


def test_open_cluster_is_refused_before_any_contact(monkeypatch):
    monkeypatch.delenv(ALLOW_INSECURE, raising=False)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with pytest.raises(InsecureCluster, match="no token protects it"):
        check_door("http://192.0.2.1:8265")


def test_a_token_in_hand_does_not_make_an_open_cluster_safe(dashboard, monkeypatch):
    """127.1 is this machine, but by its name it could be any."""
    monkeypatch.delenv(ALLOW_INSECURE, raising=False)
    monkeypatch.setattr("cluster.preflight.secure_enough", lambda host: True)  # as with a token
    outside = f"http://127.1:{dashboard.port}"
    with pytest.raises(InsecureCluster, match="answers without a token. Start it with RAY_AUTH_MODE=token"):
        check_door(outside)
    monkeypatch.setenv(ALLOW_INSECURE, "1")
    assert check_door(outside) == dashboard.version


def _node(name: str = "a", **changes: str) -> dict:
    versions = {"python": HERE, "ray": "2.60.0", "torch": "2.15.0"} | changes
    return {"name": name, "versions": versions, "storage": {"/shared": ""}}


def test_versions():
    check_versions("x", [_node("a"), _node("b")])
    with pytest.raises(ClusterUnavailable, match=rf"node b has Python 3\.8, this machine {HERE}"):
        check_versions("x", [_node("a"), _node("b", python="3.8")])
    with pytest.raises(ClusterUnavailable, match=r"node b has torch 2\.14\.1, node a 2\.15\.0.*one image"):
        check_versions("x", [_node("a"), _node("b", torch="2.14.1")])
    with pytest.raises(ClusterUnavailable, match="node a lacks torch"):
        check_versions("x", [_node("a", torch="")])


def test_storage():
    check_storage("x", [_node("a"), _node("b")])
    bad = _node("b") | {"storage": {"/shared": "does not exist there"}}
    with pytest.raises(ClusterUnavailable, match="node b: /shared does not exist there. Name a folder"):
        check_storage("x", [_node("a"), bad])


def test_resources():
    check_resources("x", {"CPU": 4}, {"CPU": 4.0}, None)
    check_resources("x", {"CPU": 4, "GPU": 2}, {"CPU": 8.0}, {"CPU": 64, "GPU": 4})  # the autoscaler has them
    with pytest.raises(ClusterUnavailable, match="asks for 2 GPU, the cluster has 0 at most"):
        check_resources("x", {"CPU": 4, "GPU": 2}, {"CPU": 8.0}, None)
    with pytest.raises(ClusterUnavailable, match="asks for 9 CPU, the cluster has 8 at most"):
        check_resources("x", {"CPU": 9}, {"CPU": 8.0}, {"CPU": 2})


def test_a_node_looks(tmp_path):
    shared, other, missing = tmp_path / "shared", tmp_path / "other", tmp_path / "missing"
    shared.mkdir()
    other.mkdir()
    (shared / ".aqa-n1").touch()
    seen = look([str(shared), str(other), str(missing)], "n1")
    assert seen["storage"] == {
        str(shared): "",
        str(other): "is another folder than on the node of the driver, not shared storage",
        str(missing): "does not exist there",
    }
    assert (shared / f".aqa-n1-{seen['answer']}").exists()
    assert not list(other.iterdir())
    assert seen["versions"]["python"] == f"{sys.version_info.major}.{sys.version_info.minor}"
    assert set(seen["versions"]) == {"python", *LIBRARIES}
    assert all(seen["versions"].values())
