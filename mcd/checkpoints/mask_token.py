"""Which token of an autoregressive model's tokenizer becomes the mask: one that no text and no dialogue uses."""

import re
from typing import Any, NamedTuple

from tokenizers import Tokenizer

from mcd.checkpoints.config import MASKS, special_id
from mcd.model.adapted.families import Settings

ADDED = "<|mask|>"
"""The name of a mask that is added."""
SPARE = (re.compile(r"reserved|unused|extra_?id", re.IGNORECASE), re.compile(r"fim.?pad", re.IGNORECASE))
"""Names that say of a token that it means nothing, the likeliest first."""
_BRACKETS = re.compile(r"<.+>|\[.+\]")


class MaskToken(NamedTuple):
    """The mask: its name and id, whether the tokenizer lacks it, and why it was chosen, in words."""

    token: str
    id: int
    added: bool
    why: str


def mask_token(
    tokenizer: Tokenizer,
    settings: Settings,
    notes: list[dict[str, Any]],
    chat_template: str,
    start: int,
    named: str | None = None,
) -> MaskToken:
    """The token `named`; or the first of these: what the files name as the mask, or has a usual name of it; a special
    token that is called reserved or unused; the padding of fill-in-the-middle; the last one of the other special
    tokens; a new token, with a row of its own.

    Tokens that are in use are passed over: those that config.json or a file of the tokenizer names for a purpose (BOS,
    EOS, padding, ...), those in the chat template, and the start of text. Raises ValueError for a name that is in use.
    """
    used = {start, *_ids_in_use(tokenizer, settings, notes)}
    own = special_id("mask", settings, notes, tokenizer)
    names = {i: token.content for i, token in sorted(tokenizer.get_added_tokens_decoder().items())}
    if named is not None:
        i = tokenizer.token_to_id(named)
        if i in used or (i is not None and named in chat_template):
            raise ValueError(f"--mask-token {named}: is in use (start or end of text, padding, dialogue); name another")
        return _new(tokenizer, named) if i is None else MaskToken(named, i, False, "--mask-token")
    free = {name: i for i, name in names.items() if i not in used and name not in chat_template}
    free = {name: i for name, i in free.items() if _BRACKETS.fullmatch(name)}
    if own in names and own not in used:
        return MaskToken(names[own], own, False, "the tokenizer's own mask")
    for name in (*MASKS, ADDED):
        if name in free:
            return MaskToken(name, free[name], False, "a usual name of the mask")
    for pattern in SPARE:
        for name, i in free.items():
            if pattern.search(name):
                return MaskToken(name, i, False, "a token that nothing uses, by its name")
    if free:
        name = max(free, key=lambda name: free[name])
        return MaskToken(name, free[name], False, "the last special token that no file gives a purpose")
    return _new(tokenizer, ADDED)


def _new(tokenizer: Tokenizer, name: str) -> MaskToken:
    """A token behind the others. Raises ValueError where the ids of those have a gap."""
    size = tokenizer.get_vocab_size()
    if any(tokenizer.id_to_token(i) is None for i in range(size)):
        raise ValueError(
            f"{name} cannot be added: the tokenizer's ids are not 0 to {size - 1}; name a --mask-token of it"
        )
    return MaskToken(name, size, True, "added")


def _ids_in_use(tokenizer: Tokenizer, settings: Settings, notes: list[dict[str, Any]]) -> set[int]:
    found: set[int] = set()
    for key, value in settings.items():
        if key.endswith("_token_id") and key != "mask_token_id":
            found.update(i for i in (value if isinstance(value, list) else [value]) if type(i) is int)
    for note in notes:
        for key, value in note.items():
            name = value.get("content") if isinstance(value, dict) else value
            i = tokenizer.token_to_id(name) if key.endswith("_token") and isinstance(name, str) else None
            if i is not None and key != "mask_token":
                found.add(i)
    return found
