"""Memory, arithmetic, traffic and time of a training step, calculated from the sizes.

The objective is MCD (or, without a teacher, the bound of pre-training). Bytes are
those of one device. docs/planning.md says what is counted, what is not, and what was measured. Shape letters: P
parameters, B rows of one device, L length, D width, K rows of the embedding.
"""

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch

from mcd.machine import usable_memory
from mcd.model.attention import SHORT
from mcd.model.linear import product
from mcd.model.shapes import Shapes, on_cpu, on_gpu
from mcd.model.sizes import Sizes
from mcd.options import Count, Options

MASKED = 0.5
"""Share of positions that are masked, and so reach the head, on average over t ~ U(0, 1]."""
UPDATE_BYTES = {"clip": 8, "adamw": 28, "ema": 12}
"""Bytes per parameter that a step reads and writes in addition to its products: the norm and the clipping of the
gradient; AdamW (p, g, m, v read; p, m, v written); the average (p and shadow read, shadow written)."""
HELD = ("weights", "optimiser (AdamW)", "EMA", "teacher")
"""Terms of `memory` that are held between two steps."""
UTILISATION = {"gpu": 0.4, "cpu": 0.7}
"""Share of a device's peak that products are assumed to reach."""
BLOCK_COPIES = 7
"""Arrays of a block of logits that the head's loss has at once, besides the logits of student and teacher."""
FREE = 0.08
"""Share of a device's memory that is kept free for fragmentation."""


@dataclass(frozen=True)
class Setup(Options):
    """A run to be estimated: `batch_size` rows per step over all devices, as --batch-size."""

    sizes: Sizes
    batch_size: Count
    length: Count
    devices: Count = 1
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    strategy: Literal["ddp", "fsdp"] = "ddp"
    distils: bool = True
    accumulate: Count = 1
    checkpointing: bool = False
    on_cpu: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        parts = self.devices * self.accumulate
        if self.batch_size % parts:
            raise ValueError(
                f"--batch-size {self.batch_size}: must be a multiple of {parts}, devices times --accumulate"
            )

    @property
    def tokens(self) -> int:
        """B L of one device in one part of a step: the tokens in memory at once."""
        return self.batch_size // self.devices // self.accumulate * self.length

    @property
    def half(self) -> bool:
        """Are products in bfloat16?"""
        return self.precision != "32-true"

    @property
    def shards(self) -> int:
        """Number of devices over which weights, gradients and optimiser are spread."""
        return self.devices if self.strategy == "fsdp" else 1

    @property
    def parameters(self) -> int:
        """P of one model."""
        return self.sizes.parameters

    @property
    def shapes(self) -> Shapes:
        """Those of the device; of a GPU, if enough of its memory is free."""
        D, K = self.sizes.hidden, self.sizes.rows
        return on_cpu(D, K) if self.on_cpu else on_gpu(math.inf, D, K)


def kept_per_token(setup: Setup) -> int:
    """Bytes per token that one block keeps for its backward pass (tests count the saved tensors).

    In float32, 20 D numbers of ours: the input of each norm and each product, the perceptron's 4 D twice, q, k and v
    with the storage they share, the output of attention, both branches. Networks of Hugging Face have other
    perceptrons; the rest is taken to be as ours. Rows short enough for plain products (CPU) keep the L
    probabilities of every head instead of what the fused kernel needs. Dropout keeps two masks.
    """
    D, H, wide = setup.sizes.hidden, setup.sizes.heads, setup.sizes.perceptron
    plain = setup.on_cpu and setup.length <= SHORT.get(torch.bfloat16 if setup.half else torch.float32, 128)
    kept = ((24 if plain else 30) * D + 2 * wide) if setup.half else ((40 if plain else 48) * D + 4 * wide)
    if plain:
        kept += (2 if setup.half else 4) * H * setup.length
    if setup.sizes.dropout:
        kept += 2 * D * ((2 if setup.half else 4) if setup.on_cpu else 1)
    return kept


