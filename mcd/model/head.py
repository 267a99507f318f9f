"""Losses at the vocabulary head: hidden rows in, loss and all its gradients out, a chunk of rows at a time.

No tensor of (rows, V) larger than a chunk ever lives, for student or teacher: the logits of a chunk are made, turned
into the loss and into its gradient where they lie, multiplied into the gradients of hidden rows, weight and bias, and
forgotten. The slow twin is autograd through `Denoiser.log_x_theta` (tests/model/test_head.py).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from mcd.model.divergence import DIRECTIONS, divergence_rows, tempered
from mcd.model.linear import product

if TYPE_CHECKING:
    from mcd.model.denoiser import Denoiser

CHUNK_ELEMENTS = 5 << 20
"""Logits of a chunk, 20 MiB in float32 (96 rows of 50,257): rows enough for quick matrix products, and no more."""
BLOCK_ELEMENTS = 1 << 19
"""Logits that a CPU treats elementwise at once, 2 MiB in float32: what stays in its cache."""


class HeadLoss(NamedTuple):
    """total: (), the sum over targets and rows of weight times loss, which has the gradient.

    rows: of each target, (n,), the losses of its rows, without weight and gradient.
    """

    total: Tensor
    rows: tuple[Tensor, ...]


@dataclass(frozen=True)
class TokenTarget:
    """Cross-entropy -log p(id), nats. ids: (n,) of the rows from `first` on; weight: a number, or (n,)."""

    ids: Tensor
    weight: float | Tensor = 1.0
    first: int = 0

    def __len__(self) -> int:
        return len(self.ids)

    def references(self, dtype: torch.dtype) -> Callable[[slice], Tensor]:
        """What `loss_and_grad` compares a slice of the rows with."""
        return lambda rows: self.ids[rows]

    def loss_and_grad(self, logits: Tensor, ids: Tensor, grads: bool) -> tuple[Tensor, Tensor | None]:
        """logits: (c, V) raw; ids: (c,). Returns the losses (c,) and their gradients at the logits, softmax - 1_id."""
        loss = F.cross_entropy(logits, ids, reduction="none")
        if not grads:
            return loss, None
        grad = logits.softmax(-1)
        grad.scatter_add_(1, ids[:, None], torch.full_like(loss, -1.0)[:, None])
        return loss, grad


@dataclass(frozen=True)
class TeacherTarget:
    """A divergence of the student's prediction p from a teacher's q, which carries no gradient.

    hidden: (n, D) of `teacher.hidden(...)` for the rows from `first` on, so that the teacher's logits are made a chunk
    at a time; tau, student_tau: temperatures on the raw logits (paper, Section 3.3); weight: a number, or (n,).
    direction: as of `divergence_rows`. Raises ValueError for another one.
    """

    teacher: "Denoiser"
    hidden: Tensor
    tau: float = 1.0
    direction: str = "reverse"
    student_tau: float = 1.0
    weight: float | Tensor = 1.0
    first: int = 0

    def __post_init__(self) -> None:
        if self.direction not in DIRECTIONS:
            raise ValueError(f"unknown divergence {self.direction!r}; known: {', '.join(DIRECTIONS)}")

    def __len__(self) -> int:
        return len(self.hidden)

    def references(self, dtype: torch.dtype) -> Callable[[slice], Tensor]:
        """The teacher's raw logits of a slice of the rows, multiplied in `dtype`."""
        weight, bias = self.teacher.vocabulary(dtype)
        hidden = self.hidden.detach().to(dtype)
        return lambda rows: product(hidden[rows], weight, bias)

    def loss_and_grad(self, logits: Tensor, teacher_logits: Tensor, grads: bool) -> tuple[Tensor, Tensor | None]:
        """Both (c, V), raw. Returns the losses (c,) and their gradients at the student's logits (c, V).

        For a loss with gradient g at log p, the gradient at the logits is g - p sum(g), divided by the temperature.
        """
        log_p, log_q = tempered(logits, self.student_tau), tempered(teacher_logits, self.tau)
        p = log_p.exp() if grads else None
        spoken = log_p.shape[-1]
        if self.direction == "mse":  # of a forbidden id neither log-prob means anything, and no other loss weighs them
            spoken -= self._forget(log_p, log_q)
        loss = divergence_rows(log_p, log_q, self.direction)
        if spoken < log_p.shape[-1]:
            loss *= log_p.shape[-1] / spoken
        if p is None:
            return loss, None
        if self.direction == "forward":
            return loss, p.sub_(log_q.exp_()).div_(self.student_tau)
        if self.direction == "reverse":
            grad = log_p.sub_(log_q).mul_(p)  # and g = p (log p - log q + 1), of which the 1 cancels
        elif self.direction == "mse":
            grad = log_p.sub_(log_q).mul_(2.0 / spoken)
        else:
            grad = (p - log_q.exp_()).sign_().mul_(0.5).mul_(p)
        return loss, grad.sub_(p.mul_(grad.sum(-1, keepdim=True))).div_(self.student_tau)

    def _forget(self, log_p: Tensor, log_q: Tensor) -> int:
        """Make both equal at ids that the teacher never says; how many those are."""
        ids = torch.tensor(self.teacher.config.forbidden, dtype=torch.int64, device=log_p.device)
        for x in (log_p, log_q) if len(ids) else ():
            x.index_fill_(-1, ids, 0.0)
        return len(ids)


