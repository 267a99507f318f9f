"""Pickles read as data: a machine whose instructions build trees of inert nodes, and none of which calls anything.

Python's own unpickler imports the names a pickle mentions and calls them, so that a checkpoint from a stranger is a
program. Here a name is a `Name`, and what would have been a call, an instance or a state is an `Inert` that records it.
Nothing is imported, hashed or compared by rules a file could choose. Readers walk the tree and take what they know.
"""

import pickletools
from dataclasses import dataclass, field
from typing import Any

MOST_BYTES = 1 << 29
MOST_STEPS = 10_000_000
"""Longest pickle that is read. A tokenizer of 50,000 words in Python objects takes under a million instructions."""
MOST_VALUES = 100_000
"""Largest configuration that is made plain."""

_PUSHES = frozenset(
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 STRING BINSTRING SHORT_BINSTRING BINBYTES SHORT_BINBYTES BINBYTES8 "
    "BYTEARRAY8 UNICODE SHORT_BINUNICODE BINUNICODE BINUNICODE8 FLOAT BINFLOAT".split()
)
_CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_HASHABLE = (str, int, float, bool, bytes, type(None))


class PickleFault(ValueError):
    """Bytes that are no pickle, or one of a kind that is not read."""


@dataclass(frozen=True, eq=False, slots=True)
class Name:
    """What a pickle would have imported."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(frozen=True, eq=False, slots=True)
class Key:
    """A dictionary's key of a kind whose hash a file could make costly, such as a tuple; equal to itself alone."""

    value: Any


@dataclass(eq=False, slots=True)
class Inert:
    """What a pickle would have made by calling `maker` with `args`: never made.

    state: what it would have been given by `__setstate__`; items: appended; entries: set by key. `maker` is a Name in
    honest files. A reference to something outside the pickle, such as a storage, has the maker `PERSISTENT`.
    """

    maker: Any
    args: Any
    state: Any = None
    items: list[Any] = field(default_factory=list)
    entries: dict[Any, Any] = field(default_factory=dict)

    def made_by(self, *names: str) -> bool:
        """Whether it would have come from one of these, as "module.name"."""
        return isinstance(self.maker, Name) and str(self.maker) in names


PERSISTENT = "persistent"


def read_pickle(data: bytes) -> Any:
    """The tree of a pickle: None, numbers, strings, lists, tuples, dicts (sets as lists), `Name` and `Inert`.

    Raises PickleFault when it is damaged, too long, or wants buffers from outside.
    """
    if len(data) > MOST_BYTES:
        raise PickleFault(f"a pickle of {len(data)} bytes, more than {MOST_BYTES}")
    try:
        return _run(data)
    except IndexError:
        raise PickleFault("a pickle that takes from an empty stack") from None
    except KeyError as error:
        raise PickleFault(f"a pickle that remembers nothing under {error}") from None
    except (ValueError, OverflowError, TypeError) as error:
        raise PickleFault(f"a damaged pickle ({str(error)[:100]})") from None


def _run(data: bytes) -> Any:
    stack: list[Any] = []
    below: list[list[Any]] = []  # what lies under each mark
    memo: dict[int, Any] = {}
    operation: tuple[Any, Any, Any]
    for step, operation in enumerate(pickletools.genops(data)):
        opcode, arg, _ = operation
        if step > MOST_STEPS:
            raise ValueError(f"more than {MOST_STEPS} instructions")
        name = opcode.name
        if name in _PUSHES:
            stack.append(arg)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in ("BINPUT", "LONG_BINPUT", "PUT"):
            memo[int(arg)] = stack[-1]
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            stack.append(memo[int(arg)])
        elif name in _TUPLES:
            n = _TUPLES[name]
            stack[len(stack) - n :] = [tuple(_last(stack, n))]
        elif name in ("EMPTY_LIST", "EMPTY_SET"):
            stack.append([])
        elif name == "EMPTY_DICT":
            stack.append({})
        elif name == "MARK":
            below.append(stack)
            stack = []
        elif name in _FROM_MARK:
            above, stack = stack, below.pop()
            _FROM_MARK[name](stack, above, arg)
        elif name == "POP":
            if stack:
                stack.pop()
            else:
                stack = below.pop()
        elif name == "STOP":
            return stack.pop()
        elif name in _PLAIN:
            _PLAIN[name](stack, arg)
        elif name not in ("PROTO", "FRAME"):
            raise ValueError(f"the instruction {name} is not read")
    raise ValueError("it has no end")


def _last(stack: list[Any], n: int) -> list[Any]:
    if len(stack) < n:
        raise IndexError
    return stack[len(stack) - n :]


def _key(value: Any) -> Any:
    return value if type(value) in _HASHABLE else Key(value)


def _put(target: Any, pairs: list[Any]) -> None:
    entries = target.entries if type(target) is Inert else target
    if type(entries) is not dict or len(pairs) % 2:
        raise ValueError("it sets keys of what is no dictionary")
    entries.update((_key(key), value) for key, value in zip(pairs[::2], pairs[1::2], strict=True))


