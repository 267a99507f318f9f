"""Which files of a folder are its text, in which order, and which are passed over.

A folder is read as its writer meant it: one of `datasets.save_to_disk` by its state.json; and where all files name
their split (by the folder of a DatasetDict, or in their names, as `datasets` reads them) the files of one split.
"""

import lzma
import re
import zlib
from collections import defaultdict
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from mcd.data.prepare.readers import COMPRESSED, SUFFIXES, FileRecords, suffix_of
from mcd.errors import DataError
from mcd.files import JSONError, read_json

METADATA = ("state.json", "dataset_dict.json", "dataset_info.json", "dataset_infos.json")
"""What `datasets` writes next to text."""
SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "dev", "val"),
    "test": ("test", "testing", "eval", "evaluation"),
}
"""Words that name a split, as in `datasets`."""
_SPLIT_OF = {word: name for name, words in SPLITS.items() for word in words}
_SHARD = re.compile(r"(\w+)-\d{5}-of-\d{5}\b")
_NAMED = 5
"""Names that a message gives."""

_KIND = f"not {', '.join(SUFFIXES)} ({', '.join(COMPRESSED)} may follow)"
_CACHE = "what `datasets` keeps of .map or .filter"
_UNNAMED = "not of the data set that `datasets` saved there"
_OBJECT = "one JSON object without the field"
_HIDDEN = "hidden"
_LINK = "a link to a folder or to nothing"


@dataclass
class Layout:
    """Files in the order of reading. passed: the reason why others are not read, and their names in the folder.

    split: the one that was chosen, where the files name several or the one asked for. mixed: splits that are read
    together, since other files name none.
    """

    folder: Path
    files: list[Path]
    passed: dict[str, list[str]] = field(default_factory=dict)
    split: str | None = None
    mixed: tuple[str, ...] = ()

    def record(self) -> list[dict[str, Any]]:
        """What is passed over, as JSON values; of many names the first."""
        return [{"why": why, "count": len(names), "files": names[:20]} for why, names in self.passed.items()]

    def notes(self) -> list[str]:
        """Remarks for the user."""
        notes = []
        for why, names in self.passed.items():
            more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
            files = "1 file is" if len(names) == 1 else f"{len(names):,} files are"
            notes.append(f"{self.folder}: {files} passed over ({why}): {', '.join(names[:_NAMED])}{more}")
        if self.mixed:
            notes.append(
                f"{self.folder}: files of the splits {' and '.join(self.mixed)} are read as one text, since other "
                "files name no split; give a folder of one split if that is not meant"
            )
        return notes


def layout_of(folder: Path, fields: tuple[str, ...], split: str) -> Layout:
    """The layout of a folder; the `fields` that a record must have distinguish text from other JSON.

    split: which one is read where all files name one ("train" also means the only existing one). Raises DataError
    for a folder without text or without that split, and for one of `datasets` that is not whole.
    """
    found = sorted(_snapshot(folder).rglob("*"))
    saved = {path.parent: _saved_in(path) for path in found if path.name == "state.json" and path.is_file()}
    dicts = {path.parent for path in found if path.name == "dataset_dict.json"}
    passed: dict[str, list[str]] = defaultdict(list)
    files: list[Path] = []
    for path in found:
        name, named = path.relative_to(folder), saved.get(path.parent)
        if not path.is_file():
            if path.is_symlink():
                passed[_LINK].append(name.as_posix())
        elif named and path in named:
            files += named if path == min(named) else []
        elif path.name in METADATA and (path.name != "state.json" or named is not None):
            continue
        elif why := _why_not(path, name, named is not None or path.parent in dicts, fields):
            passed[why].append(name.as_posix())
        else:
            files.append(path)
    splits = [_dict_split_of(path, dicts) or _split_of(path.relative_to(folder)) for path in files]
    if any(splits):
        splits = [name or _shard_of(path) for name, path in zip(splits, files, strict=True)]
    layout = Layout(folder, files, passed)
    if files and None not in splits:
        _choose(layout, [str(name) for name in splits], split)
    elif len(set(splits)) > 2:
        layout.mixed = tuple(sorted(name for name in set(splits) if name))
    layout.passed = dict(passed)
    if not layout.files:
        notes = "".join(f"; {note.split(': ', 1)[1]}" for note in layout.notes())
        raise DataError(f"--data {folder}: the folder holds no {', '.join(SUFFIXES)} file{notes}")
    return layout


