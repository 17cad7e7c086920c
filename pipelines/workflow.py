"""The steps as a Metaflow flow, and the only file that imports metaflow.

    python -m pipelines.workflow show                              the steps
    python -m pipelines.workflow run --folder runs/all --manifest clips.csv --config run.toml
    python -m pipelines.workflow resume                            goes on with the last run that failed
    python -m pipelines.workflow card view extract                 pictures of a step

`aqa run` does the same with its records in the folder of the workflow. Metaflow's records lie in ./.metaflow,
unless METAFLOW_DATASTORE_SYSROOT_LOCAL says otherwise. Everything a step finds lies in the folder of the
workflow as well (workflow_folder.py); artifacts of Metaflow are the small results alone.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import traceback
import uuid
from pathlib import Path
from typing import Any

from metaflow import FlowSpec, Parameter, card, current, retry, step
from metaflow.cards import MetaflowCard
from metaflow.exception import METAFLOW_EXIT_DISALLOW_RETRY
from metaflow.plugins import CARDS

from pipelines.exits import as_aqa_error
from pipelines.redact import redact

RETRIES = 2
RETRY_WAIT_S = 10.0
_tries = retry(times=RETRIES, minutes_between_retries=1)  # the minute is for Argo; here _do waits


class StepPage(MetaflowCard):
    """Shows the page that the step has written; Metaflow's own cards load fonts from other servers."""

    type = "aqa_page"

    def __init__(self, options: Any = None, components: Any = None, graph: Any = None, **_: Any):
        self.options = options

    def render(self, task: Any) -> str:
        """The page of a task."""
        page = Path(task["page"].data)
        return page.read_text(encoding="utf-8") if page.is_file() else "<p>This step was not done.</p>"


CARDS.append(StepPage)
_page = card(type=StepPage.type, save_errors=False)


class AqaWorkflow(FlowSpec):
    """From videos to a report: import, plan, extract, train both models, evaluate."""

    folder = Parameter("folder", default="runs/workflow", help="Everything is written below it.")
    manifest = Parameter("manifest", default="", help="Clips table; empty = what the store holds.")
    store = Parameter("store", default="", help="The feature store; empty = FOLDER/store.")
    rendered = Parameter("rendered", default=False, help="Render athletes and work on them.")
    config = Parameter("config", default="", help="TOML file of settings, see `aqa config template`.")
    address = Parameter("address", default="", help="Dashboard of a Ray cluster that runs the steps as jobs.")
    first = Parameter("from", default="", help="Step to begin with; those before it are done.")
    last = Parameter("until", default="", help="Step to end with.")

    @step
    def start(self):
        """Fix the settings for all steps, and open the run in MLflow."""
        _prepare()
        self.result = _or_exit(self._open)
        self.next(self.import_clips)

    @_page
    @_tries
    @step
    def import_clips(self):
        """Bring the clips table to the store."""
        self._do("import")
        self.next(self.plan)

    @_page
    @_tries
    @step
    def plan(self):
        """What is to be extracted; refuses early what cannot work."""
        self._do("plan")
        self.next(self.extract)

    @_page
    @_tries
    @step
    def extract(self):
        """Poses and features of the clips."""
        self._do("extract")
        self.next(self.pretrain, self.hp_mcore)

    @_page
    @_tries
    @step
    def pretrain(self):
        """The non-expert learns from healthy motion."""
        self._do("pretrain")
        self.next(self.expert)

    @_page
    @_tries
    @step
    def expert(self):
        """The expert learns scores."""
        self._do("expert")
        self.next(self.evaluate)

    @_page
    @_tries
    @step
    def hp_mcore(self):
        """HP-MCoRe learns scores of dives."""
        self._do("hp-mcore")
        self.next(self.evaluate)

    @_page
    @_tries
    @step
    def evaluate(self, inputs):
        """Scores of people and dives no training has seen."""
        self._do("evaluate")
        self.next(self.report)

    @_page
    @_tries
    @step
    def report(self):
        """All results on one page."""
        self._do("report")
        self.next(self.end)

    @step
    def end(self):
        """Close the run in MLflow."""
        from pipelines.run_step import close_parent
        from pipelines.workflow_folder import open_workflow

        flow = open_workflow(Path(self.folder))
        close_parent(flow)
        flow.note("end", "end")

    def _open(self) -> dict[str, Any]:
        from pipelines.run_commands import describe
        from pipelines.run_step import open_parent

        given = {name: getattr(self, name) for name in _TEXTS}
        flow = describe(Path(self.folder), rendered=self.rendered, run=uuid.uuid4().hex[:8], **given)
        flow.save()
        open_parent(flow)
        return {"run": flow.run, "steps": sorted(flow.steps)}

    def _do(self, name: str) -> None:
        """A step, its result as the artifact `result`; an error that would come again is not retried."""
        from pipelines.run_commands import do_step

        _prepare()
        if current.retry_count:
            time.sleep(RETRY_WAIT_S)
        self.result, page = _or_exit(lambda: do_step(name, Path(self.folder)))
        self.page = str(page)


_TEXTS = ("manifest", "store", "config", "address", "first", "last")


def _or_exit(action: Any) -> Any:
    """What the action returns; its error becomes a line, and an exit code that Metaflow retries or not."""
    from pipelines.run_step import may_pass

    try:
        return action()
    except Exception as error:  # noqa: BLE001 - every error becomes an exit code
        known = as_aqa_error(error)
        if known is None:
            print(redact(traceback.format_exc()), file=sys.stderr)
        else:
            print(redact(f"error: {known}"), file=sys.stderr)
        sys.exit(1 if may_pass(error) else METAFLOW_EXIT_DISALLOW_RETRY)


def _prepare() -> None:
    """Log to stderr, and end with the process that started the step: nobody would collect its result."""
    from pipelines.cli import _prepare as prepare

    prepare(verbose=False, quiet=False)
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def run_flow(arguments: list[str]) -> int:
    """Run a command of Metaflow in this process; its exit code.

    Raises:
        KeyboardInterrupt: on Ctrl-C, which Metaflow itself reports as a failure; the steps are ended.
    """
    _prepare_steps()
    sys.argv = [str(Path(__file__).resolve()), *arguments]
    interrupts = []

    def interrupt(number: int, frame: Any) -> None:
        interrupts.append(number)
        raise KeyboardInterrupt

    usual = signal.signal(signal.SIGINT, interrupt)
    try:
        AqaWorkflow()
    except SystemExit as end:
        if interrupts:
            raise KeyboardInterrupt from None
        return end.code if isinstance(end.code, int) else int(bool(end.code))
    finally:
        signal.signal(signal.SIGINT, usual)
    return 0


def _prepare_steps() -> None:
    """Metaflow starts steps as scripts, but modules beside this file must not hide others of their name."""
    root, paths = (
        str(Path(__file__).resolve().parent.parent),
        os.environ.get("PYTHONPATH", "").split(os.pathsep),
    )
    os.environ["PYTHONSAFEPATH"] = "1"
    os.environ["PYTHONPATH"] = os.pathsep.join([root, *(path for path in paths if path not in ("", root))])
    if os.environ.get("USER", "root") == "root":
        os.environ.setdefault("USERNAME", "aqa")  # it refuses to work for root


if __name__ == "__main__":
    _prepare_steps()
    AqaWorkflow()
