"""Text to ids, and the process that does it beside the main one: `tokenizers` and the standard library alone.

A worker is started anew (no fork: threads of torch and of `tokenizers` would not survive one), reads texts from stdin
and writes ids to stdout, and ends when stdin does, so that nothing is left when the main process is killed.
"""

import functools
import json
import os
import signal
import struct
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from io import BufferedIOBase
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers

_FAULT = (1 << 64) - 1
_TEXTS = 64  # encoded at a time: an encoding is many times its text
_DROPPED = "\0dropped"
"""Of a twin tokenizer: the token of what its original drops."""
_REMOVING = ("Removed", "CharDelimiterSplit")
"""Words in the JSON of a pre-tokenizer that leaves parts of a text out."""


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


class Encoder:
    """A tokenizer (its JSON) for texts, which counts in `lost` what it loses of them.

    A BPE without a token for the unknown, and without bytes to fall back to, drops the characters that it has no token
    for, and joins what stood around them. `tokenizers` does not say so, nor do the offsets of its tokens. So texts are
    encoded by a twin which has a token for the unknown, beyond the vocabulary; where that turns up, they are encoded
    again by the tokenizer as it is. Ids are always those of the tokenizer as it is.
    """

    def __init__(self, serialized: str, special_tokens: bool = False):
        self.serialized, self.special_tokens = serialized, special_tokens
        self.lost = Lost()
        content = json.loads(serialized)
        model = content["model"]
        self.drops = _may_drop(content)
        self.merges = not model.get("ignore_merges")
        if self.drops:
            vocabulary = model["vocab"]
            # added tokens get their ids anew when a tokenizer is read, behind a vocabulary that does not hold them
            vocabulary |= {token["content"]: token["id"] for token in content.get("added_tokens") or []}
            vocabulary[_DROPPED] = max(vocabulary.values(), default=-1) + 1
            model |= {"unk_token": _DROPPED, "fuse_unk": False}
            serialized = json.dumps(content, ensure_ascii=False)
        self.telling = text_tokenizer(serialized, special_tokens)
        name = model.get("unk_token")
        self.unknown = self.telling.token_to_id(name) if isinstance(name, str) else model.get("unk_id")
        splitter = json.dumps(content.get("pre_tokenizer"))
        self.removes = any(f'"{word}"' in splitter for word in _REMOVING)

    @functools.cached_property
    def own(self) -> Tokenizer:
        """The tokenizer as it is."""
        return text_tokenizer(self.serialized, self.special_tokens)

    def encode(self, texts: Sequence[str]) -> Iterator[list[int]]:
        """The ids of each text, without special tokens of the tokenizer's adding. Raises ValueError if it cannot."""
        # encode_batch_fast leaves out where in the text tokens are; tokenizers before 0.20.1 lack it
        batch = getattr(self.telling, "encode_batch_fast", self.telling.encode_batch)
        for start in range(0, len(texts), _TEXTS):
            part = list(texts[start : start + _TEXTS])
            try:
                encodings = batch(part, add_special_tokens=False)
            except Exception as error:  # `tokenizers` raises bare Exception for every fault
                raise ValueError(str(error)) from None
            for text, encoding in zip(part, encodings, strict=True):
                yield self._counted(text, encoding.ids)

    def _counted(self, text: str, ids: list[int]) -> list[int]:
        unknown = 0 if self.unknown is None else ids.count(self.unknown)
        if self.drops and (unknown or not self.merges):  # else a word may be an added token's name to the twin
            ids = self.own.encode(text, add_special_tokens=False).ids
        if unknown and self.drops:
            self.lost.drop(self._unknown_parts(text))
            unknown = 0
        elif unknown and self.lost.wants_examples:
            self.lost.show(self._unknown_parts(text))
        if self.removes:
            self.lost.drop(self._removed(text))
        self.lost.count(len(text), len(ids), unknown)
        return ids

    def _unknown_parts(self, text: str) -> list[str]:
        """The parts of a text that came to the unknown token; one of several bytes may have come to several."""
        encoding = self.telling.encode(text, add_special_tokens=False)
        spans = [span for i, span in zip(encoding.ids, encoding.offsets, strict=True) if i == self.unknown]
        return [text[begin:end] for begin, end in dict.fromkeys(spans)]

    def _removed(self, text: str) -> list[str]:
        """The characters, white space apart, that the pre-tokenizer leaves out."""
        if self.telling.normalizer is not None:
            text = self.telling.normalizer.normalize_str(text)
        assert self.telling.pre_tokenizer is not None
        left = list(text)
        for _, (begin, end) in self.telling.pre_tokenizer.pre_tokenize_str(text):
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


