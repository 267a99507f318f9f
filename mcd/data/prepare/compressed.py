"""Compressed files, unpacked as they are read: .gz, .bz2, .xz, and .zst by pyarrow."""

import bz2
import gzip
import io
import lzma
from pathlib import Path
from typing import Any

from mcd.errors import DataError

COMPRESSED = (".gz", ".bz2", ".xz", ".zst")


def suffix_of(path: Path) -> str:
    """What kind of file a name says it is, compression and case aside."""
    return (Path(path.stem).suffix if packed_as(path) else path.suffix).lower()


def packed_as(path: Path) -> str:
    """The suffix of a compressed file; "" of any other."""
    return path.suffix.lower() if path.suffix.lower() in COMPRESSED else ""


def unpacked(path: Path, raw: io.BufferedReader) -> io.BufferedReader:
    """The content of the file at `path`, open as `raw`. Raises DataError for a .zst without pyarrow."""
    packed = packed_as(path)
    if packed == ".gz":
        return io.BufferedReader(gzip.GzipFile(fileobj=raw), 1 << 20)
    if packed == ".bz2":
        return io.BufferedReader(bz2.BZ2File(raw), 1 << 20)
    if packed == ".xz":
        return io.BufferedReader(lzma.LZMAFile(raw), 1 << 20)
    if packed == ".zst":
        return io.BufferedReader(pyarrow_for(path).CompressedInputStream(raw, "zstd"), 1 << 20)
    return raw


def pyarrow_for(path: Path) -> Any:
    """pyarrow. Raises DataError, naming the mend, where it is not installed."""
    try:
        import pyarrow
        import pyarrow.ipc
    except ImportError:
        raise DataError(f"--data {path}: {path.suffix[1:].lower()} needs pyarrow; pip install 'mcd-lm[hub]'") from None
    return pyarrow
