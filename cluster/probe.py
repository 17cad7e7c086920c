"""Runs on the cluster as a job of its own: what every node has, in one line of JSON (see preflight.py)."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import socket
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cluster.connect import ClusterUnavailable, InsecureCluster, connect

MARK = "AQA-PROBE "
LIBRARIES = ("ray", "torch", "numpy", "pyarrow", "deltalake", "mlflow")


def look(places: Sequence[str], nonce: str) -> dict[str, Any]:
    """What this node has: name, versions, and for each folder what is wrong with it (empty: nothing).

    The driver has left a file named by `nonce` in each folder; each node adds one of its own.
    """
    versions = {"python": ".".join(platform.python_version_tuple()[:2])}
    for library in LIBRARIES:
        try:
            versions[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            versions[library] = ""
    answer, storage = uuid.uuid4().hex, {}
    for place in places:
        try:
            if not Path(place).is_dir():
                storage[place] = "does not exist there"
            elif not (Path(place) / f".aqa-{nonce}").is_file():
                storage[place] = "is another folder than on the node of the driver, not shared storage"
            else:
                (Path(place) / f".aqa-{nonce}-{answer}").touch()
                storage[place] = ""
        except OSError as error:
            storage[place] = f"cannot be written ({(error.strerror or str(error)).lower()})"
    return {"name": socket.gethostname(), "versions": versions, "storage": storage, "answer": answer}


def look_everywhere(places: Sequence[str]) -> dict[str, Any]:
    """`look` on every living node of the connected Ray, and its resources now and at most."""
    import ray
    from ray._private.state import state
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    nonce = uuid.uuid4().hex
    problems = {place: _leave(place, nonce) for place in places}
    usable = [place for place in places if not problems[place]]
    try:
        asked = [
            ray.remote(look)
            .options(num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], False))
            .remote(usable, nonce)
            for node in ray.nodes()
            if node["Alive"]
        ]
        nodes = ray.get(asked)
        for node in nodes:
            for place in usable:
                written = Path(place) / f".aqa-{nonce}-{node['answer']}"
                if not node["storage"][place] and not written.is_file():
                    node["storage"][place] = "is not seen by the node of the driver, not shared storage"
            node["storage"] |= {place: problem for place, problem in problems.items() if problem}
    finally:
        for place in usable:
            for left in Path(place).glob(f".aqa-{nonce}*"):
                left.unlink(missing_ok=True)
    return {
        "nodes": nodes,
        "now": ray.cluster_resources(),
        "at_most": state.get_max_resources_from_cluster_config(),
    }


def _leave(place: str, nonce: str) -> str:
    """Leaves the driver's file in a folder; says what is wrong, if anything."""
    try:
        (Path(place) / f".aqa-{nonce}").touch()
    except OSError as error:
        return f"cannot be written ({(error.strerror or str(error)).lower()})"
    return ""


def main(places: Sequence[str]) -> None:
    """Print what was found, or why Ray could not be joined."""
    try:
        with connect():
            found = look_everywhere(places)
    except ClusterUnavailable as error:
        found = {
            "refused": [error.address, error.cause, error.remedy],
            "insecure": isinstance(error, InsecureCluster),
        }
    print(MARK + json.dumps(found), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
