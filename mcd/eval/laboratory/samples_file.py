"""Files of samples: those that `mcd sample --out` writes, and texts of others. Messages name the faulty line."""

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mcd.data.prepare.corpus import documents
from mcd.data.text import Borders, Documents, split_at
from mcd.errors import DataError, UsageError
from mcd.eval.protocol import protocol_of_dict
from mcd.files import JSONError, json_lines, parse_json, read_json

SUFFIXES = (".jsonl", ".json", ".txt")
USUAL_ENDS = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "[SEP]")
"""Names of the end of text that others leave in texts."""


@dataclass(frozen=True)
class Samples:
    """The samples of a file: one dictionary per row, as `mcd sample` writes them; only `text` for files of other
    programs.

    borders: how the texts show where a document ends; None where nobody says, then each text is one document.
    """

    path: Path
    rows: list[dict[str, Any]]
    texts: list[Documents]
    borders: Borders | None

    @property
    def ids(self) -> list[list[int]] | None:
        """The tokens of the samples, or None if the file has only texts."""
        return [row["ids"] for row in self.rows] if "ids" in self.rows[0] else None

    def spelled_ends(self) -> dict[str, int]:
        """The number of texts that contain each usual name of the end of text; it is scored as letters."""
        flat = ["\n".join(text) for text in self.texts]
        return {name: n for name in USUAL_ENDS if (n := sum(name in text for text in flat))}


def is_samples(path: Path) -> bool:
    """Whether this is the name of a file of samples; the file need not exist."""
    return path.suffix in SUFFIXES and not path.is_dir()


def read_samples(path: Path, field: str = "text", end_of_text: str | None = None) -> Samples:
    """The samples of a file: .jsonl, one sample per line; .json, a list; .txt, documents separated by blank lines.

    A sample is a string, or an object whose `field` is one. A .json may be an object with such a list under `field`.
    end_of_text: the letters that mark the end of a document in texts of other programs.
    Raises UsageError, which names the line or place, for what is no file of samples.
    """
    if not path.exists():
        raise UsageError(f"{path}: no such file")
    rows, first = [], None
    for place, value in _values(path, field):
        try:
            rows.append(_checked(value, field))
        except ValueError as error:
            raise UsageError(f"{place}: not a sample ({error})") from None
        first = place if first is None else first
        if ("ids" in rows[-1]) != ("ids" in rows[0]):
            raise UsageError(f"{place}: not a sample like {first} (one has ids, one has none); measure them separately")
    if not rows:
        raise UsageError(f"{path}: holds no samples")
    said: Borders | None = (rows[0].get("protocol") or {}).get("borders")
    if end_of_text is None:
        texts = [tuple(row.get("documents") or (row["text"],)) for row in rows]
        return Samples(path, rows, texts, said or ("dropped" if "ids" in rows[0] else None))
    if said is not None:
        raise UsageError(f"--end-of-text: {path} already says where its documents end; leave it out")
    if not end_of_text or not any(end_of_text in row["text"] for row in rows):
        raise UsageError(f"--end-of-text {end_of_text!r}: occurs in no text of {path}; leave it out")
    return Samples(path, rows, [split_at(row["text"], end_of_text) for row in rows], "kept")


def _values(path: Path, field: str) -> Iterator[tuple[str, Any]]:
    """Each value that is to be a sample, with its place, with which messages begin."""
    if path.suffix == ".jsonl":
        for i, line in json_lines(path):
            place = f"{path}, line {i}"
            try:
                yield place, parse_json(line)
            except JSONError as error:
                raise UsageError(f"{place}: not a sample ({error})") from None
        return
    if path.suffix == ".txt":
        try:
            yield from ((f"{path}, document {i}", text) for i, text in enumerate(documents(str(path)), 1))
        except DataError as error:
            raise UsageError(str(error).replace("--data ", "", 1)) from None
        return
    try:
        found = read_json(path)
    except JSONError as error:
        raise UsageError(f"{path}: cannot be read as JSON ({error}); .jsonl suits long files better") from None
    if isinstance(found, dict):
        lists = [key for key, value in found.items() if isinstance(value, list)]
        if field not in lists:
            known = f"its lists are {', '.join(lists)}" if lists else "it holds no list"
            raise UsageError(f"{path}: holds no list of texts under {field!r}; {known} (--text-field)")
        found = found[field]
    if not isinstance(found, list):
        raise UsageError(f"{path}: holds no list of texts")
    yield from ((f"{path}, sample {i}", value) for i, value in enumerate(found, 1))


def _checked(row: Any, field: str) -> dict[str, Any]:
    """A sample as `mcd sample` writes it, or with only its text. Raises ValueError for anything else."""
    if isinstance(row, str):
        row = {field: row}
    if not isinstance(row, dict):
        raise ValueError("neither a JSON object nor a string")
    text = row.get(field)
    if not isinstance(text, str):
        strings = [key for key, value in row.items() if isinstance(value, str)]
        other = f"; --text-field {' or '.join(strings)}?" if strings and text is None else ""
        raise ValueError(f"{field} must be a string{other}")
    text.encode()  # a lone surrogate is a ValueError
    if "ids" not in row and "protocol" not in row:
        return {"text": text}  # of others, whose further fields may mean anything
    ids, nfe, parts, protocol = (row.get(key) for key in ("ids", "nfe", "documents", "protocol"))
    if "ids" in row and not (isinstance(ids, list) and all(map(_is_whole, ids))):
        raise ValueError("ids must be a list of token ids, 0 to 2**31 - 1")
    for key in ("row", "round", "steps"):
        if not (row.get(key) is None or _is_whole(row[key])):
            raise ValueError(f"{key} must be a whole number, 0 to 2**31 - 1")
    if not (nfe is None or (type(nfe) in (int, float) and 0 <= nfe < math.inf)):
        raise ValueError("nfe must be a number, at least 0")
    if not isinstance(row.get("model", ""), str | None):
        raise ValueError("model must be a string")
    if not (parts is None or (isinstance(parts, list) and parts and all(isinstance(one, str) for one in parts))):
        raise ValueError("documents must be a list of strings")
    f"{row.get('model')}{''.join(parts or ())}".encode()
    if not isinstance(protocol, dict | None):
        raise ValueError("protocol must be an object")
    protocol_of_dict(protocol or {})
    return row | {"text": text}


def _is_whole(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**31


def write_samples(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write samples as a .jsonl, a line each."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
