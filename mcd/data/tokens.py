"""Prepared tokens as one read-only sequence over memory-mapped shards, and when their checksums are verified."""

import hashlib
import mmap
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import suppress
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from mcd.data.manifest import MANIFEST, read_manifest, values_of_row
from mcd.errors import DataError
from mcd.files import JSONError, read_json, write_json

STAMP = "verified.json"
"""Records which large shards were found whole, by size, time of the last change, inode and checksum."""
ALWAYS_VERIFIED = 1 << 26
"""Bytes up to which a shard is read through at every start."""
_CHUNK = 1 << 22


class Tokens:
    """Arrays one after the other as one: `len`, and slices (step 1) and single values by index.

    A slice within one array is a view of it; one across a border is copied. numpy.asarray joins all of it in memory.
    """

    def __init__(self, parts: list[np.ndarray]):
        self.parts = parts
        self.ends = list(accumulate(len(part) for part in parts))

    @property
    def dtype(self) -> np.dtype:
        """The kind of the values."""
        return self.parts[0].dtype

    def __len__(self) -> int:
        return self.ends[-1]

    def __getitem__(self, key: int | slice) -> Any:
        if isinstance(key, int):
            if not -len(self) <= key < len(self):
                raise IndexError(f"{key} of {len(self)} tokens")
            key %= len(self)
            return self[key : key + 1][0]
        start, stop, step = key.indices(len(self))
        if step != 1:
            raise IndexError("tokens are cut in steps of 1")
        pieces = list(self._pieces(start, stop))
        if len(pieces) == 1:
            return pieces[0]
        return np.concatenate(pieces) if pieces else np.empty(0, self.dtype)

    def _pieces(self, start: int, stop: int) -> Iterator[np.ndarray]:
        i = bisect_right(self.ends, start)
        while start < stop:
            first = self.ends[i] - len(self.parts[i])
            yield self.parts[i][start - first : stop - first]
            start, i = self.ends[i], i + 1

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[:], dtype=dtype)


def read_tokens(folder: Path, split: str, verify: bool | None = None) -> Tokens:
    """The values of a split's shards, memory-mapped: the token stream, or rows (see `mcd.data.prepare.pipeline`).

    Checks each shard's size, and its SHA-256 and that its values are of the vocabulary: of every shard (verify), of
    none (False), or (None) of those that are small or have changed since they were verified, as verified.json records.
    Raises DataError when one is damaged.
    """
    manifest = read_manifest(folder)
    dtype = np.dtype(manifest["dtype"])
    stamps = _stamps(folder)
    verified = dict(stamps)
    parts = []
    for shard in manifest["splits"][split]:
        path = folder / shard["file"]
        size = shard["tokens"] * dtype.itemsize
        if not path.is_file() or path.stat().st_size != size:
            raise DataError(f"{path}: missing or truncated; prepare the data again")
        large = size > ALWAYS_VERIFIED
        if verify or (verify is None and not (large and stamps.get(path.name) == _stamp_of(path, shard, manifest))):
            _verify(path, shard, manifest)
            if large:
                verified[path.name] = _stamp_of(path, shard, manifest)
        parts.append(mapped(path, dtype))
    if verified != stamps:
        with suppress(OSError):  # data may lie where nobody may write
            write_json(folder / STAMP, verified)
    return Tokens(parts)


def mapped(path: Path, dtype: np.dtype) -> np.ndarray:
    """The values of a file, memory-mapped, read-only; the system is advised that they are read in random order."""
    with path.open("rb") as file:
        memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    if hasattr(mmap, "MADV_RANDOM"):
        memory.madvise(mmap.MADV_RANDOM)  # else Linux reads 128 KB around each row of 2 KB
    return np.frombuffer(memory, dtype)


def stamp(folder: Path, manifest: dict[str, Any]) -> None:
    """Record that the shards were found whole: large ones are then not read through at every start."""
    paths = [(folder / shard["file"], shard) for shards in manifest["splits"].values() for shard in shards]
    large = [(path, shard) for path, shard in paths if path.stat().st_size > ALWAYS_VERIFIED]
    if large:
        write_json(folder / STAMP, {path.name: _stamp_of(path, shard, manifest) for path, shard in large})


def _stamps(folder: Path) -> dict[str, Any]:
    with suppress(FileNotFoundError, JSONError):
        stamps = read_json(folder / STAMP)
        return stamps if isinstance(stamps, dict) else {}
    return {}


def _stamp_of(path: Path, shard: dict[str, Any], manifest: dict[str, Any]) -> list[Any]:
    """The key that identifies a shard as the file that was verified, by the same manifest."""
    stat = path.stat()
    expected = (manifest["dtype"], manifest["vocab_size"], manifest["packing"], shard["sha256"])
    return [stat.st_size, stat.st_mtime_ns, stat.st_ino, *expected]


def _verify(path: Path, shard: dict[str, Any], manifest: dict[str, Any]) -> None:
    """Read a shard through, a little at a time."""
    width, dtype = values_of_row(manifest), np.dtype(manifest["dtype"])
    whole, beyond = hashlib.sha256(), False
    row_bytes = width * dtype.itemsize
    with path.open("rb") as file:
        while chunk := file.read(max(1, _CHUNK // row_bytes) * row_bytes):
            whole.update(chunk)
            values = np.frombuffer(chunk, dtype, len(chunk) // dtype.itemsize)
            if width > 1:
                rows = values[: len(values) // width * width].reshape(-1, width)
                begin, end, values = rows[:, 0], rows[:, 1], rows[:, 2:]
                beyond = beyond or bool((begin >= end).any() or (end > width - 2).any())
            beyond = beyond or int(values.max(initial=0)) >= manifest["vocab_size"]
    if whole.hexdigest() != shard["sha256"]:
        raise DataError(f"{path}: its checksum differs from the manifest's; prepare the data again")
    if beyond:
        raise DataError(
            f"{path}: tokens beyond the manifest's vocab_size, or rows with no answer; "
            f"{MANIFEST} is damaged, prepare the data again"
        )
