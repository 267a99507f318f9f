"""Matrix products of a layer: x W^T + b, by the faster of the two libraries that PyTorch contains for CPUs.

PyTorch multiplies float32 matrices by MKL, which is slow on CPUs that are not Intel's; oneDNN, which it ships as well,
is not (docs/performance.md). The results differ in rounding only.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
"""Whether this PyTorch has oneDNN, and the operation that torch.compile emits for a layer."""
NARROW = 512
"""Width below which a weight's gradient is left to MKL: oneDNN copies both factors for it, which narrow ones do not
repay (half the speed at width 192)."""


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x W^T + b, as `torch.nn.functional.linear`: x (..., D_in), weight (D_out, D_in), bias (D_out,)."""
    if not _by_onednn(x, weight):
        return F.linear(x, weight, bias)
    if torch.is_grad_enabled() and any(a is not None and a.requires_grad for a in (x, weight, bias)):
        # Flat, because a view made inside the function could not be changed in place afterwards.
        return _OneDNNLinear.apply(x.reshape(-1, x.shape[-1]), weight, bias).view(*x.shape[:-1], -1)
    return product(x, weight, bias)


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`linear` without a gradient. Transposed views are read as they lie: A B is product(A, B.t())."""
    if _by_onednn(x, weight):
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return F.linear(x, weight, bias)


def _by_onednn(x: Tensor, weight: Tensor) -> bool:
    return (
        x.dtype == weight.dtype == torch.float32
        and x.device.type == "cpu"
        and type(weight) in (Tensor, nn.Parameter)  # not a sharded or quantised one
        and x.numel() > 0
        and ONEDNN
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
    )


class _OneDNNLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight = ctx.saved_tensors
        (grad,) = grads
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        grad_weight = None
        if needs_weight:
            grad_weight = grad.t() @ x if min(weight.shape) < NARROW else product(grad.t(), x.t())
        return (
            product(grad, weight.t()) if needs_x else None,
            grad_weight,
            grad.sum(0) if needs_bias else None,
        )


class Linear(nn.Linear):
    """`torch.nn.Linear`, multiplied by `linear`."""

    def forward(self, input: Tensor) -> Tensor:
        """input: (..., in_features) to (..., out_features)."""
        return linear(input, self.weight, self.bias)


def use_linear(module: nn.Module) -> None:
    """Let every `torch.nn.Linear` inside a network made elsewhere be multiplied by `linear`, on the same weights."""
    for layer in module.modules():
        if type(layer) is nn.Linear:
            layer.__class__ = Linear


def in_groups(group: int | None, f: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """f of tensors (n, ...) in groups of exactly `group` rows, the last one padded by zeros; all at once when None.

    The bits of a matrix product may depend on its shape; so a row's do not depend on how many other rows there are.
    f works row by row, (n, ...) to (n, ...).
    """
    if group is None:
        return f(*tensors)
    n = len(tensors[0])
    padded = (torch.cat((t, t.new_zeros(-n % group, *t.shape[1:]))).split(group) for t in tensors)
    return torch.cat([f(*part) for part in zip(*padded, strict=True)])[:n]
