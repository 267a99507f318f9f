"""Documents: the bundled corpus, anybody's files, or a hub dataset, each as an iterator of non-empty strings.

The names of `mcd.data.languages.known` are streams of tokens and no documents.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mcd
from mcd.data.languages.known import LANGUAGES
from mcd.data.prepare.folders import Layout, layout_of
from mcd.data.prepare.hub import HubRecords
from mcd.data.prepare.readers import SUFFIXES, FileRecords, suffix_of
from mcd.data.recipe import Recipe
from mcd.errors import DataError
from mcd.files import file_sha256

ASSETS = Path(mcd.__file__).resolve().parent / "assets"
BUNDLED = {"sotu": ASSETS / "sotu.jsonl.xz"}
"""State of the Union addresses, 1790 onward (public domain; see sotu.NOTICE)."""

_NAMES = ", ".join((*BUNDLED, *LANGUAGES))


class Records:
    """The records that a recipe reads, in a fixed order, as tuples of the values of its fields: iterate over it once.

    start: a `position` from an earlier reading of the same text; everything before it is passed over.
    Raises DataError for what names no text, HubError where a hub dataset stops midway.
    """

    def __init__(self, recipe: Recipe, start: Any = None):
        self.recipe = recipe
        self.files = files_of(recipe).files
        self.sizes = [max(1, file.stat().st_size) for file in self.files]
        self.index, self.skip = (0, 0) if start is None or not self.files else start
        self.now: FileRecords | HubRecords | None = None
        self.start = start

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        if not self.files:
            self.now = HubRecords(self.recipe, self.start, f"neither a file here nor bundled ({_NAMES})")
            yield from self.now
        while self.index < len(self.files):
            self.now = FileRecords(self.files[self.index], self.recipe.fields, self.skip)
            yield from self.now
            self.index, self.skip, self.now = self.index + 1, 0, None

    @property
    def place(self) -> str:
        """The place of the last record, as messages name it."""
        return f"--data {self.recipe.data}" if self.now is None else self.now.place

    def position(self) -> Any:
        """The position of the next record, as JSON values."""
        if isinstance(self.now, HubRecords):
            return self.now.position()
        return [self.index, 0 if self.now is None else self.now.count]

    @property
    def fraction(self) -> float | None:
        """The share of the text that was read, in [0, 1]; None where nobody knows."""
        if isinstance(self.now, HubRecords):
            return self.now.fraction
        done = sum(self.sizes[: self.index])
        if self.now is not None:
            done += self.now.fraction * self.sizes[self.index]
        return done / max(1, sum(self.sizes))


def documents(data: str, text_field: str = "text", split: str = "train") -> Iterator[str]:
    """The documents of `data`, in a fixed order.

    data: "sotu"; a .txt file (documents separated by blank lines), .jsonl, .json, .parquet or .arrow (one document per
    row, in `text_field`), the first three also followed by .gz, .bz2, .xz or .zst; a folder of such files (`files_of`
    says which are read, of which split); or the name of a dataset on the Hugging Face hub (needs the `hub` extra).
    Blank documents and those that are null are passed over. Raises DataError for anything else.
    """
    if data in LANGUAGES:
        raise DataError(f"--data {data}: a stream of tokens without documents; give text")
    records = Records(Recipe(data, text_field, split=split))
    for (value,) in records:
        text = "" if value is None else text_of(value, text_field, records.place)
        if text.strip():
            yield text


def text_of(value: Any, field: str, place: str) -> str:
    """A value of a field as text. Raises DataError, beginning with `place`, for what is none."""
    if not isinstance(value, str):
        raise DataError(f"{place}: field {field!r} holds no string")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise DataError(f"{place}: field {field!r} holds a lone surrogate (\\ud800 ...)") from None
    return value


def source_sha256(recipe: Recipe) -> str | None:
    """A hash of the files that a recipe reads, names and bytes, or of the law of a language; None for sotu and the hub.

    Raises DataError where `documents` would find no file.
    """
    if recipe.data in LANGUAGES:
        return LANGUAGES[recipe.data]().sha256()
    files = [] if recipe.data in BUNDLED else files_of(recipe).files
    if not files:
        return None
    whole = hashlib.sha256()
    for file in files:
        whole.update(json.dumps([file.relative_to(recipe.data).as_posix(), file_sha256(file)]).encode())
    return whole.hexdigest()


def files_of(recipe: Recipe) -> Layout:
    """The files that a recipe reads, in their order, and what is passed over; no file for a hub dataset.

    Raises DataError for what names nothing, and for a folder as `layout_of`.
    """
    name = recipe.data
    if not name:
        raise DataError(f"--data '': names nothing; give a file, a folder, {_NAMES} or a hub dataset")
    path = BUNDLED.get(name, Path(name))
    if path.is_dir():
        return layout_of(path, recipe.fields, recipe.split)
    if path.is_file():
        return Layout(path, [path])
    if name.startswith((".", "/", "~")) or suffix_of(path) in SUFFIXES:
        raise DataError(f"--data {name}: no such file or folder")
    return Layout(path, [])
