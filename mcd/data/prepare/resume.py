"""A folder while it is prepared: who works in it, what is recorded, and which files are ours."""

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from mcd.data.manifest import FORMATS, MANIFEST, read_json, read_manifest
from mcd.data.recipe import Recipe
from mcd.data.special_tokens import end_of_text
from mcd.data.tokenizer import load_tokenizer, tokenizer_sha256
from mcd.errors import DataError
from mcd.files import lock_file

PROGRESS = "progress.json"
_OURS = re.compile(
    r"(train|valid|keys)-\d{5}\.bin(\.partial)?|held-\d{8}\.bin"
    r"|(manifest|progress|tokenizer|tokenizer_config|verified)\.json(\.partial)?"
)


def is_ours(path: Path) -> bool:
    """Is it a file, by its name, that preparing data makes?"""
    return _OURS.fullmatch(path.name) is not None


def clear(out: Path, manifest: dict[str, Any] | None = None) -> None:
    """Remove our files but for those of `manifest`."""
    keep = {MANIFEST, "tokenizer.json", "tokenizer_config.json", "verified.json"} if manifest else set()
    if manifest:
        keep |= {shard["file"] for shards in manifest["splits"].values() for shard in shards}
    for path in out.iterdir():
        if is_ours(path) and path.name not in keep:
            path.unlink(missing_ok=True)


def purpose_of(recipe: Recipe, fingerprint: str | None, shard_tokens: int) -> dict[str, Any]:
    """What a run is about: the work of an interrupted one for the same purpose is of use."""
    return {
        "format": FORMATS[-1],
        "recipe": recipe.identity(),
        "source_sha256": fingerprint,
        "shard_tokens": shard_tokens,
    }


def recorded(out: Path, purpose: dict[str, Any], tokenizer: str | None) -> dict[str, Any] | None:
    """What an interrupted run for `purpose` recorded; None when nothing, or nothing of use, is left.

    tokenizer: the one asked for; a file must still do what it did. Raises DataError when the run was about something
    else: its work is not thrown away unasked.
    """
    record = read_json(out / PROGRESS) if (out / PROGRESS).is_file() else None
    needed = {*purpose, "position", "packer", "commit", "tokenizer_sha256", "eos_id", "eos_from", "frame"}
    if not isinstance(record, dict) or not needed <= set(record):
        return None
    other = "--out {}: holds unfinished data of {}; name a new folder, or remove this one"
    if record["recipe"] != purpose["recipe"] or record["shard_tokens"] != purpose["shard_tokens"]:
        raise DataError(other.format(out, "another recipe"))
    if record["source_sha256"] != purpose["source_sha256"]:
        raise DataError(other.format(out, "text that changed since"))
    local = tokenizer if tokenizer is not None and Path(tokenizer).exists() else None
    if local and tokenizer_sha256(load_tokenizer(local)) != record["tokenizer_sha256"]:
        raise DataError(other.format(out, f"another --tokenizer than {tokenizer} is now"))
    try:
        return record if tokenizer_sha256(load_tokenizer(out)) == record["tokenizer_sha256"] else None
    except DataError:
        return None


def finished(recipe: Recipe, out: Path, fingerprint: str | None) -> dict[str, Any]:
    """The manifest of a prepared folder. Raises DataError when it is of another recipe or text."""
    manifest = read_manifest(out)
    if not _same(recipe, manifest):
        if _same(replace(recipe, special_tokens=True), manifest) and manifest["format"] != FORMATS[-1]:
            raise DataError(
                f"--out {out}: was prepared by an earlier version, which read the names of special tokens in a text as "
                "these tokens; name a new folder, or give --special-tokens to keep it"
            )
        raise DataError(f"--out {out}: holds data of another recipe; name a new folder")
    if manifest.get("source_sha256") != fingerprint:
        raise DataError(f"--out {out}: the text of --data {recipe.source} changed since; name a new folder")
    return manifest


def _same(recipe: Recipe, manifest: dict[str, Any]) -> bool:
    """Was the folder made by this recipe? A tokenizer is known by what it does, not by where it lies."""
    made = Recipe(**manifest["recipe"])
    if recipe.tokenizer is None or made.tokenizer is None:
        return made == recipe
    tokenizer = load_tokenizer(recipe.tokenizer)
    if (
        tokenizer_sha256(tokenizer) != manifest["tokenizer_sha256"]
        or replace(made, tokenizer=recipe.tokenizer) != recipe
    ):
        return False
    end = manifest["eos_id"]
    return end is None or end == end_of_text(tokenizer, recipe.tokenizer, recipe.eos_token).id


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Wait until no other process prepares the folder. The system takes the lock from one that was killed."""
    if os.name != "posix":  # Windows opens no folders
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        lock_file(handle, wait=True)
        yield
    finally:
        os.close(handle)
