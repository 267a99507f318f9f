"""What a tokenizer loses of texts, counted. Workers import it (`mcd.data.encoder`): the standard library alone."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

MOST_UNKNOWN, MOST_DROPPED = 0.01, 0.001
"""The largest shares that are taken unasked: of tokens that are the unknown one (it shows that something stood there),
and of characters that are dropped without a trace."""
_LONGEST = 20  # characters of an example


@dataclass
class Lost:
    """Counts over texts: `unknown` of their `tokens`, `dropped` of their `characters`, and the first different examples
    of either, in the order of the texts, so that units of texts that are added in order give what they give together.
    """

    characters: int = 0
    dropped: int = 0
    tokens: int = 0
    unknown: int = 0
    examples: list[str] = field(default_factory=list)
    most_examples: int = 8

    @property
    def wants_examples(self) -> bool:
        """Are there fewer examples than are kept?"""
        return len(self.examples) < self.most_examples

    def count(self, characters: int, tokens: int, unknown: int) -> None:
        """Add a text."""
        self.characters += characters
        self.tokens += tokens
        self.unknown += unknown

    def drop(self, parts: list[str]) -> None:
        """Add what was dropped of a text."""
        self.dropped += sum(map(len, parts))
        self.show(parts)

    def show(self, parts: Iterable[str]) -> None:
        """Keep the parts as examples, where they are new and there is room."""
        for part in parts:
            part = part if len(part) <= _LONGEST else f"{part[:_LONGEST]}..."
            if self.wants_examples and part not in self.examples:
                self.examples.append(part)

    def add(self, other: "Lost") -> None:
        """Add the counts of the texts that come next."""
        self.count(other.characters, other.tokens, other.unknown)
        self.dropped += other.dropped
        self.show(other.examples)

    @property
    def told(self) -> str:
        """What is lost and an example of it, to be said; "" where nothing is."""
        parts = []
        if self.dropped:
            share = self.dropped / self.characters
            parts.append(f"drops {self.dropped:,} of {self.characters:,} characters ({share:.2%})")
        if self.unknown:
            share = self.unknown / self.tokens
            parts.append(f"has only its unknown token for {self.unknown:,} of {self.tokens:,} tokens ({share:.2%})")
        shown = ", ".join(map(repr, self.examples))
        return f"the tokenizer {' and '.join(parts)}, such as {shown}" if parts else ""

    def too_much(self, most: float | None = None) -> bool:
        """Is more lost than the share `most` of either count; when that is None, than MOST_UNKNOWN or MOST_DROPPED?"""
        most_dropped, most_unknown = (MOST_DROPPED, MOST_UNKNOWN) if most is None else (most, most)
        return self.dropped > most_dropped * self.characters or self.unknown > most_unknown * self.tokens

    def as_dict(self) -> dict[str, Any]:
        """The counts and examples as JSON values; `Lost(**value)` reads them back."""
        return {name: value for name, value in asdict(self).items() if name != "most_examples"}
