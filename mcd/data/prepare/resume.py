"""What an earlier or a parallel run left in the folder of prepared data, and whether it is of use."""

import contextlib
import re
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from mcd.data.manifest import FORMATS, MANIFEST, read_manifest
from mcd.data.recipe import Recipe
from mcd.data.special_tokens import end_of_text
from mcd.data.tokenizer import load_tokenizer, tokenizer_sha256
from mcd.errors import DataError
from mcd.files import JSONError, read_json
from mcd.options import option_name

PROGRESS = "progress.json"
LOCK = "prepare.lock"
_OURS = re.compile(
    r"(train|valid|keys)-\d{5}\.bin(\.partial)?|held-\d{8}\.bin|prepare\.lock"
    r"|(manifest|progress|tokenizer|tokenizer_config|verified)\.json(\.partial)?"
)


def is_ours(path: Path) -> bool:
    """Is it a file, by its name, that preparing data makes?"""
    return _OURS.fullmatch(path.name) is not None


def clear(out: Path, manifest: dict[str, Any] | None = None) -> None:
    """Remove our files except those of `manifest`."""
    keep = {LOCK}
    if manifest:
        keep |= {MANIFEST, "tokenizer.json", "tokenizer_config.json", "verified.json"}
        keep |= {shard["file"] for shards in manifest["splits"].values() for shard in shards}
    for path in out.iterdir():
        if is_ours(path) and path.name not in keep:
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Make the folder, and wait until no other process prepares it; remove it if nothing is written into it.

    The system takes the lock from a process that was killed.
    """
    from filelock import FileLock

    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / LOCK):
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # Windows removes no open file; a folder that holds files stays
                (folder / LOCK).unlink()
                if is_new:
                    folder.rmdir()


def recorded(out: Path, purpose: dict[str, Any], recipe: Recipe) -> dict[str, Any] | None:
    """What an interrupted run for `purpose` recorded; None when nothing, or nothing of use, is left.

    A tokenizer file must still do what it did. Raises DataError when the run had another recipe or text: its work is
    not discarded unasked.
    """
    try:
        record = read_json(out / PROGRESS)
        made = Recipe.from_dict(record["recipe"])
    except (FileNotFoundError, JSONError, KeyError, TypeError, ValueError):
        return None
    needed = {*purpose, "position", "packer", "commit", "tokenizer_sha256", "eos_id", "eos_from", "frame"}
    if not needed <= set(record):
        return None
    other = "--out {}: holds unfinished data of {}; name a new folder, or remove this one"
    if record["recipe"] != purpose["recipe"] or record["shard_tokens"] != purpose["shard_tokens"]:
        raise DataError(other.format(out, f"another recipe{_differences(recipe, made)}"))
    if record["source_sha256"] != purpose["source_sha256"]:
        raise DataError(other.format(out, "text that changed since"))
    local = recipe.tokenizer if recipe.tokenizer is not None and Path(recipe.tokenizer).exists() else None
    if local and tokenizer_sha256(load_tokenizer(local)) != record["tokenizer_sha256"]:
        raise DataError(other.format(out, f"another --tokenizer than {local} is now"))
    try:
        return record if tokenizer_sha256(load_tokenizer(out)) == record["tokenizer_sha256"] else None
    except DataError:
        return None


def finished(recipe: Recipe, out: Path, fingerprint: str | None) -> dict[str, Any]:
    """The manifest of a prepared folder. Raises DataError when it is of another recipe or text."""
    manifest = read_manifest(out)
    made = Recipe.from_dict(manifest["recipe"])
    if recipe.tokenizer is not None and made.tokenizer is not None:
        tokenizer = load_tokenizer(recipe.tokenizer)
        if tokenizer_sha256(tokenizer) != manifest["tokenizer_sha256"]:
            raise DataError(f"--out {out}: holds data of another recipe (of another --tokenizer); name a new folder")
        made = replace(made, tokenizer=recipe.tokenizer)  # its content identifies it, not its place
        end = manifest["eos_id"]  # None of a language, whose tokenizer may have none
        if made == recipe and end is not None:
            asked = end_of_text(tokenizer, recipe.tokenizer, recipe.eos_token).id
            if end != asked:
                names = f"{tokenizer.id_to_token(end)}, not {tokenizer.id_to_token(asked)}"
                raise DataError(
                    f"--out {out}: holds data of another recipe (its texts end with {names}); name a new folder"
                )
    if made != recipe:
        if made == replace(recipe, special_tokens=True) and manifest["format"] != FORMATS[-1]:
            raise DataError(
                f"--out {out}: was prepared by an earlier version, which read the names of special tokens in a text as "
                "these tokens; name a new folder, or give --special-tokens to keep it"
            )
        raise DataError(f"--out {out}: holds data of another recipe{_differences(recipe, made)}; name a new folder")
    if manifest.get("source_sha256") != fingerprint:
        raise DataError(f"--out {out}: the text of --data {recipe.data} changed since; name a new folder")
    return manifest


def _differences(recipe: Recipe, made: Recipe) -> str:
    """The choices of a folder's recipe that differ from those of `recipe`, as a part of a message."""
    pairs = ((field.name, getattr(made, field.name), getattr(recipe, field.name)) for field in fields(Recipe))
    found = [f"{option_name(name)} {old!s:.60}, not {new!s:.60}" for name, old, new in pairs if old != new]
    return f" ({'; '.join(found)})" if found else ""
