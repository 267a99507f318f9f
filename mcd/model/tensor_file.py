"""safetensors written a tensor at a time, so that a model larger than memory can be converted."""

import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor


def write_streamed(path: Path, shapes: Mapping[str, tuple[int, ...]], read: Callable[[str], Tensor]) -> None:
    """Write float32 tensors under a temporary name, then rename: whole or not at all.

    shapes: of all tensors, in the order of the file. read: gives one of them, of that shape; it is not kept.
    Raises OSError when the disk refuses, and what `read` raises; nothing is left behind then.
    """
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in shapes.items():
        size = 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [at, at + size]}  # type: ignore[dict-item]
        at += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    partial = path.with_suffix(path.suffix + ".partial")
    try:
        with partial.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for name, shape in shapes.items():
                tensor = read(name).detach().to("cpu", torch.float32).contiguous()
                assert tensor.shape == shape, name
                file.write(tensor.numpy().data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
