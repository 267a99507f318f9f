"""How long a GPU needs to draw text and to train, calculated piece by piece: an estimate, and no measurement.

A piece of work is a number of kernels. It takes as long as the largest of three: launching them one after the other
(`LAUNCH` each), moving its bytes through memory, and its arithmetic (the roofline model, Williams et al. 2009). Tests
count the launches on the CPU; bytes and operations follow from the sizes. Shape letters: N rows, L length, D width, V
tokens.

Three ways are compared: ours in the shapes of the device, ours in those of a CPU, and the way of the public code
(`mcd.bench.peers`), which computes whole batches over the whole vocabulary.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from mcd.model.shapes import Shapes, on_cpu, on_gpu
from mcd.model.sizes import Sizes
from mcd.training.estimate import MASKED, UPDATE_BYTES, Device

Number = int | float
SCORER = 774_000_000
"""Parameters of GPT-2 large, the scorer of most papers."""
LAUNCH = 5e-6
"""Seconds of a kernel launch, as long as nobody waits for its result."""
BLOCK_LAUNCHES, END_LAUNCHES, DRAW_LAUNCHES = 25, 24, 18
"""Kernels of a block, of embedding and end of a network call with its padding, and of a projection and its draw."""
GROUP_LAUNCHES = 18
"""Kernels of the last block that are launched for each group of wanted rows."""
TARGET_LAUNCHES, CHUNK_LAUNCHES = 22, 7
"""Kernels of the head's loss for each block of logits, and for each chunk, in a step of MCD."""
BLOCK_BYTES = {False: 150, True: 90}
"""Bytes that a block moves for a token and a unit of width, forward, in float32 and in bfloat16."""
DRAW_BYTES = 68
"""Bytes that a draw moves for a token of the vocabulary: float32 logits, and their copy in float64 with its maximum,
difference, exponential, sum and search."""
LOSS_BYTES = 160
"""Bytes that the loss of MCD moves for a logit: both softmaxes, the divergence and its gradient, in float32."""
PEERS_LOGIT_BYTES = 44
"""Bytes that SUBS of the public code moves for each of the N L V logits: lowered mask, normaliser, difference, rows of
visible tokens."""
PEERS_RACE_BYTES = 140
"""Bytes that a float64 Gumbel race of the public code moves for each of N L V masses."""
PEERS_LIVE_BYTES = 36
"""Bytes for each of N L V masses that the race has at once, in float64."""
EXP_FLOPS = 40
"""Operations of a float64 exponential."""


@dataclass(frozen=True)
class Work:
    """Some kernels: launches, bytes, and operations: `products` in the network's precision, `wide` ones in float32, and
    `double` arithmetic in float64."""

    launches: Number = 0
    bytes: Number = 0
    products: Number = 0
    wide: Number = 0
    double: Number = 0

    def __mul__(self, times: Number) -> "Work":
        return Work(*(times * part for part in vars(self).values()))

    def seconds(self, device: Device, half: bool, utilisation: float) -> Number:
        """The largest of the three. half: products of the network in bfloat16."""
        peak = utilisation * (device.flops_bf16 if half else device.flops_fp32)
        arithmetic = self.products / peak + self.wide / (utilisation * device.flops_fp32)
        arithmetic += self.double / device.flops_fp64
        return max(LAUNCH * self.launches, self.bytes / device.bandwidth, arithmetic)


Part = tuple[Number, Work]
"""How often some work is done, and the work."""


