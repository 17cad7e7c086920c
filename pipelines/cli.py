"""The `aqa` command: parses the command line, calls one verb, prints its result. It computes nothing.

stdout carries the result and nothing else; log and progress go to stderr. Verbs import what they need when
they run, so that help and a wrong command line answer without loading Ray or torch.

Exit codes: 0 ok, 1 bug, 130 interrupted, 143 terminated (SIGTERM), and those of pipelines/errors.py.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Group, Parameter

from pipelines import __version__
from pipelines.call import Call
from pipelines.data_commands import data_app
from pipelines.exits import as_aqa_error
from pipelines.experiment_commands import experiment_app
from pipelines.flags import attach_settings, settings
from pipelines.jobs_commands import jobs_app
from pipelines.models_commands import models_app
from pipelines.pose_labels.commands import pose_app
from pipelines.redact import RedactingFormatter, redact
from pipelines.report_commands import evaluate, report, reproduce
from pipelines.result import Result, to_json
from pipelines.run_commands import run, run_step_app
from pipelines.score_commands import score
from pipelines.serve_commands import serve
from pipelines.store_commands import store_app
from pipelines.terminate import TERMINATED, TOLD, leave, terminable, terminated
from pipelines.tracking_commands import tracking_app
from pipelines.train_commands import train_app
from pipelines.tune_commands import tune_app

INTERRUPTED = 130

logger = logging.getLogger(__name__)

app = App(
    name="aqa",
    help="Action quality assessment: video to poses to honest scores, on this machine or a Ray cluster.",
    version=f"aqa {__version__}",
    version_flags=["--version"],
    help_format="plaintext",  # the markdown renderer alone would cost 0.1 s per call
    result_action="return_value",
    suppress_keyboard_interrupt=False,
)
config_app = App(name="config", help="The settings: every one of them, and where each value comes from.")
for child in (
    data_app, store_app, train_app, experiment_app, tune_app, config_app, pose_app, tracking_app, models_app,
    jobs_app, run_step_app,
):  # fmt: skip
    app.command(child)
for verb_of in (run, score, serve, evaluate, report, reproduce):
    app.command(verb_of)

app.meta.suppress_keyboard_interrupt = False  # not inherited; main() says how to go on

_GLOBAL = Group("Options of every command", sort_key=20)


_Call = Annotated[Call, Parameter(parse=False)]
_Store = Annotated[Path, Parameter(help="Folder of the feature store.")]
_DryRun = Annotated[bool, Parameter(help="Say what would be done; write nothing.", negative=())]


@app.command
def demo(*, folder: Path = Path("runs/demo"), call: _Call) -> Any:
    """Run the whole pipeline on rendered athletes: no network, no GPU, no data set needed.

    Example: aqa demo --folder runs/demo

    Parameters
    ----------
    folder
        Everything is written below it.
    """
    from pipelines import demo as verb

    result = verb.run(folder, say=logger.info)
    return Result(result, text="\n".join(verb.closing_lines(result)))


@app.command
@settings("extract")
def extract(
    manifest: Path | None = None,
    *,
    store: _Store,
    retry_rejected: Annotated[bool, Parameter(negative=())] = False,
    dry_run: _DryRun = False,
    call: _Call,
    **given: Any,
) -> Any:
    """Decode videos, estimate poses and commit them to the store; done clips are skipped.

    Example: aqa extract clips.csv --store store

    Parameters
    ----------
    manifest
        Clips table; without it, the clips already in the store.
    retry_rejected
        Try rejected clips again.
    """
    config = call.config(given)
    from pipelines import extract as verb

    return verb.extract(
        manifest,
        store,
        config.extract,
        dry_run=dry_run,
        retry_rejected=retry_rejected,
        progress=logger.info,
    )


@app.command
def doctor(*, call: _Call) -> Any:
    """What this machine has and lacks: versions, cores, GPU, decoders, Ray address, MLflow store, disk.

    Example: aqa doctor --json
    """
    from pipelines import doctor as verb

    rows = verb.report()
    return Result(rows, exit_code=2 if any(row["status"] == "missing" for row in rows) else 0)


@config_app.command
def show(*, call: _Call) -> Any:
    """Every setting, its value, and where the value comes from.

    Example: aqa config show --config run.toml
    """
    from pipelines.settings import flatten, resolve

    config, origins = resolve(call.config_file, os.environ)
    return [
        {"setting": path, "value": redact(value), "origin": origins[path]}
        for path, value in flatten(config).items()
    ]


@config_app.command
def template(*, call: _Call) -> Any:
    """A TOML file of all settings with their meaning, at their defaults.

    Example: aqa config template > run.toml
    """
    from pipelines.settings import write_template

    return write_template()


@app.meta.default
def _launch(
    *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
    config: Annotated[Path | None, Parameter(help="TOML file of settings.", group=_GLOBAL)] = None,
    json: Annotated[
        bool, Parameter(help="One JSON document on stdout.", negative=(), group=_GLOBAL, show_default=False)
    ] = False,
    verbose: Annotated[
        bool,
        Parameter(
            name=["--verbose", "-v"],
            help="Debug log, and tracebacks.",
            negative=(),
            group=_GLOBAL,
            show_default=False,
        ),
    ] = False,
    quiet: Annotated[
        bool, Parameter(help="Log warnings only.", negative=(), group=_GLOBAL, show_default=False)
    ] = False,
) -> Any:
    """Take the options of every command off the line, then run the verb with stdout kept for its result."""
    command, bound, ignored = app.parse_args(tokens, exit_on_error=False, print_error=False)
    if "call" not in ignored:  # --help and --version print by themselves
        return command(*bound.args, **bound.kwargs)
    _prepare(verbose=verbose, quiet=quiet)
    with contextlib.redirect_stdout(sys.stderr):
        return command(*bound.args, **bound.kwargs, call=Call(config, verbose, quiet))


def _prepare(*, verbose: bool, quiet: bool) -> None:
    """Logging to stderr, and no telemetry unless the user asked for it."""
    level = logging.DEBUG if verbose else logging.WARNING if quiet else logging.INFO
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(RedactingFormatter("%(message)s" if not verbose else "%(name)s: %(message)s"))
    for package in ("pipelines", "cluster"):
        logger = logging.getLogger(package)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")  # Ray reads it at import
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    # OpenMP threads that wait by spinning made small models 200 times slower beside one busy neighbour.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code; errors become one text on stderr."""
    with terminable():
        code = _main(arguments)
        if code == TERMINATED:
            leave()
        return code


