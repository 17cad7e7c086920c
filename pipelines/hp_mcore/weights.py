"""Weights that visual encoders start from when they learn: a user's files, or random ones if asked for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.config import HpMcoreTrainConfig
from pipelines.errors import ConfigError
from pipelines.stages.appearance_network import fitting, read_weights

if TYPE_CHECKING:
    from torch import Tensor, nn

    from aqa_models.hp_mcore.model import HpMcore

_KINDS = {"dynamic": "i3d", "static": "static"}  # of `fitting`


def check_weights(config: HpMcoreTrainConfig) -> dict[str, str]:
    """Proves before the training that the files fit; says what the encoders start from.

    Returns:
        dynamic_weights.sha256 and static_weights.sha256, "random" without a file; empty if nothing learns.

    Raises:
        ConfigError: a file is missing and random weights were not asked for, is given but not read, cannot be
            read, or does not fit its network.
        SecurityError: a file needs Python objects to be unpickled.
    """
    import torch

    from aqa_models.hp_mcore.model import HpMcore

    files, learns = _files(config), config.encoders == "finetune"
    if not any(files.values()) and not learns:
        return {}
    with torch.device("meta"):  # names and shapes, no memory
        networks = _networks(HpMcore(config.model, encoders=learns))
    if learns and not networks:
        cause = "is finetune, but the model has no visual stream"
        raise ConfigError(
            "hp_mcore.encoders", cause, "set it to frozen, or use_dynamic or use_static to true"
        )
    for name, file in files.items():
        if file is not None and name not in networks:
            cause = f"no {name} encoder learns, so nothing would read {file}"
            raise ConfigError(f"hp_mcore.{name}_weights", cause, "leave it out, or set encoders = finetune")
    without = [name for name in networks if files[name] is None]
    if without and not config.random_weights:
        flags = " and ".join(f"--{name}-weights FILE" for name in without)
        raise ConfigError(
            f"hp_mcore.{without[0]}_weights",
            f"the {' and the '.join(without)} encoder has no weights to start from, and none are shipped",
            f"give {flags}, or --random-weights to train from nothing",
        )
    found = {f"{name}_weights.sha256": "random" for name in without}
    for name, network in networks.items():
        if files[name] is not None:
            _, found[f"{name}_weights.sha256"] = _fitted(name, files[name], network)
    return found


def load_weights(model: HpMcore, config: HpMcoreTrainConfig) -> None:
    """Gives the files' tensors to the visual encoders of a model.

    Raises:
        ConfigError, SecurityError: see `check_weights`.
    """
    files = _files(config)
    for name, network in _networks(model).items():
        if files[name] is not None:
            network.load_state_dict(_fitted(name, files[name], network)[0])


def _files(config: HpMcoreTrainConfig) -> dict[str, Path | None]:
    return {"dynamic": config.dynamic_weights, "static": config.static_weights}


def _networks(model: HpMcore) -> dict[str, nn.Module]:
    """The plain networks inside the encoders that the model holds."""
    encoders = {"dynamic": model.dynamic_encoder, "static": model.static_encoder}
    return {name: encoder.network for name, encoder in encoders.items() if encoder is not None}


def _fitted(name: str, file: Path | None, network: nn.Module) -> tuple[Mapping[str, Tensor], str]:
    assert file is not None
    if not file.is_file():
        raise ConfigError(
            f"hp_mcore.{name}_weights", f"{file} does not exist", "give the path of a weights file"
        )
    tensors, digest = read_weights(file)
    return fitting(network, _KINDS[name], tensors, file), digest