def memory(setup: Setup) -> dict[str, float]:
    """Bytes of one device at the peak of a step, term by term.

    The first five always exist. In the backward pass activations are freed as gradients appear, so the peak (`peak`) is
    the larger of its beginning (all activations, the gradient of the head) and its end (all gradients, one block).
    """
    P, layers, D, K = setup.parameters, setup.sizes.layers, setup.sizes.hidden, setup.sizes.rows
    n, copies = setup.shards, 3 if setup.distils else 2
    terms = {
        "weights": 4 * P / n,
        "optimiser (AdamW)": 8 * P / n,
        "EMA": 4 * P / n,
        "teacher": 4 * P / n if setup.distils else 0.0,
        "gradients": 4 * P / n,
    }
    block = setup.sizes.block_parameters
    one = kept_per_token(setup) * setup.tokens  # of one block
    one += 2.0 * block if setup.half else 0.0  # autocast's own weights live as long as the block's graph
    terms["activations"] = one + 4 * D * setup.tokens * layers if setup.checkpointing else one * layers
    terms["gradients of activations"] = (24 if setup.half else 40) * D * setup.tokens  # 10 D numbers, of one block
    rows = MASKED * setup.tokens
    chunks, blocks = (copies - 1) * setup.shapes.chunk_rows, BLOCK_COPIES * setup.shapes.block_rows
    terms["head: rows and chunks"] = 4 * D * rows * copies + 4 * K * min(
        chunks + blocks, (copies - 1 + BLOCK_COPIES) * rows
    )
    if n > 1:  # all step long: what is in no block, and its gradient; two blocks, one ahead of time, and a gradient
        outside = P - layers * block
        terms["gathered (FSDP)"] = 4.0 * (copies * outside + 3 * block)
    if setup.devices > 1 and n == 1:
        terms["buckets (DDP)"] = 4.0 * P  # DDP reduces copies of the gradients
    begins = terms["activations"] + terms["head: rows and chunks"] + (4 * K * D if n == 1 else 0)
    begins += terms["gradients of activations"]
    ends = terms["gradients"] + one + terms["gradients of activations"]
    held = sum(terms[name] for name in HELD)
    held += terms.get("gathered (FSDP)", 0.0) + terms.get("buckets (DDP)", 0.0)
    earlier = terms["gradients"] if setup.accumulate > 1 else 0.0  # those of the parts before
    return terms | {"peak": held + max(begins + earlier, ends)}


def flops(setup: Setup) -> dict[str, float]:
    """Floating point operations of one device in a step. A multiply-add is two, a backward pass two forward passes."""
    tokens = setup.tokens * setup.accumulate
    forward = tokens * setup.sizes.forward_flops(setup.length, MASKED)
    rows = MASKED * tokens
    terms = {"student, forward": forward, "student, backward": 2 * forward}
    if setup.checkpointing:
        terms["student, forward again"] = forward
    if setup.distils:
        terms["teacher, forward"] = forward
    terms["head"] = setup.sizes.head_flops() * rows * (3 + (1 if setup.distils else 0))
    return terms


def communication(setup: Setup) -> dict[str, float]:
    """Bytes that one device sends in a step (rings: (N - 1) / N of what is exchanged, twice for an all-reduce)."""
    N, P = setup.devices, setup.parameters
    if N == 1:
        return {}
    ring, width = (N - 1) / N, 4  # FSDP2 gathers and reduces float32 weights, whatever autocast makes of them
    if setup.strategy == "ddp":
        return {"all-reduce of gradients": 2 * ring * 4 * P}
    terms = {
        "all-gather, student (forward, backward)": 2 * ring * width * P * setup.accumulate,
        "reduce-scatter of gradients": ring * width * P * setup.accumulate,
    }
    if setup.distils:
        terms["all-gather, teacher"] = ring * width * P * setup.accumulate
    return terms


