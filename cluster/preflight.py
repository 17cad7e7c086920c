"""Looks before a job leaps: may we, can we, and is there what the job needs?

`check_door` asks the dashboard before anything is sent. `inspect` runs one small job that looks from every
node (cluster/probe.py), so it sees what the real job would see.
"""

from __future__ import annotations

import http.client
import json
import os
import platform
import ssl
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, urlsplit

from cluster.connect import (
    ALLOW_INSECURE,
    ClusterUnavailable,
    InsecureCluster,
    choose_authentication,
    insecure,
    protected,
    reachable_from_outside,
    secure_enough,
)
from cluster.probe import MARK
from cluster.secret import SecretFound

if TYPE_CHECKING:
    from cluster.jobs import Jobs
    from cluster.package import Package

ANSWER_S = 5.0
"""Longest wait for one answer of the dashboard."""
PROBE_S = 120.0
"""Longest wait for the probe; a quiet cluster needs under 15 s, an overloaded one has needed more than 60."""


def check_door(address: str) -> str:
    """Ask the dashboard who it is, first without the token, then with it.

    Args:
        address: http(s)://host:port of the dashboard.

    Returns:
        Its Ray version, which is that of this machine.

    Raises:
        InsecureCluster: reachable from outside, and either no token is at hand or none is asked for.
        ClusterUnavailable: nobody or no Ray answers within 5 s, the token is wrong, or versions differ.
        SecretFound: the address holds a password.
    """
    url = urlsplit(address)
    if url.username or url.password:
        raise SecretFound(
            f"{url.scheme}://***@{url.hostname}", "the address holds a password", "Set RAY_AUTH_TOKEN_PATH"
        )
    if url.scheme not in ("http", "https") or not url.hostname:
        raise ClusterUnavailable(
            address, "this is no address of a dashboard", "Give e.g. http://10.0.0.1:8265 (--address)"
        )
    if not secure_enough(url.hostname):
        raise insecure(address)
    choose_authentication(local=False)
    status, body = _get(url, {})
    if status == 200 and reachable_from_outside(url.hostname):
        _refuse_open_cluster(address)
    if status in (401, 403):
        status, body = _get(url, _token_header(address))
    if status in (401, 403):
        raise ClusterUnavailable(
            address, "the cluster refused the token", "Set RAY_AUTH_TOKEN_PATH to the token of this cluster"
        )
    return _same_ray(address, status, body)


def _refuse_open_cluster(address: str) -> None:
    """A token in our hand protects nothing when the cluster does not ask for it."""
    if os.environ.get(ALLOW_INSECURE) != "1":
        raise InsecureCluster(
            address,
            "this Ray cluster is reachable from other machines and answers without a token",
            f"Start it with RAY_AUTH_MODE=token on every node, or set {ALLOW_INSECURE}=1 if its network is "
            "closed",
        )


def _token_header(address: str) -> dict[str, str]:
    from ray._private.authentication.http_token_authentication import get_auth_headers_if_auth_enabled

    if not protected():
        raise ClusterUnavailable(
            address, "the cluster asks for a token and there is none here", "Set RAY_AUTH_TOKEN_PATH"
        )
    return get_auth_headers_if_auth_enabled({})


