"""Rows from a sampler: what a row starts from, its states, and windows for rows longer than the model's."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from mcd.errors import UsageError
from mcd.model.denoiser import Denoiser
from mcd.options import Count, Natural, RowLength, Seed, fault
from mcd.process.transfer import checks_later, send
from mcd.sampler.base import Sampler, Step


def windows(wanted: Tensor, longest: int) -> Iterator[slice]:
    """The windows, one after the other, in which the tokens `wanted`, bool (L,), of a row are written.

    A row of at most `longest` tokens is one window. In a longer one each window has `longest` tokens and begins half a
    window before the first wanted token that no window has written yet, but not before the row and not so late that it
    would reach beyond it. It writes all wanted tokens inside that are left; what earlier windows wrote is given to it.
    A row of masks that is twice as long as the model's thus takes three windows, and the last two read half of their
    tokens and write the other half.
    """
    L, left = len(wanted), wanted.nonzero()[:, 0].tolist()
    if longest >= L:
        yield slice(0, L)
        return
    while left:
        start = min(max(0, left[0] - longest // 2), L - longest)
        yield slice(start, start + longest)
        left = [place for place in left if place >= start + longest]


def states(
    sampler: Sampler,
    denoiser: Denoiser,
    num: int,
    length: int,
    seed: int = 0,
    first_row: int = 0,
    template: Tensor | None = None,
    frame: tuple[int, int] | None = None,
) -> Iterator[Step]:
    """Every state of rows `first_row` to `first_row + num` of a seed: the start, then the state after each step.

    template: (L,) ids, `denoiser.blank_id` where text is wanted; None where all of it is. frame: ids of two of the
    `length` tokens, which begin and end each row: they are given and visible, and left out of template and states,
    which then have length - 2 tokens. A row longer than the model's is drawn in `windows`, each framed, in the
    sampler's steps; its time falls from 1 to 0 over all of them, and its network calls add up. The first window is
    drawn from `seed`, each later one from a seed of its own that is made of `seed` and its number.

    Raises UsageError for a model of another process than the sampler's, for numbers out of their bounds, and for a
    template of another length or with ids that the model does not know.
    """
    config, around = denoiser.config, 0 if frame is None else 2
    if sampler.process != config.process:
        raise UsageError(f"--sampler {sampler.name}: draws from {sampler.process} models, not {config.process}")
    for option, value, kind in (
        ("--num", num, Count),
        ("--length", length, RowLength),
        ("--seed", seed, Seed),
        ("--first-row", first_row, Natural),
    ):
        if wanted := fault(value, kind):
            raise UsageError(f"{option} {value}: must be {wanted}")
    num, length, seed, first_row = map(int, (num, length, seed, first_row))  # they may be NumPy's
    if min(length, config.backbone.length) <= around:
        raise UsageError(f"--length {length}: must be at least {around + 1} with --frame, of the model too")
    row = start_row(denoiser, length - around, template)
    places = list(windows(row == denoiser.blank_id, config.backbone.length - around))
    z, nfe = send(row.repeat(num, 1), denoiser.device), torch.zeros(num, dtype=torch.int64)
    rows = range(first_row, first_row + num)
    for number, place in enumerate(places):
        trajectory = sampler.trajectory(denoiser, framed(z[:, place], frame), rows, _seed_of_window(seed, number))
        before, after, spent = z[:, : place.start], z[:, place.stop :], nfe
        for i, step in enumerate(trajectory):
            inside = step.z[:, around // 2 : step.z.shape[1] - around // 2]
            z, nfe = torch.cat((before, inside, after), dim=1), spent + step.nfe
            if number == 0 or i > 0:  # a later window starts from what the one before has left
                yield Step(z, (len(places) - number - 1 + step.t) / len(places), nfe)
    if not places:
        yield from (Step(z, t, nfe) for t in (1.0, 0.0))


def sample(
    sampler: Sampler,
    denoiser: Denoiser,
    num: int,
    length: int,
    seed: int = 0,
    first_row: int = 0,
    template: Tensor | None = None,
    tell: Callable[[float], None] | None = None,
    frame: tuple[int, int] | None = None,
) -> tuple[Tensor, Tensor]:
    """The last of `states`: ids (N, L) int64, on the CPU, and network calls (N,).

    tell: is called after each step with the share of the steps that is done.
    """
    trajectory = states(sampler, denoiser, num, length, seed, first_row, template, frame)
    with checks_later():
        last = next(trajectory)
        for last in trajectory:
            if tell:
                tell(1.0 - last.t)
    return last.z.cpu(), last.nfe


def start_row(denoiser: Denoiser, length: int, template: Tensor | None = None) -> Tensor:
    """The ids (L,) that a row starts from, on the CPU. Raises UsageError for a template of another kind."""
    row = torch.full((length,), denoiser.blank_id) if template is None else template
    if row.shape != (length,):
        raise UsageError(f"--template of {row.numel()} tokens: --length is {length}")
    ids = max(denoiser.config.vocab_size, denoiser.blank_id + 1)
    if not ((row >= 0) & (row < ids)).all():
        raise UsageError(f"--template: holds ids outside the model's {ids}")
    return row


def framed(z: Tensor, frame: tuple[int, int] | None) -> Tensor:
    """Rows (N, L), in their frame if there is one, which are then (N, L + 2)."""
    if frame is None:
        return z
    first, last = (z.new_full((len(z), 1), i) for i in frame)
    return torch.cat((first, z, last), dim=1)


def _seed_of_window(seed: int, number: int) -> int:
    """The seed of a row's window; of the first one it is that of the row."""
    return seed if number == 0 else int(np.random.SeedSequence([seed, number]).generate_state(1, np.uint64)[0]) >> 1
