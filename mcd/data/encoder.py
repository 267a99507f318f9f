"""Text to ids, and a count of what a tokenizer loses of it. The processes that tokenise import this module: it needs
only `tokenizers` and the standard library."""

import functools
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers

MOST_UNKNOWN, MOST_DROPPED = 0.01, 0.001
"""The largest shares that are accepted by default: of tokens that are the unknown one (it shows that something stood
there), and of characters that are dropped without a trace."""
MOST_EXAMPLES = 8
_LONGEST = 20  # characters of an example
_TEXTS = 64  # encoded at a time: an encoding is many times its text
_DROPPED = "\0dropped"  # of a twin tokenizer: the token of what its original drops
_REMOVING = ("Removed", "CharDelimiterSplit")  # in the JSON of a pre-tokenizer that leaves parts of a text out


@dataclass
class Lost:
    """Counts over texts: `unknown` of their `tokens`, `dropped` of their `characters`, and the first different examples
    of either in the order of the texts, so that counts of parts, added in order, are those of the whole.
    """

    characters: int = 0
    dropped: int = 0
    tokens: int = 0
    unknown: int = 0
    examples: list[str] = field(default_factory=list)

    def drop(self, parts: list[str]) -> None:
        """Count what was dropped of a text."""
        self.dropped += sum(map(len, parts))
        self.show(parts)

    def show(self, parts: Iterable[str]) -> None:
        """Keep the parts as examples, where they are new and there is room."""
        for part in parts:
            part = part if len(part) <= _LONGEST else f"{part[:_LONGEST]}..."
            if len(self.examples) < MOST_EXAMPLES and part not in self.examples:
                self.examples.append(part)

    def add(self, other: "Lost") -> None:
        """Add the counts of the texts that come next."""
        for name in ("characters", "dropped", "tokens", "unknown"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.show(other.examples)

    @property
    def summary(self) -> str:
        """What is lost, with examples, in words; "" where nothing is."""
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
        """Is more lost than the share `most` of either count? None: than MOST_UNKNOWN or MOST_DROPPED."""
        most_dropped, most_unknown = (MOST_DROPPED, MOST_UNKNOWN) if most is None else (most, most)
        return self.dropped > most_dropped * self.characters or self.unknown > most_unknown * self.tokens


class Encoder:
    """A tokenizer (its JSON) for texts, which counts in `lost` what it loses of them.

    A BPE without a token for the unknown, and without bytes to fall back to, drops the characters that it has no token
    for, and joins what stood around them. `tokenizers` does not report that, nor do the offsets of its tokens. So texts
    are encoded by a twin which has a token for the unknown, beyond the vocabulary; where that occurs, they are encoded
    again by the tokenizer itself. Ids are always those of the tokenizer itself.
    """

    def __init__(self, serialized: str, special_tokens: bool = False):
        self.serialized, self.special_tokens = serialized, special_tokens
        self.lost = Lost()
        content = json.loads(serialized)
        model = content["model"]
        self._drops = _may_drop(content)
        self._merges = not model.get("ignore_merges")
        if self._drops:
            vocabulary = model["vocab"]
            # added tokens get their ids anew when a tokenizer is read, behind a vocabulary that does not hold them
            vocabulary |= {token["content"]: token["id"] for token in content.get("added_tokens") or []}
            vocabulary[_DROPPED] = max(vocabulary.values(), default=-1) + 1
            model |= {"unk_token": _DROPPED, "fuse_unk": False}
            serialized = json.dumps(content, ensure_ascii=False)
        self._twin = text_tokenizer(serialized, special_tokens)
        name = model.get("unk_token")
        self._unknown = self._twin.token_to_id(name) if isinstance(name, str) else model.get("unk_id")
        splitter = json.dumps(content.get("pre_tokenizer"))
        self._removes = any(f'"{word}"' in splitter for word in _REMOVING)

    @functools.cached_property
    def _own(self) -> Tokenizer:
        return text_tokenizer(self.serialized, self.special_tokens)

    def encode(self, texts: Sequence[str]) -> Iterator[list[int]]:
        """The ids of each text, without special tokens of the tokenizer's adding. Raises ValueError if it cannot."""
        # encode_batch_fast leaves out where in the text tokens are; tokenizers before 0.20.1 lack it
        batch = getattr(self._twin, "encode_batch_fast", self._twin.encode_batch)
        for start in range(0, len(texts), _TEXTS):
            part = list(texts[start : start + _TEXTS])
            try:
                encodings = batch(part, add_special_tokens=False)
            except Exception as error:  # `tokenizers` raises bare Exception for every fault
                raise ValueError(str(error)) from None
            for text, encoding in zip(part, encodings, strict=True):
                yield self._counted(text, encoding.ids)

    def _counted(self, text: str, ids: list[int]) -> list[int]:
        unknown = 0 if self._unknown is None else ids.count(self._unknown)
        if self._drops and (unknown or not self._merges):  # else a word may be an added token's name to the twin
            ids = self._own.encode(text, add_special_tokens=False).ids
        if unknown and self._drops:
            self.lost.drop(self._unknown_parts(text))
            unknown = 0
        elif unknown and len(self.lost.examples) < MOST_EXAMPLES:
            self.lost.show(self._unknown_parts(text))
        if self._removes:
            self.lost.drop(self._removed(text))
        self.lost.add(Lost(characters=len(text), tokens=len(ids), unknown=unknown))
        return ids

    def _unknown_parts(self, text: str) -> list[str]:
        """The parts of a text that became the unknown token; one of several bytes may have become several."""
        encoding = self._twin.encode(text, add_special_tokens=False)
        spans = [span for i, span in zip(encoding.ids, encoding.offsets, strict=True) if i == self._unknown]
        return [text[begin:end] for begin, end in dict.fromkeys(spans)]

    def _removed(self, text: str) -> list[str]:
        """The characters, white space apart, that the pre-tokenizer leaves out."""
        if self._twin.normalizer is not None:
            text = self._twin.normalizer.normalize_str(text)
        assert self._twin.pre_tokenizer is not None
        left = list(text)
        for _, (begin, end) in self._twin.pre_tokenizer.pre_tokenize_str(text):
            left[begin:end] = [""] * (end - begin)
        return [character for character in left if character.strip()]


def _may_drop(content: dict[str, Any]) -> bool:
    """Is it a BPE that drops what it has no token for? One with a token for each byte has nothing to drop."""
    model = content["model"]
    if model.get("type") != "BPE" or model.get("unk_token") is not None:
        return False
    bytewise = '"ByteLevel"' in json.dumps([content.get("pre_tokenizer"), content.get("normalizer")])
    whole = set(pre_tokenizers.ByteLevel.alphabet()) <= model["vocab"].keys()
    return not (bytewise and whole and not model.get("continuing_subword_prefix"))


def for_text(tokenizer: Tokenizer, special_tokens: bool = False) -> Tokenizer:
    """`tokenizer` itself, changed so that it reads text and nothing else.

    Truncation, padding and BPE dropout are meant for other uses and are switched off. A text that spells a special
    token (`<|endoftext|>`) is text and becomes ordinary tokens; with `special_tokens` it becomes that token.
    """
    tokenizer.no_truncation()
    tokenizer.no_padding()
    if isinstance(tokenizer.model, models.BPE):
        tokenizer.model.dropout = None
    tokenizer.encode_special_tokens = not special_tokens  # no part of the JSON: it is lost by to_str and by pickling
    return tokenizer


def text_tokenizer(serialized: str, special_tokens: bool = False) -> Tokenizer:
    """A tokenizer from its JSON text, as `for_text` makes it."""
    return for_text(Tokenizer.from_str(serialized), special_tokens)
