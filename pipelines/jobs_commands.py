"""`aqa jobs ...` on the command line: the same commands as jobs on a Ray cluster."""

from __future__ import annotations

import itertools
import logging
import os
import shlex
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from pipelines.call import Call
from pipelines.result import Result

if TYPE_CHECKING:
    from cluster.jobs import Jobs

jobs_app = App(name="jobs", help="Commands as jobs on a Ray cluster: submit, follow, stop.")

DEFAULT_ADDRESS = "http://127.0.0.1:8265"
PLACES = ("--store", "--runs", "--out")
"""Options that name a folder the cluster writes."""

logger = logging.getLogger(__name__)

_Call = Annotated[Call, Parameter(parse=False)]
_Job = Annotated[str, Parameter(help="Name of the job, as `aqa jobs list` shows it.")]
_Address = Annotated[
    str,
    Parameter(
        help=f"Dashboard of the cluster; else RAY_API_SERVER_ADDRESS, else {DEFAULT_ADDRESS}.",
        show_default=False,
    ),
]
_Insecure = Annotated[
    bool,
    Parameter(help="Use a cluster without a token although others can reach it.", negative=()),
]


@jobs_app.command
def submit(
    *command: Annotated[str, Parameter(allow_leading_hyphen=True)],
    address: _Address = "",
    folder: Path = Path(),
    again: Annotated[bool, Parameter(negative=())] = False,
    wait: bool = True,
    insecure: _Insecure = False,
    dry_run: Annotated[bool, Parameter(help="Look and say; start no job.", negative=())] = False,
    call: _Call,
) -> Any:
    """Run a command on the cluster and follow its log; the same call twice runs it once.

    Example: aqa jobs submit --folder /shared/work -- extract clips.csv --store store

    Parameters
    ----------
    command
        What would stand after `aqa`, behind `--`.
    folder
        Folder on the cluster in which the command runs; relative paths begin there.
    again
        Run again although the same job has succeeded.
    wait
        Follow the job to its end and return its exit code; Ctrl-C leaves it running.
    """
    needs = check_command(command)
    from cluster import package, preflight, secret

    place = str(folder.absolute())
    variables = variables_of(os.environ) | ({"AQA_ALLOW_INSECURE_RAY": "1"} if insecure else {})
    with tempfile.TemporaryDirectory(prefix="aqa-job-") as scratch:
        jobs = _jobs(address, insecure=insecure)
        built = package.build(Path(scratch), secrets=secret.values_of(os.environ))
        logger.info("package  %s", built)
        if variables:
            logger.info("passed on  %s", ", ".join(sorted(variables)))
        found = preflight.inspect(jobs, built, places_of(command, place), needs)
        logger.info("cluster  %s", ", ".join(f"{name} {value}" for name, value in found.items()))
        if dry_run:
            return {"package": str(built), "digest": built.digest, "cluster": found, "needs": needs}
        sent = jobs.submit(command, built, folder=place, variables=variables, again=again)
    logger.info("job      %s%s", sent.name, "" if sent.new else " (sent before; not run twice)")
    if not wait:
        return jobs.status(sent.name) | {"new": sent.new}
    return _followed(jobs, sent.name, logger.info)


@jobs_app.command
def status(job: _Job, *, address: _Address = "", insecure: _Insecure = False, call: _Call) -> Any:
    """State, exit code and duration of a job.

    Example: aqa jobs status aqa-extract-0f3c5a7b9d1e-1
    """
    return _jobs(address, insecure=insecure).status(job)


@jobs_app.command
def logs(
    job: _Job,
    *,
    follow: Annotated[bool, Parameter(negative=())] = False,
    address: _Address = "",
    insecure: _Insecure = False,
    call: _Call,
) -> Any:
    """What a job has printed.

    Example: aqa jobs logs aqa-extract-0f3c5a7b9d1e-1 --follow

    Parameters
    ----------
    follow
        Go on until the job ends, and return its exit code.
    """
    jobs = _jobs(address, insecure=insecure)
    if follow:
        return _followed(jobs, job, logger.info)
    from cluster import secret

    text = secret.redacted(jobs.logs(job), secret.values_of(os.environ))
    return Result({"job": job, "log": text}, text=text.rstrip("\n") or "(nothing yet)")


