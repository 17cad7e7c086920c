from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipelines.schema import CLIPS, FEATURES, POSES, empty_row

sys.path.insert(0, str(Path(__file__).parent))


def _wave(frames: int, amplitude: float, speed: float, generator: np.random.Generator) -> np.ndarray:
    """(T, 15, 3) in metres: a c15 figure whose left arm waves."""
    rest = np.random.default_rng(0).normal(size=(15, 3)) * 0.4
    xyz = np.tile(rest, (frames, 1, 1)) + generator.normal(size=(frames, 15, 3)) * 0.01
    xyz[:, 3:6, 1] += (amplitude * np.sin(np.arange(frames) * speed / 10))[:, None] * [0.3, 0.6, 1.0]
    return xyz.astype(np.float32)


@pytest.fixture(scope="session")
def waving() -> tuple[pa.Table, pa.Table]:
    """CLIPS and POSES of 14 people, two clips each: 8 train, 2 val, 4 test. A wider wave scores higher."""
    generator = np.random.default_rng(7)
    clips, poses = [], []
    for person in range(14):
        amplitude = (0.1 + (person * 5 % 14) / 14) * 1.5
        split = "train" if person < 8 else "val" if person < 10 else "test"
        for take in range(2):
            frames = int(generator.integers(12, 30))
            name = f"P{person:02d}_{take}"
            xyz = _wave(frames, amplitude, 2.0 + person % 3, generator)
            clips.append(
                empty_row(
                    CLIPS,
                    clip_id=name,
                    uri=name,
                    dataset="waves",
                    subject_id=f"P{person:02d}",
                    group="control" if person % 2 else "patient",
                    action_type="wave",
                    score=float(10 + 20 * amplitude + take),
                    split=split,
                )
            )
            poses.append(
                empty_row(
                    POSES,
                    clip_id=name,
                    person=0,
                    status="ok",
                    attempts=1,
                    skeleton="c15",
                    unit="m",
                    num_frames=frames,
                    num_joints=15,
                    num_coordinates=3,
                    time_s=np.arange(frames) / 10,
                    keypoints=xyz.ravel(),
                )
            )
    return pa.Table.from_pylist(clips, schema=CLIPS), pa.Table.from_pylist(poses, schema=POSES)


@pytest.fixture
def waving_tables(waving) -> tuple[pa.Table, pa.Table]:
    """Arrow tables never change, so all tests may share them."""
    return waving


@pytest.fixture
def waving_features(waving_tables) -> pa.Table:
    """FEATURES of the same clips: 4 to 9 segments of 6 channels, the first of which tells the score."""
    generator = np.random.default_rng(11)
    rows = []
    for clip in waving_tables[0].to_pylist():
        numbers = generator.normal(size=(int(generator.integers(4, 10)), 6)) * 0.3
        numbers[:, 0] += clip["score"] / 20
        rows.append(
            empty_row(
                FEATURES,
                clip_id=clip["clip_id"],
                person=0,
                status="ok",
                attempts=1,
                num_segments=len(numbers),
                num_channels=6,
                segment_start=np.arange(len(numbers)) * 16,
                features=numbers.astype(np.float32).ravel(),
            )
        )
    return pa.Table.from_pylist(rows, schema=FEATURES)


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory) -> bytes:
    """MLflow takes seconds to make its tables; tests start from a copy."""
    from pipelines.tracking import client

    file = tmp_path_factory.mktemp("mlflow") / "empty.db"
    client(f"sqlite:///{file}")
    return file.read_bytes()


_SMALL = """
[pretrain]
epochs = 2
batch_size = 8
[pretrain.sequence]
skeleton = "c15"
[pretrain.model]
encoder_units = 8
decoder_units = 8
pace_units = 8
discriminator_units = 4
[expert]
epochs = 2
batch_size = 8
[expert.sequence]
skeleton = "c15"
[expert.model]
lstm_units = 8
[evaluate]
bootstrap = 100
[run]
models = "two_stage"
"""


@pytest.fixture
def waving_folder(tmp_path: Path, waving) -> Path:
    """A workflow's folder whose store holds imported poses, and small settings."""
    from pipelines.store import open_store

    clips, poses = waving
    store = open_store(tmp_path / "flow" / "store", create=True)
    store.put_clips(clips)
    table = store.create_poses({"stage": "import"})
    with table.writer() as writer:
        writer.commit([table.write_file(poses)])
    (tmp_path / "small.toml").write_text(_SMALL)
    return tmp_path / "flow"


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> Path:
    """Rendered exercises, their poses at 5 frames per second, and an expert that learned from them."""
    from rendered_expert import make_expert

    folder = tmp_path_factory.mktemp("trained")
    make_expert(folder)
    return folder


@pytest.fixture(scope="session")
def diver(tmp_path_factory) -> Path:
    """Rendered dives, their poses, and a model that compares them."""
    from rendered_diver import make_diver

    folder = tmp_path_factory.mktemp("diver")
    make_diver(folder)
    return folder
