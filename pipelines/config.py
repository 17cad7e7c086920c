"""The typed, frozen configuration tree: one schema for flags, TOML, environment, Tune and MLflow.

Order of strength: command line > environment (AQA_SECTION__KEY) > TOML file > default. A setting is named
by its dotted path in the tree, e.g. `pretrain.model.encoder_units`, everywhere: in TOML as a table
([pretrain.model]), in the environment as AQA_PRETRAIN__MODEL__ENCODER_UNITS, on the command line without the
section that the verb already names (`aqa train pretrain --model.encoder-units 64`).
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
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from aqa_models.two_stage.config import ExpertConfig, NonExpertConfig, SequenceConfig
from pipelines.errors import ConfigError


class Section(BaseModel):
    """Base of every configuration section: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class ExtractConfig(Section):
    """`aqa extract`: video -> poses or appearance features in the store."""

    kind: Literal["pose", "i3d", "c3d_fc6", "static", "frames"] = "pose"
    """What to extract: poses, features of an appearance network, or JPEG frames for fine-tuning."""
    sampling: Annotated[str, Field(pattern=r"^(all|fps:\d+(\.\d+)?|uniform:\d+)$")] = "all"
    """Frames taken of each clip: all, fps:10 (nearest time stamps), or uniform:96."""
    pose_config: str = "aqa-rendered"
    """Name of a config in the MMPose zoo, or aqa-rendered for the network in the package."""
    weights: Path | None = None
    """Weights file (.safetensors or .pth, tensors only); required unless pose_config is aqa-rendered."""
    random_weights: bool = False
    """Let an appearance network run without a weights file; the key and its spec say so."""
    static_model: str = "regnety_002"
    """timm network of kind static."""
    detector_config: str = ""
    """Config of the MMDetection zoo that finds people; empty = box of the clips table, or whole frame."""
    detector_weights: Path | None = None
    """Its weights file, tensors only."""
    detector_every: Annotated[int, Field(ge=1)] = 1
    """Detect in every n-th sampled frame; boxes in between are interpolated."""
    athlete: Annotated[str, Field(pattern=r"^(most_motion|largest|nearest_centre|track:\d+)$")] = (
        "most_motion"
    )
    """Who is the athlete: most_motion, largest, nearest_centre, or track:3."""
    people: Annotated[int, Field(ge=1)] = 1
    """Most people per clip, one row each, the athlete first."""
    flip_test: bool = False
    """Average each pose with that of the mirrored crop: twice the work, a little more accurate."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "fp32"
    """Arithmetic of the networks; auto = bf16 where the processor or GPU multiplies it natively."""
    compile: bool = False
    """torch.compile the networks (minutes at the start; for long runs on a GPU)."""
    smoothing: Literal["none", "repair", "smooth"] = "none"
    """repair = replace outliers and unsure joints in time; smooth = also filter (docs/decisions.md)."""
    frames_per_batch: Annotated[int, Field(ge=1)] = 64
    """Frames per forward pass, across clips."""
    clips_per_call: Annotated[int, Field(ge=1)] = 4
    """Clips (or parts of long clips) given to a network at a time; its batches run across them."""
    auto: bool = False
    """Measure about 20 clips first and size the pools from that."""
    decode_workers: Annotated[int, Field(ge=0)] = 0
    """Decode processes; 0 = from the cores there are."""
    network_workers: Annotated[int, Field(ge=0)] = 0
    """Network actors; 0 = from the GPUs or cores there are."""
    referee_share: Annotated[float, Field(ge=0, le=1)] = 0.02
    """Share of the clips whose every frame PyAV checks; 1 = all of them."""
    decode_timeout_s: Annotated[float, Field(gt=0)] = 120.0
    """Longest wait for the next frames of a clip, seconds."""
    decode_memory_mb: Annotated[int, Field(ge=256)] = 3000
    """Address-space limit of one decode process."""
    max_reject_share: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Above this share of rejected clips the run ends with exit code 3 (all rows are kept)."""