def _choose(layout: Layout, splits: list[str], split: str) -> None:
    """Leave the files of one split."""
    names = sorted(set(splits))
    chosen = split if split in names else _SPLIT_OF.get(split, split)
    if chosen not in names:
        if len(names) == 1 and split == "train":  # the default
            return
        held = ", ".join(names)
        raise DataError(
            f"--data {layout.folder}: holds the splits {held} and no {split}; name one with --split, or give the files"
        )
    layout.split = chosen
    others = [path for path, name in zip(layout.files, splits, strict=True) if name != chosen]
    layout.files = [path for path, name in zip(layout.files, splits, strict=True) if name == chosen]
    if others:
        names = [path.relative_to(layout.folder).as_posix() for path in others]
        layout.passed[f"of another split than --split {chosen}"] = names


def _snapshot(folder: Path) -> Path:
    """The one snapshot in a cache of the hub, whose other files are the same ones under other names; else `folder`."""
    if not ((folder / "snapshots").is_dir() and (folder / "refs").is_dir()):
        return folder
    commits = sorted((folder / "snapshots").iterdir())
    if len(commits) != 1:
        names = ", ".join(path.name for path in commits) or "it has none"
        raise DataError(f"--data {folder}: is a cache of the hub; give one of the folders in its snapshots/: {names}")
    return commits[0]


def _why_not(path: Path, name: Path, saved: bool, fields: tuple[str, ...]) -> str | None:
    """Why a file is not read, or None. name: from the folder on. saved: it is in a folder where `datasets` saved
    other files."""
    if any(part.startswith(".") for part in name.parts):
        return _HIDDEN
    kind = suffix_of(path)
    if path.name.startswith("cache-") and kind == ".arrow":
        return _CACHE
    if kind not in SUFFIXES:
        return _KIND
    if saved:
        return _UNNAMED
    return f"{_OBJECT} {' or '.join(map(repr, fields))}" if kind == ".json" and _is_other(path, fields) else None


def _is_other(path: Path, fields: tuple[str, ...]) -> bool:
    """Whether a .json is one object without the field, such as a configuration next to the text."""
    try:
        values = list(islice(FileRecords(path, fields).objects(), 2))
    except (ValueError, RecursionError, OSError, EOFError, lzma.LZMAError, zlib.error):
        return False  # it is read, and its fault reported
    return len(values) == 1 and isinstance(values[0], dict) and any(name not in values[0] for name in fields)


def _saved_in(state: Path) -> list[Path] | None:
    """The files that a state.json names, in its order; None when it is not one of `datasets`."""
    try:
        value = read_json(state, strict=False)
    except JSONError:
        return None
    if not isinstance(value, dict) or "_data_files" not in value:
        return None
    folder = state.parent
    if value.get("_indices_files") or value.get("_indices_data_files"):
        raise DataError(
            f"--data {folder}: an old `datasets` saved its rows and which of them are meant in files apart; save it "
            "again where it can be loaded: load_from_disk(FOLDER).flatten_indices().save_to_disk(NEW)"
        )
    try:
        files = [folder / Path(part["filename"]).name for part in value["_data_files"]]
    except (KeyError, TypeError):
        raise DataError(f"--data {state}: is damaged; save the data set again") from None
    for path in files:
        if not path.is_file():
            raise DataError(
                f"--data {folder}: its state.json names {path.name}, which is not there; copy the folder again"
            )
    return files


def _dict_split_of(path: Path, dicts: set[Path]) -> str | None:
    """The split of a file below a DatasetDict."""
    return next((path.relative_to(parent).parts[0] for parent in path.parents if parent in dicts), None)


def _split_of(name: Path) -> str | None:
    """The split that a file or a folder around it is named after."""
    shard = _SHARD.match(name.name)
    words = re.split(r"[^a-z]+", (shard[1] if shard else name.name).lower().replace("_", "-"))
    for word in reversed(words):
        if word in _SPLIT_OF:
            return shard[1] if shard and shard[1] not in _SPLIT_OF else _SPLIT_OF[word]
    return next((_SPLIT_OF[part] for part in reversed(name.parts[:-1]) if part in _SPLIT_OF), None)


def _shard_of(path: Path) -> str | None:
    """The split of a shard next to others that name one, for instance unsupervised-00000-of-00001.parquet."""
    shard = _SHARD.match(path.name)
    return shard[1] if shard and shard[1] != "data" else None
