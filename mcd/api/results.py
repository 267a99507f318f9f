"""What a model gives back: rows of text, the states that lead to them, and scores."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from torch import Tensor

from mcd.data.text import Writer
from mcd.data.token_texts import token_texts

BLANK = "·"
"""Shown for a token that is not written yet."""


@dataclass(frozen=True)
class Samples:
    """Rows that a model wrote.

    texts: one for each row; where a row holds several documents, the name of the end of text stands between them. ids:
    (N, L) int64. rows: the numbers of the rows, which with the seed decide them. nfe: network calls of each row.
    bounds: nats per token of what was written, by the model's own bound, where candidates were ranked.
    """

    texts: list[str]
    ids: Tensor
    rows: list[int]
    nfe: list[int]
    bounds: list[float] | None = None

    def __len__(self) -> int:
        return len(self.texts)

    def __iter__(self) -> Iterator[str]:
        return iter(self.texts)


@dataclass(frozen=True)
class State:
    """A state of rows while they are written: their ids (N, L) at time t, which falls from 1 to 0, and the network
    calls of each row so far. Where nothing is written yet, ids are those of a blank, `blank_id`."""

    t: float
    ids: Tensor
    nfe: list[int]
    blank_id: int
    writer: Writer = field(repr=False)  # its tokenizer would fill a page

    @property
    def tokens(self) -> list[list[str | None]]:
        """The share of its row's text that each token has (`mcd.data.token_texts`), None where nothing is written."""
        tokenizer = self.writer.tokenizer
        return [token_texts(tokenizer, row, self.blank_id, skip_special_tokens=False) for row in self.ids.tolist()]

    @property
    def texts(self) -> list[str]:
        """The text of each row, with `·` for each token that is not written yet."""
        if not (self.ids == self.blank_id).any():
            return [self.writer.text(row) for row in self.ids.tolist()]
        return ["".join(BLANK if share is None else share for share in row) for row in self.tokens]


@dataclass(frozen=True)
class Score:
    """How likely a model finds a text: `nats` is an upper bound of -log p(text), or -log p itself where it is `exact`.

    standard_error: of `nats`, from the spread of the draws; 0 where it is exact. tokens: of the text. bytes: of the
    text in UTF-8.
    """

    nats: float
    standard_error: float
    tokens: int
    bytes: int
    exact: bool

    @property
    def nats_per_token(self) -> float:
        """The mean over the tokens of this model's tokenizer."""
        return self.nats / self.tokens

    @property
    def bits_per_byte(self) -> float:
        """Comparable between models with different tokenizers."""
        return self.nats / (math.log(2) * self.bytes)
