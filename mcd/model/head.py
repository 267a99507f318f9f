"""Losses at the vocabulary head: hidden rows in, loss and all its gradients out, a chunk of rows at a time.

No tensor of (rows, V) larger than a chunk ever lives, for student or teacher: the logits of a chunk are made, turned
into the loss and into its gradient where they lie, multiplied into the gradients of hidden rows, weight and bias, and
dropped. The slow twin is autograd through `Denoiser.log_x_theta` (tests/model/test_head.py).
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mcd.model.linear import product
from mcd.model.shapes import Shapes, shapes_of
from mcd.model.targets import DenseTarget, RewardTarget, Target, on_device


class HeadLoss(NamedTuple):
    """total: (), the sum over targets and rows of weight times loss, which has the gradient.

    rows: of each target, (n,), the losses of its rows, without weight and gradient.
    """

    total: Tensor
    rows: tuple[Tensor, ...]


def head_loss(
    hidden: Tensor, weight: Tensor, bias: Tensor, V: int, targets: Sequence[Target], shapes: Shapes | None = None
) -> HeadLoss:
    """The weighted losses of hidden rows (n, D) under a head weight (K, D), bias (K,), of which V rows are tokens.

    A row may have no target, one, or several. shapes: how many rows at a time; those of the device by default. Ids and
    weights of targets may be on the CPU.
    Gradients of `total` at hidden, weight and bias are made in this call; `total` can be differentiated once. Raises
    ValueError for a target beyond the rows.
    """
    for target in targets:
        if target.first < 0 or target.first + len(target) > len(hidden):
            raise ValueError(
                f"a target of rows {target.first} to {target.first + len(target)}: there are {len(hidden)}"
            )
    targets = [on_device(target, hidden.device) for target in targets]
    grads = torch.is_grad_enabled() and any(a.requires_grad for a in (hidden, weight, bias))
    shapes = shapes or shapes_of(hidden.device, hidden.shape[-1], V)
    total, *rows = _HeadLoss.apply(hidden, weight, bias, V, tuple(targets), shapes, grads)  # type: ignore[misc]
    return HeadLoss(total, tuple(rows))


class _HeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor,
        V: int,
        targets: tuple[Target, ...],
        shapes: Shapes,
        grads: bool,
    ) -> tuple[Tensor, ...]:
        device = hidden.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
        with torch.autocast(device, enabled=False):
            total, losses, gradients = _pass(
                hidden, weight, bias, V, targets, shapes, dtype, ctx.needs_input_grad, grads
            )
        ctx.save_for_backward(*gradients)
        ctx.mark_non_differentiable(*losses)
        return total, *losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        scale = grads[0]
        if scale.device.type != "cpu" or scale != 1.0:  # it is 1, unless a loss is divided (--accumulate)
            return *(g if g is None else g * scale for g in ctx.saved_tensors), *[None] * 4
        return *ctx.saved_tensors, *[None] * 4


def _pass(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor,
    V: int,
    targets: tuple[Target, ...],
    shapes: Shapes,
    dtype: torch.dtype,
    needed: Sequence[bool],
    grads: bool,
) -> tuple[Tensor, list[Tensor], list[Tensor | None]]:
    """Loss, losses of rows, and gradients of hidden, weight, bias (None where not needed), in products of `dtype`."""
    h, w, b = hidden.to(dtype), weight[:V].to(dtype), bias[:V].to(dtype)
    wide = torch.promote_types(dtype, torch.float32)
    total, losses = hidden.new_zeros((), dtype=wide), [hidden.new_empty(len(t), dtype=wide) for t in targets]
    gradients = [
        torch.zeros_like(a) if grads and need else None
        for a, need in zip((hidden, weight, bias), needed[:3], strict=True)
    ]
    grad_h, grad_w, grad_b = gradients
    dense = [
        (target, loss, target.references(dtype), _factors(target, loss))
        for target, loss in zip(targets, losses, strict=True)
        if not isinstance(target, RewardTarget)
    ]
    for chunk in _chunks([target for target, *_ in dense], shapes.chunk_rows):
        logits = product(h[chunk], w, b).to(wide)
        covering = []
        for target, loss, reference, factors in dense:
            rows = slice(chunk.start - target.first, chunk.stop - target.first)
            if rows.start >= 0 and rows.stop <= len(target):
                covering.append((target, reference(rows), factors[rows], loss[rows]))
        for block in _blocks(len(logits), shapes.block_rows):
            total += _into_gradient(logits[block], [(t, *(x[block] for x in parts)) for t, *parts in covering], grads)
        if not grads:
            continue
        logits = logits.to(dtype)
        if grad_h is not None:
            grad_h[chunk] = product(logits, w.t()).to(grad_h.dtype)
        if grad_w is not None and dtype == grad_w.dtype:
            grad_w[:V].addmm_(logits.t(), h[chunk])  # in place, as oneDNN's product cannot
        elif grad_w is not None:
            grad_w[:V] += logits.t() @ h[chunk]
        if grad_b is not None:
            grad_b[:V] += logits.sum(0)
    for target, loss in zip(targets, losses, strict=True):
        if isinstance(target, RewardTarget):
            total += _rewarded(target, loss, h, w, b, gradients, shapes.chunk_elements)
    return total, losses, gradients


def _factors(target: Target, like: Tensor) -> Tensor:
    """The weight of each row of a target, (n,), of the dtype and on the device of `like` (n,)."""
    weight = target.weight
    return weight.to(like).expand_as(like) if isinstance(weight, Tensor) else torch.full_like(like, weight)


def _into_gradient(logits: Tensor, covering: list[tuple[DenseTarget, Tensor, Tensor, Tensor]], grads: bool) -> Tensor:
    """Turn logits (c, V) into the gradient of their weighted loss, which is returned, ().

    covering: of each target its part of this block, (c, ...): what it compares with, factors, and where losses go.
    """
    total, summed = logits.new_zeros(()), None
    for target, reference, factors, losses in covering:
        loss, grad = target.loss_and_grad(logits, reference, grads)
        losses.copy_(loss)
        total += (loss * factors).sum()
        if grad is not None:
            grad.mul_(factors[:, None])
            summed = grad if summed is None else summed.add_(grad)
    if summed is not None:
        logits.copy_(summed)
    return total


def _chunks(targets: Sequence[DenseTarget], most: int) -> list[slice]:
    """The rows that have a target, cut where one begins or ends and then into chunks of at most `most` rows."""
    edges = sorted({edge for t in targets for edge in (t.first, t.first + len(t))})
    covered = [
        (start, end)
        for start, end in pairwise(edges)
        if any(t.first <= start and end <= t.first + len(t) for t in targets)
    ]
    return [slice(i, min(i + most, end)) for start, end in covered for i in range(start, end, most)]


def _blocks(n: int, size: int) -> list[slice]:
    """The n rows of a chunk in blocks."""
    return [slice(i, min(i + size, n)) for i in range(0, n, size)]


def _rewarded(
    target: RewardTarget,
    losses: Tensor,
    h: Tensor,
    w: Tensor,
    b: Tensor,
    gradients: list[Tensor | None],
    elements: int,
) -> Tensor:
    """Fill the losses of a target's rows (n,), add its gradients to `gradients`, and return its weighted loss, ().

    elements: numbers of the head's weight that are gathered at once. Only the rows of the head that were drawn are
    read: of h (n, D) the logits at K ids, not at V.
    """
    grad_h, grad_w, grad_b = gradients
    wide, D = losses.dtype, h.shape[-1]
    factors = _factors(target, losses)
    most = max(1, elements // (target.ids.shape[1] * D))
    for start in range(0, len(target), most):
        part = slice(start, min(start + most, len(target)))
        rows = slice(part.start + target.first, part.stop + target.first)
        ids, advantages, hidden = target.ids[part], target.advantages[part].to(wide), h[rows].to(wide)
        drawn = w[ids].to(wide)  # (c, K, D)
        logits = (drawn @ hidden[..., None])[..., 0] + b[ids].to(wide)
        losses[part] = -(advantages * logits).sum(-1)
        at_logits = -advantages * factors[part, None]
        if grad_h is not None:
            grad_h[rows] += (at_logits[:, None] @ drawn)[:, 0].to(grad_h.dtype)
        if grad_w is not None:
            at_weights = at_logits[..., None] * hidden[:, None]
            grad_w.index_add_(0, ids.flatten(), at_weights.flatten(0, 1).to(grad_w.dtype))
        if grad_b is not None:
            grad_b.index_add_(0, ids.flatten(), at_logits.flatten().to(grad_b.dtype))
    return (losses * factors).sum()
