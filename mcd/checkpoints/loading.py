"""Models made of weights on disk: sizes are compared before memory is taken, and every tensor is accounted for."""

import contextlib
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.overrides import TorchFunctionMode

from mcd.checkpoints.weights import header_shapes
from mcd.errors import ModelError
from mcd.model.adapted.config import AdaptedConfig
from mcd.model.denoiser import Denoiser, DenoiserConfig
from mcd.model.dit import DiTConfig

MODEST = 1 << 26
"""Numbers (256 MiB of float32) up to which a model is built before the file of its weights is compared with it."""


def check_size(path: Path, shapes: Sequence[Sequence[int]], config: DenoiserConfig) -> None:
    """Raise ModelError when the weights at `path`, of these shapes, are far from those that a configuration asks for.

    For an adapted network only its largest matrices and its layers are compared.
    """
    held, backbone = sum(map(math.prod, shapes)), config.backbone
    if isinstance(backbone, DiTConfig):
        needed, layers = backbone.parameters, backbone.layers
    else:
        inner, layers = (backbone.settings.get(key, 0) for key in ("intermediate_size", backbone.family.depth))
        sizes = [n if type(n) is int else 0 for n in (inner, layers)]
        needed, layers = max(held, backbone.hidden * max(backbone.rows, sizes[0])), sizes[1]
    if max(held, needed) > max(2 * min(held, needed), MODEST) or layers > max(len(shapes), 1000):
        raise ModelError(
            f"{path}: does not fit its config.json: it holds {held:,} numbers in {len(shapes):,} tensors, "
            f"and the configuration is of {needed:,} in {layers:,} layers"
        )


def shapes_of(parts: Iterable[Path]) -> list[list[int]]:
    """The shapes in some safetensors files. Raises ModelError as `header_shapes`."""
    return [shape for part in parts for shape in header_shapes(part)]


def read_tensors(parts: Iterable[Path]) -> dict[str, Tensor]:
    """All tensors of some safetensors files. Raises ModelError for one that is damaged."""
    tensors: dict[str, Tensor] = {}
    for part in parts:
        try:
            tensors |= load_file(part)
        except (OSError, SafetensorError) as error:
            raise ModelError(f"{part}: truncated or not a safetensors file ({error})") from None
    return tensors


class _NoInitialisation(TorchFunctionMode):
    """Leaves new weights unfilled, since loading overwrites them. Random ones for 170M parameters take 1 s."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"]
        return func(*args, **(kwargs or {}))


def unfilled_model(config: DenoiserConfig, dtype: torch.dtype = torch.float32) -> Denoiser:
    """A model whose weights are whatever was in memory, and are to be overwritten."""
    with contextlib.ExitStack() as stack:
        if isinstance(config.backbone, AdaptedConfig):
            from mcd.model.adapted.network import unfilled

            stack.enter_context(unfilled())
        stack.enter_context(_NoInitialisation())
        stack.callback(torch.set_default_dtype, torch.get_default_dtype())
        torch.set_default_dtype(dtype)
        return Denoiser(config)


def stored_name(model: Denoiser, name: str) -> str:
    """The name in a model file of a tensor of `state_dict`: what is not of the network is ours, and keeps its own."""
    inside = name.removeprefix("backbone.")
    return name if inside == name else model.backbone.stored_name(inside)


def load_strictly(model: Denoiser, tensors: dict[str, Tensor], source: str) -> None:
    """Load weights, every key and shape accounted for, or raise ModelError with the list of those that are not."""
    own = {stored_name(model, name): p for name, p in model.state_dict().items()}
    try:
        tensors = model.backbone.tidied(tensors)
    except ValueError as error:
        raise ModelError(f"{source}: {error}") from None
    faults = [f"missing {name}" for name in own if name not in tensors]
    faults += [f"unexpected {name}" for name in tensors if name not in own]
    faults += [
        f"{name} has shape {tuple(tensors[name].shape)}, not {tuple(p.shape)}"
        for name, p in own.items()
        if name in tensors and p.shape != tensors[name].shape
    ]
    if faults:
        raise ModelError(f"{source}: does not fit its config.json: {listed(faults)}")
    for name, p in own.items():
        p.copy_(tensors[name])


def listed(faults: list[str]) -> str:
    """The first eight of some faults, and how many more there are."""
    return "; ".join(faults[:8]) + (f"; and {len(faults) - 8} more" if len(faults) > 8 else "")
