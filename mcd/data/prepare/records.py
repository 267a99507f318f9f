"""The texts of a recipe in units of fixed borders, and their tokenizer: functions of only the text."""

from collections import Counter
from collections.abc import Generator, Iterator
from itertools import islice
from typing import Any

from tokenizers import Tokenizer

from mcd.data.prepare.corpus import Records, files_of, text_of
from mcd.data.prepare.duplicates import Seen, key_of
from mcd.data.prepare.instructions import Pairs
from mcd.data.prepare.readers import suffix_of
from mcd.data.prepare.workers import Unit
from mcd.data.recipe import Recipe
from mcd.data.tokenizer import check_ids, load_tokenizer, train_bpe
from mcd.errors import DataError

UNIT_BYTES, UNIT_RECORDS = 1 << 19, 4096
"""A unit ends behind the record with which it has that many characters, or that many records."""


def units_of(
    recipe: Recipe, start: Any, pairs: Pairs | None, left_out: Counter[str], seen: Seen
) -> Generator[Unit, None, None]:
    """The records of a recipe from position `start` on, in units. Raises DataError as `documents` does.

    pairs: of instruction data, the meaning of its records. left_out: counts records that are left out, by reason
    ("null", "blank", "copies"). seen: the keys of those before.
    """
    texts: list[str] = []
    keys: list[int] = []
    size = 0
    reader = Records(recipe, start)
    for record, key in _texts(recipe, reader, pairs, left_out, seen):
        texts += record
        keys.append(key)
        size += sum(map(len, record))
        if size >= UNIT_BYTES or len(keys) == UNIT_RECORDS:
            yield Unit(texts, len(keys), reader.position(), reader.fraction, keys, dict(left_out))
            texts, keys, size = [], [], 0
    if keys:
        yield Unit(texts, len(keys), reader.position(), 1.0, keys, dict(left_out))


def tokenizer_of_text(recipe: Recipe) -> Tokenizer:
    """The tokenizer that a recipe names, or one trained on the part of its text that is not held out.

    Raises DataError where that cannot be, and for text of fewer than two records.
    """
    if recipe.packing == "rows" and any(suffix_of(path) == ".txt" for path in files_of(recipe).files):
        option = "--prompt-field" if recipe.messages_field is None else "--messages-field"
        raise DataError(f"{option}: a .txt has no fields; give --data .jsonl, .json, .parquet or .arrow")
    tokenizer = None if recipe.tokenizer is None else load_tokenizer(recipe.tokenizer)
    pairs = Pairs(recipe, tokenizer) if recipe.packing == "rows" else None

    def records() -> Iterator[tuple[str, ...]]:
        return (record for record, _ in _texts(recipe, Records(recipe), pairs, Counter(), Seen()))

    if len(list(islice(records(), 2))) < 2:
        if pairs is not None:
            raise DataError(f"--data {recipe.data}: fewer than two records have a prompt and an answer with text")
        raise DataError(
            f"--data {recipe.data}: one document cannot be split into train and held-out text; "
            "give more (documents in a .txt are separated by blank lines)"
        )
    if tokenizer is not None:
        check_ids(tokenizer, f"--tokenizer {recipe.tokenizer}", tokenizer.get_vocab_size())
        return tokenizer
    if recipe.valid_last:
        count = sum(1 for _ in records())
        check_valid_last(recipe, count)
        train = islice(records(), count - recipe.valid_last)
    else:
        train = (record for i, record in enumerate(records()) if i % recipe.valid_every)
    texts = (text for record in train for text in record[: recipe.arity])
    return train_bpe(texts if pairs is None else map(pairs.marks.unmarked, texts), recipe.vocab_size)


def check_valid_last(recipe: Recipe, count: int) -> None:
    """Raise DataError when of `count` documents none is left to train on."""
    if recipe.valid_last and recipe.valid_last >= count:
        raise DataError(
            f"--valid-last {recipe.valid_last}: --data {recipe.data} has {count:,} documents, and none would be left "
            "to train on; hold out fewer, or one in N (--valid-last 0 --valid-every N)"
        )


def _texts(
    recipe: Recipe, reader: Records, pairs: Pairs | None, left_out: Counter[str], seen: Seen
) -> Iterator[tuple[tuple[str, ...], int]]:
    """The texts of each record, and its key; those left out are counted.

    These are records with a field that is null, whatever the format; blank documents (except for MDLM's grouping,
    which
    counts them) and answers; and with `dedup` copies of what came before.
    """
    for values in reader:
        if any(value is None for value in values):
            left_out["null"] += 1
            continue
        if pairs is not None:
            record = pairs.texts(values, reader.place)
        else:
            record = (text_of(values[0], recipe.text_field, reader.place),)
        if record is None or (not record[-1].strip() and recipe.packing != "groups"):
            left_out["blank"] += 1
            continue
        key = key_of(record)
        if recipe.dedup and not seen.add(key):
            left_out["copies"] += 1
            continue
        yield record, key
