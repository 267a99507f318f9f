"""Matrix products of a piece of work: their shapes, their time in it, and the speed that each can reach."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mcd.model.linear import ONEDNN, product

LARGE = 4096
"""Rows and columns of a plain large product."""
REPEATS = 5


@dataclass(frozen=True)
class Product:
    """`count` products of kind "mm" ((m, k) by (k, n), `batch` of them) or "attention" and the seconds of all.

    For attention m is the length of a row, k the width of a head, and n the number of products of that size it makes
    (2 forwards, 5 backwards); `batch` counts heads of all rows.
    """

    kind: str
    batch: int
    m: int
    k: int
    n: int
    count: int
    seconds: float

    @property
    def flops(self) -> float:
        """Floating-point operations of all, a multiplication and an addition counting as two."""
        size = self.m * self.m * self.k * self.n if self.kind == "attention" else self.m * self.k * self.n
        return 2.0 * self.count * self.batch * size


def products_of(work: Callable[[], Any]) -> tuple[list[Product], float]:
    """Run `work` once under torch.profiler: its matrix products, those of one shape together, and all its seconds."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as found:
        started = time.perf_counter()
        work()
        seconds_of_all = time.perf_counter() - started
    total: dict[tuple[str, int, int, int, int], tuple[int, float]] = {}
    for event in found.key_averages(group_by_input_shape=True):
        shape = _shape(event.key, event.input_shapes)
        if shape is not None and all(shape[1:]):
            count, seconds = total.get(shape, (0, 0.0))
            total[shape] = (count + event.count, seconds + 1e-6 * event.self_cpu_time_total)
    return [Product(*shape, count, seconds) for shape, (count, seconds) in total.items()], seconds_of_all


def _shape(operator: str, shapes: list[list[int]]) -> tuple[str, int, int, int, int] | None:
    """(kind, batch, m, k, n) of an operator that is a matrix product itself (not one that calls one), or None."""
    if "scaled_dot_product_flash_attention_for_cpu" in operator:
        backward = operator.endswith("backward")
        rows, heads, length, width = shapes[1 if backward else 0]
        return ("attention", rows * heads, length, width, 5 if backward else 2)
    if operator in ("aten::mm", "aten::addmm", "aten::addmm_"):
        (m, k), (_, n) = shapes[-_trailing(shapes, 2) :][:2]
        return ("mm", 1, m, k, n)
    if operator in ("aten::bmm", "aten::baddbmm", "aten::baddbmm_"):
        (batch, m, k), (_, _, n) = shapes[-_trailing(shapes, 3) :][:2]
        return ("mm", batch, m, k, n)
    if operator in ("mkldnn::_linear_pointwise", "aten::mkldnn_linear"):
        x, weight = shapes[:2]
        return ("mm", 1, math.prod(x[:-1]), x[-1], weight[0])
    return None


def _trailing(shapes: list[list[int]], dims: int) -> int:
    """Position of the first factor, counted from the end: scalars and options follow, a summand may come before."""
    factors = [i for i, shape in enumerate(shapes) if len(shape) == dims]
    return len(shapes) - factors[-2]


def best_seconds(product: Product) -> float:
    """The shortest time of one product of this shape alone (of several ways to call it), in seconds."""
    if product.kind == "attention":
        return _attention_seconds(product)
    a, b = torch.randn(product.batch, product.m, product.k), torch.randn(product.batch, product.k, product.n)
    ways = [lambda: torch.bmm(a, b)] if product.batch > 1 else _ways(a[0], b[0])
    return min(_least(way) for way in ways)


def _ways(a: Tensor, b: Tensor) -> list[Callable[[], Tensor]]:
    """a (m, k) times b (k, n): by PyTorch's matrix product in three layouts, and by oneDNN where it is there."""
    a_turned, b_turned = a.T.contiguous(), b.T.contiguous()
    ways = [lambda: a @ b, lambda: a @ b_turned.T, lambda: a_turned.T @ b]
    return [*ways, lambda: product(a, b_turned), lambda: product(a, b.T)] if ONEDNN else ways


def _attention_seconds(product: Product) -> float:
    q, k, v = (torch.randn(1, product.batch, product.m, product.k, requires_grad=True) for _ in range(3))

    def forward() -> Tensor:
        return F.scaled_dot_product_attention(q, k, v)

    if product.n == 2:
        with torch.no_grad():
            return _least(forward)
    out = forward()
    return _least(lambda: torch.autograd.grad(out, (q, k, v), out, retain_graph=True))


def _least(work: Callable[[], Any]) -> float:
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)
