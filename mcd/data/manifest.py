"""`manifest.json`, which records every choice and a checksum of every shard, and says that a data folder is whole."""

from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, get_type_hints

from mcd import files
from mcd.data.recipe import Recipe
from mcd.errors import DataError

MANIFEST = "manifest.json"
FORMATS = ("mcd-data-1", "mcd-data-2", "mcd-data-3")
"""The second knows packings; data of the first is a stream. Before the third, names of special tokens in a text were
read as these."""


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a prepared folder. Raises DataError when there is none, or it is damaged or of another format.

    Whatever the format it has a "packing", and its recipe every choice.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise DataError(f"--data {folder}: no {MANIFEST}; prepare it first: mcd prepare --data TEXT --out {folder}")
    manifest = read_json(path)
    if not _is_whole(manifest):
        raise DataError(f"--data {folder}: {MANIFEST} is damaged or of another format; prepare the data again")
    return manifest


def read_json(path: Path) -> Any:
    """The value of a JSON file; {} for one that is damaged, or too large for any we write."""
    try:
        return files.read_json(path)
    except files.JSONError:
        return {}


def values_of_row(manifest: dict[str, Any]) -> int:
    """How many values make one row of shards packed in rows (begin and end of what is learnt, then tokens); else 1."""
    return manifest["recipe"]["length"] + 2 if manifest["packing"] == "rows" else 1


def _is_whole(manifest: Any) -> bool:
    """Is it a manifest, with every value that is read later, each of its kind? Fills in what an older one lacks."""
    try:
        known = FORMATS.index(manifest["format"])
        if known == 0:
            manifest["packing"] = "stream"
        if known < 2 and manifest["eos_id"] is not None:
            manifest["recipe"]["special_tokens"] = True
        manifest.setdefault("frame", None)
        return (
            _is_whole_recipe(manifest["recipe"])
            and manifest["packing"] == Recipe(**manifest["recipe"]).packing
            and manifest["dtype"] in ("<u2", "<u4")
            and _is_int(manifest["vocab_size"], 1, 1 << (8 * int(manifest["dtype"][-1])))
            and (manifest["eos_id"] is None or _is_int(manifest["eos_id"], 0, manifest["vocab_size"] - 1))
            and _is_frame(manifest["frame"], manifest)
            and isinstance(manifest["tokenizer_sha256"], str)
            and manifest["splits"].keys() == {"train", "valid"}
            and all(manifest["splits"].values())
            and all(
                _is_whole_shard(shard, f"{split}-{i:05d}.bin", values_of_row(manifest))
                for split, shards in manifest["splits"].items()
                for i, shard in enumerate(shards)
            )
        )
    except (KeyError, TypeError, AttributeError, ValueError):
        return False


def _is_whole_recipe(recipe: dict[str, Any]) -> bool:
    for field in fields(Recipe):
        if field.name not in recipe and field.default is not MISSING:
            recipe[field.name] = field.default
    if recipe.get("prompt_field") is None and recipe.get("messages_field") is None:
        recipe |= {"diffuse_padding": True, "template": None}  # these say nothing of text; their defaults have changed
    kinds = get_type_hints(Recipe)
    if recipe.keys() != kinds.keys() or not all(isinstance(recipe[name], kind) for name, kind in kinds.items()):
        return False
    try:
        Recipe(**recipe).check()
    except DataError:
        return False
    return not isinstance(recipe["length"], bool)


def _is_frame(frame: Any, manifest: dict[str, Any]) -> bool:
    """Is it the two tokens of a recipe with a frame, or None for one without?"""
    if not manifest["recipe"]["frame"]:
        return frame is None
    return isinstance(frame, list) and len(frame) == 2 and all(_is_int(i, 0, manifest["vocab_size"] - 1) for i in frame)


def _is_int(value: Any, least: int, most: int) -> bool:
    return type(value) is int and least <= value <= most


def _is_whole_shard(shard: dict[str, Any], name: str, values_of_row: int) -> bool:
    return (
        shard["file"] == name
        and _is_int(shard["tokens"], 1, 1 << 62)
        and shard["tokens"] % values_of_row == 0
        and _is_int(shard["documents"], 0, 1 << 62)
        and isinstance(shard["sha256"], str)
    )