def _extend(target: Any, items: list[Any]) -> None:
    into = target.items if type(target) is Inert else target
    if type(into) is not list:
        raise ValueError("it appends to what is no list")
    into.extend(items)


def _dict(stack: list[Any], above: list[Any], _: Any) -> None:
    made: dict[Any, Any] = {}
    _put(made, above)
    stack.append(made)


def _name(module: Any, name: Any) -> Name:
    if type(module) is not str or type(name) is not str:
        raise ValueError("a name that is no string")
    return Name(module, name)


def _global(stack: list[Any], arg: Any) -> None:
    stack.append(_name(*arg.split(" ", 1)))


def _stack_global(stack: list[Any], _: Any) -> None:
    module, name = _last(stack, 2)
    stack[-2:] = [_name(module, name)]


def _make(stack: list[Any], _: Any) -> None:
    maker, args = _last(stack, 2)
    stack[-2:] = [Inert(maker, args)]


def _make_with_keywords(stack: list[Any], _: Any) -> None:
    maker, args, keywords = _last(stack, 3)
    made = Inert(maker, args)
    if type(keywords) is dict:
        made.entries.update(keywords)
    stack[-3:] = [made]


def _build(stack: list[Any], _: Any) -> None:
    target, state = _last(stack, 2)
    if type(target) is Inert:
        target.state = state
    stack.pop()


def _persistent(stack: list[Any], arg: Any) -> None:
    stack.append(Inert(PERSISTENT, stack.pop() if arg is None else arg))


_FROM_MARK = {
    "TUPLE": lambda stack, above, _: stack.append(tuple(above)),
    "LIST": lambda stack, above, _: stack.append(above),
    "FROZENSET": lambda stack, above, _: stack.append(above),
    "DICT": _dict,
    "APPENDS": lambda stack, above, _: _extend(stack[-1], above),
    "ADDITEMS": lambda stack, above, _: _extend(stack[-1], above),
    "SETITEMS": lambda stack, above, _: _put(stack[-1], above),
    "POP_MARK": lambda stack, above, _: None,
    "OBJ": lambda stack, above, _: stack.append(Inert(above[0], tuple(above[1:]))),
    "INST": lambda stack, above, arg: stack.append(Inert(_name(*arg.split(" ", 1)), tuple(above))),
}
"""Instructions that take all above the last mark."""
_PLAIN = {
    "GLOBAL": _global,
    "STACK_GLOBAL": _stack_global,
    "REDUCE": _make,
    "NEWOBJ": _make,
    "NEWOBJ_EX": _make_with_keywords,
    "BUILD": _build,
    "APPEND": lambda stack, _: _extend(stack[-2], [stack.pop()]),
    "SETITEM": lambda stack, _: _put(stack[-3], [stack.pop(-2), stack.pop()]),
    "DUP": lambda stack, _: stack.append(stack[-1]),
    "PERSID": _persistent,
    "BINPERSID": _persistent,
    "EXT1": lambda stack, code: stack.append(Name("copyreg", f"extension {code}")),
    "EXT2": lambda stack, code: stack.append(Name("copyreg", f"extension {code}")),
    "EXT4": lambda stack, code: stack.append(Name("copyreg", f"extension {code}")),
}


def mapping(node: Any) -> dict[Any, Any] | None:
    """The entries of a dict or of what would have been one (OrderedDict, AttributeDict); None otherwise."""
    if type(node) is dict:
        return node
    if type(node) is Inert and (node.entries or node.made_by("collections.OrderedDict", "collections.defaultdict")):
        return node.entries
    return None


def attributes(node: Any) -> dict[Any, Any]:
    """What an instance would have as its `__dict__`; empty when it has no such state."""
    return node.state if type(node) is Inert and type(node.state) is dict else {}


def plain(node: Any, depth: int = 24) -> Any:
    """A tree as JSON takes it: OmegaConf containers as dicts and lists, interpolations as text, the rest as its name.

    Below `depth` levels, and for what has no plain form, there is a string in angle brackets; keys other than strings
    are left out. The result is finite, whatever refers to what (raises PickleFault beyond MOST_VALUES).
    """
    left = [MOST_VALUES]

    def walk(node: Any, depth: int) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise PickleFault(f"a configuration of more than {MOST_VALUES:,} values")
        if node is None or type(node) in (str, bool):
            return node
        if type(node) in (int, float):
            return node if -(2**63) < node < 2**63 else f"<{type(node).__name__}>"  # also what is not a number
        if depth == 0:
            return "<deeper>"
        held = attributes(node)
        if "_val" in held:
            return walk(held["_val"], depth - 1)
        if "_content" in held:
            return walk(held["_content"], depth - 1)
        entries = mapping(node)
        if entries is not None:
            return {key: walk(value, depth - 1) for key, value in entries.items() if type(key) is str}
        if type(node) in (list, tuple):
            return [walk(value, depth - 1) for value in node]
        maker = node.maker if type(node) is Inert else node
        return f"<{maker}>" if type(maker) is Name else f"<{type(maker).__name__}>"

    return walk(node, depth)
