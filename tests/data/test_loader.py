"""Rows: a pure function of (data, seed, step)."""

import threading

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mcd.data.loader import Batch, Loader, Prefetch, open_loader, spread_rows
from mcd.data.manifest import read_manifest
from mcd.data.tokens import Tokens, read_tokens
from mcd.errors import DataError


def loader(n=103, length=8, batch_size=3, **options):
    """Tokens 0, 1, 2, ...: a row says where it was cut."""
    return Loader(np.arange(n, dtype=np.uint16), length, batch_size, eos_id=9999, **options)


def epoch_of(loader, epoch):
    """The rows of an epoch, as (rows, L)."""
    first = epoch * loader.rows
    steps = range(first // loader.batch_size, -(-(first + loader.rows) // loader.batch_size))
    rows = torch.cat([loader.batch(step).x0 for step in steps])
    skipped = first - steps[0] * loader.batch_size
    return rows[skipped : skipped + loader.rows]


def test_a_batch_depends_on_the_step_alone(tiny_data):
    forward, backward = (open_loader(tiny_data, "train", 4, seed=3) for _ in range(2))
    steps = list(range(0, 400, 7))
    first = [forward.batch(step).x0 for step in steps]
    second = [backward.batch(step).x0 for step in reversed(steps)][::-1]
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert torch.equal(forward.batch(0).x0, first[0])
    assert first[0].shape == (4, 16) and first[0].dtype == torch.int64
    other = open_loader(tiny_data, "train", 4, seed=4)
    assert not torch.equal(other.batch(0).x0, first[0])


@given(
    n=st.integers(40, 200),
    length=st.integers(3, 12),
    batch_size=st.integers(1, 7),
    wrap=st.booleans(),
    seed=st.integers(0),
)
def test_an_epoch_serves_each_row_exactly_once(n, length, batch_size, wrap, seed):
    data = loader(n, length, batch_size, wrap=wrap, seed=seed)
    for epoch in (0, 1, 5):
        rows = epoch_of(data, epoch)
        if wrap:
            assert (rows[:, [0, -1]] == 9999).all()
            rows = rows[:, 1:-1]
        starts = rows[:, 0].sort().values
        assert torch.equal(rows, rows[:, :1] + torch.arange(data.stride))  # rows are stretches of the stream
        assert torch.equal(starts.diff(), torch.full((data.rows - 1,), data.stride))  # side by side, none twice
        assert starts[0] < data.stride and n - starts[-1] >= data.stride
        assert n - data.rows * data.stride < 2 * data.stride  # all but the ends is used


def test_epochs_differ_in_order_and_offset():
    data = loader(1000, 8)
    epochs = [epoch_of(data, epoch) for epoch in range(6)]
    orders = {tuple(rows[:, 0].tolist()) for rows in epochs}
    assert len(orders) == 6
    assert len({int(rows[0, 0]) % 8 for rows in epochs}) > 1


def test_validation_is_in_order(tiny_data):
    valid = open_loader(tiny_data, "valid", 4)
    tokens = read_tokens(tiny_data, "valid")
    assert valid.rows == len(tokens) // 16
    rows = epoch_of(valid, 0)
    assert torch.equal(rows.flatten(), torch.from_numpy(tokens[: valid.rows * 16].astype(np.int64)))
    assert torch.equal(epoch_of(valid, 1), rows)


def test_length_can_be_overridden(tiny_data):
    assert open_loader(tiny_data, "train", 2, length=24).batch(0).x0.shape == (2, 24)


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32])
def test_large_ids_survive(dtype):
    top = np.iinfo(dtype).max
    data = Loader(np.full(64, top, dtype=dtype), 8, 2, eos_id=0)
    assert (data.batch(0).x0 == int(top)).all()


