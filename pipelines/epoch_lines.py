"""Tells a person how far a training is, wherever its workers run."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

EVERY_S = 60.0
_LAST = 20  # epochs from which the time of the others is estimated


@contextlib.contextmanager
def epoch_lines(run_dir: Path, epochs: int, say: Callable[[str], None]) -> Iterator[None]:
    """Say every minute which epoch of a run is done, while the block trains it.

    What is said is read from RUN/metrics.jsonl, which the first worker writes on whatever node it is: of what
    workers elsewhere print nothing reaches this process.

    Args:
        run_dir: folder of the run.
        epochs: how many it will be.
        say: receives the lines, in a thread.
    """
    from pipelines.loop import read_metrics

    ended = threading.Event()

    def tell() -> None:
        while not ended.wait(EVERY_S):
            rows = read_metrics(run_dir / "metrics.jsonl")
            if rows:
                say(line_of(rows, epochs))

    thread = threading.Thread(target=tell, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def line_of(rows: Sequence[dict[str, Any]], epochs: int) -> str:
    """What a person sees of a training.

    Args:
        rows: of metrics.jsonl.
        epochs: how many it will be.
    """
    last = rows[-1]
    done = last["epoch"] + 1
    losses = [f"{name} {last[name]:.4g}" for name in ("loss", "val_loss") if name in last]
    times = [row["seconds"] for row in rows[-_LAST:] if "seconds" in row]
    remaining = round(sum(times) / max(1, len(times)) * (epochs - done))
    return ", ".join([f"epoch {done}/{epochs}", *losses, f"ETA {remaining // 60}:{remaining % 60:02d}"])
