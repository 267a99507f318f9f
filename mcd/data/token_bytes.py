"""How many bytes of text rows of tokens stand for: what a likelihood is divided by, so that tokenizers compare."""

import itertools
import json
from collections.abc import Sequence

import torch
from tokenizers import Tokenizer, pre_tokenizers
from torch import Tensor

from mcd.data.loader import Batch
from mcd.data.token_texts import word_of

LOSSY = "the decoded text: the tokenizer loses some of what is written (such as capitals, accents, runs of spaces)"
"""What the bytes are of, where a tokenizer does not read back what it read."""
_PROBE = "Déjà vu:  the NAÏVE “cafés”\n\n\tcost 3½ £, don't they? — 東京, 😀"


def row_bytes(tokenizer: Tokenizer, rows: Batch, end_id: int | None) -> Tensor:
    """The UTF-8 bytes of text that the tokens to be learnt of each row stand for: (B,) int64.

    The end of text (`end_id`) and other special tokens stand for none. With a byte-level tokenizer the count is exact
    wherever a row is cut, within a character too. For any other it is the length of the decoded text. A row cut from a
    stream is then taken to continue a document: where it begins one instead, the space that such tokenizers put before
    a word makes it one byte too long.
    """
    learnt = torch.ones_like(rows.x0, dtype=torch.bool) if rows.diffused is None else rows.diffused
    table = _bytes_of_tokens(tokenizer, end_id)
    if table is not None:
        return (table[rows.x0] * learnt).sum(1)
    length = _Decoded(tokenizer, end_id)
    pairs = zip(rows.x0.tolist(), learnt.tolist(), strict=True)
    return torch.tensor([length.of_row(ids, mask, rows.counted is None) for ids, mask in pairs], dtype=torch.int64)


def reads_back(tokenizer: Tokenizer) -> bool:
    """Whether a text of capitals, accents, signs and white space of all kinds comes back as it was written."""
    try:
        return tokenizer.decode(tokenizer.encode(_PROBE, add_special_tokens=False).ids) == _PROBE
    except Exception:  # `tokenizers` raises bare Exception where there is no token for a word
        return False


def _bytes_of_tokens(tokenizer: Tokenizer, end_id: int | None) -> Tensor | None:
    """The bytes of each token of a byte-level tokenizer, (ids,) int64; None for any other."""
    if (json.loads(tokenizer.to_str())["decoder"] or {}).get("type") != "ByteLevel":
        return None
    vocabulary, letters = tokenizer.get_vocab(), set(pre_tokenizers.ByteLevel.alphabet())
    table = torch.zeros(max(vocabulary.values()) + 1, dtype=torch.int64)
    for name, i in vocabulary.items():  # a letter of the alphabet stands for a byte
        table[i] = len(name) if letters.issuperset(name) else len(name.encode())
    for i, token in tokenizer.get_added_tokens_decoder().items():  # is text as it is
        table[i] = 0 if token.special else len(token.content.encode())
    if end_id is not None:
        table[end_id] = 0
    return table


class _Decoded:
    """Lengths in bytes of what a tokenizer's decoder makes of tokens."""

    def __init__(self, tokenizer: Tokenizer, end_id: int | None):
        self.tokenizer, self.end_id, self.word = tokenizer, end_id, word_of(tokenizer)
        found = (tokenizer.token_to_id(f"<0x{i:02X}>") for i in range(256))
        parts, letter = [i for i in found if i is not None], tokenizer.token_to_id("<0x41>")
        self.letters: dict[int, int] = {}
        if letter is not None and tokenizer.decode([letter, letter]) == "AA":
            # bytes of a character that a row cuts are none: each becomes a letter, which is one byte too
            self.letters = dict.fromkeys(parts, letter)

    def of_row(self, ids: Sequence[int], mask: Sequence[bool], continues: bool) -> int:
        """The bytes of the masked ids of a row; `continues`: it begins in the middle of a document."""
        total, start = 0, 0
        for end in [*(i for i, token in enumerate(ids) if token == self.end_id), len(ids)]:
            head = [self.word] if continues and start == 0 else []
            total += self._of_document([*head, *ids[start:end]], [*[False] * len(head), *mask[start:end]])
            start = end + 1
        return total

    def _of_document(self, ids: Sequence[int], mask: Sequence[bool]) -> int:
        """The text up to each place where the mask changes is measured, and what was added where it is set counts."""
        ids = [self.letters.get(i, i) for i in ids]
        total, end, before = 0, 0, 0
        for counts, run in itertools.groupby(mask):
            end += len(list(run))
            length = len(self.tokenizer.decode(ids[:end]).encode())
            total += (length - before) * counts
            before = length
        return total
