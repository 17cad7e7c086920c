"""Seconds of a fine-tuning step of HP-MCoRe: fp32 as written against bf16, in the same run.

    OMP_NUM_THREADS=1 python benchmarks/bench_hp_mcore.py step [--pairs 2] [--runs 5] [--out FILE]
    OMP_NUM_THREADS=1 python benchmarks/bench_hp_mcore.py encoders
    OMP_NUM_THREADS=1 python benchmarks/bench_hp_mcore.py query [--runs 3]

`step`: the frames of both dives of each pair through all three encoders, the comparison both ways, every
loss, backward. `encoders`: each encoder alone, per dive. `query`: one dive is scored against 10 exemplars
from frames, once as the reference does (both dives of each of the 10 pairs are encoded), once against
exemplars encoded before; `whole_test_split` counts those encodings too, for FineDiving's 749 queries and
2251 training dives. Random frames and weights: the time does not depend on them. On a processor fp32 and
bf16 (autocast) alternate, and the median of their ratios is printed. With a CUDA GPU there is a third way,
bf16 through torch.compile, and the share of the card's own matmul rate, measured in the same run, that a
step reaches. Operations are counted by torch on an fp32 step: convolutions and matrix products, forward and
backward.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from aqa_models.hp_mcore.config import PRESETS, HpMcoreConfig
from aqa_models.hp_mcore.losses import pair_losses
from aqa_models.hp_mcore.model import HpMcore
from aqa_models.hp_mcore.performance import Performances

FRAMES, SIDE = 96, 112


def dives(count: int, config: HpMcoreConfig, device: torch.device) -> Performances:
    """Noise in the shapes of dives, with evenly spread transitions."""
    cuts = torch.arange(1, config.num_procedures) * FRAMES // config.num_procedures
    return Performances(
        frames=torch.randn(count, FRAMES, 3, SIDE, SIDE),
        keypoints=100 + 40 * torch.randn(count, FRAMES, 16, 2),
        transitions=cuts.expand(count, -1).contiguous(),
        present=torch.ones(count, config.num_procedures, dtype=torch.bool),
        splash=torch.rand(count),
        number=torch.arange(count),
    ).to(device)


class PairStep(nn.Module):
    """The model and its losses as one function of a batch, so that it compiles as one."""

    def __init__(self, config: HpMcoreConfig, checkpoint: bool):
        super().__init__()
        self.config, self.model = config, HpMcore(config, encoders=True, checkpoint=checkpoint)

    def forward(self, both: Performances, difference: Tensor) -> Tensor:
        """Mean loss of pairs; the first half of `both` are queries, the second their exemplars."""
        queries, exemplars = slice(len(difference)), slice(len(difference), None)
        encoded = self.model.encode(both, both.transitions)
        query, exemplar = encoded[queries], encoded[exemplars]
        comparisons = self.model.compare_both_ways(query, exemplar)
        losses = pair_losses(
            self.config, (query, both[queries]), (exemplar, both[exemplars]), comparisons, difference
        )
        return losses.total(self.config).mean()


class Clock:
    """Seconds of calls; waits for the GPU. With one thread it counts this process's own time alone."""

    def __init__(self, device: torch.device):
        self.gpu = device.type == "cuda"

    def seconds(self, call: Callable[[], object]) -> float:
        self._wait()
        started = self._now()
        call()
        self._wait()
        return self._now() - started

    def _now(self) -> float:
        return time.monotonic() if self.gpu or torch.get_num_threads() > 1 else time.process_time()

    def _wait(self) -> None:
        if self.gpu:
            torch.cuda.synchronize()


def make_step(way: str, arguments: argparse.Namespace, device: torch.device) -> Callable[[], None]:
    """A step in fp32, bf16 or bf16_compiled."""
    config = PRESETS[arguments.preset]
    torch.manual_seed(0)
    network = PairStep(config, arguments.checkpoint).to(device).train()
    both = dives(2 * arguments.pairs, config, device)
    difference = torch.linspace(-10, 10, arguments.pairs, device=device)
    loss = torch.compile(network) if way == "bf16_compiled" else network

    def step() -> None:
        network.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=way != "fp32"):
            value = loss(both, difference)
        value.backward()

    return step


