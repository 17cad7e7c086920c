"""`aqa run` on the command line: the verbs as one workflow."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from pipelines.call import Call
from pipelines.flags import dotted, settings
from pipelines.result import Result

if TYPE_CHECKING:
    from pipelines.workflow_folder import Workflow

_Call = Annotated[Call, Parameter(parse=False)]
RENDERED_SETTINGS = Path(__file__).parent / "rendered" / "workflow.toml"

run_step_app = App(name="run-step", show=False)


@settings("run")
def run(
    manifest: Path | None = None,
    *,
    folder: Path = Path("runs/workflow"),
    store: Path | None = None,
    rendered: Annotated[bool, Parameter(negative=())] = False,
    first: Annotated[str, Parameter(name="--from")] = "",
    last: Annotated[str, Parameter(name="--until")] = "",
    address: str = "",
    call: _Call,
    **given: Any,
) -> Any:
    """Run all verbs as one workflow: import, plan, extract, train both models, evaluate, report.

    The same command goes on where it stopped. Settings of the single verbs: a TOML file, or AQA_SECTION__KEY.

    Example: aqa run clips.csv --folder runs/all --config run.toml

    Parameters
    ----------
    manifest
        Clips table; without it, what the store holds.
    folder
        Everything is written below it.
    store
        Folder of the feature store; else FOLDER/store.
    rendered
        Render athletes and work on them, by small settings of their own if no --config is given.
    first
        Step to begin with: import, plan, extract, pretrain, expert, hp-mcore, evaluate or report.
    last
        Step to end with.
    address
        Dashboard of a Ray cluster that runs each step as a job, e.g. http://10.0.0.1:8265.
    """
    from pipelines.settings import ENVIRONMENT_PREFIX
    from pipelines.workflow_folder import URI_VARIABLE

    for path, text in dotted(given).items():  # this way they reach the steps as well
        os.environ[ENVIRONMENT_PREFIX + path.upper().replace(".", "__")] = text
    texts = {"manifest": manifest, "store": store, "config": call.config_file}
    told = {name: str(value) if value else "" for name, value in texts.items()}
    told |= {"address": address, "first": first, "last": last}
    flow = describe(folder, rendered=rendered, run="", **told)
    _look_at_input(flow)
    if flow.config.tracking.uri:
        os.environ[URI_VARIABLE] = flow.config.tracking.uri
    return _result(_run(flow, told), flow.folder)


@run_step_app.default
def run_step(step: str, *, folder: Path, run: str, call: _Call) -> Any:
    """One step of a workflow, as a job of `aqa run --address`.

    Example: aqa run-step extract --folder /shared/runs/all --run 3f2a9c01

    Parameters
    ----------
    step
        Name of the step.
    folder
        Folder of the workflow.
    run
        Names the run of the workflow, so that the next one is not taken for this one.
    """
    from pipelines.run_step import run_step as do

    check_step("STEP", step)
    return do(step, folder)


def describe(
    folder: Path,
    *,
    manifest: str,
    store: str,
    rendered: bool,
    config: str,
    address: str,
    first: str,
    last: str,
    run: str,
) -> Workflow:
    """What to work on, with the settings resolved from file and environment.

    Raises:
        ConfigError: settings or steps are wrong, or contradict each other.
    """
    from pipelines.errors import ConfigError
    from pipelines.settings import load_config
    from pipelines.workflow_folder import Workflow, before

    for flag, name in (("--from", first), ("--until", last)):
        if name:
            check_step(flag, name)
    if rendered and manifest:
        raise ConfigError("--rendered", f"contradicts the clips table {manifest}", "give one of them")
    if first and last and first != last and first not in before(last):
        cause = f"{last} does not come after {first}"
        raise ConfigError("--until", cause, "see `aqa run --help` for the order")
    file = Path(config) if config else RENDERED_SETTINGS if rendered else None
    folder = folder.absolute()
    return Workflow(
        folder=folder,
        run=run,
        manifest=Path(manifest).absolute() if manifest else None,
        rendered=rendered,
        store=Path(store).absolute() if store else folder / "store",
        address=address,
        first=first,
        last=last,
        config=load_config(file, os.environ),
    )


def _look_at_input(flow: Workflow) -> None:
    """The first step would refuse it as well, but only after the workflow has started.

    Raises:
        DataError, StorageError: the clips table is wrong, or there is no store, or no clip in it.
    """
    if flow.rendered or flow.address or "import" not in flow.steps:
        return
    from pipelines.datasets.manifest import read_manifest
    from pipelines.steps import read_clips
    from pipelines.workflow_folder import open_workflow

    if _unfinished(flow) and open_workflow(flow.folder).done("import"):
        return

    if flow.manifest is not None:
        read_manifest(flow.manifest)
    else:
        read_clips(flow.store)


def check_step(where: str, name: str) -> None:
    """ConfigError if there is no step of this name."""
    from pipelines.errors import ConfigError
    from pipelines.workflow_folder import NEEDS

    if name not in NEEDS:
        raise ConfigError(where, f"there is no step {name!r}", f"the steps are {', '.join(NEEDS)}")


def do_step(name: str, folder: Path) -> tuple[dict[str, Any], Path]:
    """Do a step of a workflow here or as a job, or say why it is not done; its result, and its page.

    Raises:
        AqaError: it failed, or a step that another one needs was not done.
    """
    from pipelines.run_step import run_step as do
    from pipelines.workflow_folder import before, open_workflow

    flow = open_workflow(folder)
    page = flow.step_dir(name) / "card.html"
    if flow.done(name):  # and killed before Metaflow took note of it
        return flow.result(name), page
    if name in flow.steps:
        if flow.address:
            _do_as_job(name, flow)
        else:
            do(name, flow.folder)
    elif name not in set().union(*map(before, flow.steps)):
        return {"skipped": "outside of --from and --until"}, page
    return flow.result(name), page


def _do_as_job(name: str, flow: Workflow) -> None:
    """Its job has the same name in every attempt, so that one which has succeeded is not run again."""
    from pipelines.errors import ClusterError
    from pipelines.jobs_commands import submit

    command = ("run-step", name, "--folder", str(flow.folder), "--run", flow.run)
    done = submit(*command, address=flow.address, folder=flow.folder, call=Call())
    if done.exit_code:
        _raise(flow.error(name))
        raise ClusterError(
            done.document["job"], f"ended with exit code {done.exit_code}", "see its log with `aqa jobs logs`"
        )


def _run(flow: Workflow, told: dict[str, str]) -> int:
    """Start the flow, or resume its last run; the exit code of Metaflow."""
    home = flow.folder / ".metaflow"
    os.environ |= {  # of the user's own Metaflow nothing is used, and nothing is written to the home folder
        "METAFLOW_HOME": str(home / "home"),
        "METAFLOW_DATASTORE_SYSROOT_LOCAL": str(flow.folder),
        "METAFLOW_CARD_LOCALROOT": str(home / "mf.cards"),
        "METAFLOW_DEFAULT_DATASTORE": "local",
        "METAFLOW_DEFAULT_METADATA": "local",
        "MPLCONFIGDIR": os.environ.get("MPLCONFIGDIR", str(home / "matplotlib")),  # its list of fonts
    }
    from pipelines import workflow

    file = home / "run_id"
    home.mkdir(parents=True, exist_ok=True)
    common = ["--run-id-file", str(file), "--max-workers", "2"]
    if file.is_file() and _unfinished(flow):
        origin = file.read_text().strip()
        return workflow.run_flow(["--no-pylint", "resume", "--origin-run-id", origin, *common])
    given = {**told, "folder": str(flow.folder), "rendered": str(flow.rendered)}
    names = {"first": "from", "last": "until"}
    options = [word for name, text in given.items() for word in (f"--{names.get(name, name)}", text)]
    return workflow.run_flow(["--no-pylint", "run", *common, *options])


def _unfinished(flow: Workflow) -> bool:
    """Whether the folder holds a run of the same workflow that has not come to its end."""
    from pipelines.workflow_folder import RECORD, open_workflow

    if not (flow.folder / RECORD).is_file():
        return False
    earlier = open_workflow(flow.folder)
    return earlier.question() == flow.question() and not earlier.done("end")


def _result(code: int, folder: Path) -> Result:
    from pipelines.errors import ClusterError
    from pipelines.run_step import failure
    from pipelines.workflow_folder import NEEDS, RECORD, open_workflow

    if code:
        _raise(failure(folder) if (folder / RECORD).is_file() else None)
        raise ClusterError(folder, "a step ended without an error of its own", "see the log above; run again")
    flow = open_workflow(folder)
    if "report" not in flow.steps:
        return Result({step: flow.result(step) for step in NEEDS if step in flow.steps})
    found = flow.result("report")
    lines = [line for run, metrics in found["metrics"].items() for line in (run, *metrics["lines"], "")]
    return Result(found, text="\n".join([*lines, f"report  {found['report']}"]))


def _raise(error: dict[str, Any] | None) -> None:
    """The error that a step has left, if any."""
    from pipelines import errors

    if error is None:
        return
    kind = getattr(errors, error["kind"], errors.AqaError)
    raise kind(error["where"], error["cause"], error["remedy"])
