"""Text to ids, and the process that does it beside the main one: `tokenizers` and the standard library alone.

A worker is started anew (no fork: threads of torch and of `tokenizers` would not survive one), reads texts from stdin
and writes ids to stdout, and ends when stdin does, so that nothing is left when the main process is killed.
"""

import os
import signal
import struct
from array import array
from collections.abc import Iterator, Sequence
from io import BufferedIOBase

from tokenizers import Tokenizer, models

_FAULT = (1 << 64) - 1
_TEXTS = 64  # encoded at a time: an encoding is many times its text


def encode(tokenizer: Tokenizer, texts: Sequence[str]) -> Iterator[list[int]]:
    """The ids of each text, without special tokens of the tokenizer's own adding. Raises ValueError if it cannot."""
    # encode_batch_fast leaves out where in the text tokens are; tokenizers before 0.20.1 lack it
    batch = getattr(tokenizer, "encode_batch_fast", tokenizer.encode_batch)
    for start in range(0, len(texts), _TEXTS):
        try:
            encodings = batch(list(texts[start : start + _TEXTS]), add_special_tokens=False)
        except Exception as error:  # `tokenizers` raises bare Exception for every fault
            raise ValueError(str(error)) from None
        for encoding in encodings:
            yield encoding.ids


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
    """The worker: a tokenizer (JSON) and the array code of an id, then batches of texts until stdin ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process ends it
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    stdin, stdout = os.fdopen(0, "rb"), os.fdopen(1, "wb")
    try:
        serialized, code = receive_texts(stdin)
        tokenizer = text_tokenizer(serialized)
        while True:
            texts = receive_texts(stdin)
            ids, lengths = array(code), []
            try:
                for row in encode(tokenizer, texts):
                    ids.extend(row)
                    lengths.append(len(row))
            except (ValueError, OverflowError) as error:
                message = str(error).encode()
                stdout.write(struct.pack("<QQ", _FAULT, len(message)) + message)
                stdout.flush()
            else:
                send(stdout, lengths, ids.tobytes())
    except (EOFError, BrokenPipeError):
        os._exit(0)  # without flushing into a pipe that nobody reads