def call(sizes: Sizes, tokens: int, length: int, wanted: int, group: int, half: bool) -> Work:
    """A forward pass over `tokens` in rows of `length`, the end of it for `wanted` of them, in groups."""
    padded = math.ceil(wanted / group) * group
    D, layers = sizes.hidden, sizes.layers
    return Work(
        launches=BLOCK_LAUNCHES * layers + END_LAUNCHES + GROUP_LAUNCHES * (padded // group),
        bytes=BLOCK_BYTES[half] * D * layers * tokens + (6 if half else 4) * layers * sizes.block_parameters,
        products=tokens * sizes.forward_flops(length, min(1.0, padded / tokens)),
    )


def draw(sizes: Sizes, rows: int) -> Work:
    """Draws of a projection of that many rows."""
    V = sizes.rows
    return Work(
        launches=DRAW_LAUNCHES,
        bytes=4 * V * sizes.head + DRAW_BYTES * V * rows,
        wide=sizes.head_flops() * rows,
        double=EXP_FLOPS * V * rows,
    )


def calls_of_a_row(steps: int, length: int) -> float:
    """Network calls of a row, as expected: N steps miss all of L tokens with probability (1 - 1 / N)^L each."""
    return steps * (1.0 - (1.0 - 1.0 / steps) ** length)


def sampling(sizes: Sizes, shapes: Shapes, num: int, length: int, steps: int, half: bool) -> list[Part]:
    """How often which work is done to draw `num` rows as `Ancestral` does; no call waits for another."""
    rows = shapes.call_rows(length)
    per_row = calls_of_a_row(steps, length)
    calls = math.ceil(num / rows) * per_row
    wanted = min(num, rows) * length / per_row  # tokens that a call reveals
    together = min(max(1, math.ceil(shapes.few_rows / wanted)), math.ceil(num / rows))  # calls that share a projection
    projections = math.ceil(wanted * together / shapes.few_rows) * calls / together
    return [
        (calls, call(sizes, rows * length, length, math.ceil(wanted), shapes.few_rows, half)),
        (projections, draw(sizes, shapes.few_rows)),
    ]


def peers_sampling(sizes: Sizes, device: Device, num: int, length: int, steps: int, half: bool) -> list[Part]:
    """The same as MDLM's `ddpm_cache` with float64 draws does it, in batches of 64 or as large as fit the memory."""
    V = sizes.rows
    fits = 0.9 * device.memory / (PEERS_LIVE_BYTES * V * length)
    batch = min(64, num, 1 << max(0, int(math.log2(max(1.0, fits)))))
    tokens, batches = batch * length, math.ceil(num / batch)
    called = steps * (1.0 - (1.0 - 1.0 / steps) ** tokens) + 1
    network = call(sizes, tokens, length, tokens, tokens, half)
    head = Work(bytes=PEERS_LOGIT_BYTES * V * tokens, products=sizes.head_flops() * tokens, double=0.0, launches=12)
    race = Work(launches=14, bytes=PEERS_RACE_BYTES * V * tokens, double=2 * EXP_FLOPS * V * tokens)
    return [(batches * called, network), (batches * called, head), (batches * steps, race)]


def head_loss(sizes: Sizes, shapes: Shapes, rows: int) -> Work:
    """The head's loss of MCD and its gradients for some masked rows: the weight's gradient is moved for every chunk."""
    V, D = sizes.rows, sizes.head
    chunks = math.ceil(rows / shapes.chunk_rows)
    blocks = chunks * math.ceil(min(rows, shapes.chunk_rows) / shapes.block_rows)
    return Work(
        launches=CHUNK_LAUNCHES * chunks + TARGET_LAUNCHES * blocks,
        bytes=LOSS_BYTES * V * rows + chunks * V * D * (8 + 3 * 4),
        products=4 * sizes.head_flops() * rows,
    )


def step(sizes: Sizes, shapes: Shapes, batch: int, length: int, half: bool) -> list[Part]:
    """A step of MCD: forward of both networks, backward of one, the head, and the update."""
    tokens = batch * length
    rows = int(MASKED * tokens)
    forward = call(sizes, tokens, length, rows, rows, half)
    return [(4, forward), (1, head_loss(sizes, shapes, rows)), (1, update(sizes))]


def peers_step(sizes: Sizes, batch: int, length: int, half: bool) -> list[Part]:
    """The same as the public code does it: logits, log-probabilities and their gradients of all positions."""
    V, tokens = sizes.rows, batch * length
    forward = call(sizes, tokens, length, tokens, tokens, half)
    head = Work(launches=120, bytes=2 * LOSS_BYTES * V * tokens, products=4 * sizes.head_flops() * tokens)
    return [(4, forward), (1, head), (1, update(sizes))]


def update(sizes: Sizes) -> Work:
    """Clipping, AdamW and the average, for all weights at once."""
    return Work(launches=60, bytes=sum(UPDATE_BYTES.values()) * sizes.parameters)


def seconds(work: Iterable[Part], device: Device, half: bool, utilisation: float) -> Number:
    """Time of pieces of work, one after the other."""
    return sum(times * piece.seconds(device, half, utilisation) for times, piece in work)


def compared(
    sizes: Sizes, device: Device, num: int, batch: int, length: int, half: bool, utilisation: float
) -> dict[str, Any]:
    """Seconds on one device, for JSON: of drawing `num` rows in 8, 32 and `length` steps, of scoring them, and of an
    MCD step on `batch` rows. Each has our time in the device's shapes, in those of a CPU, and that of the public way.
    """
    narrow = on_cpu(sizes.hidden, sizes.rows)
    ways = {"ours": narrow if device.is_cpu else on_gpu(0.9 * device.memory, sizes.hidden, sizes.rows)}
    ways |= {} if device.is_cpu else {"in_cpu_shapes": narrow}

    def of(work: Callable[[Shapes], list[Part]], public: list[Part]) -> dict[str, float]:
        found = {name: seconds(work(shapes), device, half, utilisation) for name, shapes in ways.items()}
        return found | {"peers": seconds(public, device, half, utilisation)}

    drawing = [
        {"steps": steps, "calls_per_row": calls_of_a_row(steps, length)}
        | of(
            lambda shapes, steps=steps: sampling(sizes, shapes, num, length, steps, half),
            peers_sampling(sizes, device, num, length, steps, half),
        )
        for steps in sorted({8, 32, length})
    ]
    scored = Work(products=2 * SCORER * num * length, bytes=4 * SCORER)
    return {
        "rows": num,
        "drawing": drawing,
        "scoring": scored.seconds(device, half, utilisation),
        "mcd_step": of(lambda shapes: step(sizes, shapes, batch, length, half), peers_step(sizes, batch, length, half)),
    }


def launches(work: Iterable[Part]) -> Number:
    """Kernels of pieces of work."""
    return sum(times * piece.launches for times, piece in work)
