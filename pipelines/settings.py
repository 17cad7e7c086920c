"""Fills the tree of `config.py` from flags, environment and a TOML file, and describes it.

Order of strength: command line > environment (AQA_SECTION__KEY) > TOML file > preset > default.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import inspect
import itertools
import json
import math
import textwrap
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ValidationError

from pipelines.config import TRAIN_PRESETS, Config
from pipelines.errors import ConfigError

ENVIRONMENT_PREFIX = "AQA_"
_TRUE, _FALSE = ("true", "1", "yes", "on"), ("false", "0", "no", "off")


class Setting(NamedTuple):
    """One leaf of the tree: what help, the documentation page and the template say about it."""

    path: str
    kind: Any
    """The type as written, e.g. `int`, `Literal["mean", "sum"]`, `tuple[float, ...]`."""
    default: Any
    meaning: str
    limits: str
    """Bounds in words, e.g. `>= 1`; empty if there are none."""


class Source(NamedTuple):
    """A value before validation, and the place a person can correct it."""

    value: Any
    origin: str
    """`flag --epochs`, `environment variable AQA_PRETRAIN__EPOCHS`, `run.toml, line 3`, or `default`."""


def load_config(
    toml: Path | None = None,
    environment: Mapping[str, str] | None = None,
    flags: Mapping[str, str] | None = None,
) -> Config:
    """Merge the four sources and validate the result.

    Args:
        toml: configuration file; None = none.
        environment: usually `os.environ`; only names AQA_SECTION__KEY are read.
        flags: dotted path -> text, as typed on the command line.

    Raises:
        ConfigError: naming every unknown key (with the nearest known one) and every wrong value at once, each
            with the place it came from.
    """
    return resolve(toml, environment, flags)[0]


def resolve(
    toml: Path | None = None,
    environment: Mapping[str, str] | None = None,
    flags: Mapping[str, str] | None = None,
) -> tuple[Config, dict[str, str]]:
    """Like `load_config`; also says of each dotted path where its value came from."""
    known = {setting.path: setting for setting in describe()}
    given: dict[str, Source] = {}
    if toml is not None:
        given |= _from_toml(toml, known)
    for name, text in (environment or {}).items():
        if name.startswith(ENVIRONMENT_PREFIX) and "__" in name:
            path = name.removeprefix(ENVIRONMENT_PREFIX).lower().replace("__", ".")
            given[path] = Source(_parse(text, known.get(path)), f"environment variable {name}")
    for path, text in (flags or {}).items():
        given[path] = Source(_parse(text, known.get(path)), f"flag {flag_of(path)}")

    problems = [
        (path, source.origin, f"unknown setting{nearest(path, known)}")
        for path, source in given.items()
        if path not in known
    ]
    problems += [
        (path, source.origin, f"{source.value} is not a finite number")
        for path, source in given.items()
        if path in known and not _finite(source.value)
    ]
    wrong = {path for path, _, _ in problems}
    preset = {path: source for path, source in _from_presets(given).items() if path not in given}
    accepted = {path: source.value for path, source in (preset | given).items() if path not in wrong}
    try:
        # Strict JSON: no bool for int, no "3" for 3, yet a list may become a tuple and a text a path.
        config = Config.model_validate_json(json.dumps(_nest(accepted), default=str), strict=True)
    except ValidationError as error:
        problems += [_problem(detail, preset | given, known) for detail in error.errors(include_url=False)]
        raise config_error(problems) from None
    if problems:
        raise config_error(problems)
    origins = {path: source.origin for path, source in (preset | given).items()}
    return config, {path: origins.get(path, "default") for path in known}


def override(config: Config, values: Mapping[str, Source]) -> Config:
    """The configuration with other values for some known settings; presets are not asked again.

    Raises:
        ConfigError: naming every wrong value, and settings that contradict each other.
    """
    tree = config.model_dump(mode="json")
    for path, source in values.items():
        *tables, key = path.split(".")
        place = tree
        for table in tables:
            place = place[table]
        place[key] = source.value
    try:
        return Config.model_validate_json(json.dumps(tree, default=str), strict=True)
    except ValidationError as error:
        known = {setting.path: setting for setting in describe()}
        raise config_error(
            [_problem(detail, values, known) for detail in error.errors(include_url=False)]
        ) from None


def _from_presets(given: Mapping[str, Source]) -> dict[str, Source]:
    """What the chosen presets say, weaker than everything else that is given."""
    found = {}
    for section, presets in TRAIN_PRESETS.items():
        default = getattr(Config(), section).preset
        name = given[f"{section}.preset"].value if f"{section}.preset" in given else default
        if isinstance(name, str) and name in presets:
            told = presets[name].items()
            found |= {f"{section}.{path}": Source(value, f"preset {name}") for path, value in told}
    return found


def _decided_by_presets() -> set[str]:
    """Every path about which some preset says something."""
    chosen = [(section, name) for section, presets in TRAIN_PRESETS.items() for name in presets]
    given = [{f"{section}.preset": Source(name, "")} for section, name in chosen]
    return {path for one in given for path in _from_presets(one)}


def flatten(config: BaseModel) -> dict[str, str | int | float | bool]:
    """Dotted path -> scalar, as MLflow stores parameters; tuples become text with commas, None empty text."""
    return {path: _scalar(value) for path, value in _leaves(config)}


def describe(section: str = "") -> list[Setting]:
    """Every setting in the order of the tree; with `section`, only those below it, paths without its name."""
    settings = list(_settings(Config, "", Config()))
    if not section:
        return settings
    prefix = section + "."
    return [s._replace(path=s.path.removeprefix(prefix)) for s in settings if s.path.startswith(prefix)]


def kind_name(setting: Setting) -> str:
    """The type of a setting in a few words, with its bounds."""
    kind = setting.kind
    if get_origin(kind) is Literal:
        return " | ".join(map(str, get_args(kind)))
    if get_origin(kind) is tuple:
        return "numbers separated by commas"
    if kind == (Path | None):
        return "path"
    name = {str: "text", Path: "path", bool: "true | false", int: "integer", float: "number"}[kind]
    return f"{name} {setting.limits}".strip()


def flag_of(path: str) -> str:
    """The command-line flag of a setting: the verb names the section, so only tracking keeps its prefix."""
    section, _, rest = path.partition(".")
    return "--" + (path if section == "tracking" else rest or path).replace("_", "-")


def write_template() -> str:
    """A TOML file of all settings at their defaults, each with its meaning; reading it gives `Config()`."""
    lines = ["# Configuration of aqa. Strength: flag > environment (AQA_SECTION__KEY) > this file > default."]
    presets = _decided_by_presets()
    section = None
    for setting in sorted(describe(), key=lambda s: s.path.rpartition(".")[0]):
        table, _, key = setting.path.rpartition(".")
        if table != section:
            lines += ["", f"[{table}]"]
            section = table
        lines += textwrap.wrap(
            f"{setting.meaning} ({kind_name(setting)})", 100, initial_indent="# ", subsequent_indent="# "
        )
        line = f'{key} = ""' if setting.default is None else f"{key} = {_toml(setting.default)}"
        # A value that is written would be stronger than the preset somebody chooses in the same file.
        decided = setting.path in presets or setting.default is None
        lines.append(f"# {line}" if decided else line)
    return "\n".join(lines) + "\n"


def to_toml(config: Config, sections: Sequence[str]) -> str:
    """Every setting of some sections as TOML, without those that are None; reading it gives the same."""
    lines, table = [], None
    leaves = [leaf for leaf in _leaves(config) if leaf[0].partition(".")[0] in sections]
    for path, value in sorted(leaves, key=lambda leaf: leaf[0].rpartition(".")[0]):
        if value is None:
            continue
        if path.rpartition(".")[0] != table:
            table = path.rpartition(".")[0]
            lines += ["", f"[{table}]"]
        lines.append(f"{path.rpartition('.')[2]} = {_toml(value)}")
    return "\n".join(lines) + "\n"


def _from_toml(file: Path, known: Mapping[str, Setting]) -> dict[str, Source]:
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise ConfigError(
            file, f"the configuration file cannot be read: {reason}", "Give a TOML file"
        ) from error
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(file, f"not valid TOML: {error}", "Correct that line") from error
    return {
        path: Source(value, f"{file}{line_of(text, path)}") for path, value in _toml_leaves(tree, "", known)
    }


def _toml_leaves(
    tree: dict[str, Any], prefix: str, known: Mapping[str, Setting]
) -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        path = f"{prefix}{key}"
        if isinstance(value, dict) and value and path not in known:
            yield from _toml_leaves(value, path + ".", known)
        elif value != {} or path in known:
            yield path, value


def line_of(text: str, path: str) -> str:
    """`, line 3` for the line that sets `path`; empty where the file uses inline tables."""
    table = ""
    for number, line in enumerate(text.splitlines(), start=1):
        line = line.strip()
        if line.startswith("["):
            table = line.strip("[] ") + "."
        elif (table + line.partition("=")[0].strip()).replace('"', "") == path:
            return f", line {number}"
    return ""


def _parse(text: str, setting: Setting | None) -> Any:
    """Text of a flag or variable as the type the setting wants; unchanged if it cannot be that type."""
    if setting is None:
        return text
    kind, lowered = setting.kind, text.strip().lower()
    if get_origin(kind) is tuple:
        return [_number(part) for part in text.split(",")]
    if kind is bool and lowered in _TRUE + _FALSE:
        return lowered in _TRUE
    return _number(text) if kind in (int, float) else text


def _number(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text.replace("_", "x"))  # Python would read 1_0 as 10; a person typing it may not
        except ValueError:
            continue
    return text


def _finite(value: Any) -> bool:
    values = value if isinstance(value, list) else [value]
    return all(math.isfinite(v) for v in values if isinstance(v, float))


def _nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path, value in flat.items():
        *tables, key = path.split(".")
        place = tree
        for table in tables:
            place = place.setdefault(table, {})
        place[key] = value
    return tree


def nearest(path: str, known: Mapping[str, Setting]) -> str:
    """`; the nearest is NAME`, or nothing if no known setting is like it."""
    near = difflib.get_close_matches(path, known, n=1, cutoff=0.6)
    if not near:  # the right name in the wrong section
        near = [name for name in known if name.rpartition(".")[2] == path.rpartition(".")[2]][:1]
    return f"; the nearest is {near[0]}" if near else ""


def _problem(detail: Any, given: Mapping[str, Source], known: Mapping[str, Setting]) -> tuple[str, str, str]:
    """One pydantic error as (path, origin, text)."""
    path = ".".join(str(part) for part in detail["loc"])
    while not any(name == path or name.startswith(f"{path}.") for name in known):
        path = path.rpartition(".")[0]  # (paces, 2) names an element, a union its member
    if path not in known:  # a section, whose settings contradict each other: the text names them
        text = detail["msg"].removeprefix("Value error, ")
        named = [
            source.origin
            for name, source in given.items()
            if name.startswith(f"{path}.") and name.rpartition(".")[2] in text
        ]
        return path, ", ".join(dict.fromkeys(named)) or "default", text
    setting = known[path]
    expected = detail["msg"].replace("Input should", "should").replace("String should", "should")
    if detail["type"] == "string_pattern_mismatch":
        expected = f"is not one of: {setting.meaning}"
    return path, given[path].origin, f"{_shown(detail['input'])} {expected} ({kind_name(setting)})"


def _shown(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 80 else text[:77] + "..."


def config_error(problems: list[tuple[str, str, str]]) -> ConfigError:
    """One error for all problems, each given as (path, origin, text)."""
    remedy = "See `aqa config template` for every setting"
    if len(problems) == 1:
        path, origin, text = problems[0]
        return ConfigError(f"{path} ({origin})", text, remedy)
    lines = "".join(f"\n  {path} ({origin}): {text}" for path, origin, text in problems)
    return ConfigError("configuration", f"{len(problems)} problems{lines}\n", remedy)


def _settings(kind: type, prefix: str, defaults: Any) -> Iterator[Setting]:
    """Leaves below a section, pydantic model or standard dataclass alike."""
    hints = get_type_hints(kind)
    meanings, limits = _meanings(kind)
    for name, hint in hints.items():
        if name not in meanings:
            continue
        default = getattr(defaults, name)
        if isinstance(default, BaseModel) or dataclasses.is_dataclass(default):
            yield from _settings(hint, f"{prefix}{name}.", default)
        else:
            yield Setting(prefix + name, hint, default, meanings[name], limits[name])


def _meanings(kind: type) -> tuple[dict[str, str], dict[str, str]]:
    """Field name -> meaning, and -> bounds in words."""
    signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
    if issubclass(kind, BaseModel):
        fields = kind.model_fields
        meanings = {name: field.description or _plain(name) for name, field in fields.items()}
        limits = {
            name: " and ".join(
                f"{sign} {getattr(rule, key)}"
                for rule in field.metadata
                for key, sign in signs.items()
                if getattr(rule, key, None) is not None
            )
            for name, field in fields.items()
        }
        return meanings, limits
    body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0].body  # type: ignore[attr-defined]
    meanings = {field.name: _plain(field.name) for field in dataclasses.fields(kind)}
    for field, text in itertools.pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
            meanings[field.target.id] = inspect.cleandoc(text.value.value)  # type: ignore[attr-defined]
    return meanings, dict.fromkeys(meanings, "")


def _plain(name: str) -> str:
    return name.replace("_", " ").capitalize() + "."


def _leaves(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    names = (
        type(config).model_fields
        if isinstance(config, BaseModel)
        else [field.name for field in dataclasses.fields(config)]
    )
    for name in names:
        value = getattr(config, name)
        if isinstance(value, BaseModel) or dataclasses.is_dataclass(value):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _scalar(value: Any) -> str | int | float | bool:
    if value is None:
        return ""
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return str(value) if isinstance(value, Path) else value


def _toml(value: Any) -> str:
    return json.dumps(str(value) if isinstance(value, Path) else value)
