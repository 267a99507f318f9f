"""Token ids as text. A row of tokens may hold several documents; where one ends is kept.

`Tokenizer.decode` leaves out special tokens, the end of text among them, so that two documents run together:
"...thank you.The committee...". The public code keeps the token's name in the text ("<|endoftext|>"), where it looks
like the same letters in a document. Here a row becomes its documents; they are joined by that name only for reading.
"""

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal

from tokenizers import Tokenizer

from mcd.data.special_tokens import end_of_text
from mcd.errors import DataError

Borders = Literal["kept", "dropped"]
"""What becomes of the borders between documents: kept, or dropped as `Tokenizer.decode` does, so that they run
together."""
BROKEN = "\N{REPLACEMENT CHARACTER}"
"""What decoders write for bytes that are no character."""
Documents = tuple[str, ...]
"""The documents of a row in order. There is a border between two neighbours: a row that begins or ends with the end of
text has an empty one there."""


@dataclass(frozen=True)
class Writer:
    """Writes rows of a tokenizer's ids as text. `end_id` is its end of text; None where it has none."""

    tokenizer: Tokenizer
    end_id: int | None
    borders: Borders = "kept"

    def documents(self, ids: Sequence[int]) -> Documents:
        """The documents of a row of ids; one, whatever is in it, where borders are dropped.

        Every end of text is a border, but only the first of those at the end of a row: padding is no text.
        Other special tokens, the mask among them, are never text.
        """
        if self.borders == "dropped" or self.end_id is None:
            return (self.tokenizer.decode(ids),)
        ends = [-1, *(i for i, token in enumerate(ids) if token == self.end_id), len(ids)]
        return _one_end([self._document(ids[start + 1 : end]) for start, end in pairwise(ends)])

    def _document(self, ids: Sequence[int]) -> str:
        """The text of one document. WordPiece's `##` joins a piece to the word before; at its start there is none."""
        text = self.tokenizer.decode(ids)
        return text.removeprefix(self._joint) if self._joint else text

    @functools.cached_property
    def _joint(self) -> str:
        """What a decoder of WordPiece leaves before a first piece that continues a word; "" for any other decoder."""
        decoder = json.loads(self.tokenizer.to_str())["decoder"] or {}
        return decoder.get("prefix", "") if decoder.get("type") == "WordPiece" else ""

    def ids(self, documents: Documents) -> list[int]:
        """Documents as ids, the end of text between them: the reverse of `documents`, up to how text is tokenised."""
        row: list[int] = []
        for i, document in enumerate(documents):
            between = [self.end_id] if i and self.end_id is not None else []
            row += [*between, *self.tokenizer.encode(document, add_special_tokens=False).ids]
        return row

    def text(self, ids: Sequence[int]) -> str:
        """The row to read: its documents, with the name of the end of text, such as <|endoftext|>, at their borders."""
        return self.joined(self.documents(ids))

    def joined(self, documents: Documents) -> str:
        """Documents of this writer as one text to read."""
        name = "" if self.end_id is None else self.tokenizer.id_to_token(self.end_id) or ""
        return name.join(documents)

    def fields(self, ids: Sequence[int]) -> dict[str, str | list[str]]:
        """What a line of a file of samples holds: `text`, and `documents` where there is more than one."""
        documents = self.documents(ids)
        more: dict[str, str | list[str]] = {"documents": list(documents)} if len(documents) > 1 else {}
        return {"text": self.joined(documents), **more}


def whole_characters(documents: Documents) -> Documents:
    """Documents of a row without the pieces of characters at its ends: of byte-level tokens, which a row may part."""
    first, *rest = documents
    *most, last = [first.lstrip(BROKEN), *rest]
    return (*most, last.rstrip(BROKEN))


def split_at(text: str, end: str) -> Documents:
    """The documents of a text that has `end` at their borders."""
    return _one_end(text.split(end))


def _one_end(documents: list[str]) -> Documents:
    while len(documents) > 2 and not documents[-1] and not documents[-2]:
        documents.pop()
    return tuple(documents)


def writer_of(tokenizer: Tokenizer, folder: Path | None = None, borders: Borders = "kept") -> Writer:
    """The writer of a model's tokenizer, from its folder; its end of text is that of prepared data (`end_of_text`).

    Without one, as in a synthetic language whose rows are one stream, no border can be kept.
    """
    try:
        return Writer(tokenizer, end_of_text(tokenizer, None if folder is None else str(folder)).id, borders)
    except DataError:
        return Writer(tokenizer, None, "dropped")
