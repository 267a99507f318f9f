"""Lists of rows, and checks that are made later on a GPU."""

import pytest
import torch

from mcd.process.transfer import checks_later, demand, flat_rows, send


def test_flat_rows_are_the_true_places():
    where = torch.tensor([[True, False, True], [False, False, True]])
    assert flat_rows(where).tolist() == [0, 2, 5]
    assert flat_rows(torch.zeros(2, 3, dtype=torch.bool)).tolist() == []


def test_what_is_there_already_is_not_copied():
    x = torch.ones(3)
    assert send(x, torch.device("cpu")) is x
    assert send(x, torch.device("meta")).is_meta


def test_a_demand_on_the_cpu_is_checked_at_once():
    assert demand(torch.tensor(True), ValueError, "bad")
    for later in (False, True):
        with pytest.raises(ValueError, match="bad"):
            if later:
                with checks_later():
                    demand(torch.tensor(False), ValueError, "bad")
                    pytest.fail("it was checked later")
            demand(torch.tensor(False), ValueError, "bad")


class Answer:
    """A number on a GPU, which notes when it is asked for."""

    device = torch.device("cuda")

    def __init__(self, well, asked):
        self.well, self.asked = well, asked

    def __and__(self, other):
        return Answer(self.well and other.well, self.asked)

    def __bool__(self):
        self.asked.append(self)
        return self.well


@pytest.mark.parametrize("answers", [(True, True), (True, False), (False, True)])
def test_an_answer_of_a_gpu_is_awaited_at_the_end(answers):
    """Once for each message, whichever of its answers was bad."""
    asked, wrapped = [], demand.__wrapped__ if hasattr(demand, "__wrapped__") else demand
    try:
        with checks_later():
            assert not any(wrapped(Answer(well, asked), FloatingPointError, "not finite") for well in answers)
            assert asked == []
        assert all(answers)
    except FloatingPointError as error:
        assert str(error) == "not finite" and not all(answers)
    assert len(asked) == 1
    with pytest.raises(FloatingPointError):
        wrapped(Answer(False, asked), FloatingPointError, "not finite")  # outside it is awaited at once


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_sending_does_not_wait():
    device = torch.device("cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        sent = send(torch.arange(5), device)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert sent.tolist() == [0, 1, 2, 3, 4]
