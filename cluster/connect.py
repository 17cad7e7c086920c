"""The one door to Ray: joins the cluster RAY_ADDRESS names, or starts a local Ray and stops it again.

Facts of Ray 2.60 that this file is built on (docs/decisions.md): ray.init() tries an address where nobody
answers for 122 s and then exits the interpreter; without an address it joins any Ray that happens to run on
the machine; a local Ray without RAY_AUTH_MODE writes a token to ~/.ray; under `uv run` it rebuilds the
environment for its workers.
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import os
import secrets
import shutil
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

ALLOW_INSECURE = "AQA_ALLOW_INSECURE_RAY"
PROBE_TIMEOUT_S = 5.0
OBJECT_STORE_BYTES = 2 * 1024**3
"""Largest object store of a local Ray; poses and features need far less, and frames never enter it."""

RAY_SETTINGS = {
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "OMP_WAIT_POLICY": "PASSIVE",  # see docs/decisions.md
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_agent_register_timeout_ms": "120000",  # its 15 s end the start of a node on a busy machine
    "RAY_get_check_signal_interval_milliseconds": "200",  # how late SIGTERM is noticed, else 1 s
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # also how late the end of a training is seen
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # a process more; our checkpoints need no warning
}
"""Variables that Ray reads, unless they are set to something else."""

# A gRPC server answers this HTTP/2 preface and empty SETTINGS frame with its own SETTINGS frame (type 4).
_HTTP2_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"


class ClusterUnavailable(Exception):
    """No usable Ray at this address.

    Args:
        address: where Ray was looked for.
        cause: what is wrong, one sentence without a full stop.
        remedy: what to do about it, likewise.
    """

    def __init__(self, address: str, cause: str, remedy: str):
        super().__init__(address, cause, remedy)
        self.address, self.cause, self.remedy = address, cause, remedy

    def __str__(self) -> str:
        return f"{self.address}: {self.cause}. {self.remedy}."


class InsecureCluster(ClusterUnavailable):
    """The cluster can be reached from other machines and no token protects it: anyone there may run code."""


@contextlib.contextmanager
def connect(*, num_cpus: int | None = None, verbose: bool = False) -> Iterator[None]:
    """Hold a connection to Ray for the length of the block.

    Joins the cluster of RAY_ADDRESS and leaves it running; without that variable starts a local Ray,
    protected by a token of its own, and stops it at the end. Inside another `connect` it uses the Ray that
    is there.

    Args:
        num_cpus: cores of a local Ray; None = all. A cluster decides for itself.
        verbose: workers' output reaches this terminal.

    Raises:
        ClusterUnavailable: no Ray answers there (known within 5 s), or Ray or Python versions differ.
        InsecureCluster: the cluster is reachable from outside without a token and AQA_ALLOW_INSECURE_RAY
            is not 1.
    """
    for name, value in RAY_SETTINGS.items():
        os.environ.setdefault(name, value)
    address = os.environ.get("RAY_ADDRESS", "")
    local = address in ("", "local")
    if not local:
        _check_address(address)
    choose_authentication(local=local)
    import ray

    if ray.is_initialized():
        yield
        return
    with _own_sigterm():
        if local:
            _start(num_cpus, verbose=verbose)
        else:
            _join(address, verbose=verbose)
    try:
        yield
    finally:
        ray.shutdown()  # a joined cluster keeps running; only this driver leaves it


@contextlib.contextmanager
def _own_sigterm() -> Iterator[None]:
    """What this program does on SIGTERM stays: ray.init() puts its own in its place."""
    handler = signal.getsignal(signal.SIGTERM)
    yield
    if callable(handler) and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)


def spilled_bytes() -> int:
    """Bytes of objects that the connected Ray has moved from memory to its disks since it started.

    On a cluster others share, theirs are counted too.
    """
    import ray
    from ray._private.internal_api import get_memory_info_reply, get_state_from_address

    state = get_state_from_address(ray.get_runtime_context().gcs_address)
    return get_memory_info_reply(state).store_stats.spilled_bytes_total


def token_source() -> str:
    """Where Ray would find a token: a variable's name or a path, never the token; empty if there is none."""
    if os.environ.get("RAY_AUTH_TOKEN"):
        return "RAY_AUTH_TOKEN"
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    try:
        return str(path) if path.read_text(encoding="utf-8").strip() else ""
    except (OSError, UnicodeDecodeError):
        return ""


def protected() -> bool:
    """Whether calls to a cluster would carry a token."""
    return os.environ.get("RAY_AUTH_MODE", "token").lower() == "token" and bool(token_source())


