"""Pickles read as data: honest ones as pickle reads them, hostile ones without running anything."""

import builtins
import collections
import contextlib
import io
import os
import pickle
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcd.checkpoints.inert_pickle import Inert, Key, Name, PickleFault, attributes, mapping, plain, read_pickle

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
KEYS = st.text() | st.integers() | st.none() | st.binary()
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner) | st.dictionaries(KEYS, inner) | st.tuples(inner, inner) | st.tuples(inner),
    max_leaves=30,
)


@pytest.mark.heavy
@given(VALUES, st.integers(3, pickle.HIGHEST_PROTOCOL))
def test_plain_values_are_read_as_pickle_reads_them(value, protocol):
    assert read_pickle(pickle.dumps(value, protocol)) == value


@given(st.recursive(st.none() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.tuples(inner, inner)))
def test_the_first_protocols_too(value):
    for protocol in (0, 1, 2):
        assert read_pickle(pickle.dumps(value, protocol)) == value


def test_shared_and_circular_values_keep_their_shape():
    shared = [1]
    loop = {"a": shared, "b": shared}
    loop["self"] = loop
    found = read_pickle(pickle.dumps(loop))
    assert found["a"] is found["b"] and found["self"] is found
    assert plain(found, depth=1) == {"a": "<deeper>", "b": "<deeper>", "self": "<deeper>"}
    assert plain(found, depth=2)["self"] == {"a": "<deeper>", "b": "<deeper>", "self": "<deeper>"}
    assert plain(found, depth=4)["self"]["self"]["b"] == [1]


class Thing:
    """An instance with a state, items and entries, pickled by name."""

    def __init__(self, **state):
        self.__dict__ |= state


class Shelf(list):
    pass


def test_instances_are_named_and_their_state_is_kept():
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        thing = read_pickle(pickle.dumps(Thing(a=1, b="x"), protocol))
        assert isinstance(thing, Inert) and attributes(thing) == {"a": 1, "b": "x"}
        ordered = read_pickle(pickle.dumps(collections.OrderedDict(x=1, y=2), protocol))
        assert mapping(ordered) == {"x": 1, "y": 2} and list(mapping(ordered)) == ["x", "y"]
        default = read_pickle(pickle.dumps(collections.defaultdict(int, x=1), protocol))
        assert mapping(default) == {"x": 1} and default.args == (default.args[0],)
    assert thing.maker.name == "Thing" and thing.made_by(f"{Thing.__module__}.Thing")
    assert read_pickle(pickle.dumps(Shelf([1, 2]))).items == [1, 2]
    assert read_pickle(pickle.dumps({1, 2}, 4)) in ([1, 2], [2, 1]) and read_pickle(pickle.dumps(len)).name == "len"


def test_keys_of_costly_hashes_are_wrapped():
    ((key, value),) = read_pickle(pickle.dumps({("a", "b"): 3})).items()
    assert isinstance(key, Key) and key.value == ("a", "b") and value == 3


class Runs:
    """Pickles as a call."""

    def __init__(self, function, *args):
        self.call = (function, args)

    def __reduce__(self):
        return self.call


def calls(marker):
    """Payloads that make `marker` when unpickled."""
    write = f"open({str(marker)!r}, 'w').close()"
    yield "os.system", pickle.dumps(Runs(os.system, f"touch {marker}"))
    yield "eval", pickle.dumps(Runs(eval, f"exec({write!r})"))
    yield "exec, protocol 0", pickle.dumps(Runs(exec, write), 0)
    yield "nested", pickle.dumps({"state_dict": [Runs(exec, write)]})
    yield "getattr", pickle.dumps(Runs(getattr(builtins, "exec"), write), 2)  # noqa: B009
    system = b"cposix\nsystem\n" + b"V" + f"touch {marker}\n".encode() + b"\x85R."
    yield "opcodes", system
    yield "inst", b"(V" + f"touch {marker}\n".encode() + b"iposix\nsystem\n."
    yield "obj", b"(cposix\nsystem\nV" + f"touch {marker}\n".encode() + b"o."
    chain = b"c__builtin__\ngetattr\n(cos\n__dict__\nVget\ntRVsystem\n\x85RV" + f"touch {marker}\n".encode() + b"\x85R."
    yield "getattr chain", chain


@pytest.mark.parametrize("index", range(9))
def test_nothing_runs(index, tmp_path):
    marker = tmp_path / "marker"
    name, payload = list(calls(marker))[index]
    try:
        pickle.loads(payload)
    except Exception:
        assert marker.exists(), name
    assert marker.exists(), f"{name}: the payload is no payload"
    marker.unlink()
    found = read_pickle(payload)
    plain(found)
    assert not marker.exists()


