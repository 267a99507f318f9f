"""safetensors written whole or not at all: at once, or a tensor at a time for a model larger than memory."""

import errno
import json
import math
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from mcd.files import sync_folder


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


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write safetensors by way of a temporary file: whole or not at all. Raises OSError when the disk refuses."""
    partial = path.with_suffix(path.suffix + ".partial")
    try:
        save_file({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, partial)
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.chmod(0o644)  # safetensors leaves files that only their owner can read
    except SafetensorError as error:  # it hides the system's number in its text
        partial.unlink(missing_ok=True)
        number = re.search(r"os error (\d+)", str(error))
        code = int(number[1]) if number else errno.EIO
        raise OSError(code, os.strerror(code), str(path)) from None
    partial.replace(path)
    sync_folder(path.parent)
