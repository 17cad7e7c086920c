"""The whole job on built-in data: render, extract, pretrain, train, evaluate. No network, GPU or data set."""

from __future__ import annotations

import csv
import shlex
import time
from collections.abc import Callable
from pathlib import Path

from aqa_models.two_stage.config import ExpertConfig, NonExpertConfig, SequenceConfig
from pipelines.config import Config, ExpertTrainConfig, OptimizerConfig, PretrainConfig, TrackingConfig

Say = Callable[[str], None]

EXERCISES, SUBJECTS, DIVES, SEED = 40, 20, 8, 0

_SEQUENCE = SequenceConfig(skeleton="c15", rate_hz=10.0, max_frames=120)
# Small enough for minutes on two cores; the paper's sizes are the defaults of the configuration.
CONFIG = Config(
    pretrain=PretrainConfig(
        epochs=40,
        batch_size=12,
        sequence=_SEQUENCE,
        optimizer=OptimizerConfig(learning_rate=2e-3),
        model=NonExpertConfig(encoder_units=48, decoder_units=48, pace_units=48, discriminator_units=16),
    ),
    expert=ExpertTrainConfig(
        epochs=60,
        batch_size=12,
        sequence=_SEQUENCE,
        optimizer=OptimizerConfig(learning_rate=3e-3),
        model=ExpertConfig(lstm_units=24, finetune_encoder=True),
        action_types=("Es1", "Es2"),
    ),
    tracking=TrackingConfig(experiment="demo"),
)


def run(folder: Path, say: Say) -> dict:
    """Run every step in `folder`; steps that are done are not done again.

    Args:
        folder: receives data/, store/ and runs/.
        say: receives one line per step.

    Returns:
        Counts of the extraction, the test metrics, seconds per step, and the folder.
    """
    from pipelines.evaluate import evaluate
    from pipelines.extract import extract
    from pipelines.rendered.dataset import render_dataset
    from pipelines.train import expert, pretrain

    clock = _Clock(say)
    store, runs = folder / "store", folder / "runs"
    say("The athletes of this demo are drawn by the program; its numbers say nothing about real people.")
    manifest = folder / "data" / "clips.csv"
    if not manifest.is_file():
        render_dataset(folder / "data", exercises=EXERCISES, subjects=SUBJECTS, dives=DIVES, seed=SEED)
    clock.lap("render", f"{EXERCISES} exercise clips of {SUBJECTS} subjects and {DIVES} dives, as H.264")
    extracted = extract(manifest, store, CONFIG.extract, progress=lambda line: say(f"          {line}"))
    clock.lap("extract", f"{extracted['ok']} clips ok, {extracted['rejected']} rejected")
    config = _reading(extracted["table"])
    trained = pretrain(store, "non-expert", config, runs=runs)
    clock.lap("pretrain", f"{trained['epochs']} epochs on {trained['train_clips']} clips, scores unread")
    trained = expert(store, "expert", runs / "non-expert", config, runs=runs)
    clock.lap("expert", f"{trained['epochs']} epochs, validation chose epoch {trained['best_epoch']}")
    metrics = evaluate(runs / "expert", store, config)
    clock.lap("evaluate", f"{metrics['n']} clips of {metrics['subjects']} subjects never seen in training")
    return {"extract": extracted, "metrics": metrics, "seconds": clock.seconds, "folder": str(folder)}


def _reading(table: str) -> Config:
    """The demo's settings, learning from the pose table that was just extracted."""
    chosen = {"poses": table.removeprefix("poses/")}
    sections = {name: getattr(CONFIG, name).model_copy(update=chosen) for name in ("pretrain", "expert")}
    return CONFIG.model_copy(update=sections)


def closing_lines(result: dict) -> list[str]:
    """The table of the result, where everything lies, and what to type next."""
    from pipelines.evaluate import metrics_lines

    folder = Path(result["folder"])
    return [
        "",
        "Scores 0 to 50 of rendered exercises, test subjects; the median training score is the floor:",
        *metrics_lines(result["metrics"]),
        "",
        f"videos and truth   {folder / 'data'}",
        f"poses              {folder / 'store'}",
        f"model and metrics  {folder / 'runs' / 'expert'}",
        f"every run          {folder / 'runs' / 'mlflow.db'}",
        "",
        "Next:",
        f"  aqa store inspect {folder / 'store'}",
        f"  mlflow ui --backend-store-uri sqlite:///{(folder / 'runs' / 'mlflow.db').absolute()}",
        "  aqa data init my-clips        then fill in my-clips/clips.csv and:",
        "  aqa extract my-clips/clips.csv --store my-store",
        f"  {score_line(folder)}",
    ]


def score_line(folder: Path) -> str:
    """The command that scores the first test video of the demo's exercises, with a page to look at."""
    with (folder / "data" / "clips.csv").open(newline="") as file:
        known = set(CONFIG.expert.action_types)
        clip = next(r for r in csv.DictReader(file) if r["split"] == "test" and r["action_type"] in known)
    words = ["aqa", "score", folder / "data" / clip["uri"], "--model", folder / "runs" / "expert"]
    words += ["--action-type", clip["action_type"], "--report", folder / "score.html"]
    return shlex.join(map(str, words))


class _Clock:
    """Seconds per step, and the line said when a step is done."""

    def __init__(self, say: Say):
        self.say, self.seconds, self.at = say, {}, time.monotonic()

    def lap(self, step: str, note: str) -> None:
        now = time.monotonic()
        self.seconds[step], self.at = round(now - self.at, 1), now
        self.say(f"{step:9} {self.seconds[step]:6.1f} s  {note}")
