"""A search space: settings of the configuration, each with the values to try, read from a TOML file.

    [expert.optimizer]
    learning_rate = {log_uniform = [1e-4, 1e-2]}
    [expert]
    batch_size = {choice = [16, 32]}

Kinds: `uniform` and `log_uniform` take the two ends, both included, and give whole numbers where the setting
is one; `choice` takes a list of values.
"""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.config import Config
from pipelines.errors import ConfigError
from pipelines.settings import Setting, Source, config_error, describe, line_of, nearest, override

KINDS = ("uniform", "log_uniform", "choice")
# They say where a trial runs, which rows it reads, or whom it is judged on: trials could not be compared.
_FIXED = {
    "num_workers": "says where a trial trains, not what",
    "min_workers": "says where a trial trains, not what",
    "use_gpu": "says where a trial trains, not what",
    "decode_workers": "says where a trial trains, not what",
    "checkpoint_every": "says where a trial trains, not what",
    "preset": "stands for many settings; name those that shall vary",
    "seed": "also chooses the validation people, whom all trials must share",
    "validation_share": "chooses the validation people, whom all trials must share",
    "members": "changes who validates a model, which all trials must share",
    "action_types": "changes the validation clips, which all trials must share",
    "task": "changes what is learned",
}


@dataclass(frozen=True)
class Range:
    """The values one setting may take.

    Attributes:
        path: dotted path of the setting.
        kind: one of KINDS.
        values: the two ends, or the choices.
        whole: whether the setting is an integer.
    """

    path: str
    kind: str
    values: tuple[Any, ...]
    whole: bool = False

    @property
    def log(self) -> bool:
        return self.kind == "log_uniform"


def read_space(file: Path, sections: tuple[str, ...], config: Config) -> tuple[Range, ...]:
    """The ranges of a file, in the order of their paths.

    Args:
        file: TOML.
        sections: of the configuration that trials read.
        config: all other settings; every end and choice must be valid among them.

    Raises:
        ConfigError: naming every unknown path (with the nearest known one), every setting that cannot be
            searched and every wrong range at once, each with its line.
    """
    tree, text = _tree(file)
    known = {s.path: s for s in describe() if s.path.partition(".")[0] in sections}
    found, problems = [], []
    for path, value in _leaves(tree):
        origin = f"{file}{line_of(text, path)}"
        problem = _path_problem(path, known)
        ranged = None if problem else _range(path, value, known[path])
        if isinstance(ranged, Range):
            found.append((ranged, origin))
        else:
            problems.append((path, origin, problem or str(ranged)))
    if not problems and not found:
        raise ConfigError(file, "holds no range", "see docs/sweeps.md for an example")
    if problems:
        raise config_error(problems)
    for ranged, origin in found:
        for value in ranged.values:
            override(config, {ranged.path: Source(value, origin)})
    return tuple(sorted((ranged for ranged, _ in found), key=lambda ranged: ranged.path))


def _tree(file: Path) -> tuple[dict[str, Any], str]:
    try:
        text = file.read_text(encoding="utf-8")
        return tomllib.loads(text), text
    except OSError as error:
        cause = f"the search space cannot be read: {error.strerror}"
        raise ConfigError(file, cause, "give a TOML file, see docs/sweeps.md") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(file, f"not valid TOML: {error}", "correct that line") from error


def _leaves(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict) and value and not any(kind in value for kind in KINDS):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _path_problem(path: str, known: dict[str, Setting]) -> str:
    if path not in known:
        return f"unknown setting{nearest(path, known)}"
    name = path.rpartition(".")[2]
    if name in _FIXED:
        return f"cannot be searched: it {_FIXED[name]}"
    return ""


def _range(path: str, value: Any, setting: Setting) -> Range | str:
    """The range, or what is wrong with it."""
    if not isinstance(value, dict):
        return f"{json.dumps(value, default=str)} is a value, not a range; fixed values belong into --config"
    if len(value) != 1 or next(iter(value)) not in KINDS:
        return f"has {', '.join(value) or 'nothing'}; give exactly one of {', '.join(KINDS)}"
    kind, values = next(iter(value.items()))
    if not isinstance(values, list) or len(values) < 2:
        return f"{kind} needs a list of {'two ends' if kind != 'choice' else 'at least two values'}"
    if kind == "choice":
        texts = [json.dumps(item, default=str) for item in values]
        return Range(path, kind, tuple(values)) if len(set(texts)) == len(texts) else "choice repeats a value"
    whole = setting.kind is int
    if setting.kind not in (int, float):
        return f"{kind} is for numbers; give choice"
    if len(values) != 2 or not all(_is_number(end, whole) for end in values):
        return f"{kind} needs two finite {'whole ' if whole else ''}numbers"
    low, high = values
    if not low < high:
        return f"{kind} from {low} to {high} is empty; give the smaller end first"
    if kind == "log_uniform" and low <= 0:
        return f"log_uniform from {low}: both ends must be above 0"
    return Range(path, kind, tuple(values), whole)


def _is_number(value: Any, whole: bool) -> bool:
    kinds = (int,) if whole else (int, float)
    return isinstance(value, kinds) and not isinstance(value, bool) and math.isfinite(value)
