"""The values of a .json file, one at a time: those of one list, or of a file with one value after the other."""

import json
import re
from collections.abc import Iterator
from typing import Any

_SPACE = re.compile(r"[ \t\r\n]*")
_CUT = re.compile(r"t(ru?)?|f(a|al|als)?|n(ul?)?|-|[.eE][+-]?|u?[0-9a-fA-F]{0,4}")
"""What is left of a word, a number or an escape at the end of a text that was cut."""
_NEAR = 16
"""Characters before the end of a piece within which it may be the end that makes a fault: an escape is 12 long."""


class CutOff(ValueError):
    """The text ends inside a list or a value."""


def json_values(chunks: Iterator[str], decoder: json.JSONDecoder) -> Iterator[tuple[int, Any]]:
    """Each value with the line, counted from 1, on which it begins.

    chunks: the text, piece by piece, none of them empty. Memory: the longest value, and a piece. Raises CutOff where
    the text ends too early, json.JSONDecodeError (its `lineno` is that of the text) where it is not JSON.
    """
    text, at, line = "", 0, 1
    before = ""
    """What came last: "[" or "," or "]" of the list, or "v", a value."""
    listed = False
    while True:
        space = _SPACE.match(text, at)
        assert space is not None
        line, at = line + text.count("\n", at, space.end()), space.end()
        if at == len(text):
            text, at = next(chunks, ""), 0
            if not text:
                break
            continue
        sign = text[at]
        if not before and sign == "[":
            listed, before, at = True, sign, at + 1
        elif listed and (before in "v]" or (before == "[" and sign == "]")):
            if before == "]" or sign not in ",]":
                raise _fault("Text behind the list" if before == "]" else "Expecting ',' or ']'", line)
            before, at = sign, at + 1
        else:
            value, text, start, end = _decoded(chunks, decoder, text, at, line)
            yield line, value
            before, line, at = "v", line + text.count("\n", start, end), end
    if listed and before != "]":
        raise CutOff


def _decoded(
    chunks: Iterator[str], decoder: json.JSONDecoder, text: str, at: int, line: int
) -> tuple[Any, str, int, int]:
    """The value that begins at `at`, the text with the added parts, and the position of the value in it."""
    while True:
        try:
            value, end = decoder.raw_decode(text, at)
            return value, text, at, end
        except json.JSONDecodeError as error:
            inside = error.msg.startswith("Unterminated string")
            more = ""
            if inside or error.pos >= len(text) - _NEAR:  # else a fault would read all of a large file into memory
                more = _taken(chunks, len(text) - at)
            if not more:
                tail = text[error.pos :].rstrip(" \t\r\n")
                if inside or _CUT.fullmatch(tail):
                    raise CutOff from None
                raise _fault(error.msg, line + text.count("\n", at, error.pos)) from None
            text, at = text[at:] + more, 0


def _taken(chunks: Iterator[str], size: int) -> str:
    """Pieces joined to at least `size` characters where possible, so that a long value is decoded only a few times."""
    pieces: list[str] = []
    while size > 0 and (piece := next(chunks, "")):
        pieces.append(piece)
        size -= len(piece)
    return "".join(pieces)


def _fault(message: str, line: int) -> json.JSONDecodeError:
    error = json.JSONDecodeError(message, "", 0)
    error.lineno = line
    return error
