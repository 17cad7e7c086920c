from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from aqa_models.two_stage.norm import BatchNorm


def _norm_worker(rank: int, address: str, results: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{address}", rank=rank, world_size=2)
    x, weight = _norm_data()
    rows = [slice(0, 3), slice(3, 4)][rank]  # uneven: the second worker holds a single item
    mine = x[rows].clone().requires_grad_()
    norm = BatchNorm(4)
    out = norm(mine)
    (out * weight[rows]).sum().backward()
    torch.save(
        {"out": out.detach(), "grad": mine.grad, "mean": norm.running_mean, "var": norm.running_var},
        f"{results}/{rank}.pt",
    )
    dist.destroy_process_group()


def _norm_data() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(4, 4, generator=generator) * 3 + 1, torch.randn(4, 4, generator=generator)


def test_batch_norm_of_two_workers_is_that_of_one(tmp_path):
    mp.spawn(_norm_worker, args=(str(tmp_path / "rendezvous"), str(tmp_path)), nprocs=2)
    parts = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    x, weight = _norm_data()
    x.requires_grad_()
    reference = torch.nn.BatchNorm1d(4)
    out = reference(x)
    (out * weight).sum().backward()
    torch.testing.assert_close(torch.cat([p["out"] for p in parts]), out.detach())
    torch.testing.assert_close(torch.cat([p["grad"] for p in parts]), x.grad)
    for part in parts:
        torch.testing.assert_close(part["mean"], reference.running_mean)
        torch.testing.assert_close(part["var"], reference.running_var)


def test_rows_that_do_not_count_are_normalised_and_leave_no_trace():
    x, _ = _norm_data()
    counts = torch.tensor([True, False, True, True])
    norm, reference = BatchNorm(4), torch.nn.BatchNorm1d(4)
    wanted = reference(x[counts])
    torch.testing.assert_close(norm(x, counts)[counts], wanted)
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        torch.testing.assert_close(getattr(norm, name), getattr(reference, name))
    wild = torch.where(counts[:, None], x, 1e4)
    torch.testing.assert_close(norm(wild, counts)[counts], wanted)
    assert norm(x, counts)[~counts].isfinite().all()
    torch.testing.assert_close(norm.eval()(x, counts), norm(x))


@pytest.mark.parametrize("lone", [[], [2]])
def test_fewer_than_two_rows_that_count_change_no_statistics(lone):
    x, _ = _norm_data()
    norm = BatchNorm(4)
    norm(x)
    mean, var = norm.running_mean.clone(), norm.running_var.clone()
    counts = torch.zeros(4, dtype=torch.bool)
    counts[lone] = True
    torch.testing.assert_close(norm(x, counts), (x - mean) / (var + norm.eps).sqrt())
    assert torch.equal(norm.running_mean, mean)
    assert torch.equal(norm.running_var, var)
