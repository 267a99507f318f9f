"""What an adapted network is: its config.json as published, and the ids it never predicts. Read without its library."""

from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Any

from mcd.model.adapted.families import Family, Settings, family_of
from mcd.options import Count, Natural, Options

MOST_ROWS = 1 << 21
"""Rows of an embedding that are believed; the largest vocabularies have a million."""


@dataclass(frozen=True)
class AdaptedConfig(Options):
    """A network of `transformers`. Its K rows of embedding and head are the ids of its tokenizer, and perhaps more.

    settings: its config.json as published. forbidden: ids that are never predicted (the mask, rows without a token),
    ascending. tokens: how many the tokenizer has. length: the longest sequence; that of the settings when 0. start: the
    token that a causal family reads in front of each row, so that the output there predicts the first one; it takes a
    position of its own. Raises ValueError for settings of an unknown or unfit network.
    """

    settings: Settings
    forbidden: tuple[int, ...]
    tokens: Count
    length: Natural = 0
    start: Natural | None = None
    causal = False

    def __post_init__(self) -> None:
        super().__post_init__()
        settings, family = self.settings, family_of(self.settings)
        for key in ("is_decoder", "quantization_config"):
            if settings.get(key):
                raise ValueError(f"{key} is set; only full-precision networks with full attention are known")
        rows_of(settings)
        for key in (family.width, family.length):
            if type(settings.get(key)) is not int or settings[key] < 1:
                raise ValueError(f"{key} {settings.get(key)!r:.60}: must be a whole number, at least 1")
        try:
            longest = settings[family.length] - family.before(settings) - (self.start is not None)
            family.settings(settings)
        except (KeyError, TypeError) as error:
            raise ValueError(f"a setting is missing or of another kind ({error})") from None
        if not self.length:
            object.__setattr__(self, "length", longest)
        if type(self.length) is not int or self.length < 1 or (family.positions and self.length > longest):
            raise ValueError(f"length {self.length!r:.60}: must be 1 to {longest}, its learnt positions")
        if family.causal == (self.start is None):
            raise ValueError(f"start {self.start}: a start of text is read by autoregressive families, and by no other")
        if self.start is not None and (self.start >= self.tokens or self.start in self.forbidden):
            raise ValueError(f"start {self.start}: must be one of the {self.tokens} tokens, and not forbidden")
        if self.tokens > self.rows:
            raise ValueError(f"a tokenizer of {self.tokens} tokens: the network has rows for 1 to {self.rows}")
        if any(not 0 <= i < self.rows for i in self.forbidden):
            raise ValueError(f"forbidden ids must be whole numbers from 0 to {self.rows - 1}")
        if list(self.forbidden) != sorted(set(self.forbidden)) or len(self.forbidden) >= self.rows:
            raise ValueError("forbidden ids must ascend, and leave some that are not")

    @cached_property
    def family(self) -> Family:
        """Where the parts of the network are."""
        return family_of(self.settings)

    @property
    def rows(self) -> int:
        """K."""
        return self.settings[self.family.rows]

    @property
    def hidden(self) -> int:
        """Width of the embedding, and of what the head reads."""
        return self.settings[self.family.width]


def rows_of(settings: Settings) -> int:
    """K, as a config.json says it. Raises ValueError where that is no number of rows, or beyond all vocabularies."""
    key = family_of(settings).rows
    rows = settings.get(key)
    if type(rows) is not int or not 1 <= rows <= MOST_ROWS:
        raise ValueError(f"{key} {rows!r:.60}: must be a whole number, 1 to {MOST_ROWS}")
    return rows


def ranges_of_ids(ids: tuple[int, ...]) -> list[list[int]]:
    """Ascending ids as [first, last] of each run of neighbours."""
    runs = [[i for _, i in run] for _, run in groupby(enumerate(ids), lambda pair: pair[1] - pair[0])]
    return [[run[0], run[-1]] for run in runs]


def ids_of_ranges(ranges: Any, rows: int) -> tuple[int, ...]:
    """The ids of `ranges_of_ids`. Raises ValueError for anything else than ascending ranges below `rows`."""
    ids: list[int] = []
    for first, last in ranges:
        if type(first) is not int or type(last) is not int or not (ids[-1] if ids else -1) < first <= last < rows:
            raise ValueError(f"forbidden: [{first!r:.20}, {last!r:.20}] is no range of ids behind the one before")
        ids += range(first, last + 1)
    return tuple(ids)