@jobs_app.command
def stop(job: _Job, *, address: _Address = "", insecure: _Insecure = False, call: _Call) -> Any:
    """Stop a job; submitting it again resumes it.

    Example: aqa jobs stop aqa-extract-0f3c5a7b9d1e-1
    """
    return _jobs(address, insecure=insecure).stop(job)


@jobs_app.command(name="list")
def list_(*, address: _Address = "", insecure: _Insecure = False, call: _Call) -> Any:
    """All jobs of this program on the cluster, newest first.

    Example: aqa jobs list --json
    """
    rows = _jobs(address, insecure=insecure).list()
    return Result(rows, text="" if rows else "no jobs")


def check_command(command: Sequence[str]) -> dict[str, float]:
    """Parse and validate a command here, before anything is sent.

    Returns:
        What it will ask of the cluster at once: {"CPU": workers, "GPU": workers}, or less.

    Raises:
        ConfigError: no command, one that is no job, or an invalid one.
    """
    from cyclopts import CycloptsError

    from pipelines.cli import app
    from pipelines.errors import ConfigError
    from pipelines.exits import usage_error
    from pipelines.flags import attach_settings, section_of

    if not command or command[0].startswith("-"):
        raise ConfigError("command line", "no command is given", "Write it behind --, see the example")
    if command[0] in ("jobs", "config"):
        raise ConfigError("command line", f"`aqa {command[0]}` is no job", "Run it here")
    attach_settings(command)
    line = f"`aqa {shlex.join(command)}`"
    nothing = ConfigError("command line", f"{line} does nothing", "Add what it should do")
    try:
        launch, whole, _ = app.meta.parse_args(list(command), exit_on_error=False, print_error=False)
        if launch is not app.meta.default_command:  # --help or --version
            raise nothing
        verb, bound, ignored = app.parse_args(whole.args, exit_on_error=False, print_error=False)
    except CycloptsError as error:
        raise usage_error(error, line) from error
    if "call" not in ignored:
        raise nothing
    file = whole.arguments.get("config")
    return _needs(section_of(verb), file if file and file.is_file() else None, bound.arguments)


def _needs(section: str, file: Path | None, arguments: dict[str, Any]) -> dict[str, float]:
    if not section:
        return {}
    given = next((value for value in arguments.values() if isinstance(value, dict)), arguments)
    settings = {name: value for name, value in given.items() if "__" in name}
    config = getattr(Call(file).config(settings), section)
    workers = getattr(config, "num_workers", 0)
    gpus = max(1, workers) if getattr(config, "use_gpu", False) else 0
    return {name: float(n) for name, n in (("CPU", workers), ("GPU", gpus)) if n}


def places_of(command: Sequence[str], folder: str) -> list[str]:
    """Folders that every node must reach: the job's own, and those that options name elsewhere."""
    places = [folder]
    for option, value in _options(command):
        path = Path(value)
        if option in PLACES and path.is_absolute() and not path.is_relative_to(folder):
            places.append(str(path if path.is_dir() else path.parent))
    return list(dict.fromkeys(places))


def _options(command: Sequence[str]) -> list[tuple[str, str]]:
    """(--name, value) pairs of `--name value` and `--name=value`."""
    pairs = [(a, b) for a, b in itertools.pairwise(command) if a.startswith("--") and "=" not in a]
    return pairs + [(a, b) for a, equals, b in (word.partition("=") for word in command) if equals]


def variables_of(environment: Mapping[str, str]) -> dict[str, str]:
    """Settings in this environment that the job shall have too: AQA_SECTION__KEY, MLFLOW_TRACKING_URI."""
    return {
        name: value
        for name, value in environment.items()
        if (name.startswith("AQA_") and "__" in name) or name == "MLFLOW_TRACKING_URI"
    }


def _jobs(address: str, *, insecure: bool) -> Jobs:
    from cluster.connect import ALLOW_INSECURE
    from cluster.jobs import Jobs

    if insecure:
        os.environ[ALLOW_INSECURE] = "1"
    return Jobs(address or os.environ.get("RAY_API_SERVER_ADDRESS") or DEFAULT_ADDRESS)


def _followed(jobs: Jobs, job: str, write: Callable[[str], None]) -> Result:
    try:
        code = jobs.follow(job, write)
    except KeyboardInterrupt:
        write(f"the job goes on; `aqa jobs logs {job} --follow` takes it up, `aqa jobs stop {job}` stops it")
        raise
    return Result(jobs.status(job), exit_code=code)
