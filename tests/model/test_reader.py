"""Reading from left to right with kept keys and values, against the network over whole rows, its slow twin."""

import pytest
import torch

from mcd.model.attention import SHORT
from mcd.model.reader import rows_to_read

V = 23


@pytest.mark.parametrize("length", [16, 160])
@pytest.mark.parametrize("parts", [(1,) * 12, (5, 1, 1, 4, 1), (12,)])
def test_what_is_read_is_as_in_whole_rows(tiny_denoiser, seeded, length, parts):
    """Features behind each part. The long row takes the other kernel of attention on a CPU."""
    assert 16 <= SHORT.get(torch.float32, 128) < 160
    model = tiny_denoiser(V=V, length=length, process="autoregressive").requires_grad_(False)
    parts = (length - 12, *parts)
    ids = torch.randint(V + 1, (3, length), generator=seeded(0))
    whole = model.hidden(ids, torch.zeros(3)).view(3, length, -1)
    reader, read = model.reader(4, length), 0
    for part in parts:
        hidden = reader.read(ids[:, read : read + part])
        read += part
        assert hidden.shape[0] == 4
        torch.testing.assert_close(hidden[:3], whole[:, read - 1], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(model.logits(hidden)[:3], model.logits(whole[:, read - 1]), rtol=1e-4, atol=1e-4)
    assert read == length


def test_a_row_has_the_same_bits_in_any_company(tiny_denoiser, seeded):
    model = tiny_denoiser(V=V, length=16, process="autoregressive").requires_grad_(False)
    ids = torch.randint(V + 1, (5, 16), generator=seeded(0))
    together, alone = model.reader(5, 16), model.reader(5, 16)
    for i in range(16):
        assert torch.equal(together.read(ids[:, i : i + 1])[2], alone.read(ids[2:3, i : i + 1])[0])


def test_in_bfloat16_it_is_as_near_as_whole_rows_are(tiny_denoiser, seeded):
    model = tiny_denoiser(V=V, length=16, hidden=32, process="autoregressive").requires_grad_(False)
    ids = torch.randint(V + 1, (3, 16), generator=seeded(0))
    exact = model.hidden(ids, torch.zeros(3)).view(3, 16, -1)
    model.dtype = torch.bfloat16
    rough = model.hidden(ids, torch.zeros(3)).view(3, 16, -1)
    reader = model.reader(3, 16)
    read = torch.stack([reader.read(ids[:, i : i + 1]) for i in range(16)], dim=1)
    assert read.dtype == torch.float32
    assert 0 < (read - exact).norm() < 2 * (rough - exact).norm()


def test_rows_are_few_and_what_is_kept_of_them_is_bounded(tiny_denoiser):
    model = tiny_denoiser(V=V, length=16, process="autoregressive")
    config, shapes = model.config.backbone, model.shapes
    assert rows_to_read(config, 16, shapes) == shapes.few_rows
    of_row = 2 * 2 * 16 * 16 * 4  # layers, positions, width, bytes
    length = 16 * shapes.kept_bytes // of_row
    assert rows_to_read(config, length // 3, shapes) == 3 and rows_to_read(config, 10 * length, shapes) == 1


def test_only_an_autoregressive_model_is_read(tiny_denoiser):
    with pytest.raises(ValueError, match="autoregressive"):
        tiny_denoiser().reader(1, 16)
