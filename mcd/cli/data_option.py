"""`--data` of the commands: a prepared folder, or text that is prepared first."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from mcd.cli.data_checks import check_name, check_words
from mcd.data.languages.known import LANGUAGES, language_of_data
from mcd.data.manifest import FORMATS, is_prepared, notes_of, read_manifest
from mcd.data.prepare.corpus import BUNDLED, files_of, source_sha256
from mcd.data.prepare.pipeline import prepare
from mcd.data.recipe import Recipe
from mcd.data.tokenizer import load_tokenizer, tokenizer_sha256
from mcd.errors import UsageError
from mcd.machine import usable_cores
from mcd.progress import notice, progress_bar


def prepared(
    data: str, cache: Path, tokenizer: Path | None = None, row_length: int | None = None, **options: Any
) -> Path:
    """The prepared folder of `data`: itself if it is one, else text prepared into a folder below `cache`.

    The folder's name is a hash of the recipe and the text, so that edited text is prepared again.
    tokenizer: a model's tokenizer.json, which then also checks a folder prepared before. row_length: tokens
    of the rows that will be read: where they are short, little text is enough. options: fields of `Recipe`.
    Raises UsageError when the folder's tokenizer is not the model's, or one of the two is a language and not both;
    and for a name that is nothing here and near something that is.
    """
    own = None if tokenizer is None else load_tokenizer(tokenizer)
    if is_prepared(data):
        if tokenizer is None or own is None:
            return Path(data)
        if read_manifest(Path(data))["tokenizer_sha256"] != tokenizer_sha256(own):
            check_words(f"--data {data}", language_of_data(data) or data, own, tokenizer.parent)
            raise UsageError(
                f"--data {data}: prepared with another tokenizer than the model's; "
                f"prepare it again: mcd prepare --data TEXT --tokenizer {tokenizer.parent} --out NEW"
            )
        return Path(data)
    check_name(data)
    if row_length is not None and data not in (*BUNDLED, *LANGUAGES):
        options["length"] = min(row_length, Recipe.length)
    recipe = Recipe(data, tokenizer=None if tokenizer is None else str(tokenizer), **options)
    fingerprint = source_sha256(recipe)
    identity = {**recipe.identity(), "format": FORMATS[-1]}
    if own is not None and tokenizer is not None:
        check_words(f"--data {data}", data, own, tokenizer.parent)
        identity["tokenizer"] = tokenizer_sha256(own)
    if fingerprint is not None:
        identity["source_sha256"] = fingerprint
    name = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]
    folder = cache / f"{Path(data).stem}-{name}"
    prepare_shown(recipe, folder)
    return folder


def prepare_shown(
    recipe: Recipe, out: Path, workers: int | None = None, most_lost: float | None = None
) -> dict[str, Any]:
    """`prepare` with its progress shown, by as many processes as there are cores; returns the manifest.

    Text that is passed over, left out, duplicated or lost by the tokenizer is reported on stderr. Raises as `prepare`.
    """
    cores, _ = usable_cores()
    if recipe.data not in LANGUAGES:
        print_notes(files_of(recipe).notes())
    with progress_bar(out.name) as update:
        manifest = prepare(
            recipe,
            out,
            workers=workers or cores,
            update=lambda fraction, note: update(fraction or 0.0, note),
            most_lost=most_lost,
        )
    print_notes(notes_of(manifest))
    return manifest


def print_notes(notes: list[str]) -> None:
    """Show notes (`notice`); of the processes of a job only the first one does."""
    if os.environ.get("RANK", "0") == "0":
        for note in notes:
            notice(f"mcd: {note}")
