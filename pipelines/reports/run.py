"""The page of a training run."""

from __future__ import annotations

from pathlib import Path

from pipelines.reports import page
from pipelines.reports.agreement import metrics_section, pictures_section, tables_section, tiles
from pipelines.reports.cost import cost_section, training_section
from pipelines.reports.gallery import gallery_section
from pipelines.reports.material import read_run
from pipelines.reports.page import Section
from pipelines.reports.pretext import pretext_section
from pipelines.reports.procedures import procedures_section
from pipelines.reports.provenance import banner, kind_of, provenance_section
from pipelines.reports.quality import quality_section

_TERMS = {
    "Spearman": "Correlation of the ranks of predicted and judged scores, -1 to 1; 1 = the same order. A "
    "constant prediction has none.",
    "MAE, RMSE": "Mean of |predicted - judged|, and root of the mean of its square, in score points.",
    "R-l2 x 100": "100 x mean of ((predicted - judged) / (highest - lowest judged))^2.",
    "bias, limits of agreement": "Mean of predicted - judged, and bias -+ 1.96 deviations of it: between "
    "them lie about 95 % of the differences if they are spread normally.",
    "AIoU@0.5": "Share of clips whose predicted flight overlaps the annotated one by at least half of their "
    "union; AIoU@0.75 likewise.",
    "micro F1, macro F1": "Share of clips whose class is right; mean over the classes of 2 hits / (times "
    "said + times true).",
    "bootstrap interval": "2.5 to 97.5 % of the metric when subjects are drawn anew with replacement: how "
    "much it hangs on who happened to be tested.",
    "floor": "What a guess without the video reaches on the same clips.",
}


def run_page(folder: Path, store: Path | None = None) -> str:
    """The page (HTML) of a run of pretrain, expert, angles or hp-mcore.

    Arguments and errors: see `material.read_run`.
    """
    run = read_run(folder.absolute(), store)
    sections = [
        metrics_section(run),
        pretext_section(run),
        pictures_section(run),
        tables_section(run),
        gallery_section(run),
        procedures_section(run),
        training_section(run),
        quality_section(run),
        cost_section(run),
        provenance_section(run),
        Section("Words", [page.glossary(_TERMS)]),
    ]
    return page.page(f"{kind_of(run)}: {run.folder.name}", [*banner(run), *tiles(run)], sections)
