"""Shards being written: under another name until they are whole, and continued where they were last recorded."""

import contextlib
import hashlib
import os
from io import BufferedWriter
from pathlib import Path
from typing import Any

import numpy as np

PARTIAL = ".partial"
_CHUNK = 1 << 22


class Damaged(Exception):
    """The files of an interrupted run do not match its record; the work starts again."""


class ShardWriter:
    """Appends tokens to numbered files of at most `shard_tokens` tokens, give or take one document.

    shards: what `record` gave, to continue from there: finished shards are verified, the last is cut to what was
    recorded. Raises Damaged when one is not as recorded.
    """

    def __init__(
        self, folder: Path, split: str, dtype: np.dtype, shard_tokens: int, shards: list[dict[str, Any]] | None = None
    ):
        self.folder, self.split, self.dtype, self.shard_tokens = folder, split, dtype, shard_tokens
        self.shards: list[dict[str, Any]] = []
        self.file: BufferedWriter | None = None
        self.growing = False
        """Is the last shard to be appended to?"""
        self.hash = hashlib.sha256()
        for shard in shards or []:
            self._resume(dict(shard))

    def add(self, ids: np.ndarray, documents: int = 1) -> None:
        """Append the tokens of a document; one without tokens counts with those before it."""
        if not self.growing and self.shards and not len(ids):
            self.shards[-1]["documents"] += documents
            return
        if not self.growing:
            self.growing, self.hash = True, hashlib.sha256()
            name = f"{self.split}-{len(self.shards):05d}.bin"
            self.shards.append({"file": name, "tokens": 0, "documents": 0})
        shard = self.shards[-1]
        if self.file is None:
            self.file = self._partial(shard["file"]).open("ab" if shard["tokens"] else "wb")
        data = ids.astype(self.dtype, copy=False).tobytes()
        self.file.write(data)
        self.hash.update(data)
        shard["tokens"] += len(ids)
        shard["documents"] += documents
        if shard["tokens"] >= self.shard_tokens:
            self._finish()

    def record(self) -> list[dict[str, Any]]:
        """What is written so far, safe from a power cut, as JSON values."""
        if self.file is not None:
            self.file.flush()
            os.fsync(self.file.fileno())
            self.shards[-1]["sha256"] = self.hash.hexdigest()
        return [dict(shard) for shard in self.shards]

    def close(self) -> list[dict[str, Any]]:
        """Finish the last shard; returns all of them."""
        if self.growing:
            self._finish()
        return self.shards

    def abandon(self) -> None:
        """Close the file without finishing the shard."""
        if self.file is not None:
            with contextlib.suppress(OSError):  # a full disk takes the rest no better than what came before
                self.file.close()
            self.file = None

    def _finish(self) -> None:
        self.record()
        if self.file is not None:
            self.file.close()
        name = self.shards[-1]["file"]
        self._partial(name).replace(self.folder / name)
        self.growing, self.file = False, None

    def _partial(self, name: str) -> Path:
        return self.folder / f"{name}{PARTIAL}"

    def _resume(self, shard: dict[str, Any]) -> None:
        """Check a recorded shard; the last, which was not full, will be appended to."""
        whole, partial = self.folder / shard["file"], self._partial(shard["file"])
        size = shard["tokens"] * self.dtype.itemsize
        full = shard["tokens"] >= self.shard_tokens
        if not full and whole.exists():  # it was finished after the record
            whole.replace(partial)
        path = whole if full else partial
        if not path.is_file() or path.stat().st_size < size:
            raise Damaged
        with path.open("rb+") as file:
            self.hash = hashlib.sha256()
            for start in range(0, size, _CHUNK):
                self.hash.update(file.read(min(_CHUNK, size - start)))
            if self.hash.hexdigest() != shard["sha256"]:
                raise Damaged
            file.truncate(size)
        self.shards.append(shard)
        self.growing = not full
