"""How long the look around takes that goes before a job, on a head and two nodes of one machine.

    python benchmarks/bench_preflight.py [--runs 5] [--out FILE]

Starts them as tests/cluster/test_nodes.py does, each in a network namespace (so as root, with `ip`), waits
until they are quiet, and runs `aqa jobs submit --dry-run`. All nodes share this machine's processors, so a
cluster of as many machines is faster.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))
from tests.cluster.test_nodes import WORKERS, Nodes

QUIET_S = 20.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    text = json.dumps(measure(given.runs), indent=2)
    if given.out:
        given.out.write_text(text + "\n")
    print(text)


def measure(runs: int) -> dict[str, Any]:
    """Seconds of the look around by itself and of the whole command, each run."""
    folder = Path(tempfile.mkdtemp(prefix="aqa-", dir="/tmp"))  # Ray's sockets need a short path
    (folder / "work").mkdir()
    nodes = Nodes(folder)
    look, command = [], []
    try:
        with nodes.exits:
            nodes.start()
            time.sleep(QUIET_S)
            load = os.getloadavg()[0]
            for _ in range(runs):
                started = time.monotonic()
                code, found, stderr = nodes.aqa("submit", "--dry-run", "--", "data", "init", "x")
                if code != 0:
                    raise SystemExit(stderr)
                command.append(round(time.monotonic() - started, 1))
                look.append(found["cluster"]["seconds"])
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return {
        "nodes": 1 + len(WORKERS),
        "cores_here": os.cpu_count(),
        "load_at_begin": round(load, 1),
        "look_s": look,
        "look_median_s": statistics.median(look),
        "command_s": command,
    }


if __name__ == "__main__":
    main()
