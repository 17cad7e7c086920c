"""The angles expert as tensors and plain values, for a bundle, and back."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from aqa_models.angles_expert.expert import AnglesExpert
from aqa_models.angles_expert.kernel import Scaling
from aqa_models.angles_expert.kernel_member import KernelMember
from aqa_models.angles_expert.network import AngleNetwork, NetworkSizes
from aqa_models.angles_expert.network_member import NetworkMember
from aqa_models.angles_expert.views import Movement

_ARRAYS = ("mean", "deviation", "median", "weights", "lines", "pooled_lines")
_KERNEL_ARRAYS = ("straight", "crossed", "exercise", "shapes", "coefficients")
_KERNEL_NUMBERS = ("view", "rate_hz", "intercept")
_MOVEMENT = ("centre", "spread", "components")


def state_of(expert: AnglesExpert) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors by name, and what else makes the expert, as JSON values."""
    arrays = {name: getattr(expert, name) for name in _ARRAYS}
    members: dict[str, dict[str, Any]] = {}
    tensors: dict[str, Tensor] = {}
    for name, member in expert.members.items():
        arrays |= {f"{name}.scaling.{part}": getattr(member.scaling, part) for part in ("centre", "spread")}
        if isinstance(member, KernelMember):
            arrays |= {f"{name}.{part}": getattr(member, part) for part in _KERNEL_ARRAYS}
            for index, movement in enumerate(member.movements):
                arrays |= {f"{name}.movement{index}.{part}": getattr(movement, part) for part in _MOVEMENT}
            members[name] = {part: getattr(member, part) for part in _KERNEL_NUMBERS}
        else:
            for index, network in enumerate(member.networks):
                tensors |= {f"{name}.{index}.{part}": t for part, t in network.state_dict().items()}
            sizes = asdict(member.networks[0].sizes)
            told = {"rate_hz": member.rate_hz, "epochs": member.epochs, "seeds": len(member.networks)}
            members[name] = {**told, "sizes": sizes}
    tensors |= {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}
    about = {"exercises": list(expert.exercises), "pooling": expert.pooling, "held_out": expert.held_out}
    return tensors, {**about, "members": members}


def expert_of(tensors: dict[str, Tensor], description: dict[str, Any]) -> AnglesExpert:
    """The expert whose `state_of` this is; its predictions are the same to the last bit."""
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    exercises = tuple(description["exercises"])
    members: dict[str, KernelMember | NetworkMember] = {}
    for name, told in description["members"].items():
        scaling = Scaling(arrays[f"{name}.scaling.centre"], arrays[f"{name}.scaling.spread"])
        if "view" in told:
            parts = {part: arrays[f"{name}.{part}"] for part in _KERNEL_ARRAYS}
            movements = tuple(
                Movement(*(arrays[f"{name}.movement{index}.{part}"] for part in _MOVEMENT))
                for index in range(len(exercises))
                if f"{name}.movement{index}.centre" in arrays
            )
            members[name] = KernelMember(movements=movements, scaling=scaling, **parts, **told)
        else:
            networks = [_network(tensors, f"{name}.{k}.", told["sizes"]) for k in range(told["seeds"])]
            members[name] = NetworkMember(told["rate_hz"], scaling, tuple(networks), told["epochs"])
    return AnglesExpert(
        exercises=exercises,
        members=members,
        pooling=description["pooling"],
        held_out=description["held_out"],
        **{name: arrays[name] for name in _ARRAYS},
    )


def _network(tensors: dict[str, Tensor], prefix: str, sizes: dict[str, Any]) -> AngleNetwork:
    network = AngleNetwork(NetworkSizes(**sizes))
    network.load_state_dict({n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)})
    return network.eval()
