"""Checkpoints and model bundles: safetensors and JSON, hashed, whole or not at all.

    RUN/checkpoints/epoch-000005/
        model.safetensors       parameters and buffers
        best.safetensors        the same at the epoch that validation likes best so far
        optimizer.safetensors   Adam's step and moments
        state.json              epoch, what the run is (identity), sha256 of the three files
        COMPLETE                sha256 of state.json, written last: a folder without it does not count

Random numbers need no saving: every draw is a function of (seed, epoch, clip).
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.errors import ConfigError, CorruptError

if TYPE_CHECKING:
    from torch import Tensor

CHECKPOINT_VERSION = 1
KEPT = 2  # the newest, and one to fall back on; each holds the best weights too
_TENSOR_FILES = ("model", "best", "optimizer")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """Everything a run needs to go on.

    Attributes:
        tensors: model, best, optimizer -> name -> tensor.
        state: JSON values: epoch (the next one to train), best_epoch, best_value.
    """

    tensors: dict[str, dict[str, Tensor]]
    state: dict[str, Any]


def save_checkpoint(folder: Path, checkpoint: Checkpoint, identity: dict[str, Any]) -> Path:
    """Writes one checkpoint durably and removes all but the newest two.

    Args:
        folder: RUN/checkpoints.
        checkpoint: what to write.
        identity: flat description of the run; another run's checkpoint is refused by it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"epoch-{checkpoint.state['epoch']:06d}"
    partial = folder / f".partial-{uuid.uuid4().hex}"
    partial.mkdir()
    hashes = {}
    for name in _TENSOR_FILES:
        hashes[f"{name}.safetensors"] = _write_tensors(
            partial / f"{name}.safetensors", checkpoint.tensors[name]
        )
    state = {
        "version": CHECKPOINT_VERSION,
        "identity": identity,
        "state": checkpoint.state,
        "sha256": hashes,
    }
    digest = write_durably(partial / "state.json", _json(state))
    _flush(partial)
    if target.exists():  # an incomplete or damaged one of an earlier attempt
        shutil.rmtree(target)
    partial.rename(target)
    write_durably(target / "COMPLETE", digest.encode())
    _flush(folder)
    complete = [path for path in _newest_first(folder) if (path / "COMPLETE").exists()]
    for old in complete[KEPT:]:
        shutil.rmtree(old)
    for left in folder.glob(".partial-*"):
        shutil.rmtree(left)
    return target


def load_newest(folder: Path, identity: dict[str, Any]) -> Checkpoint | None:
    """The newest whole checkpoint, or None if there is none yet.

    A damaged one is named in the log and the one before it is taken.

    Raises:
        CorruptError: every checkpoint is damaged.
        ConfigError: the checkpoint belongs to another configuration, data or code version.
    """
    problem: CorruptError | None = None
    for path in _newest_first(folder):
        if not (path / "COMPLETE").exists():
            _log.warning("%s: writing it was interrupted; going back to the one before", path)
            continue
        try:
            return _load(path, identity)
        except CorruptError as error:
            _log.warning("%s Going back to the checkpoint before it.", error)
            problem = problem or error
    if problem:
        raise problem
    return None


def newest_epoch(folder: Path) -> int:
    """After which epoch the newest whole checkpoint was written; 0 = there is none. Nothing in it is read."""
    whole = (path for path in _newest_first(folder) if (path / "COMPLETE").exists())
    return next((int(path.name.removeprefix("epoch-")) for path in whole), 0)


