"""Drawing and scoring by several processes under torchrun: each takes a share of the rows, and all get the results."""

from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any, Literal

import torch
from torch import Tensor

from mcd.checkpoints.folder import from_pretrained
from mcd.eval.scorer import SampleScore, Scorer, Text
from mcd.machine import device
from mcd.model.denoiser import Denoiser
from mcd.sampler import Sampler, sample
from mcd.training.ranks import everywhere, first_alone, join_processes, share_of, world_size


def open_model(
    name: str, weights: Literal["ema", "raw"] = "ema", dtype: Literal["float32", "bfloat16"] = "float32"
) -> Denoiser:
    """A model on this process's CUDA device, or on the CPU where there is none. Joins the processes of the job.

    dtype: of its products (`Denoiser.dtype`). The first process loads the model, and fetches it from the hub, before
    the others do.
    """
    join_processes()
    with first_alone():
        model = from_pretrained(name, weights)
    model.dtype = getattr(torch, dtype)
    return model.to(device())


def sample_in_shares(
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
    """`mcd.sampler.sample`, each process drawing some rows. The rows are the same, because each depends only on its
    number."""
    own, drawn = share_of(num), []
    if own:
        drawn = [sample(sampler, denoiser, len(own), length, seed, first_row + own.start, template, tell, frame)]
    ids, nfe = zip(*(one for part in everywhere(drawn) for one in part), strict=True)
    return torch.cat(ids), torch.cat(nfe)


class ScorerInShares(Scorer):
    """A scorer of which each process scores some of the texts; every process gets the scores of all.

    The texts that share a padded batch change a text's NLL per token by less than 1e-4, and so does the number of
    processes.
    """

    def nll(self, texts: Sequence[Text]) -> list[SampleScore]:
        """See `Scorer.nll`."""
        return _in_shares(texts, super().nll)

    def nll_of_ids(self, rows: Sequence[Sequence[int]]) -> list[SampleScore]:
        """See `Scorer.nll_of_ids`."""
        return _in_shares(rows, super().nll_of_ids)


def in_shares(scorer: Scorer) -> Scorer:
    """The scorer itself, or one that the processes of this job share."""
    if world_size() == 1:
        return scorer
    return ScorerInShares(**{field.name: getattr(scorer, field.name) for field in fields(scorer) if field.init})


def _in_shares(items: Sequence[Any], score: Callable[[Any], list[SampleScore]]) -> list[SampleScore]:
    own = [items[i] for i in share_of(len(items))]
    return [one for part in everywhere(score(own) if own else []) for one in part]
