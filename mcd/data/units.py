"""A text in pieces of fixed borders, and the tokenizer it gets: what the bytes of prepared data hang on, in order."""

from collections.abc import Generator, Iterator
from itertools import islice
from typing import Any

from tokenizers import Tokenizer

from mcd.data.corpus import Records, Source, text_of
from mcd.data.instructions import pair_of
from mcd.data.readers import DataError
from mcd.data.recipe import Recipe
from mcd.data.token_ids import check_ids
from mcd.data.tokenizer import load_tokenizer, train_bpe
from mcd.data.workers import Unit

UNIT_BYTES, UNIT_RECORDS = 1 << 19, 4096
"""A unit ends behind the record with which it has so many characters, or so many records."""


def units_of(recipe: Recipe, start: Any, end_of_text: str) -> Generator[Unit, None, None]:
    """The records of a recipe's source from position `start` on, in units. Raises DataError as `documents` does."""
    texts: list[str] = []
    records = size = 0
    reader = Records(_source(recipe), start)
    for record in _texts(recipe, reader, end_of_text):
        texts += record
        records += 1
        size += sum(map(len, record))
        if size >= UNIT_BYTES or records == UNIT_RECORDS:
            yield Unit(texts, records, reader.position(), reader.fraction)
            texts, records, size = [], 0, 0
    if records:
        yield Unit(texts, records, reader.position(), 1.0)


def tokenizer_of_text(recipe: Recipe) -> Tokenizer:
    """The tokenizer that a recipe names, or one trained on the part of its text that is not held out.

    Raises DataError where that cannot be, and for text of fewer than two records.
    """
    if len(list(islice(_all(recipe), 2))) < 2:
        if len(recipe.fields) > 1 or recipe.messages_field:
            raise DataError(f"--data {recipe.source}: fewer than two records have an answer that is not blank")
        raise DataError(
            f"--data {recipe.source}: one document cannot be split into train and held-out text; "
            "give more (documents in a .txt are parted by blank lines)"
        )
    if recipe.tokenizer is not None:
        tokenizer = load_tokenizer(recipe.tokenizer)
        check_ids(tokenizer, f"--tokenizer {recipe.tokenizer}", tokenizer.get_vocab_size())
        return tokenizer
    if recipe.valid_last:
        count = sum(1 for _ in _all(recipe))
        train = islice(_all(recipe), max(0, count - recipe.valid_last))
    else:
        train = (record for i, record in enumerate(_all(recipe)) if i % recipe.valid_every)
    return train_bpe((text for record in train for text in record), recipe.vocab_size)


def _source(recipe: Recipe) -> Source:
    return Source(recipe.source, recipe.fields, recipe.subset, recipe.split, recipe.revision)


def _all(recipe: Recipe) -> Iterator[tuple[str, ...]]:
    return _texts(recipe, Records(_source(recipe)), "")


def _texts(recipe: Recipe, reader: Records, end_of_text: str) -> Iterator[tuple[str, ...]]:
    """The texts of each record; those without any are passed over, but for MDLM's grouping, which counts them."""
    for values in reader:
        if recipe.packing == "rows":
            prompt, answer = pair_of(values, recipe, end_of_text, reader.place)
            if answer.strip():
                yield prompt, answer
        else:
            text = text_of(values[0], recipe.text_field, reader.place)
            if text.strip() or recipe.packing == "groups":
                yield (text,)