class OptimizerConfig(Section):
    """Adam with a stepwise decay."""

    learning_rate: Annotated[float, Field(gt=0)] = 3e-4
    """Step size at the start (paper: 3e-4)."""
    decay: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Factor applied 20 times over the training (paper: decay rate 0.9; see docs/papers.md)."""
    clip_norm: Annotated[float, Field(gt=0)] = 10.0
    """Largest gradient norm."""


class TrainSection(Section):
    """What pretraining and the expert share."""

    epochs: Annotated[int, Field(ge=1)]
    """Passes over the training clips."""
    batch_size: Annotated[int, Field(ge=2)]
    """Clips per step, over all workers."""
    optimizer: OptimizerConfig = OptimizerConfig()
    sequence: SequenceConfig = SequenceConfig()
    seed: int = 0
    """Of weights, order, pace and masks; recorded with the run."""
    num_workers: Annotated[int, Field(ge=0)] = 0
    """Ray Train workers; 0 = in this process."""
    use_gpu: bool = False
    """One GPU per worker."""
    checkpoint_every: Annotated[int, Field(ge=1)] = 5
    """Epochs between checkpoints."""
    validation_share: Annotated[float, Field(gt=0, lt=1)] = 0.15
    """Share of the training subjects that choose the epoch, when no split column says val."""
    poses: str = ""
    """Key of the pose table to read; empty = the only one in the store."""


class PretrainConfig(TrainSection):
    """`aqa train pretrain`: the non-expert learns pace and inpainting from healthy motion."""

    epochs: Annotated[int, Field(ge=1)] = 300
    """Passes over the training clips (paper: 300)."""
    batch_size: Annotated[int, Field(ge=2)] = 55
    """Clips per step, over all workers (paper: 55)."""
    model: NonExpertConfig = NonExpertConfig()
    groups: tuple[str, ...] = ()
    """Learn from these groups only, e.g. Expert,NotExpert (the healthy subjects of KIMORE); empty = all."""
    crop_frames: Annotated[int, Field(ge=0)] = 0
    """Longest window drawn of a recording in each epoch, in frames at rate_hz; 0 = whole recordings."""


class ExpertTrainConfig(TrainSection):
    """`aqa train expert`: scores motion on top of the pretrained encoder."""

    epochs: Annotated[int, Field(ge=1)] = 1000
    """Passes over the training clips (paper: 1000)."""
    batch_size: Annotated[int, Field(ge=2)] = 25
    """Clips per step, over all workers (paper: 25)."""
    model: ExpertConfig = ExpertConfig()
    action_types: tuple[str, ...] = ()
    """Train on these action types only, e.g. Es1,Es5; empty = all."""
    encoder_units: Annotated[int, Field(ge=1)] = 1000
    """Size of the encoder when none is given; a pretrained encoder brings its own."""
    encoder_layers: Annotated[int, Field(ge=1)] = 2
    crop_share: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Shortest share of a recording shown in training, drawn anew each epoch; 1 = always all of it."""
    feature_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Share of the encoder's features hidden from the expert, drawn anew for each clip and epoch."""


class EvaluateConfig(Section):
    """`aqa evaluate`."""

    bootstrap: Annotated[int, Field(ge=100)] = 1000
    """Resamples of subjects for the 95 % interval."""
    seed: int = 0
    """Of the resamples."""


