"""Runs the trials of a sweep with Ray Tune: as many at once as there is room for, lost ones again.

Ray Tune places and watches the trials. What to try and what to stop is decided from the sweep's folder
(folder.py), because Tune's own memory is a pickle that is written every few seconds: after a kill it would
have lost trials, or begun them twice. Its actors are used again, so only the first trials pay for imports.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pipelines.config import TrackingConfig
from pipelines.errors import ClusterError
from pipelines.sweep.folder import Sweep, Trial
from pipelines.sweep.trial import resources, run_trial

if TYPE_CHECKING:
    from ray.tune.search import Searcher

RESTARTS = 3  # of a trial whose process or node was lost
_log = logging.getLogger(__name__)


def slots(sweep_section: Any) -> int:
    """How many trials the connected Ray can hold at once.

    Raises:
        ClusterError: not one.
    """
    import ray

    _, needed = resources(sweep_section)
    there = ray.cluster_resources()
    count = min(int(there.get(kind, 0.0) / amount) for kind, amount in needed.items())
    if count < 1:
        told = ", ".join(f"{amount:g} {kind} (of {there.get(kind, 0):g})" for kind, amount in needed.items())
        raise ClusterError(
            "one trial", f"needs {told}", "set num_workers lower, leave use_gpu out, or use a larger cluster"
        )
    return count


def run_trials(
    sweep: Sweep, concurrent: int, tracking: TrackingConfig, on_end: Callable[[Trial], None]
) -> None:
    """Runs every trial that has not ended, within the time budget.

    Args:
        sweep: on disk.
        concurrent: most trials at once.
        tracking: of the trials.
        on_end: told each trial that has ended, or was lost.

    Raises:
        ClusterError: trials were lost too often; the others have ended.
    """
    os.environ |= {"TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1", "RAY_AIR_NEW_OUTPUT": "0"}
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"  # it would end the command as if it had succeeded
    from ray import tune

    shutil.rmtree(sweep.folder / "ray", ignore_errors=True)
    logging.getLogger("ray.tune").setLevel(logging.ERROR)  # it misses files that it shall not write
    own, _ = resources(sweep.section)
    queue = _queue(sweep, concurrent, on_end)
    trainable = tune.with_resources(tune.with_parameters(run_trial, tracking=tracking), own)
    budget = sweep.tune.time_budget
    tuner = tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            search_alg=queue,
            num_samples=-1,
            reuse_actors=True,
            time_budget_s=60 * budget if budget else None,
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(sweep.folder / "ray"),
            failure_config=tune.FailureConfig(max_failures=RESTARTS),
            verbose=0,
        ),
    )
    results = tuner.fit()
    if results.errors:
        lines = [line for line in str(results.errors[0]).splitlines() if line.strip()]
        raise ClusterError(
            sweep.folder,
            f"{len(results.errors)} trials were lost {RESTARTS + 1} times, one with: {lines[-1].strip()}",
            "see the log above; the same command tries them again",
        )


def _queue(sweep: Sweep, concurrent: int, on_end: Callable[[Trial], None]) -> Searcher:
    """Made in a function, since Ray is slow to import and most commands never need it."""
    from ray.tune.search import Searcher

    class Queue(Searcher):
        """Hands out the trials in order, none before those have ended that it may depend on."""

        def __init__(self) -> None:
            super().__init__()  # without a metric: Tune ranks nothing here
            self.waiting = [trial.number for trial in sweep.trials() if not trial.ended]
            self.running: dict[str, int] = {}

        def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
            if not self.waiting:
                return Searcher.FINISHED
            number = self.waiting[0]
            oldest = min(self.running.values(), default=number)
            too_early = sweep.tune.in_order and oldest <= number - sweep.lag
            if len(self.running) >= concurrent or too_early:
                return None
            sweep.start(number)
            self.running[trial_id] = self.waiting.pop(0)
            return {"sweep": str(sweep.folder), "number": number}

        def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
            on_end(sweep.trial(self.running.pop(trial_id)))

        def save(self, checkpoint_path: str) -> None:
            """Nothing: the folder of the sweep is the memory."""

        def restore(self, checkpoint_path: str) -> None:
            """Never called: a sweep that goes on is a new experiment to Tune."""

    return Queue()
