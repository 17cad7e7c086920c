"""`aqa experiment table1 | table2 | table3` on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from pipelines.call import Call
from pipelines.flags import settings
from pipelines.result import Result

experiment_app = App(
    name="experiment", help="Tables of the two-stage paper: every row over subject splits, beside floors."
)

_Call = Annotated[Call, Parameter(parse=False)]
_Data = Annotated[Path, Parameter(help="Folder of data sets: kimore, nw_ucla, utkinect, infants, ...")]
_Out = Annotated[Path, Parameter(help="Folder of the experiment; the same folder goes on where it stopped.")]


@experiment_app.command
@settings("experiment")
def table1(
    *, data: _Data, out: _Out = Path("runs/table1"), store: Path | None = None, call: _Call, **given: Any
) -> Any:
    """KIMORE scores: the paper's model, its ablations, ours and floors, on splits by subject.

    Example: aqa experiment table1 --data DATA --out runs/table1 --cores 2

    Parameters
    ----------
    store
        Feature store with poses and C3D features of scored video; without it drawn athletes stand in.
    """
    return _run("table1", data, out, call, given, store)


@experiment_app.command
@settings("experiment")
def table2(*, data: _Data, out: _Out = Path("runs/table2"), call: _Call, **given: Any) -> Any:
    """Pretexts of the non-expert compared: KIMORE scores, and recognition of NW-UCLA's actions.

    Example: aqa experiment table2 --data DATA --out runs/table2 --cores 2
    """
    return _run("table2", data, out, call, given)


@experiment_app.command
@settings("experiment")
def table3(*, data: _Data, out: _Out = Path("runs/table3"), call: _Call, **given: Any) -> Any:
    """Infants in four classes of risk, in folds by infant; without them drawn people.

    Example: aqa experiment table3 --data DATA --out runs/table3
    """
    return _run("table3", data, out, call, given)


def _run(
    table: str, data: Path, out: Path, call: Call, given: dict[str, Any], store: Path | None = None
) -> Result:
    config = call.config(given)
    from pipelines import experiment
    from pipelines.experiments.table import markdown

    document = experiment.run(table, data, out, config.experiment, config.tracking, store=store)
    return Result(document, text=f"{markdown(document)}\nWritten to {out}, with a picture.")