def lost_text(tokenizer: Tokenizer, text: str) -> list[str]:
    """The parts of a text that a tokenizer drops or has only its unknown token for, white space apart; none is good.

    Normalisation (lower case, no accents) is no loss. Raises ValueError for text that cannot be encoded.
    """
    encoder = Encoder(tokenizer.to_str(), special_tokens=not tokenizer.encode_special_tokens)
    encoder.lost = Lost(most_examples=len(text))
    for _ in encoder.encode([text]):
        pass
    return encoder.lost.examples


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


def send(pipe: BufferedIOBase, lengths: Sequence[int], data: bytes) -> None:
    """Write pieces: how many, how many bytes in all, the length of each, and the pieces."""
    pipe.write(struct.pack("<QQ", len(lengths), len(data)) + array("Q", lengths).tobytes())
    pipe.write(data)
    pipe.flush()


def receive(pipe: BufferedIOBase) -> tuple["array[int]", bytes]:
    """Read what `send` wrote. Raises EOFError when the other side has ended, ValueError with the fault it told."""
    count, size = struct.unpack("<QQ", _exactly(pipe, 16))
    if count == _FAULT:
        raise ValueError(_exactly(pipe, size).decode())
    lengths = array("Q")
    lengths.frombytes(_exactly(pipe, 8 * count))
    return lengths, _exactly(pipe, size)


def _exactly(pipe: BufferedIOBase, size: int) -> bytes:
    data = pipe.read(size)
    if len(data) < size:
        raise EOFError
    return data


def send_texts(pipe: BufferedIOBase, texts: Sequence[str]) -> None:
    """Write texts as `receive_texts` reads them."""
    pieces = [text.encode() for text in texts]
    send(pipe, [len(piece) for piece in pieces], b"".join(pieces))


def receive_texts(pipe: BufferedIOBase) -> list[str]:
    """Read what `send_texts` wrote."""
    lengths, data = receive(pipe)
    texts, start = [], 0
    for length in lengths:
        texts.append(data[start : start + length].decode())
        start += length
    return texts


def serve() -> None:
    """The worker: a tokenizer (JSON), the array code of an id, and whether special tokens are read ("" is no); then
    batches of texts until stdin ends, each answered by its ids and by what was lost of it (JSON)."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process ends it
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    stdin, stdout = os.fdopen(0, "rb"), os.fdopen(1, "wb")
    try:
        serialized, code, special = receive_texts(stdin)
        encoder = Encoder(serialized, special_tokens=bool(special))
        while True:
            texts = receive_texts(stdin)
            ids, lengths = array(code), []
            encoder.lost = Lost()
            try:
                for row in encoder.encode(texts):
                    ids.extend(row)
                    lengths.append(len(row))
            except (ValueError, OverflowError) as error:
                message = str(error).encode()
                stdout.write(struct.pack("<QQ", _FAULT, len(message)) + message)
                stdout.flush()
            else:
                send(stdout, lengths, ids.tobytes())
                send_texts(stdout, [json.dumps(encoder.lost.as_dict())])
    except (EOFError, BrokenPipeError):
        os._exit(0)  # without flushing into a pipe that nobody reads