def _get(url: SplitResult, headers: dict[str, str]) -> tuple[int, bytes]:
    """Status and body of /api/version."""
    host, port, address = url.hostname or "", url.port, url.geturl()
    if url.scheme == "https":
        connection = http.client.HTTPSConnection(
            host, port, timeout=ANSWER_S, context=ssl.create_default_context()
        )
    else:
        connection = http.client.HTTPConnection(host, port, timeout=ANSWER_S)
    try:
        connection.request("GET", url.path.rstrip("/") + "/api/version", headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read(100_000)
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise ClusterUnavailable(
            address,
            f"no Ray dashboard answers there ({reason.lower()})",
            "Start the cluster, open the port (8265), or correct --address",
        ) from error
    finally:
        connection.close()


def _same_ray(address: str, status: int, body: bytes) -> str:
    import ray

    try:
        there = json.loads(body)["ray_version"] if status == 200 else None
    except (ValueError, KeyError, TypeError):
        there = None
    if not isinstance(there, str):
        raise ClusterUnavailable(
            address, f"what answers there is no Ray dashboard (HTTP {status})", "Correct --address"
        )
    if there != ray.__version__:
        raise ClusterUnavailable(
            address,
            f"the cluster runs Ray {there}, this machine Ray {ray.__version__}",
            "Use the versions of the cluster, or an image built from this uv.lock",
        )
    return there


def inspect(
    jobs: Jobs, package: Package, places: Sequence[str], needs: Mapping[str, float]
) -> dict[str, Any]:
    """Look from every node of the cluster, with one small job.

    Args:
        jobs: the cluster.
        package: what the real job will carry.
        places: folders that must be one storage, readable and writable from every node.
        needs: resources the job will ask for at once, e.g. {"CPU": 4, "GPU": 1}.

    Returns:
        `nodes`, `python`, `CPU`, `GPU`, `seconds`.

    Raises:
        ClusterUnavailable: no answer within `PROBE_S`, or versions, storage or resources do not fit.
        InsecureCluster: the job itself would refuse this cluster.
    """
    started = time.monotonic()
    found = _probe(jobs, package, places)
    if "refused" in found:
        kind = InsecureCluster if found["insecure"] else ClusterUnavailable
        raise kind(*found["refused"])
    check_versions(jobs.address, found["nodes"])
    check_storage(jobs.address, found["nodes"])
    check_resources(jobs.address, needs, found["now"], found["at_most"])
    return {
        "nodes": len(found["nodes"]),
        "python": found["nodes"][0]["versions"]["python"],
        "CPU": found["now"].get("CPU", 0),
        "GPU": found["now"].get("GPU", 0),
        "seconds": round(time.monotonic() - started, 1),
    }


def _probe(jobs: Jobs, package: Package, places: Sequence[str]) -> dict[str, Any]:
    name = f"aqa-probe-{uuid.uuid4().hex[:12]}"
    jobs.start(name, ["python", "-P", "-m", "cluster.probe", *places], package)
    deadline = time.monotonic() + PROBE_S
    try:
        while not jobs.details(name).status.is_terminal():
            if time.monotonic() > deadline:
                raise ClusterUnavailable(
                    jobs.address,
                    f"no node did a task of a second within {PROBE_S:.0f} s",
                    "Look into the dashboard: nodes may be busy, starting, or unable to reach each other",
                )
            time.sleep(0.2)
        log = jobs.logs(name)
    finally:
        jobs.discard(name)
    answers = [line for line in log.splitlines() if line.startswith(MARK)]
    if not answers:
        last = ([line for line in log.splitlines() if line.strip()] or ["it printed nothing"])[-1]
        raise ClusterUnavailable(
            jobs.address, f"the probe failed there: {last}", "Use an image built from this uv.lock"
        )
    return json.loads(answers[-1].removeprefix(MARK))


def check_versions(address: str, nodes: Sequence[Mapping[str, Any]]) -> None:
    """Every node has the Python of this machine, and all have the same libraries.

    Raises:
        ClusterUnavailable: names the first node that differs.
    """
    here = ".".join(platform.python_version_tuple()[:2])
    first = nodes[0]
    for node in nodes:
        versions = node["versions"]
        if versions["python"] != here:
            cause = f"node {node['name']} has Python {versions['python']}, this machine {here}"
        elif missing := [name for name, version in versions.items() if not version]:
            cause = f"node {node['name']} lacks {', '.join(missing)}"
        elif other := [name for name in versions if versions[name] != first["versions"][name]]:
            name = other[0]
            cause = (
                f"node {node['name']} has {name} {versions[name]}, "
                f"node {first['name']} {first['versions'][name]}"
            )
        else:
            continue
        raise ClusterUnavailable(address, cause, "Start every node from one image built from this uv.lock")


def check_storage(address: str, nodes: Sequence[Mapping[str, Any]]) -> None:
    """Every node reads what the driver wrote and the driver reads what every node wrote.

    Raises:
        ClusterUnavailable: names the first node and folder where that is not so.
    """
    for node in nodes:
        for place, problem in node["storage"].items():
            if problem:
                raise ClusterUnavailable(
                    address,
                    f"node {node['name']}: {place} {problem}",
                    "Name a folder (--folder, --store, --runs) on storage that all nodes share",
                )


def check_resources(
    address: str, needs: Mapping[str, float], now: Mapping[str, float], at_most: Mapping[str, float] | None
) -> None:
    """The cluster has what is asked, or its autoscaler can fetch it.

    Raises:
        ClusterUnavailable: the job would wait for ever.
    """
    for name, amount in needs.items():
        there = max(now.get(name, 0.0), (at_most or {}).get(name, 0.0))
        if amount > there:
            raise ClusterUnavailable(
                address,
                f"the job asks for {amount:g} {name}, the cluster has {there:g} at most",
                "Ask for less (fewer workers, no --use-gpu) or add nodes",
            )
