"""Drawing and scoring on several processes under torchrun: each takes a share of the rows, the first one writes."""

import os
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any, Literal

import torch
from torch import Tensor

from mcd.checkpoints.folder import from_pretrained
from mcd.eval.scorer import SampleScore, Scorer, Text
from mcd.model.denoiser import Denoiser
from mcd.sampler import Sampler, sample
from mcd.train.ranks import everywhere, first_alone, join_processes, share_of, world_size


def open_model(name: str, weights: Literal["ema", "raw"] = "ema") -> Denoiser:
    """A model on this process's device: its CUDA device where there is one. Joins the other processes of the job.

    The first process loads, and fetches from the hub, before the others do.
    """
    join_processes()
    with first_alone():
        model = from_pretrained(name, weights)
    return model.to(torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))) if torch.cuda.is_available() else model


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
    """As `mcd.sampler.sample`, and the same rows, since a row depends on its number alone; each process draws some."""
    own = share_of(num)
    drawn = []
    if len(own):
        drawn = [sample(sampler, denoiser, len(own), length, seed, first_row + own.start, template, tell, frame)]
    parts = [part for part in everywhere(drawn) if part]
    return torch.cat([ids for ((ids, _),) in parts]), torch.cat([nfe for ((_, nfe),) in parts])


class ScorerInShares(Scorer):
    """A scorer of which each process scores some of the texts; every process gets the scores of all.

    What shares a padded batch changes a text's NLL per token by less than 1e-4, and so does the number of processes.
    """

    def nll(self, texts: Sequence[Text]) -> list[SampleScore]:
        """See `Scorer.nll`."""
        return _in_shares(list(texts), super().nll)

    def nll_of_ids(self, rows: Sequence[Sequence[int]]) -> list[SampleScore]:
        """See `Scorer.nll_of_ids`."""
        return _in_shares(list(rows), super().nll_of_ids)


def in_shares(scorer: Scorer) -> Scorer:
    """The scorer itself, or one that the processes of this job share."""
    if world_size() == 1:
        return scorer
    return ScorerInShares(**{field.name: getattr(scorer, field.name) for field in fields(scorer) if field.init})


def _in_shares(items: list[Any], score: Callable[[Any], list[SampleScore]]) -> list[SampleScore]:
    own = share_of(len(items))
    return [one for part in everywhere(score([items[i] for i in own]) if len(own) else []) for one in part]
