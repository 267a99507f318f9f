"""How much of a model's work is done at a time: the one place where such sizes follow from the device.

A CPU is fast while the numbers at hand stay in its cache; a GPU is fast while every kernel has so much to do that
launching it does not count (docs/performance.md). The bits of a matrix product may depend on
its shape, so the shapes in which a row is drawn depend on the device and on the model alone, and never on the rows that
are drawn with it: calls and projections are filled up to them.
"""

import math
from dataclasses import asdict, dataclass

import torch

CALL_TOKENS, CALL_SIZE = 512, 1 << 18
"""On a CPU: most tokens of a network call, and most tokens times the model's width: a wide model keeps a processor
busy with fewer tokens."""
FEW, MANY = 32, 128
"""On a CPU: rows of a projection onto the vocabulary where few rows are wanted, and where nearly all are, which is
faster per row and slower for a single one."""
CHUNK_ELEMENTS = 5 << 20
"""On a CPU: logits of a chunk of the head's loss, 20 MiB (96 rows of 50,257): rows enough for quick products."""
BLOCK_ELEMENTS = 1 << 19
"""On a CPU: logits that are treated elementwise at once, 2 MiB: what stays in its cache."""
KEPT_BYTES = 1 << 29
"""On a CPU: keys and values that are kept while rows are read from left to right, in float32."""

GPU_CALL_TOKENS = 1 << 15
"""On a GPU: 32 rows of 1,024. More only makes what fills up a call of few rows cost more."""
GPU_FEW, GPU_MANY = 1 << 10, 1 << 12
"""On a GPU: rows of a projection. A thousand rows of GPT-2's vocabulary take 20 times as long as their launches."""
GPU_CHUNK_ELEMENTS, GPU_BLOCKS = 1 << 28, 4
"""On a GPU: logits of a chunk of the head's loss, 1 GiB, and the blocks of a chunk."""
GPU_KEPT_BYTES = 1 << 34
"""On a GPU: 16 GiB of keys and values."""
CALL_BYTES, DRAW_BYTES, CHUNK_BYTES = 48, 64, 16
"""Bytes that are in use at once: for a token and a unit of width in a network call, for a token of the vocabulary and a
row in a draw (float64 and a nucleus), and in a chunk of the head's loss."""
SHARE = 4
"""One part in this many of the memory that is free may be used by any of the three, and by keys and values."""


@dataclass(frozen=True)
class Shapes:
    """What is done at a time on a device of this type ("cpu" or "cuda").

    call_tokens: most tokens of a sampler's network call. few_rows, many_rows: rows of a projection onto the vocabulary,
    and of the part of the last block that is computed for wanted rows only, where few rows are wanted and where nearly
    all are. chunk_rows: rows of logits of the head's loss; chunk_elements: the most numbers in them; block_rows: those
    rows that are treated elementwise together. kept_bytes: most bytes of keys and values of an autoregressive model.
    """

    device: str
    call_tokens: int
    few_rows: int
    many_rows: int
    chunk_elements: int
    chunk_rows: int
    block_rows: int
    kept_bytes: int

    def call_rows(self, length: int) -> int:
        """Rows of `length` tokens of a sampler's network call."""
        return max(1, self.call_tokens // length)

    def as_dict(self) -> dict[str, str | int]:
        """All of it, for JSON."""
        return asdict(self)


def on_cpu(width: int, V: int) -> Shapes:
    """The shapes of a CPU, for a network of that width and V tokens."""
    return Shapes(
        device="cpu",
        call_tokens=min(CALL_TOKENS, CALL_SIZE // width),
        few_rows=FEW,
        many_rows=MANY,
        chunk_elements=CHUNK_ELEMENTS,
        chunk_rows=max(32, CHUNK_ELEMENTS // V // 32 * 32),
        block_rows=max(1, BLOCK_ELEMENTS // V),
        kept_bytes=KEPT_BYTES,
    )


def on_gpu(free: float, width: int, V: int) -> Shapes:
    """The shapes of a GPU of which `free` bytes are free; powers of two, so that they hardly depend on `free`."""
    free /= SHARE
    many = _power_of_two(min(float(GPU_MANY), free / (DRAW_BYTES * V)))
    elements = _power_of_two(min(float(GPU_CHUNK_ELEMENTS), free / CHUNK_BYTES))
    chunk = _power_of_two(elements / V)
    return Shapes(
        device="cuda",
        call_tokens=_power_of_two(min(float(GPU_CALL_TOKENS), free / (CALL_BYTES * width))),
        few_rows=min(GPU_FEW, many),
        many_rows=many,
        chunk_elements=elements,
        chunk_rows=chunk,
        block_rows=chunk // GPU_BLOCKS,
        kept_bytes=_power_of_two(min(float(GPU_KEPT_BYTES), free)),
    )


def shapes_of(device: torch.device, width: int, V: int) -> Shapes:
    """The shapes of a device, as it is at this moment."""
    return on_gpu(free_memory(device), width, V) if device.type == "cuda" else on_cpu(width, V)


def free_memory(device: torch.device) -> int:
    """Bytes of a GPU that new tensors can take: what is free, and what this process keeps for further use."""
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def _power_of_two(most: float) -> int:
    """The largest power of two up to `most`, but at least 32."""
    return max(32, 1 << int(math.log2(max(1.0, most))))