@dataclass(frozen=True)
class Device:
    """Peaks of a device: operations per second (float32, bfloat16, float64), bytes per second of its memory and of its
    links.

    link: to others in its machine; network: between machines, its share; per_machine: devices in one machine.
    """

    name: str
    flops_fp32: float
    flops_bf16: float
    flops_fp64: float
    bandwidth: float
    memory: float
    link: float
    network: float
    per_machine: int = 8
    is_cpu: bool = False


DEVICES: dict[str, Device] = {
    "a100": Device("A100-80G SXM", 19.5e12, 312e12, 9.7e12, 2.04e12, 80e9, 300e9, 25e9),
    "h100": Device("H100 SXM", 67e12, 989e12, 34e12, 3.35e12, 80e9, 450e9, 50e9),
    "h200": Device("H200 SXM", 67e12, 989e12, 34e12, 4.8e12, 141e9, 450e9, 50e9),
    "l40s": Device("L40S", 91.6e12, 362e12, 1.43e12, 864e9, 48e9, 32e9, 12.5e9),
    "rtx4090": Device("RTX 4090", 82.6e12, 165e12, 1.29e12, 1.01e12, 24e9, 32e9, 12.5e9),
}
"""The makers' data sheets: dense products, one direction of NVLink (L40S and RTX 4090: PCIe 4), and 200, 400 or 100
Gbit/s a device between machines, which is an assumption about the cluster. float32 is without TF32, as PyTorch's
default."""


def measured_cpu(precision: str, clock: Callable[[], float] = time.perf_counter) -> Device:
    """This machine as a `Device`: the best of a few large products and of a few copies, and its memory."""

    def best(work: Callable[[], Any], repeats: int = 5) -> float:
        taken = []
        for _ in range(repeats):
            started = clock()
            work()
            taken.append(clock() - started)
        return min(taken)

    n = 1536
    dtype = torch.float32 if precision == "32-true" else torch.bfloat16
    a, b = (torch.randn(n, n, dtype=dtype) for _ in range(2))
    rate = 2 * n**3 / best(lambda: product(a, b))
    source, target = torch.ones(32 << 20), torch.empty(32 << 20)
    bandwidth = 8 * len(source) / best(lambda: target.copy_(source))
    memory = float(min(size for size in (*usable_memory(), 2**50) if size is not None))
    return Device(
        f"this CPU, {torch.get_num_threads()} threads", rate, rate, rate / 16, bandwidth, memory, 1e9, 1e9, is_cpu=True
    )


def seconds(setup: Setup, device: Device, utilisation: float) -> dict[str, float]:
    """Time of a step: products at `utilisation` of the peak, the update at the memory's bandwidth, the exchange.

    `step` lets the exchange run during the products, as DDP and FSDP do, `serial` after them; a real step lies between.
    """
    peak = device.flops_bf16 if setup.half else device.flops_fp32
    compute = sum(flops(setup).values()) / (peak * utilisation)
    update = sum(UPDATE_BYTES.values()) * setup.parameters / setup.shards / device.bandwidth
    speed = device.link if setup.devices <= device.per_machine else min(device.link, device.network)
    exchange = sum(communication(setup).values()) / speed
    return {
        "products": compute,
        "update": update,
        "exchange": exchange,
        "step": max(compute, exchange) + update,
        "serial": compute + exchange + update,
    }


def estimate(setup: Setup, device: Device, utilisation: float, steps: int) -> dict[str, Any]:
    """All of an estimate, for JSON: bytes, operations, seconds, whether it fits, and the time of `steps` steps."""
    bytes_of, times = memory(setup), seconds(setup, device, utilisation)
    return {
        "setup": asdict(setup),
        "device": asdict(device),
        "utilisation": utilisation,
        "memory_bytes": bytes_of,
        "fits": bytes_of["peak"] < (1 - FREE) * device.memory,
        "flops": flops(setup),
        "communication_bytes": communication(setup),
        "seconds": times,
        "tokens_per_second": setup.batch_size * setup.length / times["step"],
        "steps": steps,
        "days": steps * times["step"] / 86_400,
    }
