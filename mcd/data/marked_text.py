"""Special tokens inside texts that are otherwise plain text.

A chat template says where special tokens are. A record may contain their names, which are ordinary text. So the
template's own are marked, that is, written between two noncharacters of Unicode; a tokenizer that knows each marked
name as one more token reads the whole text at once, and the special token takes the place of the mark.
"""

import re

import numpy as np
from tokenizers import AddedToken, Tokenizer

from mcd.data.encoder import text_tokenizer
from mcd.data.tokenizer import EOS
from mcd.errors import DataError

OPEN, CLOSE, GUARD = "\ufdd0", "\ufdd1", "\ufdd2"
_MARKS = re.compile(f"[{OPEN}{CLOSE}{GUARD}]")
_MARKED = re.compile(f"{OPEN}.*?{CLOSE}", re.DOTALL)


class Marks:
    """The special tokens of a tokenizer, by their names of two characters or more.

    tokenizer: None for one that is not trained yet, whose only special token is EOS.
    """

    def __init__(self, tokenizer: Tokenizer | None):
        self.tokenizer = tokenizer
        added = {} if tokenizer is None else tokenizer.get_added_tokens_decoder()
        self.special = {i: token for i, token in added.items() if token.special and len(token.content) > 1}
        self.names = {token.content for token in self.special.values()} if tokenizer is not None else {EOS}
        longest_first = sorted(self.names, key=lambda name: (-len(name), name))
        self._names = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")

    def marked(self, text: str) -> str:
        """The text of a template, with each name of a special token marked."""
        return self._names.sub(rf"{OPEN}\g<0>{CLOSE}", text)

    def guarded(self, text: str) -> str:
        """What a record holds, in a form in which no special token is spelled; `freed` gives it back."""
        while self._names.search(text):
            text = self._names.sub(lambda match: GUARD.join(match[0]), text)
        return text

    @staticmethod
    def freed(text: str) -> str:
        """A text without the guards."""
        return text.replace(GUARD, "")

    @staticmethod
    def unmarked(text: str) -> str:
        """A text without its marked tokens."""
        return _MARKED.sub("", text)

    @staticmethod
    def check(text: str, place: str) -> None:
        """Raise DataError, beginning with `place`, for a text that contains the characters of marks."""
        if found := _MARKS.search(text):
            raise DataError(f"{place}: holds U+{ord(found[0]):04X}, which is no character of Unicode; remove it")

    def reader(self) -> str:
        """The JSON of the tokenizer that reads texts with marks; `ids` makes of its ids those of the tokenizer."""
        assert self.tokenizer is not None
        reader = text_tokenizer(self.tokenizer.to_str())
        reader.add_tokens([self._mark(token) for token in self.special.values()])
        self._table = np.arange(max(reader.get_vocab().values()) + 1, dtype=np.uint32)
        for i, token in self.special.items():
            self._table[reader.token_to_id(self._mark(token).content)] = i
        return reader.to_str()

    def ids(self, ids: np.ndarray) -> np.ndarray:
        """The ids of the tokenizer from those of its `reader`, which must have been made."""
        return self._table[ids]

    @staticmethod
    def _mark(token: AddedToken) -> AddedToken:
        name = f"{OPEN}{token.content}{CLOSE}"
        return AddedToken(name, lstrip=token.lstrip, rstrip=token.rstrip, normalized=False, special=False)
