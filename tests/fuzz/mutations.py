"""Damage for files: from valid ones, by a source of choices (hypothesis, atheris or `random`).

A case is a folder: {name: bytes}. `Choose` is the one thing drawn from: a whole number in [low, high].
"""

import copy
import json
from collections.abc import Callable

Case = dict[str, bytes]
Choose = Callable[[int, int], int]

BYTES = (b"\x00", b"\xff", b"{", b"}", b"[", b'"', b"\\u0000", b"\\ud800", b"\n", b"\r\n", b"PK\x03\x04", b"\x80\x04")
NUMBERS = (b"1" * 5000, b"1e999", b"-1e999", b"NaN", b"-Infinity", b"9" * 4000, b"-1", b"18446744073709551616")
DEEP = (b"[" * 99_999, b'{"a":' * 5_000, b"[" * 50 + b"]" * 50, b"[" * 500 + b"]" * 500)
VALUES = (
    None, True, False, 0, 1, -1, 2, 3, 7, 255, 65_536, 2**31, 2**32 - 1, 2**53, 2**63, 2**64, 10**12, 10**400, 0.5,
    -0.0, 1e-300, 1e308, float("nan"), float("inf"), "", "a", "0", "NaN", "\x00", "\ud800", "é" * 300, "../../x",
    "/dev/zero",
    "x" * 100_000, [], {}, [None], [[]], [0] * 1000, {"a": 1}, {"": {}}, "step-00000001", "<|endoftext|>", "[MASK]",
)  # fmt: skip
"""What a value of JSON is replaced by. Lone surrogates and non-finite numbers are written as Python writes them."""


def mutate(case: Case, choose: Choose) -> Case:
    """The case with one to four faults in its files."""
    case = dict(case)
    for _ in range(choose(1, 4)):
        name = sorted(case)[choose(0, len(case) - 1)]
        case[name] = _damaged(name, case[name], case, choose)
    return case


def _damaged(name: str, data: bytes, case: Case, choose: Choose) -> bytes:
    kind = choose(0, 9)
    if kind <= 5:  # mostly faults that pass the first glance
        if name.endswith(".safetensors"):
            return edited_safetensors(data, choose)
        if name.endswith(".jsonl"):
            lines = data.split(b"\n")
            i = choose(0, len(lines) - 1)
            lines[i] = edited_json(lines[i], choose)
            return b"\n".join(lines)
        if name.endswith(".json"):
            return edited_json(data, choose)
        return flipped(data, choose)
    if kind == 6:
        return flipped(data, choose)
    if kind == 7:
        return data[: choose(0, len(data))]
    if kind == 8:
        return spliced(data, sorted(case.items())[choose(0, len(case) - 1)][1], choose)
    piece = (*BYTES, *NUMBERS, *DEEP)[choose(0, len(BYTES) + len(NUMBERS) + len(DEEP) - 1)]
    at = choose(0, len(data))
    return data[:at] + piece + data[at:]


def flipped(data: bytes, choose: Choose) -> bytes:
    """One to eight bits turned."""
    changed = bytearray(data)
    for _ in range(choose(1, 8) if data else 0):
        changed[choose(0, len(data) - 1)] ^= 1 << choose(0, 7)
    return bytes(changed)


def spliced(data: bytes, other: bytes, choose: Choose) -> bytes:
    """A piece replaced by a piece of another file (or of this one), of another length."""
    a, b = sorted((choose(0, len(data)), choose(0, len(data))))
    c, d = sorted((choose(0, len(other)), choose(0, len(other))))
    return data[:a] + other[c:d] + data[b:]


def edited_json(data: bytes, choose: Choose) -> bytes:
    """One place of a JSON document edited: its value replaced, a key dropped, doubled or added, a value moved."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return flipped(data, choose)
    places = list(_places(value))
    if not places:
        return json.dumps(VALUES[choose(0, len(VALUES) - 1)]).encode()
    inside, key = places[choose(0, len(places) - 1)]
    kind = choose(0, 7)
    if kind <= 3:
        inside[key] = VALUES[choose(0, len(VALUES) - 1)]
    elif kind == 4:
        del inside[key]
    elif kind == 5:
        other, there = places[choose(0, len(places) - 1)]
        inside[key] = copy.deepcopy(other[there])
    elif kind == 6:
        number = inside[key]
        change = (1, -1, 1000)[choose(0, 2)]
        inside[key] = number + change if isinstance(number, int | float) else [number]
    else:
        inside[key] = "\x01mark"
        text = _dumped(value)
        piece = (*NUMBERS, *DEEP, b'{"a": 1, "a": 2}')[choose(0, len(NUMBERS) + len(DEEP))]
        return text.replace(b'"\\u0001mark"', piece)
    return _dumped(value)


def _dumped(value: object) -> bytes:
    try:
        return json.dumps(value).encode()
    except (ValueError, RecursionError):  # a number of too many digits, a value moved into itself
        return b"null"


def _places(value: object, depth: int = 0):
    if isinstance(value, dict | list) and depth < 40:
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from _places(value[key], depth + 1)


def edited_safetensors(data: bytes, choose: Choose) -> bytes:
    """Header that lies: its length, or one place of its JSON; or bits of the tensors turned."""
    length = int.from_bytes(data[:8], "little")
    header, tensors = data[8 : 8 + length], data[8 + length :]
    kind = choose(0, 5)
    if kind == 0:
        lie = (0, 1, length - 1, length + 8, len(data), 10**8, 2**40, 2**63, 2**64 - 1)[choose(0, 8)]
        return (lie % 2**64).to_bytes(8, "little") + data[8:]
    if kind == 1:
        return data[: 8 + length] + flipped(tensors, choose)
    if kind == 2:
        numbers = (b"\x00\x00\xc0\x7f", b"\x00\x00\x80\xff", b"\xff\xff\x7f\x7f")
        at = 4 * choose(0, max(0, len(tensors) // 4 - 1))
        return data[: 8 + length] + tensors[:at] + numbers[choose(0, 2)] + tensors[at + 4 :]
    edited = edited_json(header, choose)
    return len(edited).to_bytes(8, "little") + edited + tensors
