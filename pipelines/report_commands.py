"""`aqa evaluate`, `aqa report` and `aqa reproduce` on the command line."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from pipelines.call import Call
from pipelines.errors import ConfigError
from pipelines.flags import settings
from pipelines.result import Result

logger = logging.getLogger(__name__)

_Call = Annotated[Call, Parameter(parse=False)]
_Compare = Annotated[
    tuple[Path, ...],
    Parameter(
        negative=(),
        show_default=False,
        consume_multiple=True,
        help="Compare with these evaluated runs, on the same test clips.",
    ),
]


@settings("evaluate")
def evaluate(
    run: Path | None = None,
    *,
    store: Path | None = None,
    compare: _Compare = (),
    out: Path | None = None,
    call: _Call,
    **given: Any,
) -> Any:
    """Measure a trained run on the test split, beside the median predictor, or compare runs.

    Example: aqa evaluate runs/es5 --store store

    Parameters
    ----------
    run
        Run of `aqa train expert`, `aqa train angles` or `aqa train hp-mcore`; the first of a comparison.
    store
        Folder of the feature store; without it only runs that were evaluated before are compared.
    out
        Write the comparison to this .md or .csv file.
    """
    config = call.config(given)
    from pipelines import evaluate as verb

    if not compare:
        if run is None or store is None:
            missing = "RUN" if run is None else "--store"
            raise ConfigError(
                "aqa evaluate", f"{missing} is missing", "give RUN --store STORE, or --compare RUN RUN"
            )
        metrics = verb.evaluate(run, store, config)
        return Result(metrics, text="\n".join(verb.metrics_lines(metrics)))
    from pipelines import compare_runs

    runs = [*([run] if run else []), *compare]
    if store is not None:
        for one in runs:
            verb.evaluate(one, store, config)
    result = compare_runs.compare(runs, config.evaluate)
    if out:
        compare_runs.write(result, out)
    return Result(result, text="\n".join(compare_runs.lines(result)))


def reproduce(run: Path, *, out: Path | None = None, store: Path | None = None, call: _Call) -> Any:
    """Train a run again from its record, on the same versions of the store, and say what differs.

    Example: aqa reproduce runs/es5

    Parameters
    ----------
    run
        Folder of a finished run.
    out
        Folder of the new run; else RUN-again beside it.
    store
        Where the store of the training is now, if it was moved.
    """
    from pipelines import reproduce as verb

    result = verb.reproduce(run, out, store)
    return Result(result, text="\n".join(verb.lines(result)))


def report(path: Path, *, out: Path = Path("report.html"), store: Path | None = None, call: _Call) -> Any:
    """Write one page about a training run, a sweep or a store: one HTML file that opens offline and prints.

    Example: aqa report runs/es5 --out es5.html

    Parameters
    ----------
    path
        Folder of a run, a sweep or a feature store.
    out
        The .html file to write.
    store
        Where the store of the run is now, if it was moved.
    """
    from pipelines import report as verb

    return verb.report(path, out, store)
