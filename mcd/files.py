"""Read JSON from other sources, and write files that survive a power cut. Imports nothing else of mcd.

Every package may use it. A JSON file may be damaged, malicious, or unrelated to mcd. In all cases, reading it gives
a value or raises `JSONError`, in time and memory that are bounded by its size.
"""

import contextlib
import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

LARGEST = 16 << 20
"""Bytes of the largest JSON document that is read; those of mcd have some kilobytes."""
DEEPEST = 64
"""Deepest nesting that is read; files of mcd have five levels."""


class JSONError(ValueError):
    """Text that is not JSON, or JSON that mcd never writes; the message says what is wrong with it."""


def parse_json(text: str | bytes, strict: bool = True) -> Any:
    """The value of a JSON document, strictly: UTF-8, each key once, at most `DEEPEST` deep and `LARGEST` long.

    Whole numbers of more than 20 digits are refused. strict: so are NaN, Infinity and numbers beyond float64, which
    Python otherwise reads, and lone surrogates, with which no file could be written. Raises JSONError.
    """
    if len(text) > LARGEST:
        raise JSONError(f"{len(text):,} bytes of JSON; at most {LARGEST:,} are read")
    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8")
        constant = _not_finite if strict else float
        number = _finite_float if strict else float
        value = json.loads(
            text,
            object_pairs_hook=_each_key_once,
            parse_constant=constant,
            parse_float=number,
            parse_int=_moderate_int,
        )
        if _deeper_than(value, DEEPEST):
            raise JSONError(f"nested deeper than {DEEPEST}")
        if strict and "\\u" in text:  # the only way to one
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise JSONError(f"nested deeper than {DEEPEST}") from None
    except JSONError:
        raise
    except (UnicodeDecodeError, UnicodeEncodeError) as error:
        raise JSONError(f"not UTF-8 text ({error.reason})") from None
    except ValueError as error:
        raise JSONError(str(error)) from None
    return value


def read_json(path: Path, strict: bool = True) -> Any:
    """The value of a file of JSON, as `parse_json`. Raises JSONError naming nothing but the fault, and OSError."""
    with path.open("rb") as file:
        return parse_json(file.read(LARGEST + 1), strict)


def optional_object(path: Path) -> dict[str, Any]:
    """The object in a file of JSON; {} where there is no file, or another value in it. Raises JSONError, OSError.

    The file is from elsewhere, and its numbers may be of any length: transformers writes a `model_max_length` of 1e30.
    """
    try:
        with path.open("rb") as file:
            value = json.loads(file.read(LARGEST))
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError) as error:
        raise JSONError(f"not JSON that is read here ({error})") from None
    return value if isinstance(value, dict) else {}


def json_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines of a .jsonl file that hold more than white space, numbered from 1, not yet parsed; one longer than
    `LARGEST` is cut, so that `parse_json` refuses it. Raises OSError."""
    with path.open("rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(LARGEST + 1), b""), 1):
            if line.strip():
                yield number, line


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` durable: after a rename, a power cut leaves the new file (where the system can)."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some file systems know no fsync of folders; their renames are journalled
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A temporary path to write; at the end it is synced and becomes `path`, durably, or is removed when that fails.

    Raises OSError, and leaves the existing file, when the disk refuses.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        yield partial
        with partial.open("r+b") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A folder to make under a temporary name; it becomes `path` at the end, or is removed when that fails."""
    partial = path.with_name(path.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a process that was stopped
    try:
        yield partial
        partial.replace(path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def write_durably(path: Path, text: str) -> None:
    """Write a text file atomically and durably. Raises OSError as `atomic_file`."""
    with atomic_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically and durably. Raises OSError as `atomic_file`."""
    write_durably(path, json.dumps(value, indent=2) + "\n")


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise JSONError(f"the key {twice[:60]!r} occurs twice")
    return value


def _not_finite(name: str) -> float:
    raise JSONError(f"holds {name}, which is not a number of JSON")


def _finite_float(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise JSONError(f"holds {digits[:20]}, which is beyond float64")
    return value


def _moderate_int(digits: str) -> int:
    if len(digits) > 20:
        raise JSONError(f"holds a whole number of {len(digits):,} digits")
    return int(digits)


def _deeper_than(value: Any, levels: int) -> bool:
    layer = [value]
    for _ in range(levels):
        layer = [
            inner
            for outer in layer
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
        if not layer:
            return False
    return True
