"""The public diffusion transformer (MDLM, SDTT, Duo share it) by name and shape: its keys are ours under other names.

Source: `models/dit.py` of kuleshov-group/mdlm c112c52, which SDTT (9172b86, `dit_orig.py`) and Duo (7c9b498) repeat.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from mcd.errors import ModelError
from mcd.model.dit import SIZES, TimeEmbedding

ROTARY = "rotary_emb.inv_freq"
"""A buffer of the public model: 10,000^(-2i/d), i < d/2, d the width of a head. Our model computes it again."""
_WRAPPERS = ("backbone", "_orig_mod", "module")
"""Prefixes of the keys: the LightningModule's attribute (twice where SDTT began with the hub's model),
torch.compile (SDTT strips it likewise), DistributedDataParallel."""
HELPERS = ("teacher", "fake_model")
"""Other networks next to the student in a checkpoint: the teacher of a distillation, and the second network that
IDLM (arXiv 2602.19066) trains on what the student writes."""

_BLOCK = {
    "norm1.weight": "norm1.weight",
    "attn_qkv.weight": "attention.qkv.weight",
    "attn_out.weight": "attention.out.weight",
    "norm2.weight": "norm2.weight",
    "mlp.0.weight": "mlp.0.weight",
    "mlp.0.bias": "mlp.0.bias",
    "mlp.2.weight": "mlp.2.weight",
    "mlp.2.bias": "mlp.2.bias",
    "adaLN_modulation.weight": "adaLN.weight",
    "adaLN_modulation.bias": "adaLN.bias",
}


@dataclass(frozen=True)
class Sizes:
    """What the shapes of the tensors say. heads: from the rotary buffer, None where the file has none."""

    rows: int
    hidden: int
    layers: int
    cond_dim: int
    heads: int | None = None

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of all parameters by public name, in the order of the public model's `parameters()`."""
        K, D, C = self.rows, self.hidden, self.cond_dim
        shapes: dict[str, tuple[int, ...]] = {"vocab_embed.embedding": (K, D)}
        shapes |= {"sigma_map.mlp.0.weight": (C, TimeEmbedding.width), "sigma_map.mlp.0.bias": (C,)}
        shapes |= {"sigma_map.mlp.2.weight": (C, C), "sigma_map.mlp.2.bias": (C,)}
        block = ((D,), (3 * D, D), (D, D), (D,), (4 * D, D), (4 * D,), (D, 4 * D), (D,), (6 * D, C), (6 * D,))
        for i in range(self.layers):
            shapes |= {f"blocks.{i}.{name}": shape for name, shape in zip(_BLOCK, block, strict=True)}
        shapes |= {"output_layer.norm_final.weight": (D,)}
        shapes |= {"output_layer.linear.weight": (K, D), "output_layer.linear.bias": (K,)}
        shapes |= {"output_layer.adaLN_modulation.weight": (2 * D, C), "output_layer.adaLN_modulation.bias": (2 * D,)}
        return shapes


def own_name(public: str) -> str:
    """The name of a public parameter in `Denoiser.state_dict()`."""
    if public.startswith("blocks."):
        _, i, rest = public.split(".", 2)
        return f"backbone.blocks.{i}.{_BLOCK[rest]}"
    head = {"norm_final.weight": "norm.weight", "adaLN_modulation.weight": "adaLN.weight"}
    head |= {"adaLN_modulation.bias": "adaLN.bias"}
    if public.startswith("output_layer."):
        rest = public.removeprefix("output_layer.")
        return f"backbone.head.{head.get(rest, rest)}"
    return "backbone." + public.replace("vocab_embed.", "").replace("sigma_map.", "time.")


def unwrapped(names: Iterable[str], source: str) -> tuple[dict[str, str], list[str]]:
    """Public names to the file's own, wrappers taken off; and the weights of its `HELPERS`, which are left out.

    Raises ModelError when two keys name one parameter.
    """
    found: dict[str, str] = {}
    helpers = []
    for name in names:
        parts = name.split(".")
        while parts[0] in _WRAPPERS and len(parts) > 1:
            parts = parts[1:]
        public = ".".join(parts)
        if parts[0] in HELPERS:
            helpers.append(name)
        elif public in found:
            raise ModelError(f"{source}: {found[public]} and {name} name the same parameter")
        else:
            found[public] = name
    return found, helpers


def sizes_of(shapes: Mapping[str, tuple[int, ...]], source: str) -> Sizes:
    """The sizes of a model from the shapes of its parameters by public name, every key accounted for.

    Raises ModelError with the list of those that are missing, unexpected, or of another shape.
    """
    embedding, sigma = shapes.get("vocab_embed.embedding", ()), shapes.get("sigma_map.mlp.0.weight", ())
    if len(embedding) != 2 or len(sigma) != 2:
        shown = ", ".join(list(shapes)[:6]) + (", ..." if len(shapes) > 6 else "")
        raise ModelError(
            f"{source}: not the diffusion transformer of MDLM, SDTT or Duo "
            f"(no vocab_embed.embedding and sigma_map.mlp.0.weight among {shown or 'no keys'})"
        )
    numbers = [name.split(".")[1] for name in shapes if name.startswith("blocks.")]
    layers = 1 + max((int(n) for n in numbers if n.isascii() and n.isdigit() and len(n) < 6), default=-1)
    if layers > len(shapes):  # blocks left out: do not list a million of them
        layers = len(set(numbers))
    rotary = shapes.get(ROTARY)
    heads = None
    if rotary is not None:
        if len(rotary) != 1 or rotary[0] < 1 or embedding[1] % (2 * rotary[0]):
            raise ModelError(f"{source}: {ROTARY} has shape {rotary}, which no number of heads gives")
        heads = embedding[1] // (2 * rotary[0])
    sizes = Sizes(embedding[0], embedding[1], layers, sigma[0], heads)
    own = sizes.shapes()
    faults = [f"missing {name}" for name in own if name not in shapes]
    faults += [f"unexpected {name}" for name in shapes if name not in own and name != ROTARY]
    faults += [
        f"{name} has shape {shapes[name]}, not {own[name]}" for name in own if shapes.get(name, own[name]) != own[name]
    ]
    if faults or layers < 1:
        shown = "; ".join(faults[:8]) + (f"; and {len(faults) - 8} more" if len(faults) > 8 else "")
        raise ModelError(f"{source}: its keys are not those of the public model: {shown or 'no blocks'}")
    return sizes


def check_rotary(inv_freq: Tensor, source: str) -> None:
    """Raise ModelError when a file's rotary buffer is not that of base 10,000, which ours is (rounding allowed)."""
    half = len(inv_freq)
    expected = 10_000.0 ** (-torch.arange(half, dtype=torch.float32) / half)
    if not torch.allclose(inv_freq.float(), expected, rtol=1e-2):
        raise ModelError(f"{source}: {ROTARY} is not of base 10,000, which the public models have")


def rotary_buffer(hidden: int, heads: int) -> Tensor:
    """The buffer as the public model stores it, (head_dim / 2,) float32."""
    head_dim = hidden // heads
    return 1.0 / (10_000.0 ** (torch.arange(0, head_dim, 2).float() / head_dim))


def known_heads(hidden: int, layers: int) -> int | None:
    """The heads of the published size with these layers and this width (MDLM, SDTT, Duo); None for other sizes."""
    return next((s["heads"] for s in SIZES.values() if s["hidden"] == hidden and s["layers"] == layers), None)
