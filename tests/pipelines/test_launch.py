from __future__ import annotations

import pytest
import torch

from pipelines.config import PoseTrainConfig
from pipelines.errors import ClusterError, ConfigError
from pipelines.launch import launch


def test_without_workers_the_function_runs_here(tmp_path):
    calls = []

    def worker(spec, report, device):
        report({"loss": 1.0})
        calls.append((spec, device))

    launch(worker, {"run_dir": str(tmp_path), "x": 1}, PoseTrainConfig())
    assert calls == [({"run_dir": str(tmp_path), "x": 1}, torch.device("cpu"))]


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_told(tmp_path):
    with pytest.raises(ClusterError, match="use_gpu: this machine has no CUDA GPU"):
        launch(lambda *a: None, {"run_dir": str(tmp_path)}, PoseTrainConfig(use_gpu=True))


def test_more_workers_at_least_than_at_most(tmp_path):
    with pytest.raises(ConfigError, match="min_workers: is 3, but num_workers is 2. Lower it"):
        launch(lambda *a: None, {"run_dir": str(tmp_path)}, PoseTrainConfig(num_workers=2, min_workers=3))