class PoseTrainConfig(Section):
    """`aqa pose train`: fine-tunes a pose network on manual labels."""

    steps: Annotated[int, Field(ge=1)] = 300
    """Optimiser steps."""
    batch_size: Annotated[int, Field(ge=1)] = 12
    """Views per step, over all workers."""
    learning_rate: Annotated[float, Field(gt=0)] = 5e-4
    """AdamW step size after 50 steps of warm-up; falls along a cosine."""
    render_share: Annotated[float, Field(ge=0, le=1)] = 0.33
    """Share of the views that show rendered divers; the others show labelled frames."""
    seed: int = 0
    """Of renders, views and new layers; recorded with the run."""
    num_workers: Annotated[int, Field(ge=0)] = 0
    """Ray Train workers; 0 = in this process."""
    use_gpu: bool = False
    """One GPU per worker."""
    checkpoint_every: Annotated[int, Field(ge=1)] = 100
    """Steps between checkpoints."""


class TrackingConfig(Section):
    """MLflow."""

    uri: str = ""
    """Tracking URI; empty = MLFLOW_TRACKING_URI, else mlflow.db beside the run."""
    experiment: str = "aqa"
    """Name of the MLflow experiment the run belongs to."""


class Config(Section):
    """The whole tree, as a TOML file holds it."""

    extract: ExtractConfig = ExtractConfig()
    pretrain: PretrainConfig = PretrainConfig()
    expert: ExpertTrainConfig = ExpertTrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    pose_train: PoseTrainConfig = PoseTrainConfig()
    tracking: TrackingConfig = TrackingConfig()


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
        (path, source.origin, f"unknown setting{_nearest(path, known)}")
        for path, source in given.items()
        if path not in known
    ]
    problems += [
        (path, source.origin, f"{source.value} is not a finite number")
        for path, source in given.items()
        if path in known and not _finite(source.value)
    ]
    wrong = {path for path, _, _ in problems}
    accepted = {path: source.value for path, source in given.items() if path not in wrong}
    try:
        # Strict JSON: no bool for int, no "3" for 3, yet a list may become a tuple and a text a path.
        config = Config.model_validate_json(json.dumps(_nest(accepted), default=str), strict=True)
    except ValidationError as error:
        problems += [_problem(detail, given, known) for detail in error.errors(include_url=False)]
        raise _config_error(problems) from None
    if problems:
        raise _config_error(problems)
    return config, {path: given[path].origin if path in given else "default" for path in known}


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
    section = None
    for setting in sorted(describe(), key=lambda s: s.path.rpartition(".")[0]):
        table, _, key = setting.path.rpartition(".")
        if table != section:
            lines += ["", f"[{table}]"]
            section = table
        lines += textwrap.wrap(
            f"{setting.meaning} ({kind_name(setting)})", 100, initial_indent="# ", subsequent_indent="# "
        )
        lines.append(f'# {key} = ""' if setting.default is None else f"{key} = {_toml(setting.default)}")
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
        path: Source(value, f"{file}{_line_of(text, path)}") for path, value in _toml_leaves(tree, "", known)
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


def _line_of(text: str, path: str) -> str:
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


def _nearest(path: str, known: Mapping[str, Setting]) -> str:
    near = difflib.get_close_matches(path, known, n=1, cutoff=0.6)
    if not near:  # the right name in the wrong section
        near = [name for name in known if name.rpartition(".")[2] == path.rpartition(".")[2]][:1]
    return f"; the nearest is {near[0]}" if near else ""


def _problem(detail: Any, given: Mapping[str, Source], known: Mapping[str, Setting]) -> tuple[str, str, str]:
    """One pydantic error as (path, origin, text)."""
    path = ".".join(str(part) for part in detail["loc"])
    while path not in known and "." in path:  # (paces, 2) names an element, a union its member
        path = path.rpartition(".")[0]
    setting = known[path]
    expected = detail["msg"].replace("Input should", "should").replace("String should", "should")
    if detail["type"] == "string_pattern_mismatch":
        expected = f"is not one of: {setting.meaning}"
    return path, given[path].origin, f"{_shown(detail['input'])} {expected} ({kind_name(setting)})"


def _shown(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 80 else text[:77] + "..."


def _config_error(problems: list[tuple[str, str, str]]) -> ConfigError:
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
