"""How videos are to be read for a model: as those it learned from were, unless somebody says otherwise."""

from __future__ import annotations

from typing import Any

from pipelines.config import ExtractConfig
from pipelines.errors import ConfigError
from pipelines.kinds import Work, find_people_work, find_work_of
from pipelines.scoring.training import Training
from pipelines.store import spec_key

_OF_POSES = {
    "network": "pose_config",
    "sampling": "sampling",
    "precision": "precision",
    "flip_test": "flip_test",
    "smoothing": "smoothing",
    "athlete": "athlete",
    "people": "people",
}
_OF_PEOPLE = {
    "detector": "detector_config",
    "every": "detector_every",
    "athlete": "athlete",
    "people": "people",
}


def pose_settings(given: ExtractConfig, training: Training) -> ExtractConfig:
    """Settings under which poses become what the model learned from.

    Args:
        given: settings of this call; those that somebody set are kept.
        training: what the model learned from; a store that is not there, or keypoints that were imported,
            leave what `given` says.

    Raises:
        ConfigError: another kind than poses is asked for.
    """
    if given.kind != "pose":
        raise ConfigError("extract.kind", f"is {given.kind}", "leave it out: the model says what it reads")
    spec = training.spec("poses")
    learned = {ours: spec[theirs] for theirs, ours in _OF_POSES.items() if theirs in spec}
    people = training.people_spec()
    learned |= {ours: people[theirs] for theirs, ours in _OF_PEOPLE.items() if theirs in people}
    if spec.get("stage") == "import":
        learned = {}
    asked = {name: getattr(given, name) for name in given.model_fields_set}
    return given.model_copy(update=learned | asked)


def appearance_settings(
    family: str, given: ExtractConfig, training: Training, weights: dict[str, Any]
) -> ExtractConfig:
    """Settings under which a kind of features becomes what the model learned from.

    Args:
        family: features/KIND.
        given: settings of this call; worker limits are kept.
        training: what the model learned from.
        weights: kind -> weights file that was named, if any.

    Raises:
        ConfigError: the store of the training is not there, so nobody knows which network it was.
    """
    kind = family.rpartition("/")[2]
    spec = training.spec(family)
    if not spec:
        cause = f"says how {kind} features were made, and is not there"
        raise ConfigError(training.place, cause, "give the store of the training: --store PATH")
    random = str(spec.get("weights_sha256", "")).startswith("random")
    learned = {
        "kind": kind,
        "weights": None if random else weights.get(kind),
        "random_weights": random,
        "sampling": spec["sampling"],
        "precision": spec.get("precision", "fp32"),
        "detector_config": "",
    }
    if kind == "static":
        learned["static_model"] = spec["network"]
    return given.model_copy(update=learned)


def works_of(config: ExtractConfig) -> tuple[Work | None, Work]:
    """The pass that finds people, if one is asked for, and the pass after it."""
    detection = find_people_work(config)
    key = spec_key(detection.spec) if detection else ""
    return detection, find_work_of(config, people_key=key)


def differences(work: Work, training: Training) -> list[str]:
    """In words, how the rows of a pass differ from those the model learned from; empty = the same key."""
    key, learned = training.keys.get(work.family, ""), training.spec(work.family)
    if not key or spec_key(work.spec) == key:
        return []
    if not learned:
        return [f"their key was {key}, here it is {spec_key(work.spec)}"]
    names = [name for name in {**learned, **work.spec} if learned.get(name) != work.spec.get(name)]
    return [f"{name} was {learned.get(name)}, here it is {work.spec.get(name)}" for name in names]
