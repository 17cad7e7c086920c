"""Makes mmpose 1.3.2 importable without compiled mmcv, and loads weights without running code.

mmpose and mmdet import names from `mmcv.ops` (compiled, no wheels for current torch) and from
`xtcocotools` (wheels built for NumPy 1 only). `install()` answers these imports: `nms`, `batched_nms`,
`roi_align` and `RoIAlign` work through torchvision; any other operator raises when it is called, so
that the many models which never use it can be built. Call `install()` before the first mmpose import.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import pickle
import sys
import warnings
import zipfile
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from pipelines.errors import ConfigError, SecurityError

if TYPE_CHECKING:
    import torch

_MISSING_REMEDY = "install the pose group (`uv sync --group pose`; the README has the pip line)"


def install() -> None:
    """Make `import mmpose` work with mmcv-lite; does nothing where full mmcv is there.

    Idempotent. Raises ConfigError if mmcv (lite or full) or pycocotools is not installed.
    """
    if importlib.util.find_spec("mmcv") is None:
        raise ConfigError("mmcv", "the pose packages are not installed", _MISSING_REMEDY)
    if importlib.util.find_spec("mmcv._ext") is None and not any(
        isinstance(f, _OpsFinder) for f in sys.meta_path
    ):
        sys.meta_path.insert(0, _OpsFinder())
    if "xtcocotools" not in sys.modules and importlib.util.find_spec("xtcocotools") is None:
        _alias_xtcocotools()
    # mmengine and mmcv ask pkg_resources and older torch functions; their notices help no user.
    warnings.filterwarnings("ignore", message="pkg_resources is deprecated", category=UserWarning)


def _alias_xtcocotools() -> None:
    """Answer `import xtcocotools[.coco|.cocoeval|.mask]` with pycocotools."""
    if importlib.util.find_spec("pycocotools") is None:
        raise ConfigError("pycocotools", "the pose packages are not installed", _MISSING_REMEDY)
    sys.modules["xtcocotools"] = importlib.import_module("pycocotools")
    for part in ("coco", "cocoeval", "mask"):
        sys.modules[f"xtcocotools.{part}"] = importlib.import_module(f"pycocotools.{part}")


class _OpsFinder(MetaPathFinder, Loader):
    """Answers `mmcv.ops` and everything below it with modules made by `_OpsModule`."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if fullname == "mmcv.ops" or fullname.startswith("mmcv.ops."):
            return ModuleSpec(fullname, self, is_package=True)
        return None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _OpsModule(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Nothing to run: attributes are made on demand."""


class _OpsModule(ModuleType):
    """A module whose operators are torchvision's, or raise when called."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        made = _OPERATORS[name]() if name in _OPERATORS else _unavailable(name)
        setattr(self, name, made)
        return made

    def __setattr__(self, name: str, value: Any) -> None:
        # `import mmcv.ops.nms` would put the submodule where mmcv has the function of that name
        if not isinstance(value, _OpsModule):
            super().__setattr__(name, value)


def _unavailable(name: str) -> Any:
    """A class (names in capitals) or function that raises ConfigError when instantiated or called."""
    from torch import nn

    def refuse(*args: object, **kwargs: object) -> None:
        raise ConfigError(
            f"mmcv.ops.{name}",
            "this operator needs the compiled mmcv, and mmcv-lite is installed",
            "choose a model that does not use it, or build mmcv for your torch",
        )

    return type(name, (nn.Module,), {"__init__": refuse}) if name[:1].isupper() else refuse


def _make_nms() -> Any:
    def nms(
        boxes: Any,
        scores: Any,
        iou_threshold: float,
        offset: int = 0,
        score_threshold: float = 0.0,
        max_num: int = -1,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Greedy non-maximum suppression: boxes (N, 4) xyxy -> ((K, 5) boxes with scores, (K,) indices)."""
        import torch
        from torchvision.ops import nms as keep_of

        boxes, scores = torch.as_tensor(boxes), torch.as_tensor(scores)
        # offset 1 counts the last pixel: widths and heights are one larger (pre-2.0 detectors)
        shifted = boxes + boxes.new_tensor([0, 0, offset, offset])
        valid = torch.nonzero(scores > score_threshold).flatten()
        keep = valid[keep_of(shifted[valid].float(), scores[valid].float(), iou_threshold)]
        keep = keep[:max_num] if max_num > 0 else keep
        return torch.cat([boxes[keep], scores[keep, None]], dim=1), keep

    return nms


def _make_batched_nms() -> Any:
    def batched_nms(
        boxes: torch.Tensor,
        scores: torch.Tensor,
        idxs: torch.Tensor,
        nms_cfg: dict | None,
        class_agnostic: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """NMS within each group of `idxs`; same settings and result as mmcv's (type nms only)."""
        import torch

        if nms_cfg is None:
            order = scores.argsort(descending=True)
            return torch.cat([boxes[order], scores[order, None]], dim=1), order
        settings = dict(nms_cfg)
        kind = settings.pop("type", "nms")
        if kind != "nms":
            raise ConfigError(
                f"nms type {kind}", "only the type 'nms' works without compiled mmcv", "use type='nms'"
            )
        class_agnostic = settings.pop("class_agnostic", class_agnostic)
        settings.pop("split_thr", None)
        shifted = boxes
        if not class_agnostic and boxes.numel():
            shifted = boxes + (idxs.to(boxes) * (boxes.max() + 1))[:, None]
        _, keep = _make_nms()(shifted, scores, **settings)
        return torch.cat([boxes[keep], scores[keep, None]], dim=1), keep

    return batched_nms


def _make_roi_align() -> Any:
    def roi_align(
        input: torch.Tensor,
        rois: torch.Tensor,
        output_size: Any,
        spatial_scale: float = 1.0,
        sampling_ratio: int = 0,
        pool_mode: str = "avg",
        aligned: bool = True,
    ) -> torch.Tensor:
        """Average RoI align: (B, C, H, W) features, (N, 5) rois with batch index first."""
        from torchvision.ops import roi_align as align

        if pool_mode != "avg":
            raise ConfigError(
                "roi_align", f"pool_mode {pool_mode!r} needs the compiled mmcv", "use pool_mode='avg'"
            )
        ratio = sampling_ratio if sampling_ratio > 0 else -1
        return align(input, rois, output_size, spatial_scale, ratio, aligned)

    return roi_align


def _make_roi_align_class() -> Any:
    from torch import nn

    class RoIAlign(nn.Module):
        """Module form of `roi_align`, with mmcv's arguments."""

        def __init__(
            self,
            output_size: Any,
            spatial_scale: float = 1.0,
            sampling_ratio: int = 0,
            pool_mode: str = "avg",
            aligned: bool = True,
            use_torchvision: bool = False,
        ):
            super().__init__()
            # MMDetection asks its layers for the first two.
            self.output_size = (output_size, output_size) if isinstance(output_size, int) else output_size
            self.spatial_scale = spatial_scale
            self.settings = (output_size, spatial_scale, sampling_ratio, pool_mode, aligned)

        def forward(self, input: torch.Tensor, rois: torch.Tensor) -> torch.Tensor:
            return _make_roi_align()(input, rois, *self.settings)

    return RoIAlign


_OPERATORS = {
    "nms": _make_nms,
    "batched_nms": _make_batched_nms,
    "roi_align": _make_roi_align,
    "RoIAlign": _make_roi_align_class,
}


def read_weights(path: Path | str) -> dict[str, torch.Tensor]:
    """Read the tensors of a weights file without running anything in it.

    Args:
        path: `.safetensors`, or `.pth`/`.pt`, of which only the tensors of `state_dict` (or of the file
            itself, if it has no such entry) are taken.

    Raises:
        ConfigError: the file is missing, damaged, of another kind, or holds no tensors.
        SecurityError: the file needs Python objects to be unpickled.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = Path(path)
    if not path.is_file():
        raise ConfigError(path, "there is no such weights file", "check the path given as weights")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, json.JSONDecodeError) as error:
            raise ConfigError(
                path, f"not a readable safetensors file ({error})", "copy the file again"
            ) from error
    if path.suffix not in (".pth", ".pt"):
        raise ConfigError(
            path, f"unknown kind of weights {path.suffix!r}", "give a .safetensors or .pth file"
        )
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise SecurityError(
            path,
            "the file holds Python objects beside tensors, and loading them could run code",
            "convert it to .safetensors where you trust its author",
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise ConfigError(path, f"not a readable weights file ({error})", "copy the file again") from error
    content = content.get("state_dict", content) if isinstance(content, dict) else {}
    tensors = {name: value for name, value in content.items() if isinstance(value, torch.Tensor)}
    if not tensors:
        raise ConfigError(path, "the file holds no tensors by name", "give the checkpoint of a pose model")
    return tensors


def load_weights(model: torch.nn.Module, path: Path | str) -> None:
    """Load `path` into `model`, every tensor by name and shape.

    Half-precision tensors are converted to the model's own type.

    Raises:
        ConfigError: tensors are missing, left over, of another shape, or `read_weights` refused the file.
        SecurityError: the file needs Python objects to be unpickled.
    """
    tensors, wanted = read_weights(path), model.state_dict()
    missing, unexpected = sorted(set(wanted) - set(tensors)), sorted(set(tensors) - set(wanted))
    shapes = [
        f"{name} {tuple(tensors[name].shape)} instead of {tuple(wanted[name].shape)}"
        for name in sorted(set(wanted) & set(tensors))
        if tensors[name].shape != wanted[name].shape
    ]
    problems = [
        _listed("missing", missing),
        _listed("unexpected", unexpected),
        _listed("wrong shape", shapes),
    ]
    if any(problems):
        cause = f"the weights do not fit the model: {'; '.join(filter(None, problems))}"
        raise ConfigError(path, cause, "give the weights that belong to this config")
    model.load_state_dict(tensors, strict=True)


def _listed(kind: str, names: list[str]) -> str:
    """'3 missing (a, b, c)', at most five names; empty if there is none."""
    if not names:
        return ""
    more = ", ..." if len(names) > 5 else ""
    return f"{len(names)} {kind} ({', '.join(names[:5])}{more})"