def measure_step(arguments: argparse.Namespace, device: torch.device) -> dict:
    ways = ["fp32", "bf16", *(["bf16_compiled"] if device.type == "cuda" else [])]
    steps, clock = {way: make_step(way, arguments, device) for way in ways}, Clock(device)
    with FlopCounterMode(display=False) as counter:
        steps["fp32"]()
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for turn in range(arguments.runs + 1):  # the first warms up
        for way, step in steps.items():
            spent = clock.seconds(step)
            if turn:
                seconds[way].append(spent)
    medians = {way: statistics.median(times) for way, times in seconds.items()}
    result: dict = {
        "pairs": arguments.pairs,
        "preset": arguments.preset,
        "checkpoint": arguments.checkpoint,
        "tera_operations": round(counter.get_total_flops() / 1e12, 3),
        "median_s": {way: round(value, 4) for way, value in medians.items()},
        "seconds": {way: [round(value, 4) for value in times] for way, times in seconds.items()},
    }
    for way in ways[1:]:
        ratios = [a / b for a, b in zip(seconds["fp32"], seconds[way], strict=True)]
        result[f"ratio_{way}"] = round(statistics.median(ratios), 2)
    if device.type == "cuda":
        rates = {way: matmul_rate(torch.float32 if way == "fp32" else torch.bfloat16, clock) for way in ways}
        result["matmul_tera_per_s"] = {way: round(rate / 1e12, 1) for way, rate in rates.items()}
        result["share_of_matmul_rate"] = {
            way: round(counter.get_total_flops() / medians[way] / rates[way], 3) for way in ways
        }
        result["gpu_memory_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 1)
    return result


def matmul_rate(dtype: torch.dtype, clock: Clock) -> float:
    """Operations per second of a product of two square matrices of 8192 rows."""
    a = torch.randn(8192, 8192, device="cuda", dtype=dtype)
    times = [clock.seconds(lambda: a @ a) for _ in range(12)][2:]
    return 2 * 8192**3 / statistics.median(times)


def measure_encoders(arguments: argparse.Namespace, device: torch.device) -> dict:
    """Seconds per dive of each encoder alone, forward and backward."""
    config, count = PRESETS[arguments.preset], 2 * arguments.pairs
    model, both = HpMcore(config, encoders=True).to(device).train(), dives(count, config, device)
    clock, result = Clock(device), {}
    for name in ("dynamic", "static", "skeletal"):
        encoder = getattr(model, f"{name}_encoder")
        given = both.keypoints if name == "skeletal" else both.frames
        for precision in ("fp32", "bf16"):
            outputs: list[Tensor] = []

            def forward(encoder=encoder, given=given, precision=precision, outputs=outputs) -> None:
                with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
                    answer = encoder(given)
                outputs[:] = [answer[0] if isinstance(answer, tuple) else answer]

            def backward(outputs=outputs) -> None:
                outputs[0].float().square().mean().backward()

            times = [(clock.seconds(forward), clock.seconds(backward)) for _ in range(arguments.runs + 1)][1:]
            there, back = (statistics.median(part) / count for part in zip(*times, strict=True))
            result[f"{name}_{precision}"] = {"forward_s": round(there, 4), "backward_s": round(back, 4)}
    return result


EXEMPLARS, TEST_DIVES, TRAINING_DIVES = 10, 749, 2251


def measure_query(arguments: argparse.Namespace, device: torch.device) -> dict:
    """Operations and seconds of one query, with the exemplars' encodings at hand and without."""
    config, clock = PRESETS[arguments.preset], Clock(device)
    torch.manual_seed(0)
    model = HpMcore(config, encoders=True).to(device).eval()
    attempts = dives(1 + EXEMPLARS, config, device)
    pair = [torch.tensor([0, 1 + number]) for number in range(EXEMPLARS)]
    nobody = torch.zeros(EXEMPLARS, dtype=torch.long)
    with torch.inference_mode():
        bank = model.encode(attempts[slice(1, None)])

        def uncached() -> Tensor:
            both = [model.encode(attempts[rows]) for rows in pair]
            return torch.cat([model.compare(one[:1], one[1:]).delta for one in both])

        def cached() -> Tensor:
            return model.compare(model.encode(attempts[:1])[nobody], bank).delta

        torch.testing.assert_close(cached(), uncached(), rtol=1e-3, atol=1e-3)
        ways, operations = {"uncached": uncached, "cached": cached}, {}
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        for way, call in ways.items():
            with FlopCounterMode(display=False) as counter:
                call()
            operations[way] = counter.get_total_flops()
        with FlopCounterMode(display=False) as counter:
            model.encode(attempts[:1])
        for _ in range(arguments.runs):
            for way, call in ways.items():
                seconds[way].append(clock.seconds(call))
    ratios = [a / b for a, b in zip(seconds["uncached"], seconds["cached"], strict=True)]
    once = operations["cached"] + counter.get_total_flops() * TRAINING_DIVES / TEST_DIVES
    return {
        "preset": arguments.preset,
        "giga_operations": {way: round(count / 1e9, 1) for way, count in operations.items()},
        "operations_ratio": round(operations["uncached"] / operations["cached"], 2),
        "seconds": {way: [round(value, 3) for value in times] for way, times in seconds.items()},
        "time_ratio": round(statistics.median(ratios), 2),
        "operations_ratio_whole_test_split": round(operations["uncached"] / once, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=["step", "encoders", "query"])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--pairs", type=int, default=2)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--preset", default="legacy", choices=list(PRESETS))
    parser.add_argument("--checkpoint", action="store_true", help="activations are computed again")
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    gpu = torch.cuda.get_device_name() if device.type == "cuda" else None
    result = {
        "machine": gpu or platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "native_bf16": torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported(),
        arguments.what: {"step": measure_step, "encoders": measure_encoders, "query": measure_query}[
            arguments.what
        ](arguments, device),
    }
    text = json.dumps(result, indent=2)
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
