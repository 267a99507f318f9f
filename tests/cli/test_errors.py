"""Lack of memory is told in a line; other errors of the same types keep their traceback."""

import pytest
import torch

from mcd.cli.errors import explained


def of_the_cpu():
    torch.empty(1 << 50)


def of_an_accelerator():
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore")


def of_python():
    raise MemoryError


@pytest.mark.parametrize("lack", [of_the_cpu, of_an_accelerator, of_python])
def test_lack_of_memory_is_told_with_a_mend(lack, capsys):
    with explained() as outcome:
        lack()
    said = capsys.readouterr().err
    assert outcome.status == 2 and said.startswith("mcd: not enough memory: ") and said.count("\n") == 1
    assert "--batch-size" in said and "mcd plan" in said


def test_other_errors_are_not_hidden():
    with pytest.raises(RuntimeError, match="size"), explained():
        torch.ones(2) @ torch.ones(3)
