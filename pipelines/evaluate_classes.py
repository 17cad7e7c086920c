"""Metrics of a model that predicts the group of a clip, beside always naming the most frequent one."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipelines.config import EvaluateConfig
from pipelines.evaluate import cell, interval_of
from pipelines.motion import Motion


def class_results(
    motions: list[Motion], predicted: np.ndarray, classes: dict[str, int], config: EvaluateConfig
) -> dict[str, Any]:
    """What metrics.json holds of classes.

    Args:
        motions: test clips, of groups among the classes.
        predicted: (N,) position of the predicted class.
        classes: name -> training clips of it.
        config: resamples and seed of the intervals.

    Returns:
        n, subjects; micro_f1 and macro_f1 (value, low, high); majority_floor {group, micro_f1, macro_f1} of
        the most frequent training class; classes {name: {train, test, right}}.
    """
    from aqa_models.metrics import bootstrap_interval, macro_f1, micro_f1

    names = list(classes)
    true = np.array([names.index(motion.group) for motion in motions])
    subjects = np.array([motion.subject for motion in motions])
    majority = max(names, key=lambda name: classes[name])
    floor = np.full(len(true), names.index(majority))
    found: dict[str, Any] = {"n": len(motions), "subjects": len(set(subjects))}
    for name, metric in (("micro_f1", micro_f1), ("macro_f1", macro_f1)):
        low, high = bootstrap_interval(metric, predicted, true, subjects, config.bootstrap, seed=config.seed)
        found[name] = interval_of(metric(predicted, true), low, high, predicted, true)
    found["majority_floor"] = {
        "group": majority,
        "micro_f1": micro_f1(floor, true),
        "macro_f1": macro_f1(floor, true),
    }
    found["classes"] = {
        name: {
            "train": classes[name],
            "test": int((true == index).sum()),
            "right": int(((true == index) & (predicted == index)).sum()),
        }
        for index, name in enumerate(names)
    }
    return found


def class_rows(motions: list[Motion], predicted: np.ndarray, classes: dict[str, int]) -> list[dict[str, Any]]:
    """Rows of PREDICTIONS."""
    names = list(classes)
    return [
        {
            "clip_id": motion.clip_id,
            "subject_id": motion.subject_id or None,
            "action_type": motion.action_type or None,
            "split": motion.split,
            "score": motion.score,
            "group": motion.group,
            "predicted_group": names[index],
        }
        for motion, index in zip(motions, predicted, strict=True)
    ]


def class_lines(metrics: dict[str, Any]) -> list[str]:
    """The metrics as a table for people: the model beside the floor, one line per class."""
    floor = metrics["majority_floor"]
    lines = [f"{metrics['n']} clips of {metrics['subjects']} subjects"]
    lines.append(f"{'':24} {'micro F1 (95 %)':22} {'macro F1 (95 %)':22}")
    lines.append(f"{'the model':24} {cell(metrics['micro_f1']):22} {cell(metrics['macro_f1']):22}")
    always = f"always {floor['group']}"
    lines.append(f"{always:24} {floor['micro_f1']:<22.2f} {floor['macro_f1']:<22.2f}")
    lines += [
        f"{name:24} {counts['right']} of {counts['test']} right, {counts['train']} in training"
        for name, counts in metrics["classes"].items()
    ]
    if metrics["stored"]:
        lines.append("These test clips were scored before; this is the stored result.")
    return lines
