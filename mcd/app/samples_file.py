"""Reading the samples that `mcd sample --out` writes, one JSON object a row, and naming what is wrong with a line."""

import math
from pathlib import Path
from typing import Any

from mcd.app.errors import UsageError
from mcd.files import json_lines, parse_json


def read_samples(path: Path) -> list[dict[str, Any]]:
    """The rows of a samples file. Raises UsageError, naming the line, when it is not one."""
    rows = []
    try:
        for i, line in json_lines(path):
            try:
                rows.append(_checked(parse_json(line)))
            except ValueError as error:
                raise UsageError(f"{path}, line {i}: not a sample ({error})") from None
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file") from None
    if not rows:
        raise UsageError(f"{path}: holds no samples")
    return rows


def _checked(row: Any) -> dict[str, Any]:
    """A sample as `mcd sample` writes it, or ValueError that says what is wrong with it."""
    from mcd.eval.protocol import protocol_of_dict

    if not isinstance(row, dict):
        raise ValueError("not a JSON object")
    ids, text, nfe, protocol = (row.get(key) for key in ("ids", "text", "nfe", "protocol"))
    if not isinstance(ids, list) or not all(_whole(i) for i in ids):
        raise ValueError("ids must be a list of token ids, 0 to 2**31 - 1")
    if not isinstance(text, str):
        raise ValueError("text must be a string")
    for key in ("row", "round", "steps"):
        if row.get(key) is not None and not _whole(row[key]):
            raise ValueError(f"{key} must be a whole number, 0 to 2**31 - 1")
    if nfe is not None and (type(nfe) not in (int, float) or not 0 <= nfe < math.inf):
        raise ValueError("nfe must be a number, at least 0")
    if not isinstance(row.get("model", ""), str | None):
        raise ValueError("model must be a string")
    f"{text}{row.get('model')}".encode()  # a lone surrogate is a ValueError
    if protocol is not None and not isinstance(protocol, dict):
        raise ValueError("protocol must be an object")
    protocol_of_dict(protocol or {})
    return row


def _whole(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**31
