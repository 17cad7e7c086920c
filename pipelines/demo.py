"""The whole job on built-in data: render, extract, pretrain, train, evaluate. No network, GPU or data set."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from aqa_models.two_stage.config import ExpertConfig, NonExpertConfig, SequenceConfig
from pipelines.config import (
    EvaluateConfig,
    ExpertTrainConfig,
    ExtractConfig,
    OptimizerConfig,
    PretrainConfig,
    TrackingConfig,
)

Say = Callable[[str], None]

EXERCISES, SUBJECTS, DIVES, SEED = 36, 12, 12, 0

# Small enough for minutes on two cores; the paper's sizes are the defaults of the configuration.
_SEQUENCE = SequenceConfig(skeleton="c15", rate_hz=10.0, max_frames=120)
PRETRAIN = PretrainConfig(
    epochs=40,
    batch_size=12,
    sequence=_SEQUENCE,
    optimizer=OptimizerConfig(learning_rate=2e-3),
    model=NonExpertConfig(encoder_units=48, decoder_units=48, pace_units=48, discriminator_units=16),
)
EXPERT = ExpertTrainConfig(
    epochs=60,
    batch_size=12,
    sequence=_SEQUENCE,
    optimizer=OptimizerConfig(learning_rate=3e-3),
    model=ExpertConfig(lstm_units=24, finetune_encoder=True),
)


def run(folder: Path, say: Say) -> dict:
    """Run every step in `folder`; steps that are done are not done again.

    Args:
        folder: receives videos/, store/ and runs/.
        say: receives one line per step.

    Returns:
        The test metrics, seconds per step and where everything lies.
    """
    from pipelines.evaluate import evaluate
    from pipelines.extract import extract
    from pipelines.rendered.dataset import render_dataset
    from pipelines.train import pretrain, train_expert

    seconds: dict[str, float] = {}
    say("The data of this demo are rendered by the program; its numbers say nothing about real people.")
    with _timed("render", seconds, say) as step:
        clips_file = folder / "videos" / "clips.csv"
        if not clips_file.is_file():
            render_dataset(folder / "videos", exercises=EXERCISES, subjects=SUBJECTS, dives=DIVES, seed=SEED)
        step.note = f"{EXERCISES} exercise clips of {SUBJECTS} subjects and {DIVES} dives as H.264"
    with _timed("extract", seconds, say) as step:
        extracted = extract(clips_file, folder / "store", ExtractConfig(), progress=say)
        step.note = f"{extracted['ok']} clips ok, {extracted['rejected']} rejected, {extracted['frames_per_s']} frames/s"
    clips, poses, provenance = training_rows(folder / "store", extracted["table"])
    tracking = TrackingConfig(experiment="demo")
    with _timed("pretrain", seconds, say) as step:
        summary = pretrain(clips, poses, PRETRAIN, folder / "runs" / "non-expert", provenance, tracking)
        step.note = f"pace accuracy {summary['pace_accuracy']:.2f} (chance {1 / 5:.2f})"
    with _timed("expert", seconds, say) as step:
        expert = folder / "runs" / "expert"
        summary = train_expert(
            clips, poses, EXPERT, expert, folder / "runs" / "non-expert", provenance, tracking
        )
        step.note = f"best epoch {summary['best_epoch']} by validation"
    with _timed("evaluate", seconds, say) as step:
        metrics = evaluate(expert, clips, poses, EvaluateConfig())
        step.note = f"{metrics['n']} clips of {metrics['subjects']} subjects never seen in training"
    return {"metrics": metrics, "seconds": seconds, "folder": str(folder)}