@pytest.mark.parametrize(
    "payload",
    [
        b"cmcd.model.inert\nInert\n}V__setattr__\ncos\nsystem\nsb.",  # BUILD on a name changes no class of ours
        b"cmcd.model.inert\nplain\n(N}V__code__\nNs\x86b.",
        b"cbuiltins\nlist\n)\x81}b.",
        b"]}V__setstate__\ncos\nsystem\nsb.",
        b"cos\nsystem\n)\x81Vx\nb.",
        b"cos\nenviron\nVPATH\nV/evil\ns.",
    ],
)
def test_states_reach_nothing_real(payload):
    before = (Inert.__setattr__, plain.__code__, dict(os.environ))
    try:
        found = read_pickle(payload)
        assert isinstance(found, Name | Inert | list)
    except PickleFault:
        pass
    assert (Inert.__setattr__, plain.__code__, dict(os.environ)) == before


def bomb(n):
    """Lists of ten references to the list before: 10^n leaves."""
    value = ["x"]
    for _ in range(n):
        value = [value] * 10
    return pickle.dumps({"a": value})


@pytest.mark.heavy
def test_bombs_stay_small(monkeypatch):
    deep = read_pickle(b"(" * 20_000 + b"t" * 20_000 + b".")  # tuples in tuples, beyond any recursion limit
    assert plain(deep, depth=2) == [["<deeper>"]]
    makers = read_pickle(b"cx\ny\n" + b")R" * 20_000 + b".")  # and what a call's result would have been called for
    assert isinstance(makers, Inert) and plain(makers) == "<Inert>"
    monkeypatch.setattr("mcd.checkpoints.inert_pickle.MOST_VALUES", 1000)
    with pytest.raises(PickleFault, match="1,000 values"):
        plain(read_pickle(bomb(9)))
    wide = read_pickle(b"Nr\xff\xff\xff\xff.")  # pickle would make room for 2^32 memories
    assert wide is None
    with pytest.raises(PickleFault):
        read_pickle(b"\x8e" + struct.pack("<Q", 1 << 60) + b"x.")  # bytes that are not there
    with pytest.raises(PickleFault):
        read_pickle(b"I" + b"9" * 100_000 + b"\n.")
    with pytest.raises(PickleFault):
        read_pickle(b"\x8b" + struct.pack("<i", -5) + b".")


def test_a_key_of_tuples_in_tuples_is_not_hashed():
    found = read_pickle(b"}" + b"(" * 100_000 + b"t" * 100_000 + b"Ns.")
    ((key, value),) = found.items()
    assert isinstance(key, Key) and value is None


@pytest.mark.parametrize(
    "payload",
    [b"", b".", b"\x80\x04", b"R.", b"h\x05.", b"(", b"0.", b"(s.", b"NNs.", b"Na.", b"\x97.",
     b"]\x97.", b"\x98.", b"(Nd.", b"\xff\xff", b"NN\x93.", b"(o.",
     b"garbage", b"\x95" + b"\xff" * 8, b"(NNNu.", b"t."],
)  # fmt: skip
def test_damaged_pickles_are_told(payload):
    with pytest.raises(PickleFault):
        read_pickle(payload)


@given(st.binary(max_size=200))
def test_no_bytes_do_more_than_fail(data):
    with contextlib.suppress(PickleFault):
        plain(read_pickle(b"\x80\x04" + data))


@given(st.data())
def test_no_damage_does_more_than_fail(data):
    whole = bytearray(pickle.dumps({"a": [1, 2.5, ("x", Thing(a=1))], "b": collections.OrderedDict(c=Thing())}))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(PickleFault):
        plain(read_pickle(bytes(whole)))


def test_the_limits_hold(monkeypatch):
    monkeypatch.setattr("mcd.checkpoints.inert_pickle.MOST_STEPS", 100)
    with pytest.raises(PickleFault, match="more than 100 instructions"):
        read_pickle(pickle.dumps(list(range(200))))
    monkeypatch.setattr("mcd.checkpoints.inert_pickle.MOST_BYTES", 10)
    with pytest.raises(PickleFault, match="more than 10"):
        read_pickle(b"N" * 11)


def test_an_omegaconf_tree_becomes_plain():
    """Its nodes keep values in `_val` and containers in `_content`, whatever their classes are called."""

    def node(**state):
        return Inert(Name("omegaconf.nodes", "AnyNode"), (), state=state)

    tree = node(
        _content={
            "model": node(_content={"n_heads": node(_val=12), "x": node(_val=float("nan"))}),
            "l": node(_content=[node(_val=1), node(_val="${a}")]),
        }
    )
    tree.state["_parent"] = tree
    assert plain(tree) == {"model": {"n_heads": 12, "x": "<float>"}, "l": [1, "${a}"]}
    assert plain({"a": Name("os", "system"), "b": b"x", 3: 4, "c": 1 << 70}) == {
        "a": "<os.system>",
        "b": "<bytes>",
        "c": "<int>",
    }


def test_it_reads_only_the_first_pickle():
    stream = io.BytesIO()
    pickle.dump(1, stream)
    pickle.dump(Runs(os.system, "true"), stream)
    assert read_pickle(stream.getvalue()) == 1
