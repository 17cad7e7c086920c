"""The angles expert as tensors and plain values, for a bundle, and back."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor

from aqa_models.angles_expert.expert import AnglesExpert
from aqa_models.angles_expert.kernel import Scaling
from aqa_models.angles_expert.kernel_member import KernelMember
from aqa_models.angles_expert.network import AngleNetwork, NetworkSizes
from aqa_models.angles_expert.network_member import NetworkMember
from aqa_models.angles_expert.scaled_view import ScaledView
from aqa_models.angles_expert.tree_member import TreeMember
from aqa_models.angles_expert.trees import Trees
from aqa_models.angles_expert.views import Movement

_EXPERT = ("mean", "deviation", "median", "weights", "lines", "pooled_lines")
_SCALING = ("centre", "spread")
_MOVEMENT = ("centre", "spread", "components")
_KERNEL = ("straight", "crossed", "exercise", "shapes", "coefficients")
_TREES = ("roots", "feature", "threshold", "children", "value")


def state_of(expert: AnglesExpert) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors by name, and what else makes the expert, as JSON values."""
    arrays: dict[str, np.ndarray] = _take(expert, _EXPERT, "")
    tensors: dict[str, Tensor] = {}
    views: dict[str, dict] = {}
    members: list[dict] = []  # a list, because the weights are in this order and JSON may sort names
    for name, view in expert.views.items():
        arrays |= _take(view.scaling, _SCALING, f"view.{name}.scaling.")
        for index, movement in enumerate(view.movements):
            arrays |= _take(movement, _MOVEMENT, f"view.{name}.movement{index}.")
        views[name] = {"rate_hz": view.rate_hz, "movements": len(view.movements)}
    for name, member in expert.members.items():
        if isinstance(member, KernelMember):
            arrays |= _take(member, _KERNEL, f"{name}.")
            members.append({"name": name, "kind": "kernel", "intercept": member.intercept})
        elif isinstance(member, TreeMember):
            for index, forest in enumerate(member.forests):
                arrays |= _take(forest, _TREES, f"{name}.{index}.")
            members.append({"name": name, "kind": "trees"})
        else:
            arrays |= _take(member.scaling, _SCALING, f"{name}.scaling.")
            for index, network in enumerate(member.networks):
                tensors |= {f"{name}.{index}.{part}": t for part, t in network.state_dict().items()}
            told = {"rate_hz": member.rate_hz, "epochs": member.epochs, "seeds": len(member.networks)}
            sizes = asdict(member.networks[0].sizes)
            members.append({"name": name, "kind": "network", **told, "sizes": sizes})
    tensors |= {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}
    about = {"exercises": list(expert.exercises), "pooling": expert.pooling, "held_out": expert.held_out}
    return tensors, {**about, "views": views, "members": members}


def expert_of(tensors: dict[str, Tensor], description: dict[str, Any]) -> AnglesExpert:
    """The expert whose `state_of` this is; its predictions are the same to the last bit."""
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    exercises = tuple(description["exercises"])
    views = {name: _view(name, told, arrays) for name, told in description["views"].items()}
    members: dict[str, KernelMember | TreeMember | NetworkMember] = {}
    for told in description["members"]:
        name = told["name"]
        if told["kind"] == "kernel":
            members[name] = KernelMember(**_give(arrays, _KERNEL, f"{name}."), intercept=told["intercept"])
        elif told["kind"] == "trees":
            forests = (Trees(**_give(arrays, _TREES, f"{name}.{k}.")) for k in range(len(exercises)))
            members[name] = TreeMember(tuple(forests))
        else:
            scaling = Scaling(**_give(arrays, _SCALING, f"{name}.scaling."))
            networks = (_network(tensors, f"{name}.{k}.", told["sizes"]) for k in range(told["seeds"]))
            members[name] = NetworkMember(told["rate_hz"], scaling, tuple(networks), told["epochs"])
    return AnglesExpert(
        exercises=exercises,
        views=views,
        members=members,
        pooling=description["pooling"],
        held_out=description["held_out"],
        **_give(arrays, _EXPERT, ""),
    )


def _view(name: str, told: dict[str, Any], arrays: dict[str, np.ndarray]) -> ScaledView:
    movements = (
        Movement(**_give(arrays, _MOVEMENT, f"view.{name}.movement{k}.")) for k in range(told["movements"])
    )
    scaling = Scaling(**_give(arrays, _SCALING, f"view.{name}.scaling."))
    return ScaledView(name, told["rate_hz"], tuple(movements), scaling)


def _take(source: object, names: tuple[str, ...], prefix: str) -> dict[str, np.ndarray]:
    return {prefix + name: getattr(source, name) for name in names}


def _give(arrays: dict[str, np.ndarray], names: tuple[str, ...], prefix: str) -> dict[str, Any]:
    return {name: arrays[prefix + name] for name in names}


def _network(tensors: dict[str, Tensor], prefix: str, sizes: dict[str, Any]) -> AngleNetwork:
    network = AngleNetwork(NetworkSizes(**sizes))
    network.load_state_dict({n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)})
    return network.eval()
