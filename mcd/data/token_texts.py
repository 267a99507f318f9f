"""What a row of tokens reads as while it is being written: each token's share of the text, masks among them.

A token has no text of its own: its letters depend on its neighbours. Byte-level tokens hold parts of characters,
WordPiece joins `##gle` to the word before, Metaspace drops the space of the first word only. So the whole row is
decoded, and the text is divided among its tokens.
"""

import re
from collections.abc import Callable, Sequence
from functools import lru_cache

from tokenizers import Tokenizer

from mcd.data.text import BROKEN

UNFINISHED = "▯"
"""Stands for bytes of a character whose other bytes are still masked."""
_CHUNK = 16  # tokens decoded at a time: the time is linear in the row, and quadratic in this
_LOOK_AHEAD = 4
_LOOKED_AT = 4096  # of the vocabulary, in search of a word
_BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")


def token_texts(
    tokenizer: Tokenizer, ids: Sequence[int], blank_id: int, skip_special_tokens: bool = True
) -> list[str | None]:
    """The share of the text that each token of a row has; None for those that are `blank_id`.

    The shares of a row without blanks, joined, are `tokenizer.decode(ids, skip_special_tokens)`; a blank counts as a
    word. A token's share ends where the text of the row up to it ceases to be a prefix of the whole row's text. Hence a
    character made of several tokens belongs to the last of them. While one of these is masked, U+25AF is shown
    instead.
    """
    if not ids:
        return []
    word = word_of(tokenizer)

    def decode(some: Sequence[int]) -> str:
        return tokenizer.decode(some, skip_special_tokens=skip_special_tokens)

    filled = [word if i == blank_id else i for i in ids]
    text = decode(filled)
    shares: list[str] = []
    while len(shares) < len(filled):
        start = len(shares)
        head = [word, filled[start - 1]] if any(shares) else []  # in place of the text before the chunk
        end = start + _CHUNK
        while end < min(len(filled), start + 2 * _CHUNK) and _open(
            decode, head + filled[start:end], filled[end : end + _LOOK_AHEAD]
        ):
            end += 1
        shares += _shares(decode, head, filled[start:end])
    if "".join(shares) != text:  # a decoder that looks further back
        shares = _shares(decode, [], filled)
    _mark_unfinished(shares, ids, blank_id)
    return [None if i == blank_id else share for i, share in zip(ids, shares, strict=True)]


@lru_cache(maxsize=4)
def word_of(tokenizer: Tokenizer) -> int:
    """The id of a token that has the same text everywhere: no space, part of a character or special token.

    If the first tokens contain such a token, a space separates it from another one. The search takes as long as
    decoding a short row sixty times, so it is made once.
    """
    joined = None
    for i in range(min(tokenizer.get_vocab_size(), _LOOKED_AT)):
        name, text = tokenizer.id_to_token(i), tokenizer.decode([i])
        if name and not _BYTE.fullmatch(name) and text.strip() and text.isprintable() and BROKEN not in text:
            twice = tokenizer.decode([i, i])
            if twice.startswith(text):
                if twice[len(text) :].startswith(" "):
                    return i
                joined = i if joined is None else joined
    return joined or 0


def common(a: str, b: str) -> int:
    """How many characters two texts have in common from their beginning."""
    if b.startswith(a):
        return len(a)
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _shares(decode: Callable[[Sequence[int]], str], head: list[int], ids: list[int]) -> list[str]:
    """The share of each id in the text of `head` and `ids`, by the definition: one decoding for each prefix."""
    whole = decode(head + ids)
    ends = [common(decode(head), whole)]
    for n in range(1, len(ids)):
        ends.append(max(ends[-1], common(decode(head + ids[:n]), whole)))
    return [whole[start:end] for start, end in zip(ends, [*ends[1:], len(whole)], strict=True)]


def _open(decode: Callable[[Sequence[int]], str], ids: list[int], after: list[int]) -> bool:
    """Whether `ids` end within a character, or read otherwise with the tokens after them."""
    text = decode(ids)
    return text.endswith(BROKEN) or not decode(ids + after).startswith(text)


def _mark_unfinished(shares: list[str], ids: Sequence[int], blank_id: int) -> None:
    """Put UNFINISHED where a decoder says that bytes are no character, on either side of each run of blanks."""
    blanks = [i for i, one in enumerate(ids) if one == blank_id]
    for step, strip in ((1, str.lstrip), (-1, str.rstrip)):
        for blank in blanks:
            i = blank + step
            while 0 <= i < len(ids) and ids[i] != blank_id:
                rest = strip(shares[i], BROKEN)
                count = len(shares[i]) - len(rest)
                shares[i] = UNFINISHED * count + rest if step > 0 else rest + UNFINISHED * count
                if rest:
                    break
                i += step
