"""A small expert that learned from rendered exercises, and films for it; for the slow tests of scoring."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pyarrow as pa

from pipelines import demo, evaluate, train
from pipelines.config import Config, EvaluateConfig, ExpertTrainConfig
from pipelines.datasets.manifest import read_manifest
from pipelines.kinds import find_work_of
from pipelines.rendered.dataset import render_dataset
from pipelines.scoring.extraction import Extractor
from pipelines.scoring.settings import works_of
from pipelines.store import open_store


def make_expert(folder: Path) -> None:
    """Writes FOLDER/data, FOLDER/store and FOLDER/runs/expert, evaluated and with its bundle."""
    clips = read_manifest(render_dataset(folder / "data", exercises=16, subjects=8, dives=0, seed=2))
    config = Config().extract.model_copy(update={"sampling": "fps:5"})
    store = open_store(folder / "store", create=True)
    store.put_clips(clips)
    table = store.create_poses(find_work_of(config).spec)
    detection, work = works_of(config)
    with Extractor(detection, {"poses": work}, 60, False) as extractor:
        rows = [extractor.extract(clips.slice(row, 1)).rows["poses"] for row in range(len(clips))]
    with table.writer() as writer:
        writer.commit([table.write_file(pa.concat_tables(rows))])
    small = demo.CONFIG.expert.model_dump() | {"epochs": 3, "encoder_units": 8}
    settings = Config(expert=ExpertTrainConfig.model_validate(small), evaluate=EvaluateConfig(bootstrap=100))
    train.expert(folder / "store", "expert", None, settings, runs=folder / "runs")
    evaluate.evaluate(folder / "runs" / "expert", folder / "store", settings)


def film(path: Path, frames: Iterable[np.ndarray], rate: float = 25) -> Path:
    """Writes RGB pictures (h, w, 3) of even size as H.264."""
    with av.open(str(path), "w") as container:
        rational = Fraction(rate).limit_denominator(1000)
        stream = container.add_stream("libx264", rate=rational, options={"preset": "ultrafast", "crf": "30"})
        stream.pix_fmt = "yuv420p"
        for number, frame in enumerate(frames):
            if number == 0:
                stream.height, stream.width = frame.shape[:2]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


def pictures(video: Path) -> list[np.ndarray]:
    """The pictures (h, w, 3) of a video that the tests made."""
    with av.open(str(video)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