def _main(arguments: Sequence[str] | None) -> int:
    tokens = list(sys.argv[1:] if arguments is None else arguments)
    own = tokens[: tokens.index("--")] if "--" in tokens else tokens  # the rest is the command of a job
    as_json, verbose = "--json" in own, "--verbose" in own or "-v" in own
    try:
        attach_settings(tokens)
        result = app.meta(tokens, exit_on_error=False, print_error=False)
        if not isinstance(result, Result):
            result = Result(result)
        if result.document is not None:
            print(result.as_json() if as_json else result.as_text())
            sys.stdout.flush()
    except BrokenPipeError:  # the reader (head, less) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        if terminated():
            return _fail("Terminated", ("aqa", TOLD.removeprefix("aqa: "), ""), TERMINATED, TOLD, as_json)
        cause = "interrupted; the same command resumes where it stopped"
        return _fail("Interrupted", ("aqa", cause, ""), INTERRUPTED, f"aqa: {cause}", as_json)
    except Exception as error:  # noqa: BLE001 - the one place where a bug becomes a text
        known = as_aqa_error(error)
        if verbose:
            print(redact("".join(traceback.format_exception(error))), file=sys.stderr)
        if known is None:
            cause = f"bug: {type(error).__name__}: {error}"
            remedy = "run again with --verbose and report the traceback"
            return _fail("Bug", ("aqa", cause, remedy), 1, f"{cause}; {remedy}", as_json)
        fields = (known.where, known.cause, known.remedy)
        return _fail(type(known).__name__, fields, known.exit_code, f"error: {known}", as_json)
    return result.exit_code


def _fail(kind: str, fields: tuple[str, str, str], exit_code: int, text: str, as_json: bool) -> int:
    print(redact(text), file=sys.stderr)
    if as_json:
        where, cause, remedy = redact(fields)
        document = {"type": kind, "where": where, "cause": cause, "remedy": remedy, "exit_code": exit_code}
        print(to_json({"error": document}))
    return exit_code
