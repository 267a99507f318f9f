"""`manifest.json`, which records every choice and a checksum of every shard, and says that a data folder is whole."""

from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, Literal, get_origin, get_type_hints

from mcd.data.encoder import Lost
from mcd.data.recipe import Recipe
from mcd.errors import DataError
from mcd.files import read_json

MANIFEST = "manifest.json"
FORMATS = ("mcd-data-1", "mcd-data-2", "mcd-data-3")
"""The second knows packings; data of the first is a stream. Before the third, names of special tokens in a text were
read as these tokens."""


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a prepared folder. Raises DataError when there is none, or it is damaged or of another format.

    Whatever the format it has a "packing", and its recipe every choice.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise DataError(f"--data {folder}: no {MANIFEST}; prepare it first: mcd prepare --data TEXT --out {folder}")
    try:
        manifest = read_json(path)
        _complete(manifest)
        if _is_intact(manifest):
            return manifest
    except (KeyError, TypeError, AttributeError, ValueError):
        pass
    raise DataError(f"--data {folder}: {MANIFEST} is damaged or of another format; prepare the data again")


def is_prepared(data: str | Path) -> bool:
    """Does `data` name a prepared folder?"""
    return data != "" and (Path(data) / MANIFEST).is_file()


def values_of_row(manifest: dict[str, Any]) -> int:
    """How many values make one row of shards packed in rows (begin and end of what is learnt, then tokens); else 1."""
    return manifest["recipe"]["length"] + 2 if manifest["packing"] == "rows" else 1


def notes_of(manifest: dict[str, Any]) -> list[str]:
    """Remarks on the text of prepared data: what was left out or lost, and what is duplicated."""
    reasons = {
        "null": "a field is null",
        "blank": "the answer is blank" if manifest["packing"] == "rows" else "blank",
        "copies": "copies of earlier ones (--dedup)",
    }
    left_out, copies = manifest.get("left_out", {}), manifest.get("duplicates", {})
    notes = []
    for key, reason in reasons.items():
        if count := left_out.get(key):
            notes.append(f"{count:,} {'record is' if count == 1 else 'records are'} left out: {reason}")
    for split, part in (("train", "train"), ("valid", "the held-out part")):
        if count := copies.get(split):
            noun = "copy" if count == 1 else "copies"
            notes.append(f"{part} holds {count:,} {noun} of its other documents; --dedup leaves them out")
    if count := copies.get("shared"):
        held_out = sum(shard["documents"] for shard in manifest["splits"]["valid"])
        notes.append(
            f"of {held_out:,} held-out documents {count:,} {'is' if count == 1 else 'are'} also in train, so that what "
            "is measured on them is too good; prepare the data again with --dedup"
        )
    if summary := Lost(**manifest.get("lost", {})).summary:
        notes.append(summary)
    return [f"--data {manifest['recipe']['source']}: {note}" for note in notes]


def _complete(manifest: Any) -> None:
    """Fill in what a manifest of an older version lacks."""
    age, recipe = FORMATS.index(manifest["format"]), manifest["recipe"]
    if age == 0:
        manifest["packing"] = "stream"
    if age < 2 and manifest["eos_id"] is not None:
        recipe["special_tokens"] = True
    manifest.setdefault("frame", None)
    for field in fields(Recipe):
        if field.default is not MISSING:
            recipe.setdefault(field.name, field.default)
    if recipe.get("prompt_field") is None and recipe.get("messages_field") is None:
        recipe |= {"diffuse_padding": True, "template": None}  # no choices of text; their defaults have changed


def _is_intact(manifest: dict[str, Any]) -> bool:
    """Is every value that is read later there, and of its kind?"""
    width, V, frame = values_of_row(manifest), manifest["vocab_size"], manifest["frame"]
    return (
        _recipe_of(manifest["recipe"]).packing == manifest["packing"]
        and manifest["dtype"] in ("<u2", "<u4")
        and _is_int(V, 1, 1 << (8 * int(manifest["dtype"][-1])))
        and (manifest["eos_id"] is None or _is_int(manifest["eos_id"], 0, V - 1))
        and (frame is not None) == manifest["recipe"]["frame"]
        and (frame is None or (len(frame) == 2 and all(_is_int(i, 0, V - 1) for i in frame)))
        and isinstance(manifest["tokenizer_sha256"], str)
        and manifest["splits"].keys() == {"train", "valid"}
        and all(manifest["splits"].values())
        and all(
            shard["file"] == f"{split}-{i:05d}.bin"
            and _is_int(shard["tokens"], 1, 1 << 62)
            and shard["tokens"] % width == 0
            and _is_int(shard["documents"], 0, 1 << 62)
            and isinstance(shard["sha256"], str)
            for split, shards in manifest["splits"].items()
            for i, shard in enumerate(shards)
        )
    )


def _recipe_of(choices: dict[str, Any]) -> Recipe:
    """The recipe of a manifest. Raises ValueError where a choice is of another kind or makes no sense."""
    for name, kind in get_type_hints(Recipe).items():
        value = choices["source" if name == "data" else name]
        if get_origin(kind) is not Literal and not isinstance(value, kind):
            raise ValueError(name)
    return Recipe.from_dict(choices)


def _is_int(value: Any, least: int, most: int) -> bool:
    return type(value) is int and least <= value <= most