def _load(path: Path, identity: dict[str, Any]) -> Checkpoint:
    from safetensors import SafetensorError
    from safetensors.torch import load

    remedy = "delete this folder to train from the start, or restore it from a copy"
    raw = (path / "state.json").read_bytes() if (path / "state.json").exists() else b""
    if hashlib.sha256(raw).hexdigest() != (path / "COMPLETE").read_text(errors="replace").strip():
        raise CorruptError(path / "state.json", "does not match the sha256 in COMPLETE", remedy)
    record = json.loads(raw)
    if record["version"] > CHECKPOINT_VERSION:
        raise ConfigError(
            path,
            f"has format version {record['version']}, this program knows {CHECKPOINT_VERSION}",
            "use the newer program",
        )
    check_identity(path, record["identity"], identity)
    tensors = {}
    for name in _TENSOR_FILES:
        file = path / f"{name}.safetensors"
        data = file.read_bytes() if file.exists() else b""
        if hashlib.sha256(data).hexdigest() != record["sha256"][file.name]:
            raise CorruptError(file, "does not match the sha256 in state.json", remedy)
        try:
            tensors[name] = load(data)
        except SafetensorError as error:
            raise CorruptError(file, f"is not readable as safetensors ({error})", remedy) from error
    return Checkpoint(tensors, record["state"])


def check_identity(where: object, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """ConfigError with a line per field if two flat descriptions differ."""
    missing = "(nothing)"
    differences = [
        f"{key}: {found.get(key, missing)} there, {wanted.get(key, missing)} asked for"
        for key in sorted(found.keys() | wanted.keys())
        if found.get(key, missing) != wanted.get(key, missing)
    ]
    if differences:
        raise ConfigError(
            where,
            "belongs to another run (" + "; ".join(differences) + ")",
            "give this run another name, or the old settings",
        )


def save_bundle(folder: Path, tensors: dict[str, Tensor], description: dict[str, Any]) -> None:
    """Writes RUN/model: model.safetensors, and config.json with its sha256, last."""
    folder.mkdir(parents=True, exist_ok=True)
    digest = _write_tensors(folder / "model.safetensors", tensors)
    write_durably(
        folder / "config.json", _json({"version": CHECKPOINT_VERSION, "sha256": digest, **description})
    )
    _flush(folder)


def bundle_kind(path: Path) -> str:
    """Kind of the model in a run folder or model folder; errors as `load_bundle`."""
    return _description(path)[1]["kind"]


def load_bundle(path: Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Reads a bundle.

    Args:
        path: a run folder or its model folder.
        kind: nonexpert, expert, angles or hp_mcore.

    Returns:
        tensors by name, and the description.

    Raises:
        ConfigError: there is no bundle, it is of another kind, or of a newer version.
        CorruptError: the weights do not match their sha256.
    """
    from safetensors.torch import load

    folder, description = _description(path)
    config, weights = folder / "config.json", folder / "model.safetensors"
    if description["kind"] != kind:
        raise ConfigError(
            config, f"is a model of kind {description['kind']!r}", f"give a model of kind {kind!r}"
        )
    data = weights.read_bytes()
    if hashlib.sha256(data).hexdigest() != description["sha256"]:
        raise CorruptError(weights, "does not match the sha256 in config.json", "copy the bundle again")
    return load(data), description


def _description(path: Path) -> tuple[Path, dict[str, Any]]:
    """The folder that holds the bundle, and its config.json."""
    folder = path / "model" if (path / "model").is_dir() else path
    config = folder / "config.json"
    if not config.is_file() or not (folder / "model.safetensors").is_file():
        raise ConfigError(path, "holds no trained model", "give the folder of a finished `aqa train` run")
    try:
        description = json.loads(config.read_text())
        version, _ = description["version"], description["kind"]
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptError(config, "is not the description of a model", "copy the bundle again") from error
    if version > CHECKPOINT_VERSION:
        raise ConfigError(
            config, f"has version {version}, this program knows {CHECKPOINT_VERSION}", "use the newer program"
        )
    return folder, description


def write_durably(path: Path, data: bytes) -> str:
    """Writes a file by way of a temporary name, flushed to the disk; returns the sha256."""
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    return hashlib.sha256(data).hexdigest()


def _write_tensors(path: Path, tensors: dict[str, Tensor]) -> str:
    from safetensors.torch import save

    return write_durably(path, save({name: t.detach().cpu().contiguous() for name, t in tensors.items()}))


def _json(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=2, sort_keys=True, allow_nan=False) + "\n").encode()


def _flush(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("epoch-*"), reverse=True)
