"""The ids of a tokenizer: each token its own, and none beyond what the model or the shards have room for."""

from tokenizers import Tokenizer

from mcd.errors import DataError


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