def reachable_from_outside(host: str) -> bool:
    """True unless `host` is a loopback address or name."""
    if host == "localhost":
        return False
    try:
        return not ipaddress.ip_address(host).is_loopback
    except ValueError:
        return True


def _start(num_cpus: int | None, *, verbose: bool) -> None:
    import ray

    store = min(OBJECT_STORE_BYTES, int(0.3 * _memory_bytes()))
    with contextlib.suppress(OSError):  # no /dev/shm on macOS
        store = min(store, int(0.8 * shutil.disk_usage("/dev/shm").free))  # noqa: S108 - Ray's own place
    try:
        ray.init(
            address="local",  # None would join a Ray that somebody else left running here
            num_cpus=num_cpus,
            include_dashboard=False,
            object_store_memory=max(store, 100 * 1024**2),
            log_to_driver=verbose,
            logging_level=logging.WARNING,
        )
    except Exception as error:
        # Ray raises just that, no class of its own, when one of its processes did not start in time.
        if type(error) is not Exception:
            raise
        cause = f"a local Ray did not start: {' '.join(str(error).split()).rstrip('.')}"
        raise ClusterUnavailable(
            "this machine", cause, "Run it again when the machine has less to do"
        ) from error


def _join(address: str, *, verbose: bool) -> None:
    import ray

    try:
        ray.init(address=address, log_to_driver=verbose, logging_level=logging.WARNING)
    except ray.exceptions.AuthenticationError as error:
        raise ClusterUnavailable(
            address, "the cluster refused the token", "Set RAY_AUTH_TOKEN_PATH to the token of this cluster"
        ) from error
    except (ConnectionError, RuntimeError, ValueError) as error:
        text = " ".join(str(error).split())
        remedy = (
            "Check that Ray runs there, that this machine is one of its nodes, and that the token is right"
        )
        if "Version mismatch" in text:
            remedy = "Use the versions of the cluster, or start it from this environment"
        raise ClusterUnavailable(address, text.rstrip("."), remedy) from error
    joined = ray.get_runtime_context().gcs_address
    if address == "auto" and not secure_enough(joined.rpartition(":")[0]):
        ray.shutdown()
        raise insecure(joined)


def _check_address(address: str) -> None:
    """Refuse an address that is no Ray, does not answer, or is open to everybody."""
    if address == "auto":
        return
    scheme, _, rest = address.rpartition("://")
    host, _, port = rest.rpartition(":")
    host = host.strip("[]")
    if scheme not in ("", "ray") or not host or not port.isdigit():
        raise ClusterUnavailable(
            address, "RAY_ADDRESS is not host:port of a cluster's GCS", "Give e.g. 10.0.0.1:6379, or unset it"
        )
    if not secure_enough(host):
        raise insecure(address)
    try:
        with socket.create_connection((host, int(port)), timeout=PROBE_TIMEOUT_S) as probe:
            if os.environ.get("RAY_USE_TLS", "0") in ("0", ""):
                probe.sendall(_HTTP2_HELLO)
                answer = probe.recv(4)
                if answer[3:4] != b"\x04":
                    raise OSError("what listens there is not Ray")
    except OSError as error:
        reason = error.strerror or str(error)
        raise ClusterUnavailable(
            address,
            f"no Ray answers at RAY_ADDRESS ({reason.lower()})",
            "Start the cluster, correct RAY_ADDRESS, or unset it to use a local Ray",
        ) from error


def secure_enough(host: str) -> bool:
    """True if nobody else reaches `host`, a token protects it, or the user vouches for its network."""
    return not reachable_from_outside(host) or protected() or os.environ.get(ALLOW_INSECURE) == "1"


def insecure(address: str) -> InsecureCluster:
    """The refusal of an open cluster."""
    return InsecureCluster(
        address,
        "this Ray cluster is reachable from other machines and no token protects it",
        "Give the cluster a token (`ray get-auth-token --generate`) and set RAY_AUTH_TOKEN_PATH, "
        f"or set {ALLOW_INSECURE}=1 if its network is closed",
    )


def choose_authentication(*, local: bool) -> None:
    """Say explicitly whether calls carry a token; a local Ray gets one that lives as long as this process.

    A local Ray listens on the machine's own address, not on loopback alone, so it needs a token as well.
    """
    if "RAY_AUTH_MODE" in os.environ:
        return
    if local and not token_source():
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    os.environ["RAY_AUTH_MODE"] = "token" if token_source() else "disabled"
    from ray._raylet import AuthenticationTokenLoader, Config

    # Ray read these variables when it was first imported; ray.init() refreshes them in the same way.
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
