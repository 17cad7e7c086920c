"""How far a score may be off: from the errors the model made on clips it had never seen.

Split conformal prediction (Vovk et al. 2005; Lei et al. 2018): with n errors of clips like this one, the
true score lies within the k-th smallest absolute error, k = ceil((n + 1) x level), with at least that
probability. The errors are those of `aqa evaluate`, which lie in the run folder; a bundle keeps them too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.errors import CorruptError

LEVEL = 0.9
ERRORS = "errors.parquet"
"""What a bundle keeps of the run's predictions.parquet."""
_COLUMNS = ["subject_id", "action_type", "score", "predicted"]


@dataclass(frozen=True)
class Interval:
    """The interval of a score, or why there is none.

    Attributes:
        reach: points on either side; None = not known.
        clips: errors it comes from.
        subjects: people in them.
        reason: where it comes from, or why it is not known.
    """

    reach: float | None
    clips: int
    subjects: int
    reason: str


def interval_of(run: Path, action_type: str) -> Interval:
    """The interval of scores of a run.

    Args:
        run: run folder, its model folder, or the data of a bundle.
        action_type: errors of this one are taken if they are enough, else those of all.

    Raises:
        CorruptError: the file of the errors cannot be read.
    """
    of_run = (run.parent if run.name == "model" else run) / "predictions.parquet"
    path = run / ERRORS if (run / ERRORS).is_file() else of_run
    if not path.is_file():
        return Interval(None, 0, 0, "the run was never evaluated: run `aqa evaluate` on it first")
    try:
        rows = [row for row in pq.read_table(path, columns=_COLUMNS).to_pylist() if row["score"] is not None]
    except (pa.ArrowException, OSError) as error:
        raise CorruptError(path, "is not readable as Parquet", "delete it and evaluate again") from error
    alike = [row for row in rows if row["action_type"] == action_type]
    for chosen, whose in ((alike, f"test clips of {action_type}"), (rows, "test clips")):
        errors = np.array([abs(row["predicted"] - row["score"]) for row in chosen])
        reach = conformal_reach(errors, LEVEL)
        if reach is not None:
            people = len({row["subject_id"] or row_number for row_number, row in enumerate(chosen)})
            told = f"errors of {len(chosen)} {whose}; on other people it may be wider"
            return Interval(reach, len(chosen), people, told)
    fewest = math.ceil(LEVEL / (1 - LEVEL) - 1e-9)
    return Interval(None, len(rows), 0, f"{len(rows)} test clips are too few, {fewest} are needed")


def write_errors(run: Path, path: Path) -> None:
    """Keeps what `interval_of` reads of an evaluated run; people become numbers."""
    rows = pq.read_table(run / "predictions.parquet", columns=_COLUMNS)
    people = rows["subject_id"].dictionary_encode().combine_chunks().indices.cast(pa.string())
    pq.write_table(rows.set_column(0, "subject_id", people), path, compression="zstd")


def conformal_reach(errors: np.ndarray, level: float) -> float | None:
    """Half the width of an interval that holds the next error with probability `level`.

    Args:
        errors: (n,) absolute errors, exchangeable with the next one.
        level: above 0 and below 1.

    Returns:
        The ceil((n + 1) x level)-th smallest error; None where n is too small for that.
    """
    rank = math.ceil((len(errors) + 1) * level - 1e-9)
    return float(np.sort(errors)[rank - 1]) if rank <= len(errors) else None
