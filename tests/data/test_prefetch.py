"""Cutting ahead changes no batch, leaves no thread, and hides no fault."""

import threading

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mcd.data.loader import Batch, Prefetch, open_loader


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
