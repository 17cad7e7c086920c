"""Runs one step of a workflow: does it, draws its card, keeps result or error, tells MLflow."""

from __future__ import annotations

import contextlib
import errno
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipelines.cards.of_step import card
from pipelines.errors import ClusterError, WriterError
from pipelines.exits import as_aqa_error
from pipelines.journal import Journal
from pipelines.redact import redact
from pipelines.steps import ACTIONS, tracking_of
from pipelines.tracking import begin, end, track
from pipelines.workflow_folder import NEEDS, Workflow, open_workflow

_PASSING = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN)
_log = logging.getLogger(__name__)


def open_parent(flow: Workflow) -> None:
    """Opens the workflow's run in MLflow, whose children the steps are; nothing is sent yet."""
    question = flow.question()
    told = {name: question[name] for name in ("manifest", "rendered", "first", "last")}
    begin(
        flow.config.tracking,
        flow.folder,
        {**told, **question["config"]},
        {"store": str(flow.store)},
        "workflow",
    )


def close_parent(flow: Workflow) -> None:
    """The workflow is finished; its page becomes an artifact, and MLflow gets what it lacks."""
    page = flow.folder / "report.html"
    if page.is_file():
        Journal(flow.folder).artifact(page)
    end(flow.folder, "FINISHED")


def run_step(step: str, folder: Path) -> dict[str, Any]:
    """Does a step here, or goes on with it where it stopped.

    Args:
        step: of `workflow_folder.NEEDS`.
        folder: of the workflow; the steps before it are done.

    Returns:
        Its result: small, JSON values. It lies in FOLDER/steps/STEP as well, beside card.html.

    Raises:
        AqaError: see errors.py; it lies in FOLDER/steps/STEP/error.json as well.
    """
    flow = open_workflow(folder)
    Journal(flow.folder).set_status("RUNNING")  # it may have failed before
    flow.note(step, "begin")
    try:
        with _tracked(flow, step):
            result = ACTIONS[step](flow, lambda line: _log.info("%-9s %s", step, line))
            _write_card(flow, step, result)
    except Exception as error:
        _keep_error(flow, step, error)
        raise
    flow.save_result(step, result)
    flow.note(step, "end")
    return result


def may_pass(error: BaseException) -> bool:
    """Whether the same step may succeed a moment later: a cluster, a lock or a network disk was busy or away.

    Bad input, wrong settings, refusals and bugs would come again.
    """
    if isinstance(error, OSError):
        return error.errno in _PASSING
    return isinstance(as_aqa_error(error), ClusterError | WriterError)


@contextlib.contextmanager
def _tracked(flow: Workflow, step: str) -> Iterator[None]:
    """A step is a child of the workflow's run; trainings are that by themselves.

    Short steps only write to their journal, which the next long one sends: to load MLflow takes longer.
    """
    tracked, tracking = flow.tracked_dir(step), tracking_of(flow)
    if tracked != flow.step_dir(step):
        yield
    elif step == "extract":
        with track(tracking, tracked, {}, {"store": str(flow.store)}, step):
            yield
    else:
        journal = begin(tracking, tracked, {}, {"store": str(flow.store)}, step)
        yield
        journal.set_status("FINISHED")


def _write_card(flow: Workflow, step: str, result: dict[str, Any]) -> None:
    path = flow.step_dir(step) / "card.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(card(flow, step, result), encoding="utf-8")
    if step == "report":
        shutil.copyfile(path, flow.folder / "report.html")
    journal = Journal(flow.tracked_dir(step))
    if journal.exists:  # a training that was skipped has no run
        journal.artifact(path)


def _keep_error(flow: Workflow, step: str, error: Exception) -> None:
    known = as_aqa_error(error)
    if known is None:
        told = {"kind": "Bug", "where": f"step {step}", "cause": _bug(error)}
        told["remedy"] = "see the traceback above, and report it"
    else:
        told = {"kind": type(known).__name__, "where": known.where, "cause": known.cause}
        told["remedy"] = known.remedy
    flow.save_error(step, redact(told))
    flow.note(step, "fail")
    child = Journal(flow.tracked_dir(step))
    if child.exists:  # not where a training was refused before it began
        child.set_status("FAILED")
    end(flow.folder, "FAILED")


def _bug(error: Exception) -> str:
    return f"bug: {type(error).__name__}: {str(error).rstrip('.')}"


def failure(folder: Path) -> dict[str, Any] | None:
    """The error of the first step that failed, in the order of the steps."""
    flow = open_workflow(folder)
    return next((found for step in NEEDS if (found := flow.error(step))), None)
