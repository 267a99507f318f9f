"""Tokenizers: a byte-level BPE trained on the text, whole words, or any tokenizer in the `tokenizers` format."""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from mcd.data.encoder import for_text, text_tokenizer
from mcd.errors import DataError
from mcd.hub_access import hub_access

EOS = "<|endoftext|>"
LONGEST_WORD = 1000
"""Characters of a word that a BPE is trained on."""
_LONG_RUN = re.compile(rf"(?<!\S)\S{{{LONGEST_WORD + 1}}}|(?<!\s)\s{{{LONGEST_WORD + 1}}}")


def train_bpe(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """A byte-level BPE tokenizer of exactly `vocab_size` tokens, the last of which is <|endoftext|> (as in GPT-2).

    Raises DataError when the texts are too small for that many merges, or vocab_size is below 257.
    """
    if vocab_size < 257:
        raise DataError(f"--vocab-size {vocab_size}: a byte-level tokenizer has at least 257 tokens")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 1,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((piece for text in texts for piece in _moderate(text)), trainer)
    tokenizer.add_special_tokens([EOS])
    if tokenizer.get_vocab_size() != vocab_size:
        raise DataError(
            f"--vocab-size {vocab_size}: the text supports only {tokenizer.get_vocab_size()} tokens; ask for fewer"
        )
    return tokenizer


def _moderate(text: str) -> Iterator[str]:
    """The text in pieces, cut only within words of more than LONGEST_WORD characters.

    The training time of a BPE grows with the square of the longest word. Any other text is unchanged: the words of its
    pieces are its own, and so is the vocabulary.
    """
    if _LONG_RUN.search(text) is None:
        yield text
        return
    start = 0
    for _, (begin, end) in pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str(text):
        if end - begin > LONGEST_WORD:
            yield text[start:begin]
            for i in range(begin, end, LONGEST_WORD):
                yield text[i : min(end, i + LONGEST_WORD)]
            start = end
    yield text[start:]


def word_tokenizer(symbols: Sequence[str]) -> Tokenizer:
    """One token per symbol, separated by white space in text, by single spaces when decoded; no end-of-text token.

    Another word cannot be encoded: `tokenizers` raises. Raises ValueError for a symbol twice, or with white space.
    """
    if len(set(symbols)) < len(symbols) or any(len(symbol.split()) != 1 for symbol in symbols):
        raise ValueError(f"symbols must differ and hold no white space: {symbols}")
    tokenizer = Tokenizer(models.WordLevel({symbol: i for i, symbol in enumerate(symbols)}))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer


def is_path(name: str) -> bool:
    """Can it only be a path, and no id of the hub?"""
    return name.startswith((".", "/", "~")) or name.endswith(".json")


def load_tokenizer(name_or_path: str | Path) -> Tokenizer:
    """A tokenizer from tokenizer.json, a folder that holds one, or a hub id.

    It reads only text (`for_text`): names of special tokens in a text are text. Raises DataError when there
    is none, and when it has fewer than 2 tokens or two of one id.
    """
    name, path = str(name_or_path), Path(name_or_path)
    path = path / "tokenizer.json" if path.is_dir() else path
    if not path.is_file():
        if path.name == "tokenizer.json" and path.parent.is_dir():
            raise DataError(f"{path.parent}: no tokenizer.json")
        if is_path(name):
            raise DataError(f"--tokenizer {name}: no such file or folder")
    try:
        if path.is_file():
            tokenizer = Tokenizer.from_file(str(path))
        else:
            with hub_access() as access:
                try:
                    tokenizer = Tokenizer.from_pretrained(name)
                except Exception as error:
                    raise DataError(
                        f"--tokenizer {name}: no such file or folder, and {access.refusal(error)}"
                    ) from None
    except (KeyboardInterrupt, SystemExit, DataError):
        raise
    except BaseException as error:  # `tokenizers` raises bare Exception for every fault, or panics
        raise DataError(f"--tokenizer {name}: not a tokenizer file, folder or hub id ({error})") from None
    check_ids(tokenizer, f"--tokenizer {name}")
    return for_text(tokenizer)


def with_special_tokens(tokenizer: Tokenizer) -> Tokenizer:
    """A copy of `tokenizer` that reads the names of special tokens in a text as these tokens (see `for_text`)."""
    return text_tokenizer(tokenizer.to_str(), special_tokens=True)


def tokenizer_of_model(folder: Path, vocab_size: int) -> Tokenizer:
    """The tokenizer in a model's folder. Raises DataError when it is missing or its vocabulary is not the model's."""
    tokenizer = load_tokenizer(folder)
    if tokenizer.get_vocab_size() != vocab_size:
        raise DataError(
            f"{folder}/tokenizer.json: has {tokenizer.get_vocab_size()} tokens, the model {vocab_size}; "
            "it is not the tokenizer this model was trained with"
        )
    check_ids(tokenizer, f"{folder}/tokenizer.json", vocab_size)
    return tokenizer


def tokenizer_sha256(tokenizer: Tokenizer) -> str:
    """A hash of what the tokenizer does (canonical JSON), the same for equal files however they are spaced."""
    canonical = json.dumps(json.loads(tokenizer.to_str()), sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def check_ids(tokenizer: Tokenizer, source: str, vocab_size: int | None = None) -> None:
    """Raise DataError for a tokenizer of fewer than 2 tokens, or in which two tokens have one id.

    vocab_size: the ids must then be 0 to vocab_size - 1, each there. `source` begins the message.
    """
    vocabulary = tokenizer.get_vocab()
    if len(vocabulary) < 2:
        raise DataError(f"{source}: has {len(vocabulary)} tokens, at least 2 are needed; give another")
    token_of: dict[int, str] = {}
    for token, i in vocabulary.items():
        if token_of.setdefault(i, token) != token:
            raise DataError(f"{source}: the tokens {token_of[i]!r:.60} and {token!r:.60} have the same id {i}")
    if vocab_size is not None and max(token_of) >= vocab_size:
        lacking = next(i for i in range(vocab_size) if i not in token_of)
        raise DataError(
            f"{source}: no token has the id {lacking}, and {token_of[max(token_of)]!r:.60} has {max(token_of)}, "
            f"beyond the {vocab_size} tokens; number them 0 to {vocab_size - 1}"
        )
