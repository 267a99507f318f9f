"""Rows longer than the model's: which windows write what, and that they are what the sampler makes of each window."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mcd.sampler import DEFAULT_SAMPLER, SAMPLERS, sample, states
from mcd.sampler.ancestral import Ancestral
from mcd.sampler.rows import _seed_of_window, windows

V, L = 23, 16


def written(wanted, longest):
    """The windows of a row, each with the places that it writes."""
    left, found = wanted.clone(), []
    for place in windows(wanted, longest):
        new = torch.zeros_like(wanted)
        new[place] = left[place]
        left &= ~new
        found.append((place.start, place.stop, new.nonzero()[:, 0].tolist()))
    return found


@given(st.lists(st.booleans(), min_size=1, max_size=60), st.integers(1, 20))
def test_every_wanted_token_is_written_once_in_a_window_of_the_models_length(wanted, longest):
    row = torch.tensor(wanted)
    found = written(row, longest)
    assert sorted(place for *_, new in found for place in new) == row.nonzero()[:, 0].tolist()
    for start, stop, new in found:
        assert 0 <= start < stop <= len(row) and stop - start == min(longest, len(row))
        if len(row) > longest:
            assert new and (new[0] - start >= longest // 2 or start == 0 or stop == len(row))


def test_windows_of_a_row_of_masks_overlap_by_half():
    assert written(torch.ones(32, dtype=torch.bool), 16) == [
        (0, 16, [*range(16)]),
        (8, 24, [*range(16, 24)]),
        (16, 32, [*range(24, 32)]),
    ]
    sparse = torch.zeros(100, dtype=torch.bool)
    sparse[[50, 52, 99]] = True
    assert written(sparse, 16) == [(42, 58, [50, 52]), (84, 100, [99])]  # context on both sides


@pytest.mark.parametrize("process", DEFAULT_SAMPLER)
def test_a_long_row_is_made_of_what_the_sampler_makes_of_its_windows(tiny_denoiser, process):
    model = tiny_denoiser(V=V, length=L, process=process).requires_grad_(False)
    sampler = SAMPLERS[DEFAULT_SAMPLER[process]](3)
    template = torch.full((24,), model.blank_id)
    template[[1, 20]] = torch.tensor([5, 7])
    ids, nfe = sample(sampler, model, 2, 24, seed=4, first_row=6, template=template)
    z, calls = template.repeat(2, 1), 0
    for number, place in enumerate((slice(0, 16), slice(8, 24))):
        *_, last = sampler.trajectory(model, z[:, place], [6, 7], _seed_of_window(4, number))
        z, calls = torch.cat((z[:, : place.start], last.z, z[:, place.stop :]), dim=1), calls + last.nfe
    assert torch.equal(ids, z) and torch.equal(nfe, calls)
    assert (ids[:, [1, 20]] == torch.tensor([5, 7])).all() and not (ids == model.blank_id).any()
    alone, _ = sample(sampler, model, 1, 24, seed=4, first_row=7, template=template)
    assert torch.equal(alone[0], ids[1])


def test_states_of_a_long_row_only_add_to_it_and_time_falls(tiny_denoiser):
    model = tiny_denoiser(V=V, length=L).requires_grad_(False)
    seen = list(states(Ancestral(4), model, 1, 30, frame=(3, 4)))
    times = [step.t for step in seen]
    assert times[0] == 1.0 and times[-1] == 0.0 and times == sorted(times, reverse=True)
    assert len(seen) == 1 + 4 * 3  # windows of 14 tokens of text, in a row of 28
    for before, after in pairwise(seen):
        kept = before.z != model.mask_id
        assert torch.equal(before.z[kept], after.z[kept]) and (after.nfe >= before.nfe).all()
    assert seen[-1].z.shape == (1, 28)


def test_the_windows_of_a_row_have_random_numbers_of_their_own():
    seeds = [_seed_of_window(seed, number) for seed in range(4) for number in range(4)]
    assert len(set(seeds)) == len(seeds) and [_seed_of_window(seed, 0) for seed in range(4)] == [0, 1, 2, 3]


def test_a_row_without_blanks_is_returned_and_takes_no_call(tiny_denoiser):
    model = tiny_denoiser(V=V, length=L).requires_grad_(False)
    ids, nfe = sample(Ancestral(4), model, 2, 40, template=torch.arange(40) % V)
    assert torch.equal(ids, (torch.arange(40) % V).repeat(2, 1)) and nfe.tolist() == [0, 0]
    with pytest.raises(ValueError, match="at least 3 with --frame"):
        sample(Ancestral(4), model, 1, 2, frame=(1, 2))
