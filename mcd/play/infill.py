"""Infilling by hand: a text whose words can be blanked out, and the rows that a model fills in."""

import re
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from tokenizers import Tokenizer

from mcd.api.model import Model
from mcd.api.results import State
from mcd.play.canvas import Canvas

Parts = list[str | int]
"""A template as of `mcd.data.template.parse_template`: texts, and numbers of blank tokens."""


def words_of(text: str) -> list[str]:
    """The words of a text, each with the white space before it; what follows the last word is the last one's."""
    return re.findall(r"\s*\S+(?:\s+\Z)?", text)


def parts_of(words: Sequence[str], blanked: Collection[int], tokenizer: Tokenizer) -> Parts:
    """The template in which the words whose numbers are `blanked` are as many blank tokens as they have."""
    parts: Parts = []
    for is_blank, run in groupby(range(len(words)), key=blanked.__contains__):
        text = "".join(words[i] for i in run)
        parts.append(max(1, len(tokenizer.encode(text, add_special_tokens=False).ids)) if is_blank else text)
    return parts


@dataclass(frozen=True)
class Filled:
    """A row that a model filled in, best first: `row` is its number, `bound` the nats per written token, if ranked."""

    canvas: Canvas
    row: int
    nfe: int
    bound: float | None


def fill(
    model: Model, parts: Parts, num: int, candidates: int | None, steps: int, seed: int = 0, **options: Any
) -> tuple[list[Filled], float]:
    """`num` rows of a template's parts, and the seconds they took. Raises RequestError as `Model.infill`."""
    wanted = None if model.process == "autoregressive" else steps
    request = model.request(parts, steps=wanted, **options)
    start = time.perf_counter()
    drawn = model.infill(parts, num, candidates=candidates, steps=wanted, seed=seed, **options)
    seconds, blank_id = time.perf_counter() - start, model.denoiser.blank_id
    tokens = State(0.0, drawn.ids, drawn.nfe, blank_id, model.writer).tokens
    given = tuple((request.ids != blank_id).tolist())
    since, bounds = (1,) * len(given), drawn.bounds or [None] * num
    canvases = [Canvas(1, given, (), tuple(row), since, 1) for row in tokens]
    return [Filled(*one) for one in zip(canvases, drawn.rows, drawn.nfe, bounds, strict=True)], seconds
