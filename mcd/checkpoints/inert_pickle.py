"""Pickles read as data: Python's unpickler with nothing to import and nothing to call.

An ordinary unpickler imports the names a pickle mentions and calls them, so that a checkpoint from a stranger is a
program. Here a name is a `Name`, and what would have been a call, an instance or a state is an `Inert` that records it.
Nothing is imported, hashed or compared by rules a file could choose. Readers walk the tree and take what they know.

`torch.load` cannot do this, even with this unpickler as its `pickle_module`: before it asks any unpickler, it hands an
archive that looks like TorchScript to `torch.jit.load`, which runs the code in it; it compares no checksum; and it
makes tensors of the sizes that a file states. The unpickler in C makes room for any memo index that a file names.
"""

import io
import itertools
import pickle
import pickletools
from dataclasses import dataclass, field
from typing import Any, NamedTuple

MOST_BYTES = 1 << 29
MOST_STEPS = 10_000_000
"""Longest pickle that is read. A tokenizer of 50,000 words in Python objects takes under a million instructions."""
MOST_VALUES = 100_000
"""Largest configuration that is made plain."""
PERSISTENT = "persistent"
_HASHABLE = (str, int, float, bool, bytes, type(None))


class PickleFault(ValueError):
    """Bytes that are no pickle, or one of a kind that is not read."""


class Name(NamedTuple):
    """What a pickle would have imported."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"

    def __call__(self, *args: Any) -> "Inert":
        return Inert(self, args)


@dataclass(frozen=True, eq=False, slots=True)
class Key:
    """A dictionary's key of a kind whose hash a file could make expensive, such as a tuple; equal only to itself."""

    value: Any


class Entries(dict[Any, Any]):
    """A dictionary of a pickle: keys of other than plain kinds are wrapped in a `Key`."""

    __slots__ = ()

    def __setitem__(self, key: Any, value: Any) -> None:
        super().__setitem__(key if type(key) in _HASHABLE else Key(key), value)


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
    entries: Entries = field(default_factory=Entries)

    def made_by(self, *names: str) -> bool:
        """Whether it would have come from one of these, as "module.name"."""
        return isinstance(self.maker, Name) and str(self.maker) in names

    def __call__(self, *args: Any) -> "Inert":
        return Inert(self, args)

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        self.entries[key] = value

    def append(self, item: Any) -> None:
        """Record it."""
        self.items.append(item)

    def extend(self, items: list[Any]) -> None:
        """Record them."""
        self.items.extend(items)


_Machine: Any = pickle._Unpickler  # type: ignore[attr-defined]  # the one in Python


class _Unpickler(_Machine):
    """The machine of Python's library, with inert names, references, instances, dictionaries and sets."""

    def find_class(self, module: str, name: str) -> Name:
        return Name(module, name)

    def persistent_load(self, pid: Any) -> Inert:
        return Inert(PERSISTENT, pid)

    def load_newobj(self) -> None:
        args = self.stack.pop()
        self.stack[-1] = Inert(self.stack[-1], args)

    def load_newobj_ex(self) -> None:
        keywords, args = self.stack.pop(), self.stack.pop()
        entries = keywords if isinstance(keywords, Entries) else Entries()
        self.stack[-1] = Inert(self.stack[-1], args, entries=entries)

    def load_empty_dict(self) -> None:
        self.append(Entries())

    def load_dict(self) -> None:
        items = self.pop_mark()
        self.append(Entries())
        for key, value in zip(items[::2], items[1::2], strict=True):
            self.stack[-1][key] = value

    dispatch = {
        code: load
        for code, load in _Machine.dispatch.items()
        if code not in (pickle.EXT1[0], pickle.EXT2[0], pickle.EXT4[0])  # they name what this process has registered
    } | {
        pickle.NEWOBJ[0]: load_newobj,
        pickle.NEWOBJ_EX[0]: load_newobj_ex,
        pickle.EMPTY_DICT[0]: load_empty_dict,
        pickle.DICT[0]: load_dict,
        pickle.EMPTY_SET[0]: _Machine.load_empty_list,
        pickle.FROZENSET[0]: _Machine.load_list,
        pickle.ADDITEMS[0]: _Machine.load_appends,
    }


def read_pickle(data: bytes) -> Any:
    """The tree of a pickle: None, numbers, strings, lists, tuples, `Entries` (sets as lists), `Name` and `Inert`.

    Raises PickleFault when it is damaged, too long, or needs buffers from outside.
    """
    if len(data) > MOST_BYTES:
        raise PickleFault(f"a pickle of {len(data)} bytes, more than {MOST_BYTES}")
    try:  # first only the instructions, whose lengths are compared with those of the data
        steps = sum(1 for _ in itertools.islice(pickletools.genops(data), MOST_STEPS + 1))
        if steps > MOST_STEPS:
            raise ValueError(f"more than {MOST_STEPS} instructions")
        return _Unpickler(io.BytesIO(data), encoding="latin1").load()
    except Exception as error:  # nothing but the library's machine runs: each fault is of the data
        raise PickleFault(f"a damaged pickle ({type(error).__name__}: {str(error)[:100]})") from None


def mapping(node: Any) -> dict[Any, Any] | None:
    """The entries of a dict or of what would have been one (OrderedDict, AttributeDict); None otherwise."""
    if isinstance(node, dict):
        return node
    if type(node) is Inert and (node.entries or node.made_by("collections.OrderedDict", "collections.defaultdict")):
        return node.entries
    return None


def attributes(node: Any) -> dict[Any, Any]:
    """What an instance would have as its `__dict__`; empty when it has no such state."""
    return node.state if type(node) is Inert and isinstance(node.state, dict) else {}


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
