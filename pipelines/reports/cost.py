"""What a run cost: seconds per stage, memory, size of the model."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from pipelines.journal import Journal
from pipelines.reports import charts, page
from pipelines.reports.material import RunMaterial
from pipelines.reports.page import Section
from pipelines.store import Store


def training_section(run: RunMaterial) -> Section:
    """Losses over the epochs, and which epoch validation chose."""
    if not run.epochs:
        return Section("Training", [page.note("No epoch has ended yet.")])
    chosen = run.summary.get("best_epoch")
    counts = ("val_clips", "val_subjects")  # the banner tells them
    told = {name: v for name, v in run.summary.items() if name.startswith("val_") and name not in counts}
    shown = page.facts({"epochs": len(run.epochs), "chosen epoch": chosen})
    blocks = [shown, page.details("Validation at the chosen epoch", [page.facts(told)])]
    names = [name for name in ("loss", "val_loss") if all(name in row for row in run.epochs)]
    others = [name for name in run.epochs[0] if name in ("val_mae", "val_spearman", "val_accuracy")]
    if len(run.epochs) > 1:
        figures = []
        for group, y in ((names, "loss"), *(([name], name) for name in others)):
            drawn = {
                n: ([r["epoch"] for r in run.epochs], [r.get(n, float("nan")) for r in run.epochs])
                for n in group
            }
            ends = ", ".join(f"{name} {line[1][0]:.3g} to {line[1][-1]:.3g}" for name, line in drawn.items())
            data = charts.curves(drawn, "epoch", y, chosen)
            figures.append(
                page.picture(
                    data, f"Curves over the epochs, first to last: {ends}.", f"{ends}; dotted: chosen."
                )
            )
        blocks.append(page.pictures(figures))
    return Section("Training", blocks)


def cost_section(run: RunMaterial) -> Section:
    """Seconds of extraction and training, memory, and what the model weighs."""
    seconds = [row["seconds"] for row in run.epochs if "seconds" in row]
    told: dict[str, Any] = {}
    if seconds:
        told["training, seconds"] = round(sum(seconds), 1)
        told["per epoch, seconds"] = round(sum(seconds) / len(seconds), 2)
    told |= _load(run)
    weights = run.folder / "model" / "model.safetensors"
    if weights.is_file():
        told["model, MB"] = round(weights.stat().st_size / 1e6, 2)
        told["parameters"] = f"{_parameters(weights):,}"
    blocks = [page.facts(told)] if told else []
    if run.store is not None:
        for name, key in run.provenance.items():
            kind = name.removesuffix("_key")
            family = kind if kind == "poses" else f"features/{kind}"
            if name.endswith("_key"):
                blocks += extraction_costs(run.store, family, key)
    return Section("Cost", blocks)


def extraction_costs(store: Store, family: str, key: str) -> list[Markup]:
    """A row per extraction into a table; nothing for imported tables and those that tell nothing."""
    rows = [
        {
            "extraction": number + 1,
            "clips": told.get("clips"),
            "frames": told.get("frames"),
            "seconds": told.get("seconds"),
            "frames per s": told.get("frames_per_s"),
            "decoding, worker s": told.get("decode_s"),
            "network, worker s": told.get("network_s"),
            "decoders": told.get("decode_workers"),
            "networks": told.get("network_workers"),
            "spilled bytes": told.get("spilled_bytes"),
        }
        for number, told in enumerate(store.extractions(family, key))
    ]
    if not rows:
        return []
    blocks = [page.heading(f"Extraction of {family}/{key}"), page.table(rows)]
    held = store.extractions(family, key)[-1].get("bottleneck")
    return [*blocks, page.note(f"The last was {held}.")] if held else blocks


def _load(run: RunMaterial) -> dict[str, Any]:
    """Peaks of what was measured every ten seconds, if the run is tracked."""
    journal = Journal(run.folder)
    names = {
        "system/process_memory_megabytes": "peak memory of the process, MB",
        "system/gpu_0_memory_usage_megabytes": "peak memory of GPU 0, MB",
        "system/cpu_utilization_percentage": "peak load of the processor, %",
    }
    peaks: dict[str, float] = {}
    for event, _ in journal.read(0):
        for name, value in event.get("values", {}).items() if event["event"] == "metrics" else ():
            if name in names:
                peaks[names[name]] = max(peaks.get(names[name], value), value)
    return peaks


def _parameters(weights: Any) -> int:
    """Numbers in a safetensors file, read from its head only."""
    import math

    from safetensors import safe_open

    with safe_open(str(weights), framework="numpy") as file:
        return sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118 - no dict