@dataclass(frozen=True)
class RowsTarget:
    """Any loss: `loss` of log-probs (c, V) and of a slice of the n rows is (c,) losses; autograd differentiates it.

    weight: a number, or (n,); first: where its rows begin.
    """

    loss: Callable[[Tensor, slice], Tensor]
    n: int
    weight: float | Tensor = 1.0
    first: int = 0

    def __len__(self) -> int:
        return self.n

    def references(self, dtype: torch.dtype) -> Callable[[slice], Tensor]:
        """The numbers of the rows."""
        return lambda rows: torch.arange(rows.start, rows.stop)

    def loss_and_grad(self, logits: Tensor, rows: Tensor, grads: bool) -> tuple[Tensor, Tensor | None]:
        """logits: (c, V) raw; rows: (c,) their numbers, one after another. Returns losses (c,) and gradients (c, V)."""
        part = slice(int(rows[0]), int(rows[-1]) + 1)
        if not grads:
            return self.loss(tempered(logits, 1.0), part), None
        with torch.enable_grad():
            logits = logits.detach().requires_grad_()
            loss = self.loss(tempered(logits, 1.0), part)
            (grad,) = torch.autograd.grad(loss.sum(), logits)
        return loss.detach(), grad


Target = TokenTarget | TeacherTarget | RowsTarget


def head_loss(hidden: Tensor, weight: Tensor, bias: Tensor, V: int, targets: Sequence[Target]) -> HeadLoss:
    """The weighted losses of hidden rows (n, D) under a head weight (K, D), bias (K,), of which V rows are tokens.

    A row may have no target, one, or several. Gradients of `total` at hidden, weight and bias are made in this call;
    `total` can be differentiated once. Raises ValueError for a target beyond the rows.
    """
    for target in targets:
        if target.first < 0 or target.first + len(target) > len(hidden):
            raise ValueError(
                f"a target of rows {target.first} to {target.first + len(target)}: there are {len(hidden)}"
            )
    grads = torch.is_grad_enabled() and any(a.requires_grad for a in (hidden, weight, bias))
    total, *rows = _HeadLoss.apply(hidden, weight, bias, V, tuple(targets), grads)  # type: ignore[misc]
    return HeadLoss(total, tuple(rows))


class _HeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor, V: int, targets: tuple[Target, ...], grads: bool
    ) -> tuple[Tensor, ...]:
        device = hidden.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
        with torch.autocast(device, enabled=False):
            total, losses, gradients = _pass(hidden, weight, bias, V, targets, dtype, ctx.needs_input_grad, grads)
        ctx.save_for_backward(*gradients)
        ctx.mark_non_differentiable(*losses)
        return total, *losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        scale = grads[0]
        if scale.device.type != "cpu" or scale != 1.0:  # an objective weighs its targets, so that this is 1
            return *(g if g is None else g * scale for g in ctx.saved_tensors), None, None, None
        return *ctx.saved_tensors, None, None, None


def _pass(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor,
    V: int,
    targets: tuple[Target, ...],
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
    references = [target.references(dtype) for target in targets]
    for chunk in _chunks(targets, V):
        logits = product(h[chunk], w, b).to(wide)
        covering = []
        for target, loss, reference in zip(targets, losses, references, strict=True):
            rows = slice(chunk.start - target.first, chunk.stop - target.first)
            if rows.start >= 0 and rows.stop <= len(target):
                factors = torch.as_tensor(target.weight, dtype=wide, device=logits.device).expand(len(target))
                covering.append((target, reference(rows), factors[rows], loss[rows]))
        for block in _blocks(logits):
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
    return total, losses, gradients


def _into_gradient(logits: Tensor, covering: list[tuple[Target, Tensor, Tensor, Tensor]], grads: bool) -> Tensor:
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


def rows_of_chunk(V: int) -> int:
    """Rows whose logits over V tokens are made at one time."""
    return max(32, CHUNK_ELEMENTS // V // 32 * 32)


def _chunks(targets: Sequence[Target], V: int) -> list[slice]:
    """The rows that have a target, cut where one begins or ends and then into chunks."""
    most = rows_of_chunk(V)
    edges = sorted({edge for t in targets for edge in (t.first, t.first + len(t))})
    covered = [
        (start, end)
        for start, end in pairwise(edges)
        if any(t.first <= start and end <= t.first + len(t) for t in targets)
    ]
    return [slice(i, min(i + most, end)) for start, end in covered for i in range(start, end, most)]


def _blocks(logits: Tensor) -> list[slice]:
    """The rows of a chunk in blocks: small ones on a CPU, all at once elsewhere."""
    n, V = logits.shape
    size = max(1, BLOCK_ELEMENTS // V) if logits.device.type == "cpu" else n
    return [slice(i, min(i + size, n)) for i in range(0, n, size)]