@pytest.mark.parametrize(
    "options, match",
    [
        ({"batch_size": 0}, "--batch-size 0"),
        ({"batch_size": 2, "length": 0}, "--length 0"),
        ({"batch_size": 2, "length": -4}, "--length -4"),
        ({"batch_size": 2, "length": 10**6}, "--length 1000000"),
    ],
)
def test_bad_options_are_named(tiny_data, options, match):
    with pytest.raises(DataError, match=match):
        open_loader(tiny_data, "train", **options)


def test_unprepared_folders_say_how_to_prepare(tmp_path):
    with pytest.raises(DataError, match="mcd prepare --data TEXT"):
        open_loader(tmp_path, "train", 2)


def test_the_loader_knows_end_of_text(tiny_data):
    assert open_loader(tiny_data, "train", 2).eos_id == read_manifest(tiny_data)["eos_id"]


def test_spread_rows_are_rows_of_the_whole_split(tiny_data):
    loader = open_loader(tiny_data, "valid", 1)
    every = {tuple(loader.batch(i).x0[0].tolist()) for i in range(loader.rows)}
    some = spread_rows(loader, 3)
    assert len(some) == min(3, loader.rows) and all(tuple(row) in every for row in some.tolist())
    assert len(spread_rows(loader, 10**6)) == loader.rows


@given(cuts=st.lists(st.integers(1, 102), max_size=5, unique=True), wrap=st.booleans(), seed=st.integers(0, 9))
def test_borders_of_shards_change_nothing(cuts, wrap, seed):
    whole = loader(wrap=wrap, seed=seed)
    parts = Tokens(np.split(np.asarray(whole.tokens), sorted(cuts)))
    in_parts = Loader(parts, 8, 3, eos_id=9999, wrap=wrap, seed=seed)
    for step in range(12):
        assert torch.equal(in_parts.batch(step).x0, whole.batch(step).x0)


def test_wrapping_needs_an_end_of_text():
    assert Loader(np.arange(64, dtype=np.uint16), 8, 2, eos_id=None).batch(0).x0.shape == (2, 8)
    with pytest.raises(DataError, match="--wrap"):
        Loader(np.arange(64, dtype=np.uint16), 8, 2, eos_id=None, wrap=True)


def threads():
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("prefetch")]


def test_batches_are_the_loaders(tiny_data):
    plain, ahead = (open_loader(tiny_data, "train", 4, seed=3) for _ in range(2))
    with Prefetch(ahead.batch) as batches:
        for step in range(300):  # more than one epoch
            assert torch.equal(batches.batch(step).x0, plain.batch(step).x0)


@given(steps=st.lists(st.integers(0, 20), max_size=12))
def test_steps_may_come_in_any_order(steps):
    with Prefetch(lambda step: Batch(torch.tensor([[step]]))) as batches:
        assert [int(batches.batch(step).x0) for step in steps] == steps


def test_the_next_batch_is_cut_while_the_caller_works():
    begun = {step: threading.Event() for step in range(3)}

    def batch_of(step):
        begun[step].set()
        return Batch(torch.tensor([[step]]))

    with Prefetch(batch_of) as batches:
        batches.batch(0)
        assert begun[1].wait(10.0) and not begun[2].is_set()
        batches.batch(1)
        assert begun[2].wait(10.0)


def test_a_fault_is_raised_where_its_batch_is_wanted():
    def batch_of(step):
        if step == 2:
            raise OSError("no such page")
        return Batch(torch.tensor([[step]]))

    with Prefetch(batch_of) as batches:
        assert [int(batches.batch(step).x0) for step in (0, 1)] == [0, 1]
        for _ in range(2):
            with pytest.raises(OSError, match="no such page"):
                batches.batch(2)
        assert int(batches.batch(3).x0) == 3


def test_no_thread_is_left():
    with pytest.raises(KeyError), Prefetch(lambda step: Batch(torch.tensor([[step]]))) as batches:
        batches.batch(0)
        assert threads()
        raise KeyError
    assert not threads()
