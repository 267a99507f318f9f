"""What the vocabulary head's predictions are compared with: the true tokens, a teacher's prediction, or any loss.

Each target gives, for a chunk of raw logits, the losses of its rows and their gradient at the logits; `mcd.model.head`
goes through the chunks. That of rewards has a gradient at a few logits only, and makes no others.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor

from mcd.model.linear import product
from mcd.process.transfer import demand, send

DIRECTIONS = ("reverse", "forward", "mse", "tv")


def tempered(logits: Tensor, tau: float) -> Tensor:
    """log softmax(logits / tau), in float32 at least: (n, V) to (n, V)."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return F.log_softmax(logits if tau == 1.0 else logits / tau, dim=-1)


def divergence_rows(log_p: Tensor, log_q: Tensor, direction: str) -> Tensor:
    """A divergence of the student's p from the teacher's q, row by row. log_p, log_q: (n, V). Returns (n,).

    direction "reverse": KL(p || q), nats, mode seeking (paper, Eq. 14; SDTT's and Duo's `kl-bwd`).
    direction "forward": KL(q || p), nats, mean seeking (`kl-fwd`).
    direction "mse": mean over the V tokens of (log p - log q)^2. SDTT's `mse` is the mean over V + 1 columns, which is
    this times V / (V + 1) and d^2 / (V + 1) for the mask's column: there d is the difference of two numbers near -1e6,
    those of the raw logits, in float32 rounded to 1/16.
    direction "tv": total variation, half the sum of |p - q|, in [0, 1]. (SDTT's `tvd` is the sum of |log p - log q|,
    over V + 1 columns too.)
    Raises ValueError for anything else. All log-probs must be finite: a certain teacher's other ones are -1e6, as in
    the public code, not -inf (0 times infinity has no value).
    """
    if direction == "reverse":
        return (log_p.exp() * (log_p - log_q)).sum(-1)
    if direction == "forward":
        return (log_q.exp() * (log_q - log_p)).sum(-1)
    if direction == "mse":
        return (log_p - log_q).square().mean(-1)
    if direction == "tv":
        return 0.5 * (log_p.exp() - log_q.exp()).abs().sum(-1)
    raise ValueError(f"unknown divergence {direction!r}; known: {', '.join(DIRECTIONS)}")


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


@runtime_checkable
class Teacher(Protocol):
    """What `TeacherTarget` asks of the model that made its hidden rows: a `Denoiser`."""

    def vocabulary(self, dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor]:
        """Weight (V, D) and bias (V,) of the vocabulary projection."""
        ...

    @property
    def forbidden(self) -> tuple[int, ...]:
        """Ids whose probability is always 0, ascending."""
        ...


@dataclass(frozen=True)
class TeacherTarget:
    """A divergence of the student's prediction p from a teacher's q, which carries no gradient.

    hidden: (n, D) of `teacher.hidden(...)` for the rows from `first` on, so that the teacher's logits are made a chunk
    at a time; tau, student_tau: temperatures on the raw logits (paper, Section 3.3); weight: a number, or (n,).
    direction: as of `divergence_rows`. Raises ValueError for another one.
    """

    teacher: Teacher
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
        allowed = log_p.shape[-1]
        if self.direction == "mse":  # the log-probs of a forbidden id have no meaning, and no other loss weights them
            allowed -= self._forget(log_p, log_q)
        loss = divergence_rows(log_p, log_q, self.direction)
        if allowed < log_p.shape[-1]:
            loss *= log_p.shape[-1] / allowed
        if p is None:
            return loss, None
        if self.direction == "forward":
            return loss, p.sub_(log_q.exp_()).div_(self.student_tau)
        if self.direction == "reverse":
            grad = log_p.sub_(log_q).mul_(p)  # and g = p (log p - log q + 1), of which the 1 cancels
        elif self.direction == "mse":
            grad = log_p.sub_(log_q).mul_(2.0 / allowed)
        else:
            grad = (p - log_q.exp_()).sign_().mul_(0.5).mul_(p)
        return loss, grad.sub_(p.mul_(grad.sum(-1, keepdim=True))).div_(self.student_tau)

    def _forget(self, log_p: Tensor, log_q: Tensor) -> int:
        """Make both equal at ids that the teacher never predicts; returns how many those are."""
        ids = torch.tensor(self.teacher.forbidden, dtype=torch.int64, device=log_p.device)
        for x in (log_p, log_q) if len(ids) else ():
            x.index_fill_(-1, ids, 0.0)
        return len(ids)


@dataclass(frozen=True)
class ContrastTarget:
    """The mean under the student's p of log f - log q, of two other models that carry no gradient (IDLM's update).

    first_model, second_model: those of f and q; first_hidden, second_hidden: (n, D) of their `hidden(...)` for the rows
    from `first` on. It is linear in p: KL(p || q) - KL(p || f), and may be negative. weight: a number, or (n,).
    """

    first_model: Teacher
    first_hidden: Tensor
    second_model: Teacher
    second_hidden: Tensor
    weight: float | Tensor = 1.0
    first: int = 0

    def __len__(self) -> int:
        return len(self.first_hidden)

    def references(self, dtype: torch.dtype) -> Callable[[slice], Tensor]:
        """log f - log q of a slice of the rows, with logits multiplied in `dtype`."""
        parts = []
        for model, hidden in ((self.first_model, self.first_hidden), (self.second_model, self.second_hidden)):
            parts.append((hidden.detach().to(dtype), *(a.detach() for a in model.vocabulary(dtype))))

        def log_ratio(rows: slice) -> Tensor:
            log_f, log_q = (tempered(product(hidden[rows], weight, bias), 1.0) for hidden, weight, bias in parts)
            return log_f.sub_(log_q)

        return log_ratio

    def loss_and_grad(self, logits: Tensor, log_ratio: Tensor, grads: bool) -> tuple[Tensor, Tensor | None]:
        """Both (c, V). Returns the losses l (c,) and their gradients at the logits, p (log f - log q - l)."""
        p = tempered(logits, 1.0).exp_()
        loss = (p * log_ratio).sum(-1)
        return loss, p.mul_(log_ratio - loss[:, None]) if grads else None


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


@dataclass(frozen=True)
class RewardTarget:
    """The policy gradient of K draws a row: -sum_k A_k log p(id_k), with advantages A whose sum over k is 0.

    ids, advantages: (n, K), of the rows from `first` on; weight: a number, or (n,). Since the advantages cancel, so do
    the normalisers of p: the loss is -sum_k A_k logit(id_k), its gradient at the logits is -A_k at id_k and 0
    elsewhere, and neither needs the other logits. Raises ValueError for advantages with another sum.
    """

    ids: Tensor
    advantages: Tensor
    weight: float | Tensor = 1.0
    first: int = 0

    def __post_init__(self) -> None:
        rest, size = self.advantages.sum(-1).abs(), self.advantages.abs().sum(-1)
        demand(~(rest > 1e-4 * size + 1e-9).any(), ValueError, "the advantages of a row's draws must have the sum 0")

    def __len__(self) -> int:
        return len(self.ids)


DenseTarget = TokenTarget | TeacherTarget | ContrastTarget | RowsTarget
Target = DenseTarget | RewardTarget
T = TypeVar("T", bound=Target)


def on_device(target: T, device: torch.device) -> T:
    """A target whose ids and weights are on `device`."""
    elsewhere = {k: x for k, x in vars(target).items() if isinstance(x, Tensor) and x.device != device}
    return replace(target, **{name: send(x, device) for name, x in elsewhere.items()}) if elsewhere else target
