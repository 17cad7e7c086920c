"""Where a run came from, on which terms it was measured, and what repeats it."""

from __future__ import annotations

import shlex
from collections import Counter
from typing import Any

from markupsafe import Markup

from pipelines.motion import subject_of
from pipelines.reports import page
from pipelines.reports.material import RENDERED, RunMaterial
from pipelines.reports.page import Section
from pipelines.run_folder import environments

_VERBS = {"pretrain": "pretrain", "expert": "expert", "angles": "angles", "hp_mcore": "hp-mcore"}
_KINDS = {
    "pretrain": "Pretraining of the two-stage model",
    "expert": "Two-stage expert",
    "angles": "Angles expert",
    "hp_mcore": "HP-MCoRe",
}


def kind_of(run: RunMaterial) -> str:
    """What was trained, in words."""
    return _KINDS.get(run.phase, run.phase)


def banner(run: RunMaterial) -> list[Markup]:
    """Data and protocol, and above all what makes the numbers worth less."""
    blocks = []
    if run.rendered:
        blocks.append(page.warning(RENDERED))
    if not run.summary:
        blocks.append(page.warning("This run has not finished; what is shown is what there is so far."))
    times = run.metrics.get("evaluations", 0)
    if times > 1:
        blocks.append(
            page.warning(
                f"Test clips were scored {times} times with this run (other clips or settings each time): "
                "choosing among the results would make them too good."
            )
        )
    blocks.append(page.facts(_protocol(run)))
    leaked = _leaked(run)
    if leaked:
        blocks.append(page.warning(f"{len(leaked)} test subjects were trained on: {', '.join(leaked[:5])}."))
    elif run.test_clips:
        blocks.append(page.good_news("Checked: no subject of a test clip took part in the training."))
        nameless = sum(not clip["subject_id"] for clip in run.test_clips)
        if nameless:
            blocks.append(
                page.note(
                    f"{nameless} of these clips do not say who performs: each counts as a subject of its "
                    "own, so the same person may be in training and test."
                )
            )
    return blocks


def provenance_section(run: RunMaterial) -> Section:
    """Commands that repeat the run, settings, versions."""
    settings = page.details("All settings", [page.code(settings_toml(run))])
    blocks = [
        page.paragraph("Trains it again from its record and says what comes out otherwise:"),
        page.code(shlex.join(["aqa", "reproduce", str(run.folder)])),
        page.paragraph(
            "Or by hand, on the newest rows of the store, with the settings below saved as settings.toml:"
        ),
        page.code(command(run)),
        settings,
        page.facts(
            {
                "folder": str(run.folder),
                "seed": run.record["config"].get("seed"),
                "sha256 of the rows": run.record.get("identity", {}).get("data.sha256"),
                "sha256 of the weights": run.description.get("sha256"),
                "pretrained run": run.record.get("pretrained"),
                **_read(run),
            }
        ),
    ]
    made = environments(run.folder)
    if made:
        blocks.append(page.details("Versions and machine", [page.facts(one) for one in made]))
    else:
        blocks.append(page.note("The versions it was made with were not recorded."))
    return Section("Provenance", blocks)


def _read(run: RunMaterial) -> dict[str, Any]:
    """Table -> key and version."""
    told = {"store": run.provenance.get("store"), "clips": f"version {run.provenance.get('clips_version')}"}
    for name, key in run.provenance.items():
        if name.endswith("_key"):
            kind = name.removesuffix("_key")
            told[kind] = f"{key}, version {run.provenance.get(f'{kind}_version')}"
    return told


def settings_toml(run: RunMaterial) -> str:
    """The run's section as a file for --config; as JSON if this version does not take these settings."""
    import json

    from pydantic import ValidationError

    from pipelines.config import Config
    from pipelines.settings import to_toml

    try:
        config = Config.model_validate({run.phase: run.record["config"]})
    except ValidationError:
        return json.dumps(run.record["config"], indent=2)
    return to_toml(config, (run.phase,))


def command(run: RunMaterial) -> str:
    """The training and the evaluation as typed."""
    store = run.provenance.get("store", "STORE")
    words = ["aqa", "train", _VERBS.get(run.phase, run.phase), "--store", store, "--name", run.folder.name]
    if run.record.get("pretrained"):
        words += ["--pretrained", run.record["pretrained"]]
    told = [shlex.join([*words, "--config", "settings.toml"])]
    if run.metrics:
        told.append(shlex.join(["aqa", "evaluate", f"runs/{run.folder.name}", "--store", store]))
    return "\n".join(told)


def _protocol(run: RunMaterial) -> dict[str, Any]:
    counts = Counter(row["split"] or "none" for row in run.clips.values())
    splits = {name: counts[name] for name in ("train", "val", "test", "none") if counts[name]}
    chosen = run.summary.get("best_epoch")
    by = (
        "cross-validation inside the training subjects"
        if run.phase == "angles"
        else f"epoch {chosen}, by the validation loss"
    )
    tested = run.metrics.get("evaluations")
    return {
        "data": ", ".join(sorted(name or "unnamed" for name in run.datasets)) if run.clips else run.no_store,
        "store": run.provenance.get("store"),
        "versions": {
            name.removesuffix("_version"): version
            for name, version in run.provenance.items()
            if name.endswith("_version")
        },
        "clips in the store": splits,
        "trained on": _counted(run, "train"),
        "chosen": by if chosen is not None else None,
        "chosen on": _counted(run, "val"),
        "test": f"{run.metrics['n']} clips, scored {_times(tested)}" if tested else "not touched",
        "seed": run.record["config"].get("seed"),
        "preset": run.record["config"].get("preset"),
    }


def _counted(run: RunMaterial, part: str) -> str:
    """Clips, and people if the run counted them; the angles expert has one part only."""
    clips = run.summary.get(f"{part}_clips", run.summary.get("clips") if part == "train" else None)
    people = run.summary.get(f"{part}_subjects", run.summary.get("subjects") if part == "train" else None)
    if clips is None:
        return ""
    return f"{clips} clips" + (f" of {people} subjects" if people is not None else "")


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _leaked(run: RunMaterial) -> list[str]:
    trained = set(run.record.get("subjects", []))
    return sorted({subject_of(clip) for clip in run.test_clips} & trained)
